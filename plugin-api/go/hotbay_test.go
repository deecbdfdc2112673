// Tests of the SDK without a host: `go test ./...` in this folder.
package hotbay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

type color string

func (color) Variants() []string { return []string{"Red", "Blue"} }

type Pair struct {
	Tuple
	A uint8
	B string
}

type Sample struct {
	UserID   int32
	Label    *string
	Pairs    []Pair
	Colors   map[color]struct{}
	ByNumber map[int16][]byte
	Any      json.RawMessage
	Letter   Char
	Added    bool `hotbay:"is_added,default"`
}

type Recursive struct{ Inner []Recursive }

func typed[T any](t *testing.T) *wireType {
	found, err := typeOf(reflect.TypeOf((*T)(nil)).Elem(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// crossed decodes a value and encodes it again.
func crossed[T any](t *testing.T, text string) (T, string, error) {
	var value T
	given, err := parse([]byte(text))
	if err == nil {
		err = typed[T](t).decode(given, reflect.ValueOf(&value).Elem())
	}
	buffer := new(bytes.Buffer)
	if err == nil {
		err = typed[T](t).encode(buffer, reflect.ValueOf(&value).Elem())
	}
	return value, buffer.String(), err
}

func TestTypesHaveTheirText(t *testing.T) {
	expected := "Sample { user_id: i32, label: string?, pairs: [(u8, string)], colors: set<enum color { " +
		"Red, Blue }>, by_number: map<i16, [u8]>, any: json, letter: char, is_added: bool = default }"
	if found := typed[Sample](t).text; found != expected {
		t.Fatal(found)
	}
	for name, expected := range map[string]string{"UserID": "user_id", "HTTPServer": "http_server",
		"A": "a", "IsSet": "is_set", "X2": "x2"} {
		if found := snakeCase(name); found != expected {
			t.Error(name, found)
		}
	}
}

func TestTypesWithoutAPlaceAreRejected(t *testing.T) {
	for _, value := range []any{make(chan int), [2]int{}, struct{ A int }{}, Recursive{}, time.Time{},
		map[float64]int{}, map[Char]int{}, map[Pair]int{}, func() {}, complex(1, 1),
		struct {
			A int `hotbay:",optional"`
		}{}} {
		if found, err := typeOf(reflect.TypeOf(value), 0); err == nil {
			t.Errorf("%T: %s", value, found.text)
		}
	}
}

func TestValuesCrossUnchanged(t *testing.T) {
	text := `{"user_id":-2147483648,"label":"\u003ca\u003e","pairs":[[255,"é"]],"colors":["Blue"],` +
		`"by_number":{"-1":[0,255]},"any":{"a":[12345678901234567890,null]},"letter":"😀","is_added":true}`
	if _, found, err := crossed[Sample](t, text); err != nil || found != text {
		t.Fatal(found, err)
	}
	missing := `{"user_id":1,"pairs":[],"colors":[],"by_number":{},"any":null,"letter":"a"}`
	found, _, err := crossed[Sample](t, missing)
	if err != nil || found.Label != nil || found.Added {
		t.Fatal(found, err)
	}
	if found, text, err := crossed[any](t, `{"a":[1.5,null]}`); err != nil || text != `{"a":[1.5,null]}` {
		t.Fatal(found, text, err)
	}
}

func TestValuesOfOtherTypesAreRejected(t *testing.T) {
	reject := func(err error, expected string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("expected %s, found %v", expected, err)
		}
	}
	for text, expected := range map[string]string{`256`: "expected u8, found 256", `-1`: "u8",
		`1.0`: "u8", `"1"`: "u8", `null`: "u8", `1 2`: "the end", ``: "invalid JSON"} {
		_, _, err := crossed[uint8](t, text)
		reject(err, expected)
	}
	_, _, err := crossed[Char](t, `"ab"`)
	reject(err, "one character")
	_, _, err = crossed[Pair](t, `[1]`)
	reject(err, "2 values")
	_, _, err = crossed[Sample](t, `{"user_id":1}`)
	reject(err, "missing `pairs`")
	_, _, err = crossed[[]color](t, `["Green"]`)
	reject(err, "one of Red, Blue")
	_, _, err = crossed[map[int8]struct{ Tuple }](t, `{"a":[]}`)
	reject(err, "i8")
	for _, value := range []any{math.NaN(), float32(math.Inf(1)), "\xff", color("Green"), Char(0xd800)} {
		found, err := typeOf(reflect.TypeOf(value), 0)
		if err != nil {
			t.Fatal(err)
		}
		reject(found.encode(new(bytes.Buffer), reflect.ValueOf(value)), "expected")
	}
}

func TestTextIsUTF8(t *testing.T) {
	if text, err := (Input{Body: []byte("a\uFFFDé")}).Text(); err != nil || text != "a\uFFFDé" {
		t.Fatal(text, err)
	}
	_, err := (Input{Body: []byte("ab\xff")}).Text()
	if own := new(Error); !errors.As(err, &own) || own.Code != 400 || !strings.Contains(own.Message, "byte 2") {
		t.Fatal(err)
	}
}

func TestDurationsAreNumbersOrText(t *testing.T) {
	for given, expected := range map[any]time.Duration{json.Number("0"): 0, "0": 0, "5m": 5 * time.Minute,
		json.Number("18446744073709551615"): 1 << 62, "1h30m": 90 * time.Minute, "300ms": 300e6} {
		if found, err := duration(given); err != nil || found != expected {
			t.Error(given, found, err)
		}
	}
	for _, given := range []any{"", "5", "m", "-5m", json.Number("-1"), true} {
		if found, err := duration(given); err == nil {
			t.Error(given, found)
		}
	}
}

func TestMistakesOfDeclarationsPanic(t *testing.T) {
	run := func(context.Context, struct{ A int }) (int, error) { return 0, nil }
	for _, declare := range []func(*Plugin){
		func(p *Plugin) { p.Endpoint("healthz", nil) },
		func(p *Plugin) { p.Endpoint("/a", nil) },
		func(p *Plugin) {
			p.Execute(func(context.Context, Input) (Output, error) { return Output{}, nil })
			p.Execute(nil)
		},
		func(p *Plugin) { p.Contract("a", "1.0"); p.Contract("a", "1.0") },
		func(p *Plugin) {
			c := p.Contract("a", "1.0")
			Method(c, "b", run)
			Method(c, "b", run)
		},
		func(p *Plugin) {
			Method(p.Contract("a", "1.0"), "b", func(context.Context, int) (int, error) { return 0, nil })
		},
	} {
		if err := protect(func() error { declare(New("a", "0.1.0")); return nil }); err == nil ||
			!strings.HasPrefix(err.Error(), "hotbay: ") {
			t.Error(err)
		}
	}
}

// TestMain runs the program of a test instead of tests if the variable names one.
func TestMain(m *testing.M) {
	if name := os.Getenv("HOTBAY_TEST_PROGRAM"); name != "" {
		programs[name]()
		return
	}
	os.Exit(m.Run())
}

var programs = map[string]func(){
	"plain": func() {
		plugin := New("a", "0.1.0")
		plugin.MaxBodyBytes = 1000
		plugin.Execute(func(ctx context.Context, in Input) (Output, error) {
			switch string(in.Body) {
			case "exit":
				runtime.Goexit()
			case "details":
				return Output{}, &Error{Code: 7, Details: make(chan int)}
			case "nil error":
				var missing *Error
				return Output{}, missing
			case "unwrap":
				var missing *wrapper
				return Output{}, missing
			case "name":
				_, err := Call[any](ctx, plugin.Host().Contract("b", ""), "x#y", nil)
				return Output{}, err
			case "plain":
				return Output{}, errors.New("plain")
			case "nil":
				var missing *Input
				return Bytes(missing.Body), nil
			case "log":
				plugin.Log.Info("m", "message", "x", "nan", math.NaN(), "level", "y", "err", errors.New("e"), "none", (*wrapper)(nil), "odd")
			case "call":
				_, err := Call[any](ctx, plugin.Host().Contract("b", "1.0"), "c", nil)
				return Output{}, err
			}
			return Output{Body: in.Body, ContentType: "bad\ntype"}, nil
		})
		plugin.Shutdown(func(context.Context) error { plugin.Log.Info("has ended"); return nil })
		plugin.Run()
	},
	"hangs": func() {
		plugin := New("a", "0.1.0")
		stdout := os.Stdout // While it starts, what it prints is not on stdout.
		plugin.Configure(func([]byte) error { fmt.Println("x"); fmt.Fprintln(stdout, "starts"); select {} })
		plugin.Run()
	},
}

// wrapper has methods that panic if it is nil.
type wrapper struct{ inner error }

func (w *wrapper) Error() string { return w.inner.Error() }
func (w *wrapper) Unwrap() error { return w.inner }

// program is a plugin that is served by a process.
type program struct {
	process *exec.Cmd
	first   string // Its first line on stdout.
	log     *bytes.Buffer
	folder  string
}

func start(t *testing.T, name string, environment ...string) *program {
	folder, err := os.MkdirTemp("", "hotbay-") // Short, since it is in the path of a socket.
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command(os.Args[0], "--config", "{}")
	process.Env = append(os.Environ(), "HOTBAY_TEST_PROGRAM="+name, "HOTBAY_SOCKET_DIR="+folder)
	process.Env = append(process.Env, environment...)
	p := &program{process: process, log: new(bytes.Buffer), folder: folder}
	process.Stderr = p.log
	out, err := process.StdoutPipe()
	if err == nil {
		err = process.Start()
	}
	if err == nil {
		p.first, err = bufio.NewReader(out).ReadString('\n')
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
		os.RemoveAll(folder)
	})
	return p
}

func (p *program) connect(t *testing.T) net.Conn {
	path := strings.TrimPrefix(strings.TrimSpace(p.first), "http+unix://")
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// send returns status and body of the response to a request; of the first one on this connection.
func (p *program) send(t *testing.T, headers, body string) (int, string) {
	conn := p.connect(t)
	defer conn.Close()
	fmt.Fprintf(conn, "POST /execute HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n%s", headers, body)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	found, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(found)
}

func (p *program) call(t *testing.T, body string) (int, string) {
	return p.send(t, fmt.Sprintf("Content-Length: %d\r\n", len(body)), body)
}

func (p *program) expect(t *testing.T, body string, status int, expected string) {
	t.Helper()
	if found, text := p.call(t, body); found != status || !strings.Contains(text, expected) {
		t.Errorf("%s: expected %d with %s, found %d with %s", body, status, expected, found, text)
	}
}

func TestFailedCallsFailAlone(t *testing.T) {
	p := start(t, "plain")
	p.expect(t, "plain", 422, `"code":500,"message":"plain"`)
	p.expect(t, "details", 500, "are not JSON")
	p.expect(t, "nil", 500, "nil pointer dereference")
	p.expect(t, "nil", 500, "hotbay_test.go:")
	p.expect(t, "call", 422, "HOTBAY_HOST is not set")
	p.expect(t, "exit", 500, `"fault":{"message":"the goroutine of the call ended"}`)
	p.expect(t, "nil error", 500, `"fault":`)
	p.expect(t, "unwrap", 500, "nil pointer dereference")
	p.expect(t, "name", 422, `"message":"invalid name: \"x#y\" of \"b\""`)
	p.expect(t, "still here", 200, "still here")
}

func TestBodiesAreLimited(t *testing.T) {
	p := start(t, "plain")
	p.expect(t, strings.Repeat("x", 1000), 200, "xxx")
	p.expect(t, strings.Repeat("x", 1001), 413, "at most 1000 bytes")
	chunked := "Transfer-Encoding: chunked\r\n"
	if status, text := p.send(t, chunked, "3\r\nabc\r\n0\r\n\r\n"); status != 200 || text != "abc" {
		t.Error(status, text)
	}
	large := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 2000, strings.Repeat("x", 2000))
	if status, text := p.send(t, chunked, large); status != 413 {
		t.Error(status, text)
	}
}

func TestTokenIsCheckedBeforeTheBodyArrives(t *testing.T) {
	p := start(t, "plain", "HOTBAY_TOKEN=secret")
	if status, text := p.send(t, "Hotbay-Token: wrong\r\nContent-Length: 900\r\n", ""); status != 401 {
		t.Fatal(status, text)
	}
	if status, text := p.send(t, "Hotbay-Token: secret\r\nContent-Length: 1\r\n", "a"); status != 200 {
		t.Fatal(status, text)
	}
}

func TestHostWithoutAValidResponseIsUnavailable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := start(t, "plain", "HOTBAY_HOST=http://"+listener.Addr().String())
	for _, answer := range []string{"", "x", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"} {
		go func() {
			conn, err := listener.Accept()
			if err == nil {
				http.ReadRequest(bufio.NewReader(conn))
				io.WriteString(conn, answer)
				conn.Close()
			}
		}()
		status, text := p.call(t, "call")
		// The call may have run.
		isExpected := strings.Contains(text, "the host did not respond") && strings.Contains(text, `"retryable":false`)
		if status != 422 || !isExpected {
			t.Errorf("%q: %d with %s", answer, status, text)
		}
	}
}

