// Tests of the plugin: `go test ./...` in this folder.
package main

import (
	"context"
	"errors"
	"testing"

	"plugins/{{name}}/hotbay"
)

func greeting(name string) (string, error) {
	output, err := greet(context.Background(), hotbay.Input{Body: []byte(name)})
	return string(output.Body), err
}

func TestNameIsGreeted(t *testing.T) {
	if found, err := greeting("Ada\n"); err != nil || found != "Hello, Ada!" {
		t.Fatal(found, err)
	}
}

func TestGreetingIsConfigurable(t *testing.T) {
	before := settings
	defer func() { settings = before }()
	settings.Greeting = "Salut"
	if found, err := greeting("Ada"); err != nil || found != "Salut, Ada!" {
		t.Fatal(found, err)
	}
}

func TestEmptyNameIsRejected(t *testing.T) {
	_, err := greeting(" ")
	if own := new(hotbay.Error); !errors.As(err, &own) || own.Code != 400 {
		t.Fatal(err)
	}
}
