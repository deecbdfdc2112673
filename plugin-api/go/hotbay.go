//go:build unix

// Package hotbay is the SDK of hotbay plugins in Go: it serves functions to a host, as a program.
//
//	plugin := hotbay.New("upper", "0.1.0")
//	plugin.Execute(func(ctx context.Context, in hotbay.Input) (hotbay.Output, error) {
//		text, err := in.Text()
//		return hotbay.Text(strings.ToUpper(text)), err
//	})
//	plugin.Run()
//
// One file without dependencies, for Go 1.19 and later. It implements PROTOCOL.md.
//
// Each call has a goroutine and a context, which is done when the caller no longer waits. A panic
// of a call fails that call only; one on a goroutine that the plugin starts ends the program, as
// everywhere in Go. Limits: 1024 connections, MaxConcurrentCalls, and MaxBodyBytes of a request.
package hotbay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxConnections     = 1024
	maxHeadBytes       = 64 << 10
	maxBatch           = 100
	maxResponseBytes   = 256 << 20 // Of the host.
	maxDepth           = 32
	maxDeadlineMs      = 1 << 43 // More does not fit into a time.Duration.
	drainTimeout       = 5 * time.Second
	tokenTimeout       = 10 * time.Second
	pendingTimeout     = 20 * time.Millisecond
	cancelledGrace     = 200 * time.Millisecond
	hostConnectTimeout = 2 * time.Second
	defaultIdleTimeout = time.Hour

	jsonType  = "application/json"
	textType  = "text/plain; charset=utf-8"
	bytesType = "application/octet-stream"
	linesType = "application/x-ndjson"
)

// Error is an error of the plugin, which its caller gets with this code, message and details. Any
// other error has the code 500.
type Error struct {
	// Code is chosen by the plugin's author.
	Code    int32
	Message string
	// Details is any value that becomes JSON, or nil.
	Details any
	// Retryable means that the same call may succeed later.
	Retryable bool
}

// Errorf returns an error with a code and a formatted message.
func Errorf(code int32, format string, values ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, values...)}
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// CallError is the error of a call of a contract that failed, other than by an error of the
// method. A plugin that returns it passes it on to its caller, with a code like that of HTTP.
type CallError struct {
	// Kind is one of those in PROTOCOL.md, such as `unavailable`.
	Kind    string
	Message string
	// Hint is advice, or empty.
	Hint string

	mayHaveRun bool
}

// Error returns the message.
func (e *CallError) Error() string { return e.Message }

// Is makes errors.Is find context.DeadlineExceeded and context.Canceled.
func (e *CallError) Is(target error) bool {
	if e == nil {
		return false
	}
	return e.Kind == "deadline-exceeded" && target == context.DeadlineExceeded ||
		e.Kind == "cancelled" && target == context.Canceled
}

func (e *CallError) passedOn() *Error {
	codes := map[string]int32{"invalid-input": 400, "permission-denied": 403, "cancelled": 499,
		"not-provided": 501, "panicked": 502, "invalid-output": 502, "overloaded": 503,
		"unavailable": 503, "deadline-exceeded": 504, "circular": 508}
	code, isKnown := codes[e.Kind]
	if !isKnown {
		code = 500
	}
	return &Error{Code: code, Message: e.Message, Retryable: code == 503 && !e.mayHaveRun}
}

// Input is the input of a call.
type Input struct {
	Body        []byte
	ContentType string
}

// Text returns the body as text, or an Error with code 400 if it is not UTF-8.
func (in Input) Text() (string, error) {
	for at := 0; at < len(in.Body); {
		decoded, size := utf8.DecodeRune(in.Body[at:])
		if decoded == utf8.RuneError && size == 1 {
			return "", &Error{Code: 400, Message: fmt.Sprintf("invalid UTF-8 at byte %d", at),
				Details: map[string]int{"byte": at}}
		}
		at += size
	}
	return string(in.Body), nil
}

// Output is the output of a call. Without a content type, it is application/octet-stream.
type Output struct {
	Body        []byte
	ContentType string
}

// Text returns an output of text.
func Text(text string) Output { return Output{[]byte(text), textType} }

// Bytes returns an output of bytes.
func Bytes(body []byte) Output { return Output{body, bytesType} }

// JSON returns an output of a value, as encoding/json makes it.
func JSON(value any) (Output, error) {
	body, err := json.Marshal(value)
	return Output{body, jsonType}, err
}

// CallInfo describes the request of a call.
type CallInfo struct {
	// ID is the number of the call, unique in the host's process.
	ID uint64
	// Traceparent is the W3C trace context of the caller, or empty.
	Traceparent string
	Header      http.Header
}

type infoKey struct{}

// CallInfoOf returns the request of the call that a context belongs to; empty without a call.
func CallInfoOf(ctx context.Context) CallInfo {
	info, _ := ctx.Value(infoKey{}).(CallInfo)
	return info
}

// Logger writes lines to the host's log: `plugin.Log.Info("loaded", "rows", 3)`.
type Logger struct {
	target string
	mutex  sync.Mutex
}

func (l *Logger) Trace(message string, fields ...any) { l.write("trace", message, fields) }
func (l *Logger) Debug(message string, fields ...any) { l.write("debug", message, fields) }
func (l *Logger) Info(message string, fields ...any)  { l.write("info", message, fields) }
func (l *Logger) Warn(message string, fields ...any)  { l.write("warn", message, fields) }
func (l *Logger) Error(message string, fields ...any) { l.write("error", message, fields) }

// write writes a line with fields, which are names and values in turn.
func (l *Logger) write(level, message string, fields []any) {
	line := map[string]any{}
	for at := 0; at < len(fields); at += 2 {
		if at+1 == len(fields) {
			line["!missing"] = fmt.Sprint(fields[at])
			break
		}
		line[fmt.Sprint(fields[at])] = loggable(fields[at+1])
	}
	line["level"], line["msg"], line["target"] = level, message, l.target
	encoded, _ := json.Marshal(line)
	l.mutex.Lock() // Lines of goroutines do not mix.
	defer l.mutex.Unlock()
	os.Stderr.Write(append(encoded, '\n'))
}

// connectionLog logs what net/http reports about connections.
type connectionLog struct{ *Logger }

func (l connectionLog) Write(line []byte) (int, error) {
	l.Debug(strings.TrimSpace(string(line)))
	return len(line), nil
}

