// Serves `relay`, by calls of contracts, with the SDK in Go.
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hotbay"
)

type none = struct{}

type limits struct {
	hotbay.Tuple
	Remaining   *uint64
	IsCancelled bool
	Trace       *string
}

type newer struct {
	hotbay.Tuple
	Value *string
	Count uint64
}

type point struct{ X, Y float64 }

type (
	keyed struct{ Key string }
	path  struct{ Plugins []string }
	named struct{ Plugin string }
)

var (
	plugin = hotbay.New("program", "0.1.0")
	host   = plugin.Host()
	values = host.Contract("key-value", "1.0")
)

func get(ctx context.Context, args keyed) (*string, error) {
	return hotbay.Call[*string](ctx, values, "get", hotbay.Args{"key": args.Key})
}

func getNewer(ctx context.Context, args struct{ Key hotbay.Char }) (newer, error) {
	contract := host.Contract("key-value", "1.1")
	count, err := hotbay.Call[uint64](ctx, contract, "count", nil)
	if failed := new(hotbay.CallError); errors.As(err, &failed) && failed.Kind == "not-provided" {
		count, err = 7, nil
	}
	if err != nil {
		return newer{}, err
	}
	value, err := hotbay.Call[*string](ctx, contract, "get", hotbay.Args{"key": args.Key})
	return newer{Value: value, Count: count}, err
}

// getApart calls without the context of a call.
func getApart(_ context.Context, args keyed) (*string, error) {
	ctx := context.Background()
	found, err := hotbay.Call[limits](ctx, values, "limits", nil)
	if err == nil && found != (limits{}) {
		err = fmt.Errorf("found the limits %v", found)
	}
	if err != nil {
		return nil, err
	}
	return get(ctx, args)
}

func words(ctx context.Context, args struct {
	Plugin *string
	Text   string
}) (uint64, error) {
	contract := host.Contract("text-analysis", "1.0")
	if args.Plugin != nil {
		contract = contract.Of(*args.Plugin)
	}
	return hotbay.Call[uint64](ctx, contract, "words", hotbay.Args{"text": args.Text})
}

// forward returns a function that calls the first plugin with the others.
func forward(method string) func(context.Context, path) (uint32, error) {
	return func(ctx context.Context, args path) (uint32, error) {
		if len(args.Plugins) == 0 {
			return 0, nil
		}
		contract := host.Contract("relay", "1.0").Of(args.Plugins[0])
		others := hotbay.Args{"plugins": args.Plugins[1:]}
		found, err := hotbay.Call[uint32](ctx, contract, method, others)
		return found + 1, err
	}
}

