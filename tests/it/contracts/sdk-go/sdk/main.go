// Serves `text-analysis`, `tables`, `values` and `async-work` with the SDK in Go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"hotbay"
)

var plugin = hotbay.New("program", "0.1.0")

type Failure string

func (Failure) Variants() []string { return []string{"Error", "Panic", "None"} }

type Point struct{ X, Y float64 }

type Word struct {
	Text  string
	Count uint64
}

type Record struct {
	Text  string
	Words *uint64
	Tags  map[string]int64
	Added bool `hotbay:",default"`
}

type none = struct{}

func counted(_ context.Context, args struct{ Record Record }) (Record, error) {
	words := uint64(len(strings.Fields(args.Record.Text)))
	args.Record.Words, args.Record.Added = &words, true
	return args.Record, nil
}

func fails(how Failure, message string) error {
	switch how {
	case "Error":
		return fmt.Errorf("wrapped: %w", &hotbay.Error{Code: 7, Message: "no", Details: []int{1}})
	case "Panic":
		panic(message)
	}
	return nil
}

// wait waits until a call is cancelled.
func wait(ctx context.Context, _ none) (none, error) {
	<-ctx.Done()
	return none{}, ctx.Err()
}

type limitsOf struct {
	hotbay.Tuple
	HasDeadline, IsCancelled bool
}

func limits(ctx context.Context, _ none) (limitsOf, error) {
	_, hasDeadline := ctx.Deadline()
	return limitsOf{HasDeadline: hasDeadline, IsCancelled: ctx.Err() != nil}, nil
}

// execute returns the input; or does what it says.
func execute(ctx context.Context, in hotbay.Input) (hotbay.Output, error) {
	text, err := in.Text()
	var seconds float64
	switch {
	case err != nil:
		return hotbay.Output{}, err
	case text == "fail":
		return hotbay.Output{}, &hotbay.Error{Code: 8, Message: "failed", Retryable: true,
			Details: map[string]int{"at": 1}}
	case text == "panic":
		panic("execute failed")
	case text == "trace":
		text = hotbay.CallInfoOf(ctx).Traceparent + " " + in.ContentType
	case text == "log":
		plugin.Log.Warn("logged", "rows", 3, "level", "a field")
	case text == "forever":
		select {}
	}
	if _, err := fmt.Sscanf(text, "wait %f", &seconds); err == nil {
		plugin.Log.Info("waits")
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	}
	return hotbay.Text(text), nil
}

var state atomic.Value

func keepState() {
	state.Store([]byte{})
	plugin.Endpoint("keep", func(_ context.Context, in hotbay.Input) (hotbay.Output, error) {
		state.Store(in.Body)
		return hotbay.Output{}, nil
	})
	plugin.Snapshot(func(context.Context) (uint32, []byte, error) {
		return 1, state.Load().([]byte), nil
	})
	plugin.Restore(func(_ context.Context, _ uint32, found []byte) error {
		state.Store(found)
		return nil
	})
	plugin.Health(func(context.Context) error {
		if string(state.Load().([]byte)) == "ill" {
			return hotbay.Errorf(9, "ill")
		}
		return nil
	})
}