// loggable returns a value as JSON, or as text if it cannot be JSON.
func loggable(value any) (logged any) {
	defer func() {
		if recover() != nil { // Of a method of the value, such as of a nil pointer.
			logged = fmt.Sprint(value)
		}
	}()
	if err, isError := value.(error); isError {
		return err.Error()
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return json.RawMessage(encoded)
}

// Function serves calls.
type Function = func(ctx context.Context, in Input) (Output, error)

// Plugin is a plugin: declare its functions, then call Run.
type Plugin struct {
	Name, Version string
	// ConfigSchema and InputSchema are JSON Schemas, or nil.
	ConfigSchema, InputSchema json.RawMessage
	// MaxConcurrentCalls is the number of calls that run at once. Others wait.
	MaxConcurrentCalls int
	MaxBodyBytes       int64
	Log                *Logger

	endpoints map[string]Function
	names     []string // Of the endpoints, in order.
	contracts []*Contract
	configure func(config []byte) error
	health    func(ctx context.Context) error
	snapshot  func(ctx context.Context) (uint32, []byte, error)
	restore   func(ctx context.Context, version uint32, state []byte) error
	shutdown  func(ctx context.Context) error
}

// New returns a plugin without functions.
func New(name, version string) *Plugin {
	return &Plugin{Name: name, Version: version, MaxConcurrentCalls: 64, MaxBodyBytes: 64 << 20,
		Log: &Logger{target: name}, endpoints: map[string]Function{}}
}

// Execute declares the function that serves calls; also in batches.
func (p *Plugin) Execute(run Function) { p.Endpoint("execute", run) }

// Endpoint declares a function like that of Execute, with its own name. It panics if the name is
// invalid or is already declared.
func (p *Plugin) Endpoint(name string, run Function) {
	for _, taken := range []string{"batch", "healthz", "restore", "shutdown", "snapshot"} {
		if name == taken || strings.HasPrefix(name, "/") {
			panic(fmt.Sprintf("hotbay: invalid name of an endpoint: `%s`", name))
		}
	}
	if p.endpoints[name] != nil {
		panic(fmt.Sprintf("hotbay: `%s` is already declared", name))
	}
	p.endpoints[name], p.names = run, append(p.names, name)
}

// Configure declares the function that gets the plugin's configuration, a JSON object, at the
// start. If it returns an error, the plugin does not start.
func (p *Plugin) Configure(run func(config []byte) error) { p.configure = run }

// Health declares the function that returns an error if calls cannot work.
func (p *Plugin) Health(run func(ctx context.Context) error) { p.health = run }

// Snapshot declares the function that returns version and bytes of the state; nil is no state.
func (p *Plugin) Snapshot(run func(ctx context.Context) (uint32, []byte, error)) { p.snapshot = run }

// Restore declares the function that restores the state, before the first call.
func (p *Plugin) Restore(run func(ctx context.Context, version uint32, state []byte) error) {
	p.restore = run
}

// Shutdown declares the function that runs after the last call.
func (p *Plugin) Shutdown(run func(ctx context.Context) error) { p.shutdown = run }

// Contract is a typed contract that the plugin serves.
type Contract struct {
	name, version string
	methods       []*served
}

// Contract declares a contract; Method and Stream declare its methods.
func (p *Plugin) Contract(name, version string) *Contract {
	for _, other := range p.contracts {
		if other.name == name {
			panic(fmt.Sprintf("hotbay: contract `%s` is already declared", name))
		}
	}
	contract := &Contract{name: name, version: version}
	p.contracts = append(p.contracts, contract)
	return contract
}

// text returns the text of the contract.
func (c *Contract) text() string {
	text := fmt.Sprintf("contract %s %s\n", c.name, c.version)
	for _, method := range c.methods {
		text += method.line() + "\n"
	}
	return text
}

// served is a method of a contract.
type served struct {
	name, kind, since, permission string
	arguments                     *structType
	output                        *wireType
	run                           func(ctx context.Context, arguments reflect.Value) (any, error)
}

// MethodOption is a property of a method.
type MethodOption func(*served)

// Since names the version of the contract that added the method.
func Since(version string) MethodOption { return func(m *served) { m.since = version } }

// Permission names the permission that a host requires for calls of the method.
func Permission(word string) MethodOption { return func(m *served) { m.permission = word } }

// Async makes the method an `async fn`, which callers declare as such.
func Async() MethodOption { return func(m *served) { m.kind = "async fn" } }

// Method declares a method of a contract. A is a struct of the arguments. See README.md for the
// types. It panics if a type has no place in contracts.
func Method[A, R any](c *Contract, name string, run func(ctx context.Context, args A) (R, error),
	options ...MethodOption) {
	c.add(name, "fn", reflect.TypeOf((*A)(nil)).Elem(), reflect.TypeOf((*R)(nil)).Elem(), options,
		func(ctx context.Context, arguments reflect.Value) (any, error) {
			result, err := run(ctx, *arguments.Addr().Interface().(*A))
			return reflect.ValueOf(&result).Elem(), err
		})
}

// Items makes the items of a stream: it calls yield for each, and returns when that is false.
type Items[T any] func(yield func(item T) bool) error

// Stream declares a method that returns a stream. Its items are made while the host reads them.
func Stream[A, T any](c *Contract, name string,
	run func(ctx context.Context, args A) (Items[T], error), options ...MethodOption) {
	c.add(name, "stream fn", reflect.TypeOf((*A)(nil)).Elem(), reflect.TypeOf((*T)(nil)).Elem(), options,
		func(ctx context.Context, arguments reflect.Value) (any, error) {
			items, err := run(ctx, *arguments.Addr().Interface().(*A))
			return func(write func(item reflect.Value) bool) error {
				return items(func(item T) bool { return write(reflect.ValueOf(&item).Elem()) })
			}, err
		})
}

func (c *Contract) add(name, kind string, arguments, output reflect.Type, options []MethodOption,
	run func(ctx context.Context, arguments reflect.Value) (any, error)) {
	method := &served{name: name, kind: kind, run: run}
	fail := func(problem any) {
		panic(fmt.Sprintf("hotbay: method `%s` of contract `%s`: %v", name, c.name, problem))
	}
	for _, other := range c.methods {
		if other.name == name {
			fail("is already declared")
		}
	}
	for _, option := range options {
		option(method)
	}
	var err error
	if arguments.Kind() != reflect.Struct {
		fail(fmt.Sprintf("expected a struct of the arguments, found `%s`", arguments))
	}
	if method.arguments, err = fieldsOf(arguments, 0); err != nil {
		fail(err)
	}
	if method.output, err = typeOf(output, 0); err != nil {
		fail(err)
	}
	c.methods = append(c.methods, method)
}

// line returns the line of the method in the text of its contract.
func (m *served) line() string {
	line := fmt.Sprintf("%s %s(%s) -> %s", m.kind, m.name, m.arguments.text(), m.output.text)
	if m.permission != "" {
		line = fmt.Sprintf("#permission %s %s", m.permission, line)
	}
	if m.since != "" {
		line = fmt.Sprintf("#since %s %s", m.since, line)
	}
	return line
}

// call decodes the arguments, and runs the method.
func (m *served) call(ctx context.Context, body []byte) (any, error) {
	given, err := parse(body)
	arguments := reflect.New(m.arguments.of).Elem()
	if err == nil {
		err = m.arguments.decode(given, arguments)
	}
	if err != nil {
		return nil, &rejected{400, fmt.Sprintf("invalid arguments: %v", err), false}
	}
	return m.run(ctx, arguments)
}

// Host is the program's host, whose contracts can be called.
type Host struct{}

// Host returns the plugin's host.
func (p *Plugin) Host() Host { return Host{} }

// HostContract is a contract of the host or of another plugin; use Call to call its methods.
type HostContract struct {
	name, text, plugin string
	isChecked          *atomic.Bool
}

// Contract returns a contract to call. The manifest needs the permission `contract:NAME`. The first
// call checks that the version is served, and that the methods are, lines of the contract's text.
func (Host) Contract(name, version string, methods ...string) *HostContract {
	lines := append([]string{fmt.Sprintf("contract %s %s", name, version)}, methods...)
	return &HostContract{name, strings.Join(lines, "\n"), "", new(atomic.Bool)}
}

// Of returns the contract as the plugin with this name serves it.
func (c *HostContract) Of(plugin string) *HostContract {
	return &HostContract{c.name, c.text, plugin, new(atomic.Bool)}
}

// Args are the arguments of a call by name. Values have the types of contracts.
type Args map[string]any

// Call calls a method of a contract. It returns the result, the Error of the method, or a
// CallError. The call has the deadline and the trace of the context, and ends with it. R is a type
// of contracts, such as any for JSON.
func Call[R any](ctx context.Context, c *HostContract, method string, args Args) (R, error) {
	var result R
	output, err := typeOf(reflect.TypeOf(&result).Elem(), 0)
	if err != nil {
		return result, &CallError{Kind: "invalid-output", Message: err.Error()}
	}
	body, err := args.encode()
	if err != nil {
		return result, &CallError{Kind: "invalid-input", Message: err.Error()}
	}
	if !isName(c.name) || !isName(method) || c.plugin != "" && !isName(c.plugin) {
		message := fmt.Sprintf("invalid name: %q of %q", method, c.name)
		return result, &CallError{Kind: "invalid-input", Message: message}
	}
	if !c.isChecked.Load() {
		check := map[string]string{"text": c.text}
		if c.plugin != "" {
			check["plugin"] = c.plugin
		}
		encoded, _ := json.Marshal(check)
		if _, err := c.send(ctx, "/contract", encoded); err != nil {
			return result, err
		}
		c.isChecked.Store(true)
	}
	body, err = c.send(ctx, "/contract/"+c.name+"/"+method, body)
	if err != nil {
		return result, err
	}
	found, err := parse(body)
	if err == nil {
		err = output.decode(found, reflect.ValueOf(&result).Elem())
	}
	if err != nil {
		message := fmt.Sprintf("the host returned an invalid result: %v", err)
		return result, &CallError{Kind: "invalid-output", Message: message}
	}
	return result, nil
}

// isName returns whether a text can be the name of a contract, a method or a plugin.
func isName(text string) bool {
	for _, letter := range text {
		isValid := 'a' <= letter && letter <= 'z' || 'A' <= letter && letter <= 'Z' ||
			'0' <= letter && letter <= '9' || letter == '_' || letter == '-'
		if !isValid {
			return false
		}
	}
	return text != ""
}

func (a Args) encode() ([]byte, error) {
	buffer := bytes.NewBufferString("{")
	for name, value := range a {
		if buffer.Len() > 1 {
			buffer.WriteByte(',')
		}
		writeText(buffer, name)
		buffer.WriteByte(':')
		if value == nil {
			buffer.WriteString("null")
			continue
		}
		found, err := typeOf(reflect.TypeOf(value), 0)
		if err == nil {
			err = found.encode(buffer, reflect.ValueOf(value))
		}
		if err != nil {
			return nil, fmt.Errorf("argument `%s`: %w", name, err)
		}
	}
	buffer.WriteByte('}')
	return buffer.Bytes(), nil
}

// send sends a request to the host on a new connection; returns the body of the response, or its
// error.
func (c *HostContract) send(ctx context.Context, path string, body []byte) ([]byte, error) {
	address := os.Getenv("HOTBAY_HOST")
	if address == "" {
		message := "the program has no host: HOTBAY_HOST is not set"
		return nil, &CallError{Kind: "unavailable", Message: message}
	}
	network, place := "tcp", strings.TrimSuffix(strings.TrimPrefix(address, "http://"), "/")
	if strings.HasPrefix(address, "http+unix://") {
		network, place = "unix", strings.TrimPrefix(address, "http+unix://")
	}
	isConnected := false
	dialer := net.Dialer{Timeout: hostConnectTimeout}
	transport := &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, place)
			isConnected = err == nil
			return conn, err
		}}
	request, err := http.NewRequestWithContext(ctx, "POST", "http://host"+path, bytes.NewReader(body))
	if err != nil {
		return nil, &CallError{Kind: "invalid-input", Message: fmt.Sprintf("invalid name: %v", err)}
	}
	info := CallInfoOf(ctx)
	header := request.Header
	header.Set("Content-Type", jsonType)
	for name, value := range map[string]string{"Hotbay-Token": os.Getenv("HOTBAY_TOKEN"),
		"Hotbay-Plugin": c.plugin, "Traceparent": info.Traceparent} {
		if value != "" {
			header.Set(name, value)
		}
	}
	if info.Header != nil {
		header.Set("Hotbay-Call-Id", strconv.FormatUint(info.ID, 10))
	}
	if deadline, hasDeadline := ctx.Deadline(); hasDeadline {
		left := time.Until(deadline)
		if left < 0 {
			left = 0
		}
		remaining := left.Milliseconds()
		if left%time.Millisecond > 0 {
			remaining++ // Rounded up, so that the host's deadline is not before this one.
		}
		header.Set("Hotbay-Deadline-Ms", strconv.FormatInt(remaining, 10))
	}
	response, err := transport.RoundTrip(request)
	var found []byte
	if err == nil {
		defer response.Body.Close()
		found, err = io.ReadAll(io.LimitReader(response.Body, maxResponseBytes+1))
	}
	switch {
	case err == nil && len(found) > maxResponseBytes:
		message := fmt.Sprintf("the response of the host exceeds %d bytes", maxResponseBytes)
		return nil, &CallError{Kind: "invalid-output", Message: message}
	case err == nil:
		return found, hostError(response.StatusCode, found)
	case ctx.Err() == context.DeadlineExceeded:
		return nil, &CallError{Kind: "deadline-exceeded", Message: "the deadline passed"}
	case ctx.Err() != nil:
		return nil, &CallError{Kind: "cancelled", Message: "the call was cancelled"}
	}
	message := fmt.Sprintf("the host did not respond: %v", err)
	return nil, &CallError{Kind: "unavailable", Message: message, mayHaveRun: isConnected}
}

