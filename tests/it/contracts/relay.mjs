#!/usr/bin/env node
// Serves `relay`, by calls of contracts, with the SDK in JavaScript.
import { AsyncResource } from "node:async_hooks";
import { CallError, Plugin, text } from "./hotbay.mjs";

const plugin = new Plugin("program", "0.1.0", { maxConcurrentCalls: 128 });
const of = (name, other) => plugin.host.contract(name, "1.0", { plugin: other ?? undefined });
const values = of("key-value");
const newer = plugin.host.contract("key-value", "1.1");
// Runs functions apart from any call.
const apart = new AsyncResource("apart");

// Returns the value of the key.
plugin.execute((input) => {
  const key = text(input);
  return key === "limits" ? values.limits() : values.get({ key });
});

// Calls the contract with a text of it, which may have other types.
plugin.endpoint("typed", (input) => {
  const methods = [text(input)];
  return plugin.host.contract("key-value", "1.0", { methods }).get({ key: "a" });
});

// Returns the kind of the error of a call that exceeds its time limit.
plugin.endpoint("in-time", async () => {
  try {
    await plugin.host.contract("key-value", "1.0", { timeout: 30 }).forever();
  } catch (error) {
    if (error instanceof CallError) return error.kind;
    throw error;
  }
  return undefined;
});

// Passes values that are not JSON as arguments to the plugin that the input names.
plugin.endpoint("convert", async (input) => {
  const other = text(input);
  const by = { x: 0.5, y: 0 };
  const sum = await of("values", other).more({ number: 2n ** 63n - 1n, by: -1 });
  const reversed = await of("values", other).reverse({ bytes: Buffer.from([1, 255]) });
  const point = new Map(Object.entries({ x: 1, y: 2 }));
  const moved = await of("text-analysis", other).move_by({ point, by });
  return JSON.stringify([reversed, "sum", moved]).replace('"sum"', sum);
});

async function count() {
  try {
    return await newer.count();
  } catch (error) {
    if (error.kind !== "not-provided") throw error;
    return 7;
  }
}

const value = { args: { key: "string" }, returns: "string?" };
const method = (args, returns, run) => ({ args, returns, run });
const later = (args, returns, run) => ({ args, returns, run, async: true });

plugin.contract({
  name: "relay",
  version: "1.0",
  methods: {
    get: { ...value, run: ({ key }) => values.get({ key }) },
    get_by_kept: { ...value, run: ({ key }) => values.get({ key }) },
    get_newer: method({ key: "char" }, "(string?, u64)", async ({ key }) =>
      [await newer.get({ key }), await count()]),
    clear: method({}, "unit", () => newer.clear()),
    set: method({ key: "string", value: "string" }, "unit", (args) => values.set(args)),
    get_on_thread: {
      ...value,
      run: ({ key }) => apart.runInAsyncScope(async () => {
        const limits = JSON.stringify(await values.limits());
        if (limits !== "[null,false,null]") throw new Error(limits);
        return values.get({ key });
      }),
    },
    limits: method({}, "(u64?, bool, string?)", () => values.limits()),
    wait: method({}, "unit", () => values.wait()),
    words: method({ plugin: "string?", text: "string" }, "u64", (args) =>
      of("text-analysis", args.plugin).words({ text: args.text })),
    wait_for: method({ plugin: "string" }, "unit", (args) =>
      of("text-analysis", args.plugin).wait()),
    unknown: method({}, "unit", () => of("unknown").nothing()),
    forward: method({ plugins: "[string]" }, "u32", ({ plugins: [first, ...plugins] }) =>
      (first ? of("relay", first).forward({ plugins }).then((found) => found + 1) : 0)),
    recurse: method(
      { plugin: "string", depth: "u32", is_pooled: "bool" },
      "u32",
      async ({ depth, ...args }) =>
        (depth > 0 ? (await values.call_back({ ...args, depth: depth - 1 })) + 1 : 0),
    ),
    call_until_stopped: method({ report: "string" }, "unit", () => {
      throw new Error("not served");
    }),
    get_later: { ...value, async: true, run: ({ key }) => values.get_later({ key }) },
    delay_in: later({ plugin: "string", ms: "u64", text: "string" }, "string",
      ({ plugin: other, ...args }) => of("async-work", other).delay(args)),
    forever: later({}, "unit", () => values.forever()),
    forever_in: later({ plugin: "string" }, "unit", (args) =>
      of("async-work", args.plugin).forever()),
    forward_later: later({ plugins: "[string]" }, "u32", ({ plugins: [first, ...plugins] }) =>
      (first ? of("relay", first).forward_later({ plugins }).then((found) => found + 1) : 0)),
    recurse_later: later({ plugin: "string", depth: "u32" }, "u32", async ({ depth, ...args }) =>
      (depth > 0 ? (await values.call_back_later({ ...args, depth: depth - 1 })) + 1 : 0)),
  },
});

await plugin.run();