func serveAnalysis() {
	c := plugin.Contract("text-analysis", "1.1")
	hotbay.Method(c, "words", func(_ context.Context, args struct{ Text string }) (uint64, error) {
		return uint64(len(strings.Fields(args.Text))), nil
	})
	hotbay.Method(c, "score", func(_ context.Context, args struct{ A, B float64 }) (float64, error) {
		return args.A + args.B, nil
	})
	hotbay.Method(c, "sum", sum)
	hotbay.Method(c, "lengths", func(_ context.Context, args struct{ Texts []string }) ([]uint64, error) {
		lengths := []uint64{}
		for _, text := range args.Texts {
			lengths = append(lengths, uint64(len(text)))
		}
		return lengths, nil
	})
	hotbay.Method(c, "shout", func(_ context.Context, args struct{ Text *string }) (*string, error) {
		if args.Text != nil {
			*args.Text = strings.ToUpper(*args.Text)
		}
		return args.Text, nil
	})
	hotbay.Method(c, "move_by", func(_ context.Context, args struct{ Point, By Point }) (Point, error) {
		return Point{args.Point.X + args.By.X, args.Point.Y + args.By.Y}, nil
	})
	hotbay.Method(c, "enrich", counted)
	hotbay.Method(c, "fail", func(_ context.Context, args struct{ How Failure }) (uint32, error) {
		return 7, fails(args.How, "analysis failed")
	})
	hotbay.Method(c, "limits", limits)
	hotbay.Method(c, "store", func(_ context.Context, args struct{ Text string }) (none, error) {
		return none{}, nil
	}, hotbay.Permission("write"))
	hotbay.Method(c, "wait", wait)
	hotbay.Method(c, "top", func(_ context.Context, args struct {
		Text string
		N    uint32
	}) ([]Word, error) {
		counts := map[string]uint64{}
		for _, word := range strings.Fields(args.Text) {
			counts[word]++
		}
		words := []Word{}
		for text, count := range counts {
			words = append(words, Word{text, count})
		}
		sort.Slice(words, func(a, b int) bool {
			one, other := words[a], words[b]
			return one.Count > other.Count || one.Count == other.Count && one.Text < other.Text
		})
		if int(args.N) < len(words) {
			words = words[:args.N]
		}
		return words, nil
	}, hotbay.Since("1.1"))
	hotbay.Method(c, "longest", func(_ context.Context, args struct{ Text string }) (string, error) {
		longest := ""
		for _, word := range strings.Fields(args.Text) {
			if len(word) > len(longest) {
				longest = word
			}
		}
		if longest == "" {
			return "", hotbay.Errorf(404, "no words")
		}
		return longest, nil
	}, hotbay.Since("1.1"))
}

func sum(_ context.Context, args struct{ Numbers []float64 }) (float64, error) {
	sum := 0.0
	for _, number := range args.Numbers {
		sum += number
	}
	return sum, nil
}

var made, dropped atomic.Uint64

// tracked counts items, and the streams that have ended or were dropped.
func tracked(items hotbay.Items[uint64]) (hotbay.Items[uint64], error) {
	return func(yield func(uint64) bool) error {
		defer dropped.Add(1)
		return items(func(item uint64) bool {
			made.Add(1)
			return yield(item)
		})
	}, nil
}

func numbers(from, to uint64) hotbay.Items[uint64] {
	return func(yield func(uint64) bool) error {
		for number := from; number < to && yield(number); number++ {
		}
		return nil
	}
}

func failing(_ context.Context, args struct {
	After uint64
	How   Failure
}) (hotbay.Items[uint64], error) {
	return func(yield func(uint64) bool) error {
		if err := numbers(0, args.After)(yield); err != nil {
			return err
		}
		return fails(args.How, "reading failed")
	}, nil
}

func serveTables() {
	c := plugin.Contract("tables", "1.1")
	hotbay.Stream(c, "count", func(_ context.Context, args struct{ From uint64 }) (hotbay.Items[uint64], error) {
		return tracked(numbers(args.From, 1<<63))
	})
	hotbay.Stream(c, "rows", func(_ context.Context, args struct{ Texts []string }) (hotbay.Items[Record], error) {
		return func(yield func(Record) bool) error {
			for _, text := range args.Texts {
				words := uint64(len(strings.Fields(text)))
				if !yield(Record{Text: text, Words: &words}) {
					break
				}
			}
			return nil
		}, nil
	})
	hotbay.Stream(c, "texts", func(_ context.Context, args struct{ Lengths []uint32 }) (hotbay.Items[string], error) {
		return func(yield func(string) bool) error {
			for _, length := range args.Lengths {
				if !yield(strings.Repeat("x", int(length))) {
					break
				}
			}
			return nil
		}, nil
	})
	hotbay.Stream(c, "fail", failing)
	hotbay.Stream(c, "fail_later", failing)
	hotbay.Stream(c, "refuse", func(context.Context, none) (hotbay.Items[uint64], error) {
		return nil, hotbay.Errorf(404, "no table")
	})
	hotbay.Stream(c, "wait", func(ctx context.Context, _ none) (hotbay.Items[uint64], error) {
		return tracked(func(yield func(uint64) bool) error {
			yield(0)
			<-ctx.Done()
			return ctx.Err()
		})
	})
	hotbay.Stream(c, "limits", func(ctx context.Context, _ none) (hotbay.Items[limitsOf], error) {
		return func(yield func(limitsOf) bool) error {
			for {
				if found, _ := limits(ctx, none{}); !yield(found) {
					return nil
				}
			}
		}, nil
	})
	hotbay.Stream(c, "ticks", func(_ context.Context, args struct{ To, Ms uint64 }) (hotbay.Items[uint64], error) {
		return tracked(func(yield func(uint64) bool) error {
			for number := uint64(0); number < args.To; number++ {
				time.Sleep(time.Duration(args.Ms) * time.Millisecond)
				if !yield(number) {
					break
				}
			}
			return nil
		})
	})
	hotbay.Method(c, "made", func(context.Context, none) (uint64, error) { return made.Load(), nil })
	hotbay.Method(c, "dropped", func(context.Context, none) (uint64, error) { return dropped.Load(), nil })
	hotbay.Stream(c, "even", func(context.Context, none) (hotbay.Items[uint64], error) {
		return func(yield func(uint64) bool) error {
			return numbers(0, 1<<62)(func(number uint64) bool { return yield(2 * number) })
		}, nil
	}, hotbay.Since("1.1"))
}

