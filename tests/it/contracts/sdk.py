#!/usr/bin/env python3
"""Serves `text-analysis`, `tables` and `async-work` with the SDK in Python."""
import asyncio
import collections
import enum
import time
from dataclasses import dataclass, field, replace
from typing import AsyncIterator, Dict, Iterator, List, Optional, Set, Tuple

import hotbay
from hotbay import U32, U64, Call, Error

plugin = hotbay.Plugin("program", "0.1.0")
Failure = enum.Enum("Failure", ["Error", "Panic", "None"])


@dataclass
class Point:
    x: float
    y: float


@dataclass
class Word:
    text: str
    count: U64


@dataclass
class Record:
    text: str
    words: Optional[U64]
    tags: Dict[str, int]
    added: bool = field(default=False)


def counted(record: Record) -> Record:
    return replace(record, words=len(record.text.split()), added=True)


def fails(how: Failure, message: str) -> int:
    if how is Failure.Error:
        raise Error(7, "no", details=[1])
    if how is Failure.Panic:
        raise RuntimeError(message)
    return 7


@plugin.execute
def execute(input: bytes, call: Call) -> str:
    """Returns the input; or does what it says."""
    text = input.decode(errors="replace")
    if text == "fail":
        raise Error(8, "failed", details={"at": 1}, retryable=True)
    if text == "panic":
        raise RuntimeError("execute failed")
    if text == "trace":
        return f"{call.traceparent} {call.content_type}"
    if text == "log":
        plugin.log.warn("logged", rows=3, level="a field")
    if text.startswith("wait "):
        plugin.log.info("waits")
        time.sleep(float(text[5:]))
    if text == "forever":
        time.sleep(1e6)
    return text


@plugin.endpoint("later")
async def later(input: bytes, call: Call) -> hotbay.Output:
    await asyncio.sleep(0.001)
    return hotbay.Output(input, "application/x-own")


state = b""


@plugin.endpoint("keep")
def keep(input: bytes, call: Call) -> None:
    global state
    state = input


@plugin.snapshot
def snapshot() -> Tuple[int, bytes]:
    return 1, state


@plugin.restore
def restore(version: int, found: bytes) -> None:
    global state
    state = found


@plugin.health
def health() -> None:
    if state == b"ill":
        raise Error(9, "ill")


@plugin.configure
def configure(config: dict) -> None:
    if config.get("invalid"):
        raise hotbay.ConfigError("`invalid` is set")


@plugin.contract("text-analysis", "1.1")
class Analysis:
    def words(self, text: str) -> U64:
        return len(text.split())

    def score(self, a: float, b: float) -> float:
        return a + b

    def sum(self, numbers: List[float]) -> float:
        return sum(numbers)

    def lengths(self, texts: List[str]) -> List[U64]:
        return [len(text.encode()) for text in texts]

    def shout(self, text: Optional[str] = None) -> Optional[str]:
        return text and text.upper()

    def move_by(self, point: Point, by: Point) -> Point:
        return Point(point.x + by.x, point.y + by.y)

    def enrich(self, record: Record) -> Record:
        return counted(record)

    def fail(self, how: Failure) -> U32:
        return fails(how, "analysis failed")

    def limits(self, call: Call) -> Tuple[bool, bool]:
        return call.deadline is not None, call.cancelled

    @hotbay.method(permission="write")
    def store(self, text: str) -> None:
        pass

    def wait(self, call: Call) -> None:
        while True:
            call.check()
            time.sleep(0.001)

    @hotbay.method(since="1.1")
    def top(self, text: str, n: U32) -> List[Word]:
        counts = collections.Counter(text.split()).items()
        words = sorted(counts, key=lambda item: (-item[1], item[0]))
        return [Word(text, count) for text, count in words[:n]]

    @hotbay.method(since="1.1")
    def longest(self, text: str) -> str:
        words = text.split()
        if not words:
            raise Error(404, "no words")
        return max(words, key=len)