func serveRelay() {
	c := plugin.Contract("relay", "1.0")
	later := hotbay.Async()
	hotbay.Method(c, "get", get)
	hotbay.Method(c, "get_by_kept", get)
	hotbay.Method(c, "get_newer", getNewer)
	hotbay.Method(c, "clear", func(ctx context.Context, _ none) (none, error) {
		return hotbay.Call[none](ctx, host.Contract("key-value", "1.1"), "clear", nil)
	})
	hotbay.Method(c, "set", func(ctx context.Context, args struct{ Key, Value string }) (none, error) {
		given := hotbay.Args{"key": args.Key, "value": args.Value}
		return hotbay.Call[none](ctx, values, "set", given)
	})
	hotbay.Method(c, "get_on_thread", getApart)
	hotbay.Method(c, "limits", func(ctx context.Context, _ none) (limits, error) {
		return hotbay.Call[limits](ctx, values, "limits", nil)
	})
	hotbay.Method(c, "wait", func(ctx context.Context, _ none) (none, error) {
		return hotbay.Call[none](ctx, values, "wait", nil)
	})
	hotbay.Method(c, "words", words)
	hotbay.Method(c, "wait_for", func(ctx context.Context, args named) (none, error) {
		contract := host.Contract("text-analysis", "1.0").Of(args.Plugin)
		return hotbay.Call[none](ctx, contract, "wait", nil)
	})
	hotbay.Method(c, "unknown", func(ctx context.Context, _ none) (none, error) {
		return hotbay.Call[none](ctx, host.Contract("unknown", "1.0"), "nothing", nil)
	})
	hotbay.Method(c, "forward", forward("forward"))
	hotbay.Method(c, "recurse", func(ctx context.Context, args struct {
		Plugin   string
		Depth    uint32
		IsPooled bool
	}) (uint32, error) {
		if args.Depth == 0 {
			return 0, nil
		}
		given := hotbay.Args{"plugin": args.Plugin, "depth": args.Depth - 1, "is_pooled": args.IsPooled}
		found, err := hotbay.Call[uint32](ctx, values, "call_back", given)
		return found + 1, err
	})
	hotbay.Method(c, "call_until_stopped", func(context.Context, struct{ Report string }) (none, error) {
		return none{}, errors.New("not served")
	})
	hotbay.Method(c, "get_later", func(ctx context.Context, args keyed) (*string, error) {
		return hotbay.Call[*string](ctx, values, "get_later", hotbay.Args{"key": args.Key})
	}, later)
	hotbay.Method(c, "delay_in", func(ctx context.Context, args struct {
		Plugin string
		Ms     uint64
		Text   string
	}) (string, error) {
		contract := host.Contract("async-work", "1.0").Of(args.Plugin)
		given := hotbay.Args{"ms": args.Ms, "text": args.Text}
		return hotbay.Call[string](ctx, contract, "delay", given)
	}, later)
	hotbay.Method(c, "forever", func(ctx context.Context, _ none) (none, error) {
		return hotbay.Call[none](ctx, values, "forever", nil)
	}, later)
	hotbay.Method(c, "forever_in", func(ctx context.Context, args named) (none, error) {
		contract := host.Contract("async-work", "1.0").Of(args.Plugin)
		return hotbay.Call[none](ctx, contract, "forever", nil)
	}, later)
	hotbay.Method(c, "forward_later", forward("forward_later"), later)
	hotbay.Method(c, "recurse_later", func(ctx context.Context, args struct {
		Plugin string
		Depth  uint32
	}) (uint32, error) {
		if args.Depth == 0 {
			return 0, nil
		}
		given := hotbay.Args{"plugin": args.Plugin, "depth": args.Depth - 1}
		found, err := hotbay.Call[uint32](ctx, values, "call_back_later", given)
		return found + 1, err
	}, later)
}

// convert passes values of several types as arguments to the plugin that the input names.
func convert(ctx context.Context, in hotbay.Input) (hotbay.Output, error) {
	other := string(in.Body)
	values := host.Contract("values", "1.0").Of(other)
	reversed, err := hotbay.Call[any](ctx, values, "reverse", hotbay.Args{"bytes": []byte{1, 255}})
	if err != nil {
		return hotbay.Output{}, err
	}
	largest := hotbay.Args{"number": uint64(1<<63 - 1), "by": -1}
	sum, err := hotbay.Call[int64](ctx, values, "more", largest)
	if err != nil {
		return hotbay.Output{}, err
	}
	points := hotbay.Args{"point": point{1, 2}, "by": point{X: 0.5}}
	analysis := host.Contract("text-analysis", "1.0").Of(other)
	moved, err := hotbay.Call[any](ctx, analysis, "move_by", points)
	if err != nil {
		return hotbay.Output{}, err
	}
	return hotbay.JSON([]any{reversed, sum, moved})
}

func main() {
	plugin.MaxConcurrentCalls = 128
	// Returns the value of the key.
	plugin.Execute(func(ctx context.Context, in hotbay.Input) (hotbay.Output, error) {
		if string(in.Body) == "limits" {
			found, err := hotbay.Call[any](ctx, values, "limits", nil)
			if err != nil {
				return hotbay.Output{}, err
			}
			return hotbay.JSON(found)
		}
		value, err := get(ctx, keyed{string(in.Body)})
		if err != nil || value == nil {
			return hotbay.Output{}, err
		}
		return hotbay.Text(*value), nil
	})
	// Calls the contract with a text of it, which may have other types.
	plugin.Endpoint("typed", func(ctx context.Context, in hotbay.Input) (hotbay.Output, error) {
		typed := host.Contract("key-value", "1.0", string(in.Body))
		found, err := hotbay.Call[string](ctx, typed, "get", hotbay.Args{"key": "a"})
		return hotbay.Text(found), err
	})
	// Returns the kind of the error of a call that exceeds its time limit.
	plugin.Endpoint("in-time", func(ctx context.Context, _ hotbay.Input) (hotbay.Output, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		_, err := hotbay.Call[none](ctx, values, "forever", nil)
		if failed := new(hotbay.CallError); errors.As(err, &failed) {
			return hotbay.Text(failed.Kind), nil
		}
		return hotbay.Output{}, err
	})
	plugin.Endpoint("convert", convert)
	serveRelay()
	plugin.Run()
}