func TestLogLinesAreJSON(t *testing.T) {
	p := start(t, "plain")
	p.expect(t, "log", 200, "log")
	p.process.Process.Signal(syscall.SIGTERM)
	if err := p.process.Wait(); err != nil {
		t.Fatal(err, p.log)
	}
	lines := strings.Split(strings.TrimSpace(p.log.String()), "\n")
	expected := map[string]any{"level": "info", "msg": "m", "target": "a", "message": "x", "nan": "NaN",
		"err": "e", "none": "<nil>", "!missing": "odd"}
	var found map[string]any
	err := json.Unmarshal([]byte(lines[0]), &found)
	if err != nil || !reflect.DeepEqual(found, expected) || !strings.Contains(lines[1], "has ended") {
		t.Fatal(lines, err)
	}
	if files, _ := os.ReadDir(p.folder); len(files) > 0 {
		t.Fatal("left behind", files)
	}
}

func TestRequestsThatHaveArrivedAreServedAtTheShutdown(t *testing.T) {
	p := start(t, "plain")
	idle, next := p.connect(t), p.connect(t)
	defer idle.Close()
	defer next.Close()
	send := func() *bufio.Reader {
		io.WriteString(next, "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na")
		return bufio.NewReader(next)
	}
	if _, err := http.ReadResponse(send(), nil); err != nil {
		t.Fatal(err)
	}
	p.process.Process.Signal(syscall.SIGSTOP)
	reader := send()
	p.process.Process.Signal(syscall.SIGTERM)
	p.process.Process.Signal(syscall.SIGCONT)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != 200 {
		t.Fatal(response, err)
	}
	if err := p.process.Wait(); err != nil {
		t.Fatal(err, p.log)
	}
}

