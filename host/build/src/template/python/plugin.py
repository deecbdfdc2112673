#!/usr/bin/env python3
"""The plugin `{{name}}`: takes a name as text and returns a greeting."""
import hotbay

plugin = hotbay.Plugin("{{name}}", "{{version}}")


@plugin.execute
def execute(input: bytes, call: hotbay.Call) -> str:
    """Greets the person that the input names."""
    name = hotbay.text(input).strip()
    if not name:
        raise hotbay.Error(400, "empty input: expected a name")
    return f"{plugin.config.get('greeting', 'Hello')}, {name}!"


if __name__ == "__main__":
    plugin.run()
