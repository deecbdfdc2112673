#!/usr/bin/env python3
"""Serves `relay`, by calls of contracts, with the SDK in Python."""
import asyncio
import threading
from dataclasses import dataclass
from typing import List, Optional, Tuple

import hotbay
from hotbay import U32, U64, CallError, Char

plugin = hotbay.Plugin("program", "0.1.0", max_concurrent_calls=128)
values = plugin.host.contract("key-value", "1.0")


@plugin.execute
def execute(input: bytes, call: hotbay.Call):
    """Returns the value of the key."""
    key = hotbay.text(input)
    return values.limits() if key == "limits" else values.get(key=key)


@plugin.endpoint("typed")
def typed(input: bytes, call: hotbay.Call):
    """Calls the contract with a text of it, which may have other types."""
    line = hotbay.text(input)
    return plugin.host.contract("key-value", "1.0", methods=[line]).get(key="a")


@plugin.endpoint("in-time")
def in_time(input: bytes, call: hotbay.Call):
    """Returns the kind of the error of a call that exceeds its time limit."""
    try:
        plugin.host.contract("key-value", "1.0", timeout=0.03).forever()
    except CallError as error:
        return error.kind


@dataclass
class Point:
    x: float
    y: float


@plugin.endpoint("convert")
def convert(input: bytes, call: hotbay.Call):
    """Passes values that are not JSON as arguments to the plugin that the input names."""
    other = hotbay.text(input)
    return [of("values", other).reverse(bytes=b"\x01\xff"),
            of("values", other).more(number=2**63 - 1, by=-1),
            of("text-analysis", other).move_by(point=Point(1, 2), by=Point(0.5, 0))]


def of(name: str, other: Optional[str] = None):
    return plugin.host.contract(name, "1.0", plugin=other)


@plugin.contract("relay", "1.0")
class Relay:
    def __init__(self):
        self.kept = of("key-value")

    def get(self, key: str) -> Optional[str]:
        return values.get(key=key)

    def get_by_kept(self, key: str) -> Optional[str]:
        return self.kept.get(key=key)

    def get_newer(self, key: Char) -> Tuple[Optional[str], U64]:
        newer = plugin.host.contract("key-value", "1.1")
        try:
            count = newer.count()
        except CallError as error:
            if error.kind != "not-provided":
                raise
            count = 7
        return newer.get(key=key), count

    def clear(self) -> None:
        plugin.host.contract("key-value", "1.1").clear()

    def set(self, key: str, value: str) -> None:
        values.set(key=key, value=value)

    def get_on_thread(self, key: str) -> Optional[str]:
        found = []

        def call():
            try:
                assert values.limits() == [None, False, None]
                found.append(values.get(key=key))
            except BaseException as error:
                found.append(error)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def limits(self) -> Tuple[Optional[U64], bool, Optional[str]]:
        return tuple(values.limits())

    def wait(self) -> None:
        values.wait()

    def words(self, plugin: Optional[str], text: str) -> U64:
        return of("text-analysis", plugin).words(text=text)

    def wait_for(self, plugin: str) -> None:
        of("text-analysis", plugin).wait()

    def unknown(self) -> None:
        of("unknown").nothing()

    def forward(self, plugins: List[str]) -> U32:
        return of("relay", plugins[0]).forward(plugins=plugins[1:]) + 1 if plugins else 0

    def recurse(self, plugin: str, depth: U32, is_pooled: bool) -> U32:
        if depth == 0:
            return 0
        return values.call_back(plugin=plugin, depth=depth - 1, is_pooled=is_pooled) + 1

    def call_until_stopped(self, report: str) -> None:
        raise NotImplementedError

    async def get_later(self, key: str) -> Optional[str]:
        return await asyncio.to_thread(values.get_later, key=key)

    async def delay_in(self, plugin: str, ms: U64, text: str) -> str:
        return await asyncio.to_thread(of("async-work", plugin).delay, ms=ms, text=text)

    async def forever(self) -> None:
        await asyncio.to_thread(values.forever)

    async def forever_in(self, plugin: str) -> None:
        await asyncio.to_thread(of("async-work", plugin).forever)

    async def forward_later(self, plugins: List[str]) -> U32:
        if not plugins:
            return 0
        other = of("relay", plugins[0])
        return await asyncio.to_thread(other.forward_later, plugins=plugins[1:]) + 1

    async def recurse_later(self, plugin: str, depth: U32) -> U32:
        if depth == 0:
            return 0
        call = values.call_back_later
        return await asyncio.to_thread(call, plugin=plugin, depth=depth - 1) + 1


if __name__ == "__main__":
    plugin.run()
