#!/usr/bin/env python3
"""Counts lines, words and characters of a text: a hotbay plugin as a program.

`hotbay.py` beside it is a copy of the SDK, `plugin-api/python/hotbay.py`.
"""
import collections
import re

import hotbay

plugin = hotbay.Plugin("wordcount", "0.1.0")
WORD = re.compile(r"\w+(?:['’-]\w+)*")


def analyze(body, top=10, min_length=1, ignore=()):
    """Analyzes a text in UTF-8."""
    text = hotbay.text(body)
    words = WORD.findall(text)
    listed = collections.Counter(word for word in map(str.lower, words) if len(word) >= min_length)
    for word in ignore:
        del listed[word]
    # Words with the same frequency are sorted, so that the output is deterministic.
    frequent = sorted(listed.items(), key=lambda item: (-item[1], item[0]))[:top]
    lines = text.count("\n") + (text != "" and not text.endswith("\n"))
    return {"lines": lines, "words": len(words), "characters": len(text), "bytes": len(body),
            "frequent": [{"word": word, "count": count} for word, count in frequent]}


@plugin.execute
def execute(input: bytes, call: hotbay.Call) -> dict:
    return analyze(input, **plugin.config)


if __name__ == "__main__":
    plugin.run()