@plugin.contract("tables", "1.1")
class Tables:
    def __init__(self):
        self.count_made = self.count_dropped = 0

    def _counted(self, items):
        try:
            for item in items:
                self.count_made += 1
                yield item
        finally:
            self.count_dropped += 1

    def count(self, from_: U64) -> Iterator[U64]:
        return self._counted(range(from_, 2**64))

    def rows(self, texts: List[str]) -> Iterator[Record]:
        return (Record(text, len(text.split()), {}) for text in texts)

    def texts(self, lengths: List[U32]) -> Iterator[str]:
        return ("x" * length for length in lengths)

    def fail(self, after: U64, how: Failure) -> Iterator[U64]:
        yield from range(after)
        if how is not getattr(Failure, "None"):
            fails(how, "reading failed")

    def refuse(self) -> Iterator[U64]:
        raise Error(404, "no table")

    def wait(self, call: Call) -> Iterator[U64]:
        def items():
            yield 0
            while True:
                call.check()
                time.sleep(0.001)
        return self._counted(items())

    def limits(self, call: Call) -> Iterator[Tuple[bool, bool]]:
        while True:
            yield call.deadline is not None, call.cancelled

    async def ticks(self, to: U64, ms: U64) -> AsyncIterator[U64]:
        try:
            for number in range(to):
                await asyncio.sleep(ms / 1000)
                self.count_made += 1
                yield number
        finally:
            self.count_dropped += 1

    async def fail_later(self, after: U64, how: Failure) -> AsyncIterator[U64]:
        for number in range(after):
            yield number
        if how is not getattr(Failure, "None"):
            fails(how, "reading failed")

    def made(self) -> U64:
        return self.count_made

    def dropped(self) -> U64:
        return self.count_dropped

    @hotbay.method(since="1.1")
    def even(self) -> Iterator[U64]:
        return (2 * number for number in range(2**63))


class Color(enum.Enum):
    RED = "Red"
    BLUE = "Blue"


@dataclass
class Values:
    narrow: Tuple[hotbay.U8, hotbay.I8, hotbay.U16, hotbay.I16]
    wide: Tuple[U32, hotbay.I32, U64, int]
    real: Tuple[hotbay.F32, float]
    bytes: bytes
    letter: hotbay.Char
    nothing: None
    is_set: Optional[bool]
    names: Set[str]
    by_number: Dict[hotbay.U16, List[str]]
    colors: List[Optional[Color]]
    any: dict


@plugin.contract("values", "1.0")
class EchoValues:
    def echo(self, values: Values) -> Values:
        return values

    def reverse(self, bytes: bytes) -> bytes:
        return bytes[::-1]

    def more(self, number: U64, by: int) -> int:
        return number + by

    def letter(self, code: U32) -> hotbay.Char:
        return chr(code)


@plugin.contract("async-work", "1.1")
class Work:
    def __init__(self):
        self.count_dropped = 0

    async def enrich(self, record: Record) -> Record:
        return counted(record)

    async def delay(self, ms: U64, text: str) -> str:
        await asyncio.sleep(ms / 1000)
        return text

    async def sum(self, numbers: List[float]) -> float:
        async def add() -> float:
            return sum(numbers)
        return await asyncio.create_task(add())

    async def fetch(self, address: str) -> str:
        raise Error(502, f"cannot fetch {address}")

    async def forever(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.count_dropped += 1

    @hotbay.method(is_async=True)
    def block(self, call: Call) -> None:
        while True:
            call.check()
            time.sleep(0.001)

    async def fail(self, how: Failure) -> U32:
        await asyncio.sleep(0)
        return fails(how, "work failed")

    async def limits(self, call: Call) -> Tuple[bool, bool]:
        return call.deadline is not None, call.cancelled

    def dropped(self) -> U64:
        return self.count_dropped

    @hotbay.method(since="1.1")
    async def twice(self, text: str) -> str:
        return text * 2


if __name__ == "__main__":
    plugin.run()