// hostError returns the error in a response of the host; nil for status 200.
func hostError(status int, body []byte) error {
	if status == 200 {
		return nil
	}
	var found struct {
		Code                *int32
		Message, Kind, Hint string
		Retryable           bool
		Details             json.RawMessage
	}
	if err := json.Unmarshal(body, &found); err != nil {
		message := fmt.Sprintf("the host returned invalid JSON: %v", err)
		return &CallError{Kind: "invalid-output", Message: message}
	}
	if status == 422 {
		failed := &Error{Code: 500, Message: found.Message, Retryable: found.Retryable}
		if found.Code != nil {
			failed.Code = *found.Code
		}
		if found.Details != nil {
			failed.Details = found.Details
		}
		return failed
	}
	if found.Kind == "" {
		// A host that is too old for contracts states no kind.
		found.Kind = "other"
		if status == 404 || status == 410 {
			found.Kind = "unavailable"
		}
	}
	return &CallError{Kind: found.Kind, Message: found.Message, Hint: found.Hint}
}

// Tuple makes a struct that begins with it a tuple, such as `(u8, string)`:
//
//	type Pair struct {
//		hotbay.Tuple
//		A uint8
//		B string
//	}
type Tuple struct{}

// Char is a type of contracts: a character.
type Char rune

// Enum is implemented by types of strings whose values are variants: `enum Color { Red, Blue }`.
type Enum interface{ Variants() []string }

// wireType is a type of contracts: its text, and functions that convert its values from and to
// JSON. JSON is what encoding/json returns, with numbers as json.Number.
type wireType struct {
	text       string
	isOptional bool
	decode     func(given any, into reflect.Value) error
	encode     func(buffer *bytes.Buffer, value reflect.Value) error
}

var (
	tupleOf = reflect.TypeOf(Tuple{})
	charOf  = reflect.TypeOf(Char(0))
	rawOf   = reflect.TypeOf(json.RawMessage{})
	anyOf   = reflect.TypeOf((*any)(nil)).Elem()
	unitOf  = reflect.TypeOf(struct{}{})
	enumOf  = reflect.TypeOf((*Enum)(nil)).Elem()
)

// typeOf returns the type of contracts for a type of Go.
func typeOf(of reflect.Type, depth int) (*wireType, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("a type nests more than %d levels", maxDepth)
	}
	var parts []*wireType
	inner := func(others ...reflect.Type) error {
		for _, other := range others {
			part, err := typeOf(other, depth+1)
			if err != nil {
				return err
			}
			parts = append(parts, part)
		}
		return nil
	}
	switch kind := of.Kind(); {
	case of == unitOf:
		return &wireType{text: "unit", decode: func(given any, _ reflect.Value) error {
			return expect(given == nil, "null", given)
		}, encode: func(buffer *bytes.Buffer, _ reflect.Value) error {
			buffer.WriteString("null")
			return nil
		}}, nil
	case of == charOf:
		return charType(), nil
	case of == rawOf || of == anyOf:
		return jsonOf(of), nil
	case kind == reflect.String && of.Implements(enumOf):
		return enumType(of), nil
	case kind == reflect.Pointer:
		if err := inner(of.Elem()); err != nil {
			return nil, err
		}
		return optionalType(of, parts[0]), nil
	case kind == reflect.Slice:
		if err := inner(of.Elem()); err != nil {
			return nil, err
		}
		return listType(of, parts[0]), nil
	case kind == reflect.Map && of.Elem() == unitOf:
		if err := inner(of.Key()); err != nil {
			return nil, err
		}
		return setType(of, parts[0]), nil
	case kind == reflect.Map:
		if err := inner(of.Key(), of.Elem()); err != nil {
			return nil, err
		}
		return mapType(of, parts[0], parts[1])
	case kind == reflect.Struct:
		fields, err := fieldsOf(of, depth)
		if err != nil {
			return nil, err
		}
		return fields.asType()
	}
	if scalar := scalarType(of.Kind()); scalar != nil {
		return scalar, nil
	}
	return nil, fmt.Errorf("contracts have no type for `%s`", of)
}