func TestStartThatHangsIsInterrupted(t *testing.T) {
	p := start(t, "hangs")
	p.process.Process.Signal(syscall.SIGTERM)
	err := p.process.Wait()
	if failed := new(exec.ExitError); !errors.As(err, &failed) || failed.ExitCode() != 1 {
		t.Fatal(err, p.log)
	}
	if files, _ := os.ReadDir(p.folder); len(files) > 0 {
		t.Fatal("left behind", files)
	}
}

func TestExamplesOfTheReadmeRun(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	sdk, err := os.ReadFile("hotbay.go")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(folder, path)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module plugins/upper\n\ngo 1.19\n")
	write("hotbay/hotbay.go", string(sdk))
	examples := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllSubmatch(readme, -1)
	if len(examples) != 3 {
		t.Fatal(len(examples))
	}
	for at, example := range examples {
		write(fmt.Sprintf("example%d/main.go", at), string(example[1]))
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(folder, "bin")+"/", "./...")
	build.Dir = folder
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatal(string(output))
	}
	for at := range examples {
		output, err := exec.Command(filepath.Join(folder, "bin", fmt.Sprintf("example%d", at)), "capabilities").Output()
		var found struct {
			Hotbay struct{ Contracts []struct{ Text string } }
		}
		if err == nil {
			err = json.Unmarshal(output, &found)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, contract := range found.Hotbay.Contracts {
			if !bytes.Contains(readme, []byte("```text\n"+contract.Text+"```")) {
				t.Fatal(contract.Text)
			}
		}
	}
}
