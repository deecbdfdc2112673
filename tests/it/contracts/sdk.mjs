#!/usr/bin/env node
// Serves `text-analysis`, `tables` and `async-work` with the SDK in JavaScript.
import { setTimeout as sleep } from "node:timers/promises";
import { ConfigError, Output, Plugin, PluginError } from "./hotbay.mjs";

const plugin = new Plugin("program", "0.1.0");
const Failure = "enum Failure { Error, Panic, None }";
const Point = "Point { x: f64, y: f64 }";
const Word = "Word { text: string, count: u64 }";
const Rec = "Record { text: string, words: u64?, tags: map<string, i64>, added: bool = default }";

const split = (text) => text.split(/\s+/).filter(Boolean);
const counted = ({ record }) => ({ ...record, words: split(record.text).length, added: true });

function fails(how, message) {
  if (how === "Error") throw new PluginError(7, "no", { details: [1] });
  if (how === "Panic") throw new Error(message);
  return 7;
}

/** Waits until a call is cancelled. */
async function wait(call) {
  while (!call.cancelled) await sleep(1);
  throw call.signal.reason;
}

// Returns the input; or does what it says.
plugin.execute(async (input, call) => {
  const text = input.toString();
  if (text === "fail") {
    throw new PluginError(8, "failed", { details: { at: 1 }, retryable: true });
  }
  if (text === "panic") throw new Error("execute failed");
  if (text === "trace") return `${call.traceparent} ${call.contentType}`;
  if (text === "log") plugin.log.warn("logged", { rows: 3, level: "a field" });
  if (text.startsWith("wait ")) {
    plugin.log.info("waits");
    await sleep(Number(text.slice(5)) * 1000);
  }
  if (text === "forever") for (;;);
  return text;
});

plugin.endpoint("later", async (input) => {
  await sleep(1);
  return new Output(input, "application/x-own");
});

let state = Buffer.alloc(0);
plugin.endpoint("keep", (input) => {
  state = input;
});
plugin.snapshot(() => ({ version: 1, state }));
plugin.restore((found) => {
  ({ state } = found);
});
plugin.health(() => {
  if (state.toString() === "ill") throw new PluginError(9, "ill");
});
plugin.configure((config) => {
  if (config.invalid) throw new ConfigError("`invalid` is set");
});

plugin.contract({
  name: "text-analysis",
  version: "1.1",
  methods: {
    words: { args: { text: "string" }, returns: "u64", run: ({ text }) => split(text).length },
    score: { args: { a: "f64", b: "f64" }, returns: "f64", run: ({ a, b }) => a + b },
    sum: {
      args: { numbers: "[f64]" },
      returns: "f64",
      run: ({ numbers }) => numbers.reduce((sum, number) => sum + number, 0),
    },
    lengths: {
      args: { texts: "[string]" },
      returns: "[u64]",
      run: ({ texts }) => texts.map((text) => Buffer.byteLength(text)),
    },
    shout: {
      args: { text: "string?" },
      returns: "string?",
      run: ({ text }) => text?.toUpperCase(),
    },
    move_by: {
      args: { point: Point, by: Point },
      returns: Point,
      run: ({ point, by }) => ({ x: point.x + by.x, y: point.y + by.y }),
    },
    enrich: { args: { record: Rec }, returns: Rec, run: counted },
    fail: {
      args: { how: Failure },
      returns: "u32",
      run: ({ how }) => fails(how, "analysis failed"),
    },
    limits: {
      returns: "(bool, bool)",
      run: (_, call) => [call.deadline !== undefined, call.cancelled],
    },
    store: { args: { text: "string" }, returns: "unit", permission: "write", run: () => undefined },
    wait: { returns: "unit", run: (_, call) => wait(call) },
    top: {
      since: "1.1",
      args: { text: "string", n: "u32" },
      returns: `[${Word}]`,
      run: ({ text, n }) => {
        const counts = new Map();
        for (const word of split(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
        const words = [...counts].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1));
        return words.slice(0, n).map(([word, count]) => ({ text: word, count }));
      },
    },
    longest: {
      since: "1.1",
      args: { text: "string" },
      returns: "string",
      run: ({ text }) => {
        const [longest] = split(text).sort((a, b) => b.length - a.length);
        if (longest === undefined) throw new PluginError(404, "no words");
        return longest;
      },
    },
  },
});

let made = 0;
let droppedStreams = 0;