// scalarType returns the type of numbers, text or truth values; nil for other kinds.
func scalarType(kind reflect.Kind) *wireType {
	number := func(given any, name string, parse func(digits string) error) error {
		digits, isNumber := given.(json.Number)
		return expect(isNumber && parse(digits.String()) == nil, name, given)
	}
	scalar := new(wireType)
	switch kind {
	case reflect.Bool:
		scalar.text = "bool"
		scalar.decode = func(given any, into reflect.Value) error {
			value, isBool := given.(bool)
			into.SetBool(value)
			return expect(isBool, "bool", given)
		}
		scalar.encode = func(buffer *bytes.Buffer, value reflect.Value) error {
			buffer.WriteString(strconv.FormatBool(value.Bool()))
			return nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		bits := kindTypes[kind].Bits()
		scalar.text = fmt.Sprintf("i%d", bits)
		scalar.decode = func(given any, into reflect.Value) error {
			return number(given, scalar.text, func(digits string) error {
				value, err := strconv.ParseInt(digits, 10, bits)
				into.SetInt(value)
				return err
			})
		}
		scalar.encode = func(buffer *bytes.Buffer, value reflect.Value) error {
			buffer.WriteString(strconv.FormatInt(value.Int(), 10))
			return nil
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		bits := kindTypes[kind].Bits()
		scalar.text = fmt.Sprintf("u%d", bits)
		scalar.decode = func(given any, into reflect.Value) error {
			return number(given, scalar.text, func(digits string) error {
				value, err := strconv.ParseUint(digits, 10, bits)
				into.SetUint(value)
				return err
			})
		}
		scalar.encode = func(buffer *bytes.Buffer, value reflect.Value) error {
			buffer.WriteString(strconv.FormatUint(value.Uint(), 10))
			return nil
		}
	case reflect.Float32, reflect.Float64:
		bits := kindTypes[kind].Bits()
		scalar.text = fmt.Sprintf("f%d", bits)
		scalar.decode = func(given any, into reflect.Value) error {
			return number(given, scalar.text, func(digits string) error {
				value, err := strconv.ParseFloat(digits, bits)
				into.SetFloat(value)
				return err
			})
		}
		scalar.encode = func(buffer *bytes.Buffer, value reflect.Value) error {
			number := value.Float()
			buffer.WriteString(strconv.FormatFloat(number, 'g', -1, bits))
			return expect(!math.IsNaN(number) && !math.IsInf(number, 0), scalar.text, number)
		}
	case reflect.String:
		scalar.text = "string"
		scalar.decode = func(given any, into reflect.Value) error {
			value, isText := given.(string)
			into.SetString(value)
			return expect(isText, "string", given)
		}
		scalar.encode = func(buffer *bytes.Buffer, value reflect.Value) error {
			writeText(buffer, value.String())
			return expect(utf8.ValidString(value.String()), "UTF-8", value.String())
		}
	default:
		return nil
	}
	return scalar
}

// kindTypes are the types of numbers by kind.
var kindTypes = func() map[reflect.Kind]reflect.Type {
	types := map[reflect.Kind]reflect.Type{}
	for _, value := range []any{int(0), int8(0), int16(0), int32(0), int64(0), uint(0), uint8(0),
		uint16(0), uint32(0), uint64(0), float32(0), float64(0)} {
		types[reflect.TypeOf(value).Kind()] = reflect.TypeOf(value)
	}
	return types
}()

func charType() *wireType {
	return &wireType{text: "char", decode: func(given any, into reflect.Value) error {
		text, _ := given.(string)
		value, size := utf8.DecodeRuneInString(text)
		into.SetInt(int64(value))
		return expect(size > 0 && size == len(text), "one character", given)
	}, encode: func(buffer *bytes.Buffer, value reflect.Value) error {
		writeText(buffer, string(rune(value.Int())))
		return expect(utf8.ValidRune(rune(value.Int())), "a character", value.Int())
	}}
}

// jsonOf returns the type of any JSON. Its numbers are float64 in a value of the type any.
func jsonOf(of reflect.Type) *wireType {
	return &wireType{text: "json", decode: func(given any, into reflect.Value) error {
		encoded, err := json.Marshal(given)
		if of == rawOf {
			into.SetBytes(encoded)
			return err
		}
		return json.Unmarshal(encoded, into.Addr().Interface())
	}, encode: func(buffer *bytes.Buffer, value reflect.Value) error {
		encoded, err := json.Marshal(value.Interface())
		buffer.Write(encoded)
		return err
	}}
}

func enumType(of reflect.Type) *wireType {
	variants := reflect.Zero(of).Interface().(Enum).Variants()
	isVariant := func(name string) bool {
		for _, variant := range variants {
			if variant == name {
				return true
			}
		}
		return false
	}
	expected := "one of " + strings.Join(variants, ", ")
	text := fmt.Sprintf("enum %s { %s }", of.Name(), strings.Join(variants, ", "))
	return &wireType{text: text, decode: func(given any, into reflect.Value) error {
		name, isText := given.(string)
		into.SetString(name)
		return expect(isText && isVariant(name), expected, given)
	}, encode: func(buffer *bytes.Buffer, value reflect.Value) error {
		writeText(buffer, value.String())
		return expect(isVariant(value.String()), expected, value.String())
	}}
}

func optionalType(of reflect.Type, inner *wireType) *wireType {
	return &wireType{text: inner.text + "?", isOptional: true,
		decode: func(given any, into reflect.Value) error {
			if given == nil {
				into.Set(reflect.Zero(of))
				return nil
			}
			into.Set(reflect.New(of.Elem()))
			return inner.decode(given, into.Elem())
		}, encode: func(buffer *bytes.Buffer, value reflect.Value) error {
			if value.IsNil() {
				buffer.WriteString("null")
				return nil
			}
			return inner.encode(buffer, value.Elem())
		}}
}

func listType(of reflect.Type, item *wireType) *wireType {
	text := "[" + item.text + "]"
	return &wireType{text: text, decode: func(given any, into reflect.Value) error {
		items, isList := given.([]any)
		into.Set(reflect.MakeSlice(of, len(items), len(items)))
		for at, given := range items {
			if err := item.decode(given, into.Index(at)); err != nil {
				return err
			}
		}
		return expect(isList, text, given)
	}, encode: func(buffer *bytes.Buffer, value reflect.Value) error {
		return writeList(buffer, value.Len(), func(at int) error {
			return item.encode(buffer, value.Index(at))
		})
	}}
}

func setType(of reflect.Type, item *wireType) *wireType {
	text := "set<" + item.text + ">"
	return &wireType{text: text, decode: func(given any, into reflect.Value) error {
		items, isList := given.([]any)
		into.Set(reflect.MakeMapWithSize(of, len(items)))
		for _, given := range items {
			key := reflect.New(of.Key()).Elem()
			if err := item.decode(given, key); err != nil {
				return err
			}
			into.SetMapIndex(key, reflect.ValueOf(struct{}{}))
		}
		return expect(isList, text, given)
	}, encode: func(buffer *bytes.Buffer, value reflect.Value) error {
		keys := value.MapKeys()
		return writeList(buffer, len(keys), func(at int) error {
			return item.encode(buffer, keys[at])
		})
	}}
}

func mapType(of reflect.Type, key, item *wireType) (*wireType, error) {
	isText := key.text == "string"
	if _, isNumber := kindTypes[of.Key().Kind()]; !isText && (!isNumber || key.text[0] != 'i' && key.text[0] != 'u') {
		return nil, fmt.Errorf("keys of maps are text or integers, found `%s`", key.text)
	}
	text := fmt.Sprintf("map<%s, %s>", key.text, item.text)
	return &wireType{text: text, decode: func(given any, into reflect.Value) error {
		entries, isObject := given.(map[string]any)
		into.Set(reflect.MakeMapWithSize(of, len(entries)))
		for name, given := range entries {
			own, value := reflect.New(of.Key()).Elem(), reflect.New(of.Elem()).Elem()
			var found any = json.Number(name)
			if isText {
				found = name
			}
			if err := key.decode(found, own); err != nil {
				return err
			}
			if err := item.decode(given, value); err != nil {
				return fmt.Errorf("`%s`: %w", name, err)
			}
			into.SetMapIndex(own, value)
		}
		return expect(isObject, text, given)
	}, encode: func(buffer *bytes.Buffer, value reflect.Value) error {
		buffer.WriteByte('{')
		for at, own := range value.MapKeys() {
			if at > 0 {
				buffer.WriteByte(',')
			}
			name := new(bytes.Buffer)
			if err := key.encode(name, own); err != nil {
				return err
			}
			if !isText {
				fmt.Fprintf(buffer, "%q", name)
			} else {
				buffer.Write(name.Bytes())
			}
			buffer.WriteByte(':')
			if err := item.encode(buffer, value.MapIndex(own)); err != nil {
				return fmt.Errorf("`%v`: %w", own, err)
			}
		}
		buffer.WriteByte('}')
		return nil
	}}, nil
}

// structType is the type of a struct, or of the arguments of a method.
type structType struct {
	of      reflect.Type
	isTuple bool
	fields  []structField
}

type structField struct {
	name       string
	index      int
	hasDefault bool
	*wireType
}

// fieldsOf returns the fields of a struct. The tag `hotbay:"name,default"` names a field, and lets
// readers accept that it is missing; both parts are optional.
func fieldsOf(of reflect.Type, depth int) (*structType, error) {
	found := &structType{of: of}
	for at := 0; at < of.NumField(); at++ {
		field := of.Field(at)
		if at == 0 && field.Anonymous && field.Type == tupleOf {
			found.isTuple = true
			continue
		}
		if !field.IsExported() || field.Anonymous {
			return nil, fmt.Errorf("field `%s` of `%s`: expected an exported field with its own name",
				field.Name, of)
		}
		name, option, _ := strings.Cut(field.Tag.Get("hotbay"), ",")
		if option != "" && option != "default" {
			return nil, fmt.Errorf("field `%s` of `%s`: unknown option `%s`", field.Name, of, option)
		}
		if name == "" {
			name = snakeCase(field.Name)
		}
		own, err := typeOf(field.Type, depth+1)
		if err != nil {
			return nil, fmt.Errorf("`%s`: %w", name, err)
		}
		found.fields = append(found.fields, structField{name, at, option != "", own})
	}
	return found, nil
}

// text returns the fields as in the text of contracts.
func (s *structType) text() string {
	texts := []string{}
	for _, field := range s.fields {
		text := field.text
		if !s.isTuple {
			text = field.name + ": " + text
		}
		if field.hasDefault && !field.isOptional {
			text += " = default"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func (s *structType) asType() (*wireType, error) {
	if s.isTuple {
		return &wireType{text: "(" + s.text() + ")", decode: s.decodeTuple, encode: s.encode}, nil
	}
	name := s.of.Name()
	if name == "" || strings.ContainsRune(name, '[') {
		return nil, fmt.Errorf("contracts need a name of the struct `%s`", s.of)
	}
	text := fmt.Sprintf("%s { %s }", name, s.text())
	return &wireType{text: text, decode: s.decode, encode: s.encode}, nil
}

func (s *structType) decodeTuple(given any, into reflect.Value) error {
	items, isList := given.([]any)
	if !isList || len(items) != len(s.fields) {
		return expect(false, fmt.Sprintf("%d values", len(s.fields)), given)
	}
	for at, field := range s.fields {
		if err := field.decode(items[at], into.Field(field.index)); err != nil {
			return err
		}
	}
	return nil
}

// decode reads the fields of an object. Unknown ones are ignored.
func (s *structType) decode(given any, into reflect.Value) error {
	object, isObject := given.(map[string]any)
	if !isObject {
		return expect(false, "an object", given)
	}
	for _, field := range s.fields {
		given, isGiven := object[field.name]
		if !isGiven && (field.isOptional || field.hasDefault) {
			continue
		}
		if !isGiven {
			return fmt.Errorf("missing `%s`", field.name)
		}
		if err := field.decode(given, into.Field(field.index)); err != nil {
			return fmt.Errorf("`%s`: %w", field.name, err)
		}
	}
	return nil
}

func (s *structType) encode(buffer *bytes.Buffer, value reflect.Value) error {
	brackets := "{}"
	if s.isTuple {
		brackets = "[]"
	}
	buffer.WriteByte(brackets[0])
	for at, field := range s.fields {
		if at > 0 {
			buffer.WriteByte(',')
		}
		if !s.isTuple {
			writeText(buffer, field.name)
			buffer.WriteByte(':')
		}
		if err := field.encode(buffer, value.Field(field.index)); err != nil {
			return fmt.Errorf("`%s`: %w", field.name, err)
		}
	}
	buffer.WriteByte(brackets[1])
	return nil
}

// snakeCase converts a name of Go: `UserID` is `user_id`.
func snakeCase(name string) string {
	runes, found := []rune(name), []rune{}
	for at, letter := range runes {
		if at > 0 && unicode.IsUpper(letter) &&
			(!unicode.IsUpper(runes[at-1]) || at+1 < len(runes) && unicode.IsLower(runes[at+1])) {
			found = append(found, '_')
		}
		found = append(found, unicode.ToLower(letter))
	}
	return string(found)
}

// parse parses JSON; its numbers are json.Number.
func parse(body []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var found any
	if err := decoder.Decode(&found); err != nil {
		return nil, fmt.Errorf("invalid JSON: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("invalid JSON: expected the end")
	}
	return found, nil
}

func writeText(buffer *bytes.Buffer, text string) {
	encoded, _ := json.Marshal(text)
	buffer.Write(encoded)
}

func writeList(buffer *bytes.Buffer, length int, write func(at int) error) error {
	buffer.WriteByte('[')
	for at := 0; at < length; at++ {
		if at > 0 {
			buffer.WriteByte(',')
		}
		if err := write(at); err != nil {
			return err
		}
	}
	buffer.WriteByte(']')
	return nil
}

func expect(isExpected bool, expected string, found any) error {
	if isExpected {
		return nil
	}
	const most = 60
	var text string
	switch found := found.(type) {
	case nil:
		text = "null"
	case string:
		text = strconv.Quote(cut(found, most))
	case json.Number:
		text = cut(found.String(), most)
	case []any:
		text = fmt.Sprintf("a list of %d values", len(found))
	case map[string]any:
		text = fmt.Sprintf("an object of %d fields", len(found))
	default:
		text = fmt.Sprint(found)
	}
	return fmt.Errorf("expected %s, found %s", expected, text)
}

// cut returns the beginning of a text.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// rejected is a request that does not reach the plugin's code.
type rejected struct {
	status  int
	message string
	isLast  bool
}

func (r *rejected) Error() string { return r.message }

func (r *rejected) body() map[string]any {
	return map[string]any{"message": r.message, "statusCode": r.status}
}

// fault is a panic of a call.
type fault struct{ message, location string }

func (f *fault) Error() string { return f.message }

func (f *fault) body() map[string]any {
	own := map[string]string{"message": f.message}
	if f.location != "" {
		own["location"] = f.location
	}
	return map[string]any{"code": 500, "message": "panicked", "fault": own}
}

// protect runs a function of the plugin, and returns its panic as a fault.
func protect(run func() error) error {
	ended := make(chan error, 1)
	go func() { // Its own goroutine, which runtime.Goexit may end.
		var err error
		hasReturned := false
		defer func() {
			if !hasReturned {
				message := "the goroutine of the call ended"
				if value := recover(); value != nil {
					message = fmt.Sprint(value)
				}
				err = &fault{message, panicLocation()}
			}
			ended <- err
		}()
		err = run()
		hasReturned = true
	}()
	return <-ended
}

// errorAs is errors.As; false if a method of the error panics, such as of a nil pointer.
func errorAs(err error, target any) (isFound bool) {
	defer func() {
		if recover() != nil {
			isFound = false
		}
	}()
	return errors.As(err, target)
}

// panicLocation returns where the current panic was raised.
func panicLocation() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	isBelowPanic := false
	for {
		frame, more := frames.Next()
		isRuntime := strings.HasPrefix(frame.Function, "runtime.")
		if isBelowPanic && !isRuntime {
			return fmt.Sprintf("%s:%d", frame.File, frame.Line)
		}
		isBelowPanic = isBelowPanic || frame.Function == "runtime.gopanic"
		if !more {
			return ""
		}
	}
}

// failure returns status and body of the response to a call that failed. A panic of the error's own
// methods, such as of a nil pointer, is a fault of the call.
func failure(err error) (status int, body map[string]any) {
	defer func() {
		if value := recover(); value != nil {
			status, body = 500, (&fault{fmt.Sprint(value), panicLocation()}).body()
		}
	}()
	var (
		refused  *rejected
		panicked *fault
		own      *Error
		call     *CallError
	)
	switch {
	case errors.As(err, &refused):
		return refused.status, refused.body()
	case errors.As(err, &panicked):
		return 500, panicked.body()
	case errors.As(err, &own) && own != nil:
	case errors.As(err, &call) && call != nil:
		own = call.passedOn()
	default:
		own = &Error{Code: 500, Message: err.Error()}
	}
	body = map[string]any{"code": own.Code, "message": own.Message, "retryable": own.Retryable}
	if own.Details != nil {
		details, err := json.Marshal(own.Details)
		if err != nil {
			return 500, (&fault{fmt.Sprintf("the details of an error are not JSON: %v", err), ""}).body()
		}
		body["details"] = json.RawMessage(details)
	}
	return 422, body
}

// cancelledError returns the error of a call that its caller no longer waits for.
func cancelledError(ctx context.Context) error {
	if ctx.Err() == context.DeadlineExceeded {
		return &Error{Code: 408, Message: "the deadline passed", Retryable: true}
	}
	return &Error{Code: 499, Message: "cancelled"}
}

// connection is a connection of the host.
type connection struct {
	net.Conn
	server            *server
	isIdle            bool // Used with the mutex of the server.
	hasStoppedReading atomic.Bool
	closeOnce         sync.Once
}

func (c *connection) Close() error {
	c.closeOnce.Do(func() { c.server.forget(c) })
	return c.Conn.Close()
}

// stopReading stops receiving. What has arrived can still be read.
func (c *connection) stopReading() {
	c.hasStoppedReading.Store(true) // Before, so that no call takes the end for a cancellation.
	c.Conn.(interface{ CloseRead() error }).CloseRead()
}

type connectionKey struct{}

// server serves a plugin until a signal, /shutdown, or the idle timeout.
type server struct {
	plugin   *Plugin
	token    string
	methods  map[string]*served
	slots    chan struct{} // Of calls.
	places   chan struct{} // Of connections.
	stop     chan struct{}
	stopOnce sync.Once
	isUsed   atomic.Bool
	draining chan struct{} // Is closed when the shutdown begins.

	mutex       sync.Mutex
	connections map[*connection]struct{}
	isClosing   bool          // Whether no more connections are accepted.
	allClosed   chan struct{} // Is closed when the last connection has ended after that.
	running     int
	idleSince   time.Time
}

func (s *server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// Run executes the command line. It returns after the shutdown, and exits with 2 if the command
// line is invalid.
func (p *Plugin) Run() {
	if len(os.Args) == 2 && os.Args[1] == "capabilities" {
		encoded, err := json.Marshal(p.capabilities())
		if err != nil {
			panic(fmt.Sprintf("hotbay: invalid capabilities: %v", err)) // Of a schema.
		}
		fmt.Println(string(encoded))
		return
	}
	settings, err := readSettings(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "invalid start configuration: %v\n\nusage: %s capabilities | --config "+
			"JSON (or in HOTBAY_CONFIG)\n", err, p.Name)
		os.Exit(2)
	}
	if settings.id == "" {
		settings.id = p.Name
	}
	if p.MaxConcurrentCalls < 1 || p.MaxBodyBytes < 0 {
		fmt.Fprintln(os.Stderr, "MaxConcurrentCalls must be at least 1, and MaxBodyBytes at least 0")
		os.Exit(2)
	}
	s := &server{plugin: p, token: os.Getenv("HOTBAY_TOKEN"), methods: map[string]*served{},
		slots: make(chan struct{}, p.MaxConcurrentCalls), stop: make(chan struct{}),
		places: make(chan struct{}, maxConnections), draining: make(chan struct{}),
		connections: map[*connection]struct{}{}, allClosed: make(chan struct{}),
		idleSince: time.Now()}
	for _, contract := range p.contracts {
		for _, method := range contract.methods {
			s.methods["/contract/"+contract.name+"/"+method.name] = method
		}
	}
	s.run(settings)
}

// capabilities returns what the command `capabilities` prints.
func (p *Plugin) capabilities() any {
	endpoints := append([]string{}, p.names...)
	if p.endpoints["execute"] != nil {
		endpoints = append(endpoints, "batch")
	}
	if p.snapshot != nil {
		endpoints = append(endpoints, "snapshot")
	}
	if p.restore != nil {
		endpoints = append(endpoints, "restore")
	}
	own := map[string]any{"protocol": 1, "name": p.Name, "version": p.Version,
		"endpoints": endpoints, "config": []string{"env", "file"}}
	if p.ConfigSchema != nil {
		own["configSchema"] = p.ConfigSchema
	}
	if p.InputSchema != nil {
		own["inputSchema"] = p.InputSchema
	}
	contracts := []any{}
	for _, contract := range p.contracts {
		contracts = append(contracts, map[string]string{"text": contract.text()})
	}
	own["contracts"] = contracts
	return map[string]any{"hotbay": own}
}

// run starts the plugin, serves it, and shuts it down.
func (s *server) run(settings settings) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	listener, location, files, err := listen(settings)
	removeFiles := func() {
		for _, file := range files {
			os.Remove(file)
		}
	}
	exit := func(message string, err error) {
		removeFiles()
		s.plugin.Log.Error(fmt.Sprintf("%s: %v", message, err))
		os.Exit(1)
	}
	if err != nil {
		exit("the start failed", err)
	}
	// What the plugin prints cannot mix with the address.
	stdout := os.Stdout
	os.Stdout = os.Stderr
	isConfigured := make(chan error, 1)
	go func() {
		isConfigured <- protect(func() error {
			if s.plugin.configure == nil {
				return nil
			}
			return s.plugin.configure(settings.config)
		})
	}()
	select {
	case err := <-isConfigured:
		if err != nil {
			exit("invalid configuration", err)
		}
	case received := <-signals: // The start may hang.
		exit("the start was interrupted", errors.New(received.String()))
	}
	web := &http.Server{Handler: s, ErrorLog: log.New(connectionLog{s.plugin.Log}, "", 0),
		MaxHeaderBytes: maxHeadBytes, ConnState: s.track,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, conn)
		}}
	if s.token != "" {
		web.ReadHeaderTimeout = tokenTimeout
		web.IdleTimeout = 24 * time.Hour // Otherwise, Go 1.19 uses the timeout above.
	}
	hasAccepted := make(chan struct{})
	go func() {
		defer close(hasAccepted)
		if err := web.Serve(limitedListener{listener, s}); !s.isDraining() {
			s.plugin.Log.Error(fmt.Sprintf("cannot accept connections: %v", err))
			s.requestStop()
		}
	}()
	fmt.Fprintln(stdout, location)
	s.wait(signals, settings.idleTimeout)
	removeFiles()
	if !s.drain(listener, hasAccepted) {
		s.plugin.Log.Warn("`shutdown` skipped: calls were still running",
			"waited_seconds", drainTimeout.Seconds())
		os.Exit(0)
	}
	err = protect(func() error {
		if s.plugin.shutdown == nil {
			return nil
		}
		return s.plugin.shutdown(context.Background())
	})
	if err != nil {
		s.plugin.Log.Error(fmt.Sprintf("`shutdown` failed: %v", err))
		os.Exit(1)
	}
}

// requestStop begins the shutdown.
func (s *server) requestStop() {
	s.stopOnce.Do(func() { close(s.stop) })
}

// wait returns at a signal, at /shutdown, or when no call has run for the idle timeout.
func (s *server) wait(signals chan os.Signal, idleTimeout time.Duration) {
	for {
		var expired <-chan time.Time
		if idleTimeout > 0 {
			s.mutex.Lock()
			remaining := idleTimeout
			if s.running == 0 {
				remaining -= time.Since(s.idleSince)
			}
			s.mutex.Unlock()
			if remaining <= 0 {
				return
			}
			expired = time.After(remaining)
		}
		select {
		case <-signals:
			return
		case <-s.stop:
			return
		case <-expired:
		}
	}
}

// drain waits for running calls; it returns false if some still run. No accepted request is lost:
// pending connections are accepted, and requests that have arrived can still be read.
func (s *server) drain(listener streamListener, hasAccepted chan struct{}) bool {
	timeout := time.After(drainTimeout)
	close(s.draining)
	listener.SetDeadline(time.Now().Add(pendingTimeout))
	<-hasAccepted
	listener.Close()
	s.mutex.Lock()
	s.isClosing = true
	if len(s.connections) == 0 {
		close(s.allClosed)
	}
	for conn := range s.connections {
		if conn.isIdle {
			conn.stopReading()
		}
	}
	s.mutex.Unlock()
	select {
	case <-s.allClosed:
		return true
	case <-timeout:
		return false
	}
}

// track follows whether connections have a request.
func (s *server) track(conn net.Conn, state http.ConnState) {
	own, isOpen := conn.(*connection), state == http.StateActive || state == http.StateIdle
	if !isOpen {
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	own.isIdle = state == http.StateIdle
	if own.isIdle && s.isDraining() {
		own.stopReading()
	}
}

// forget removes a connection that is closed.
func (s *server) forget(conn *connection) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.connections, conn)
	<-s.places
	if len(s.connections) == 0 && s.isClosing {
		close(s.allClosed)
	}
}

// streamListener is a listener of net with a deadline.
type streamListener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// limitedListener accepts connections up to a limit.
type limitedListener struct {
	streamListener
	server *server
}

func (l limitedListener) Accept() (net.Conn, error) {
	s := l.server
	select {
	case s.places <- struct{}{}: // Tried first: what waits in the backlog is still accepted.
	default:
		select {
		case s.places <- struct{}{}:
		case <-s.draining:
			return nil, net.ErrClosed
		}
	}
	conn, err := l.streamListener.Accept()
	if err != nil {
		<-s.places
		if s.isDraining() {
			return nil, net.ErrClosed
		}
		return nil, err
	}
	own := &connection{Conn: conn, server: s, isIdle: true}
	s.mutex.Lock()
	s.connections[own] = struct{}{}
	s.mutex.Unlock()
	return own, nil
}

// ServeHTTP responds to a request.
func (s *server) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	path := request.RequestURI
	respond := func(status int, contentType string, body []byte) {
		header := w.Header()
		if s.isDraining() || path == "/shutdown" {
			header.Set("Connection", "close")
		}
		header.Set("Content-Type", contentType)
		header.Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(status)
		w.Write(body)
	}
	fail := func(err error) {
		status, body := failure(err)
		if refused := new(rejected); errorAs(err, &refused) && refused.isLast {
			w.Header().Set("Connection", "close")
		}
		if errorAs(err, new(*unhealthy)) {
			status = 503
		}
		encoded, _ := json.Marshal(body)
		respond(status, jsonType, encoded)
	}
	// The token protects all paths, including unknown ones.
	given := request.Header.Get("Hotbay-Token")
	if s.token != "" && subtle.ConstantTimeCompare([]byte(given), []byte(s.token)) != 1 {
		message := "invalid or missing header Hotbay-Token: expected the value of HOTBAY_TOKEN"
		if conn, _ := request.Context().Value(connectionKey{}).(*connection); conn != nil {
			conn.SetReadDeadline(time.Now().Add(time.Second)) // The rest of the body may never come.
		}
		fail(&rejected{401, message, true})
		return
	}
	if path != "/healthz" {
		s.count(1)
		defer s.count(-1)
	}
	body, err := s.readBody(request)
	if err != nil {
		fail(err)
		return
	}
	ctx, cancel, err := callContext(request)
	if err != nil {
		fail(err)
		return
	}
	defer cancel()
	output, items, err := s.serve(ctx, request, body, w.Header())
	switch {
	case err != nil:
		waitUntilNoticed(ctx, request, err)
		fail(err)
	case items != nil:
		s.sendItems(ctx, w, request, items)
	default:
		respond(200, output.ContentType, output.Body)
	}
}

