#!/usr/bin/env python3
"""Returns the headings of a Markdown text: a tool as a program.

`hotbay.py` beside it is a copy of the SDK, `plugin-api/python/hotbay.py`.
"""
import json
import re

import hotbay

HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
FENCE = re.compile(r"\s{0,3}(```|~~~)")

plugin = hotbay.Plugin("outline", "0.1.0", input_schema={
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "The Markdown text"},
        "max_level": {"type": "integer", "minimum": 1, "maximum": 6, "default": 6,
                      "description": "The lowest level of headings"},
    },
    "required": ["text"],
    "additionalProperties": False,
})


def headings(text, max_level=6):
    """Returns the headings outside of code blocks."""
    found, fence = [], None
    for number, line in enumerate(text.split("\n"), 1):
        mark = FENCE.match(line)
        if mark and fence in (None, mark[1]):
            fence = None if fence else mark[1]
        heading = None if fence else HEADING.match(line)
        if heading and len(heading[1]) <= max_level:
            found.append({"level": len(heading[1]), "title": heading[2], "line": number})
    return found


@plugin.execute
def execute(input: bytes, call: hotbay.Call) -> dict:
    found = headings(**json.loads(input))
    if not found:
        raise hotbay.Error(404, "the text has no headings")
    return {"headings": found}


if __name__ == "__main__":
    plugin.run()