/** Counts items, and the streams that have ended or were dropped. */
async function* tracked(items) {
  try {
    for await (const item of items) {
      made += 1;
      yield item;
    }
  } finally {
    droppedStreams += 1;
  }
}

function* numbers(from, to = Infinity) {
  for (let number = from; number < to; number += 1) yield number;
}

const stream = (args, returns, run) => ({ args, returns, stream: true, run });

plugin.contract({
  name: "tables",
  version: "1.1",
  methods: {
    count: stream({ from: "u64" }, "u64", ({ from }) => tracked(numbers(from))),
    rows: stream({ texts: "[string]" }, Rec, ({ texts }) =>
      texts.map((text) => ({ text, words: split(text).length, tags: new Map(), added: false }))),
    texts: stream({ lengths: "[u32]" }, "string", ({ lengths }) =>
      lengths.map((length) => "x".repeat(length))),
    fail: stream({ after: "u64", how: Failure }, "u64", function* failing({ after, how }) {
      yield* numbers(0, after);
      fails(how, "reading failed");
    }),
    refuse: stream({}, "u64", () => {
      throw new PluginError(404, "no table");
    }),
    wait: stream({}, "u64", (_, call) => tracked((async function* waiting() {
      yield 0;
      await wait(call);
    })())),
    limits: stream({}, "(bool, bool)", function* limits(_, call) {
      for (;;) yield [call.deadline !== undefined, call.cancelled];
    }),
    ticks: stream({ to: "u64", ms: "u64" }, "u64", ({ to, ms }) =>
      tracked((async function* ticking() {
        for (const number of numbers(0, to)) {
          await sleep(ms);
          yield number;
        }
      })())),
    fail_later: stream({ after: "u64", how: Failure }, "u64", async function* later(args) {
      for (const number of numbers(0, args.after)) yield number;
      fails(args.how, "reading failed");
    }),
    made: { returns: "u64", run: () => made },
    dropped: { returns: "u64", run: () => droppedStreams },
    even: { ...stream({}, "u64", function* even() {
      for (const number of numbers(0)) yield 2 * number;
    }), since: "1.1" },
  },
});

const Values = `Values {
  narrow: (u8, i8, u16, i16), wide: (u32, i32, u64, i64), real: (f32, f64), bytes: [u8],
  letter: char, nothing: unit, is_set: bool?, names: set<string>, by_number: map<u16, [string]>,
  colors: [enum Color { Red, Blue }?], any: json
}`;

plugin.contract({
  name: "values",
  version: "1.0",
  methods: {
    echo: { args: { values: Values }, returns: Values, run: ({ values }) => values },
    reverse: {
      args: { bytes: "[u8]" },
      returns: "[u8]",
      run: ({ bytes }) => Buffer.from(bytes).reverse(),
    },
    more: {
      args: { number: "u64", by: "i64" },
      returns: "i64",
      run: ({ number, by }) => BigInt(number) + BigInt(by),
    },
    letter: {
      args: { code: "u32" },
      returns: "char",
      run: ({ code }) => String.fromCodePoint(code),
    },
  },
});

let dropped = 0;
const work = (args, returns, run) => ({ args, returns, async: true, run });

plugin.contract({
  name: "async-work",
  version: "1.1",
  methods: {
    enrich: work({ record: Rec }, Rec, counted),
    delay: work({ ms: "u64", text: "string" }, "string", ({ ms, text }) => sleep(ms, text)),
    sum: work({ numbers: "[f64]" }, "f64", async (args) =>
      args.numbers.reduce((sum, number) => sum + number, 0)),
    fetch: work({ address: "string" }, "string", ({ address }) => {
      throw new PluginError(502, `cannot fetch ${address}`);
    }),
    forever: work({}, "unit", (_, call) => {
      call.signal.addEventListener("abort", () => (dropped += 1));
      return new Promise(() => undefined);
    }),
    block: work({}, "unit", (_, call) => wait(call)),
    fail: work({ how: Failure }, "u32", async ({ how }) => {
      await sleep(0);
      return fails(how, "work failed");
    }),
    limits: work({}, "(bool, bool)", (_, call) => [call.deadline !== undefined, call.cancelled]),
    dropped: { returns: "u64", run: () => dropped },
    twice: { ...work({ text: "string" }, "string", ({ text }) => text.repeat(2)), since: "1.1" },
  },
});

await plugin.run();