func (s *server) count(change int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.running += change
	s.idleSince = time.Now()
}

func (s *server) readBody(request *http.Request) ([]byte, error) {
	max := s.plugin.MaxBodyBytes
	tooLarge := &rejected{413, fmt.Sprintf("body too large: expected at most %d bytes", max), true}
	if request.ContentLength > max {
		return nil, tooLarge
	}
	var limited io.Reader = request.Body
	if max < math.MaxInt64 {
		limited = io.LimitReader(limited, max+1)
	}
	body, err := io.ReadAll(limited)
	if err != nil {
		panic(http.ErrAbortHandler) // The connection has ended.
	}
	if int64(len(body)) > max {
		return nil, tooLarge
	}
	return body, nil
}

// callContext returns the context of a call, which is done when its caller no longer waits.
func callContext(request *http.Request) (context.Context, context.CancelFunc, error) {
	id, _, err := wholeNumber(request.Header, "Hotbay-Call-Id")
	if err != nil {
		return nil, nil, err
	}
	ms, hasDeadline, err := wholeNumber(request.Header, "Hotbay-Deadline-Ms")
	if err != nil {
		return nil, nil, err
	}
	info := CallInfo{ID: id, Traceparent: request.Header.Get("Traceparent"), Header: request.Header}
	ctx := context.WithValue(context.Background(), infoKey{}, info)
	cancel := context.CancelFunc(nil)
	if hasDeadline && ms < maxDeadlineMs {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	conn, _ := request.Context().Value(connectionKey{}).(*connection)
	go func() {
		select {
		case <-ctx.Done():
		case <-request.Context().Done():
			if !conn.hasStoppedReading.Load() {
				cancel()
			}
		}
	}()
	return ctx, cancel, nil
}

// unhealthy is an error of the health function.
type unhealthy struct{ error }

func (u *unhealthy) Unwrap() error { return u.error }

// serve returns the output of a request: a body, or the items of a stream.
func (s *server) serve(ctx context.Context, request *http.Request, body []byte,
	header http.Header) (Output, *stream, error) {
	path, p := request.RequestURI, s.plugin
	nothing := Output{[]byte("{}"), jsonType}
	if path == "/shutdown" {
		s.requestStop()
		return nothing, nil, nil
	}
	method, endpoint := s.methods[path], p.endpoints[strings.TrimPrefix(path, "/")]
	isBatch := path == "/batch" && p.endpoints["execute"] != nil
	expected := "POST"
	switch {
	case path == "/healthz" || path == "/snapshot" && p.snapshot != nil:
		expected = "GET"
	case path == "/restore" && p.restore != nil:
	case method == nil && endpoint == nil && !isBatch:
		return nothing, nil, &rejected{404, fmt.Sprintf("endpoint `%s` not found", path), false}
	}
	if request.Method != expected {
		return nothing, nil, &rejected{405, fmt.Sprintf("wrong method for `%s`: expected %s, found %s",
			path, expected, request.Method), false}
	}
	switch {
	case path == "/healthz":
		if p.health == nil {
			return nothing, nil, nil
		}
		if err := protect(func() error { return p.health(ctx) }); err != nil {
			return nothing, nil, &unhealthy{err}
		}
		return nothing, nil, nil
	case path == "/snapshot":
		var version uint32
		var state []byte
		err := protect(func() (err error) {
			version, state, err = p.snapshot(ctx)
			return err
		})
		if state != nil && err == nil {
			header.Set("Hotbay-Snapshot-Version", strconv.FormatUint(uint64(version), 10))
		}
		return Output{state, bytesType}, nil, err
	}
	wasUsed := s.isUsed.Swap(true)
	if path == "/restore" {
		version, isGiven, err := wholeNumber(request.Header, "Hotbay-Snapshot-Version")
		switch {
		case err != nil:
			return nothing, nil, err
		case !isGiven || version > math.MaxUint32:
			message := "missing or invalid header Hotbay-Snapshot-Version"
			return nothing, nil, &rejected{400, message, false}
		case wasUsed:
			message := "a state can be restored only before the first call"
			return nothing, nil, &rejected{409, message, false}
		}
		return nothing, nil, protect(func() error { return p.restore(ctx, uint32(version), body) })
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil { // It may have waited for its turn.
		return nothing, nil, cancelledError(ctx)
	}
	if method != nil {
		return callMethod(ctx, method, body)
	}
	if isBatch {
		output, err := s.batch(ctx, body)
		return output, nil, err
	}
	output, err := callFunction(ctx, endpoint, Input{body, contentType(request.Header)})
	return output, nil, orCancelled(ctx, err)
}

func contentType(header http.Header) string {
	if found := header.Get("Content-Type"); found != "" {
		return found
	}
	return bytesType
}

// callFunction calls a function of the plugin.
func callFunction(ctx context.Context, run Function, in Input) (output Output, err error) {
	err = protect(func() (err error) {
		output, err = run(ctx, in)
		return err
	})
	isSendable := output.ContentType != ""
	for _, letter := range output.ContentType {
		isSendable = isSendable && ' ' <= letter && letter <= '~'
	}
	if !isSendable {
		output.ContentType = bytesType
	}
	return output, err
}

func (s *server) batch(ctx context.Context, body []byte) (Output, error) {
	var batch struct {
		Requests []struct {
			ContentType *string
			Body        *string
		}
	}
	if err := json.Unmarshal(body, &batch); err != nil || batch.Requests == nil {
		return Output{}, &rejected{400, "invalid batch: expected JSON with `requests`", false}
	}
	if len(batch.Requests) > maxBatch {
		message := fmt.Sprintf("too many requests: expected at most %d", maxBatch)
		return Output{}, &rejected{400, message, false}
	}
	inputs := []Input{}
	for _, entry := range batch.Requests {
		in := Input{ContentType: bytesType}
		var err error
		if entry.ContentType != nil {
			in.ContentType = *entry.ContentType
		}
		if entry.Body == nil || strings.ContainsAny(*entry.Body, "\r\n") {
			err = errors.New("a body is missing or has line ends")
		} else {
			in.Body, err = base64.StdEncoding.Strict().DecodeString(*entry.Body)
		}
		if err != nil {
			return Output{}, &rejected{400, fmt.Sprintf("invalid batch: %v", err), false}
		}
		inputs = append(inputs, in)
	}
	replies := []any{}
	for _, in := range inputs {
		err := ctx.Err()
		var output Output
		if err == nil {
			output, err = callFunction(ctx, s.plugin.endpoints["execute"], in)
		}
		if err != nil {
			_, failed := failure(orCancelled(ctx, err))
			replies = append(replies, map[string]any{"error": failed})
			continue
		}
		encoded := base64.StdEncoding.EncodeToString(output.Body)
		reply := map[string]any{"contentType": output.ContentType, "body": encoded}
		replies = append(replies, reply)
	}
	return JSON(map[string]any{"replies": replies})
}

// orCancelled returns the error of a cancelled call instead of that of its context.
func orCancelled(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	isOfContext := false
	// A method of the error may panic.
	_ = protect(func() error {
		isOfContext = errors.Is(err, ctx.Err())
		return nil
	})
	if isOfContext {
		return cancelledError(ctx)
	}
	return err
}

// stream is the result of a method that returns a stream. It is made outside of the limit of calls.
type stream struct {
	method *served
	make   func(write func(item reflect.Value) bool) error
}

func callMethod(ctx context.Context, method *served, body []byte) (Output, *stream, error) {
	var result any
	err := protect(func() (err error) {
		result, err = method.call(ctx, body)
		return err
	})
	if err != nil {
		return Output{}, nil, orCancelled(ctx, err)
	}
	if items, isStream := result.(func(func(reflect.Value) bool) error); isStream {
		return Output{}, &stream{method, items}, nil
	}
	buffer := new(bytes.Buffer)
	err = protect(func() error { return method.output.encode(buffer, result.(reflect.Value)) })
	if errorAs(err, new(*fault)) {
		return Output{}, nil, err
	}
	if err != nil {
		message := "the result cannot be serialized: " + fmt.Sprint(err)
		return Output{}, nil, &rejected{500, message, false}
	}
	return Output{buffer.Bytes(), jsonType}, nil, nil
}

// sendItems writes a line for each item; it blocks while the host does not read.
func (s *server) sendItems(ctx context.Context, w http.ResponseWriter, request *http.Request,
	items *stream) {
	w.Header().Set("Content-Type", linesType)
	w.Header().Set("Connection", "close")
	flusher := w.(http.Flusher)
	flusher.Flush() // The head.
	var failed error
	isOpen := true
	write := func(item reflect.Value) bool {
		if !isOpen || ctx.Err() != nil {
			return false
		}
		line := bytes.NewBufferString(`{"item":`)
		if err := items.method.output.encode(line, item); err != nil {
			message := fmt.Sprintf("an item cannot be serialized: %v", err)
			failed, isOpen = &rejected{500, message, false}, false
			return false
		}
		line.WriteString("}\n")
		_, err := w.Write(line.Bytes())
		flusher.Flush()
		isOpen = err == nil
		return isOpen
	}
	err := protect(func() error { return items.make(write) })
	if failed == nil {
		failed = err
	}
	if failed == nil && ctx.Err() != nil {
		failed = ctx.Err()
	}
	last := any(map[string]bool{"end": true})
	if failed != nil {
		failed = orCancelled(ctx, failed)
		waitUntilNoticed(ctx, request, failed)
		_, body := failure(failed)
		last = map[string]any{"error": body}
	}
	encoded, _ := json.Marshal(last)
	w.Write(append(encoded, '\n'))
}

// waitUntilNoticed waits until the host closes the connection, if a call has failed because its
// context is done. The host notices a deadline on its own, maybe slightly later than the plugin.
func waitUntilNoticed(ctx context.Context, request *http.Request, err error) {
	own := new(Error)
	if ctx.Err() == nil || !errorAs(err, &own) || own == nil || own.Code != 408 && own.Code != 499 {
		return
	}
	select {
	case <-request.Context().Done():
	case <-time.After(cancelledGrace):
	}
}

// settings are those of a start.
type settings struct {
	id, network string
	idleTimeout time.Duration
	config      []byte
}

// readSettings reads the start configuration: of the arguments, the file, or the environment.
func readSettings(arguments []string) (settings, error) {
	found := settings{network: "unix", idleTimeout: defaultIdleTimeout, config: []byte("{}")}
	text, err := startConfig(arguments)
	if err != nil {
		return found, err
	}
	var given struct {
		ID, Type    string
		IdleTimeout any
		ConfigTypes []struct{ Type, Data string }
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&given); err != nil {
		return found, err
	}
	if given.Type != "" {
		found.network = given.Type
	}
	if found.network != "unix" && found.network != "tcp" {
		return found, fmt.Errorf("found type `%s`, expected `unix` or `tcp`", found.network)
	}
	if found.id = given.ID; strings.Contains(found.id, "/") {
		return found, errors.New("expected no `/` in `id`, since a file is named after it")
	}
	if given.IdleTimeout != nil {
		if found.idleTimeout, err = duration(given.IdleTimeout); err != nil {
			return found, err
		}
	}
	for _, entry := range given.ConfigTypes {
		if entry.Type != "hotbay/v1" || entry.Data == "" {
			continue
		}
		found.config, err = base64.StdEncoding.DecodeString(entry.Data)
		var object map[string]json.RawMessage
		if err == nil {
			err = json.Unmarshal(found.config, &object)
		}
		if err == nil && object == nil {
			err = errors.New("found null")
		}
		if err != nil {
			return found, fmt.Errorf("expected an object as the data of `hotbay/v1`: %w", err)
		}
		break
	}
	return found, nil
}

func startConfig(arguments []string) (string, error) {
	switch {
	case len(arguments) == 2 && arguments[0] == "--config":
		return arguments[1], nil
	case len(arguments) == 1 && strings.HasPrefix(arguments[0], "--config="):
		return strings.TrimPrefix(arguments[0], "--config="), nil
	case len(arguments) > 0:
		return "", fmt.Errorf("unexpected arguments %q", arguments)
	}
	if path := os.Getenv("HOTBAY_CONFIG_FILE"); path != "" {
		text, err := os.ReadFile(path)
		return string(text), err
	}
	text, isSet := os.LookupEnv("HOTBAY_CONFIG")
	if !isSet {
		return "", errors.New("expected `--config JSON` or HOTBAY_CONFIG")
	}
	return text, nil
}

// duration converts nanoseconds, or a text such as `1h30m`.
func duration(given any) (time.Duration, error) {
	switch given := given.(type) {
	case json.Number:
		nanoseconds, err := given.Float64()
		if err == nil && nanoseconds >= 0 {
			return time.Duration(math.Min(nanoseconds, 1<<62)), nil
		}
	case string:
		if found, err := time.ParseDuration(given); err == nil && found >= 0 {
			return found, nil
		}
	}
	return 0, fmt.Errorf("invalid duration `%v`", given)
}

// listen listens on a socket or port; it returns the listener, its location, and its files.
func listen(settings settings) (streamListener, string, []string, error) {
	if settings.network == "tcp" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, "", nil, err
		}
		return listener.(*net.TCPListener), "http://" + listener.Addr().String(), nil, nil
	}
	folder, name := os.Getenv("HOTBAY_SOCKET_DIR"), settings.id+"-plugin.socket"
	if folder != "" {
		random := make([]byte, 8)
		if _, err := rand.Read(random); err != nil {
			return nil, "", nil, err
		}
		name = hex.EncodeToString(random) + ".socket"
	} else {
		folder = os.TempDir()
	}
	path := filepath.Join(folder, name)
	lock := path + ".lock"
	if _, err := os.Lstat(path); err == nil {
		if err := removeStale(path, lock); err != nil {
			return nil, "", nil, err
		}
	}
	mask := syscall.Umask(0o077) // Only this user may connect.
	listener, err := net.Listen("unix", path)
	syscall.Umask(mask)
	if err != nil {
		return nil, "", nil, err
	}
	files := []string{path, lock}
	socket := listener.(*net.UnixListener)
	socket.SetUnlinkOnClose(false) // They are removed first.
	err = os.WriteFile(lock, []byte(strconv.Itoa(os.Getpid())), 0o600)
	return socket, "http+unix://" + path, files, err
}

// removeStale removes the files of a process that has exited; it fails if the socket may be in use.
func removeStale(path, lock string) error {
	text, err := os.ReadFile(lock)
	owner := 0
	if err == nil {
		owner, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err == nil {
		err = syscall.Kill(owner, 0)
	}
	switch {
	case err == nil:
		return fmt.Errorf("socket `%s` is in use by process %d", path, owner)
	case err != syscall.ESRCH:
		return fmt.Errorf("socket `%s` already exists, with an unknown owner (%v); remove it", path, err)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Remove(lock)
}

// wholeNumber returns the number in a header, and whether it is given.
func wholeNumber(header http.Header, name string) (uint64, bool, error) {
	text := header.Get(name)
	if text == "" && header[name] == nil {
		return 0, false, nil
	}
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		message := fmt.Sprintf("invalid header %s: expected a whole number, found `%s`", name, text)
		return 0, false, &rejected{400, message, false}
	}
	return number, true, nil
}
