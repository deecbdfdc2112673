// The plugin `{{name}}`: takes a name as text and returns a greeting.
package main

import (
	"context"
	"encoding/json"
	"strings"

	"plugins/{{name}}/hotbay"
)

var settings = struct{ Greeting string }{Greeting: "Hello"}

// greet greets the person that the input names.
func greet(_ context.Context, in hotbay.Input) (hotbay.Output, error) {
	text, err := in.Text()
	if err != nil {
		return hotbay.Output{}, err
	}
	name := strings.TrimSpace(text)
	if name == "" {
		return hotbay.Output{}, hotbay.Errorf(400, "empty input: expected a name")
	}
	return hotbay.Text(settings.Greeting + ", " + name + "!"), nil
}

func main() {
	plugin := hotbay.New("{{name}}", "{{version}}")
	plugin.Configure(func(config []byte) error { return json.Unmarshal(config, &settings) })
	plugin.Execute(greet)
	plugin.Run()
}