type Color string

func (Color) Variants() []string { return []string{"Red", "Blue"} }

type Values struct {
	Narrow struct {
		hotbay.Tuple
		A uint8
		B int8
		C uint16
		D int16
	}
	Wide struct {
		hotbay.Tuple
		A uint32
		B int32
		C uint
		D int
	}
	Real struct {
		hotbay.Tuple
		A float32
		B float64
	}
	Bytes    []byte
	Letter   hotbay.Char
	Nothing  none
	IsSet    *bool
	Names    map[string]struct{}
	ByNumber map[uint16][]string
	Colors   []*Color
	Any      json.RawMessage
}

func serveValues() {
	c := plugin.Contract("values", "1.0")
	hotbay.Method(c, "echo", func(_ context.Context, args struct{ Values Values }) (Values, error) {
		return args.Values, nil
	})
	hotbay.Method(c, "reverse", func(_ context.Context, args struct{ Bytes []byte }) ([]byte, error) {
		for a, b := 0, len(args.Bytes)-1; a < b; a, b = a+1, b-1 {
			args.Bytes[a], args.Bytes[b] = args.Bytes[b], args.Bytes[a]
		}
		return args.Bytes, nil
	})
	hotbay.Method(c, "more", func(_ context.Context, args struct {
		Number uint64
		By     int64
	}) (int64, error) {
		return int64(args.Number) + args.By, nil
	})
	hotbay.Method(c, "letter", func(_ context.Context, args struct{ Code uint32 }) (hotbay.Char, error) {
		return hotbay.Char(args.Code), nil
	})
}

func serveWork() {
	var dropped atomic.Uint64
	c := plugin.Contract("async-work", "1.1")
	hotbay.Method(c, "enrich", counted, hotbay.Async())
	hotbay.Method(c, "delay", func(_ context.Context, args struct {
		Ms   uint64
		Text string
	}) (string, error) {
		time.Sleep(time.Duration(args.Ms) * time.Millisecond)
		return args.Text, nil
	}, hotbay.Async())
	hotbay.Method(c, "sum", sum, hotbay.Async())
	hotbay.Method(c, "fetch", func(_ context.Context, args struct{ Address string }) (string, error) {
		return "", hotbay.Errorf(502, "cannot fetch %s", args.Address)
	}, hotbay.Async())
	hotbay.Method(c, "forever", func(ctx context.Context, _ none) (none, error) {
		defer dropped.Add(1)
		return wait(ctx, none{})
	}, hotbay.Async())
	hotbay.Method(c, "block", wait, hotbay.Async())
	hotbay.Method(c, "fail", func(_ context.Context, args struct{ How Failure }) (uint32, error) {
		return 7, fails(args.How, "work failed")
	}, hotbay.Async())
	hotbay.Method(c, "limits", limits, hotbay.Async())
	hotbay.Method(c, "dropped", func(context.Context, none) (uint64, error) { return dropped.Load(), nil })
	hotbay.Method(c, "twice", func(_ context.Context, args struct{ Text string }) (string, error) {
		return args.Text + args.Text, nil
	}, hotbay.Async(), hotbay.Since("1.1"))
}

func main() {
	plugin.Execute(execute)
	plugin.Endpoint("later", func(_ context.Context, in hotbay.Input) (hotbay.Output, error) {
		return hotbay.Output{Body: in.Body, ContentType: "application/x-own"}, nil
	})
	plugin.Configure(func(config []byte) error {
		var found struct{ Invalid bool }
		if err := json.Unmarshal(config, &found); err != nil {
			return err
		}
		if found.Invalid {
			return errors.New("`invalid` is set")
		}
		return nil
	})
	keepState()
	serveAnalysis()
	serveTables()
	serveValues()
	serveWork()
	plugin.Run()
}
