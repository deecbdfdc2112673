// Tests of the SDK without a host: `node --test` in this folder.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync,
} from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { internal, Plugin, text } from "./hotbay.mjs";

const { milliseconds, parseJson, parseType, toJson } = internal;
const sdk = fileURLToPath(new URL("hotbay.mjs", import.meta.url));

const color = "enum Color { red, Other(u8), C { a: bool } }";
const point = `Point { x: u8, label: string?, color: ${color} }`;

/** Runs `check` with the folder of the SDK and a program. */
async function withProgram(source, check) {
  const folder = mkdtempSync(join(tmpdir(), "hotbay-"));
  try {
    copyFileSync(sdk, join(folder, "hotbay.mjs"));
    const program = join(folder, "program.mjs");
    writeFileSync(program, source);
    await check(folder, program);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Serves a program, and runs `check` with a function that sends a request. */
async function serving(source, check) {
  await withProgram(`import { Plugin, PluginError } from "./hotbay.mjs";\n${source}`,
    async (folder, program) => {
      const env = { ...process.env, HOTBAY_SOCKET_DIR: folder };
      const stdio = ["ignore", "pipe", "inherit"];
      const child = spawn(process.execPath, [program, "--config", "{}"], { env, stdio });
      const exited = once(child, "exit");
      try {
        const [line] = await once(child.stdout, "data");
        const socketPath = `${line}`.trim().replace("http+unix://", "");
        await check(async (method, path, headers = {}) => {
          const sent = request({ socketPath, method, path, headers, agent: false });
          sent.end();
          const [response] = await once(sent, "response");
          const parts = [];
          for await (const part of response) parts.push(part);
          return [response.statusCode, Buffer.concat(parts).toString()];
        });
      } finally {
        child.kill();
        await exited;
      }
    });
}

test("call of a contract without a host is unavailable", { timeout: 60_000 }, () => serving(`
delete process.env.HOTBAY_HOST;
const plugin = new Plugin("a", "0.1.0");
plugin.execute(async () => (await plugin.host.contract("b", "1.0")).c());
await plugin.run();
`, async (send) => {
  const [status, body] = await send("POST", "/execute");
  assert.equal(status, 422);
  const expected = "the program has no host: HOTBAY_HOST is not set";
  assert.deepEqual(JSON.parse(body), { code: 503, message: expected, retryable: true });
}));

test("call that throws any value fails", { timeout: 60_000 }, () => serving(`
  const thrown = {
    symbol: Symbol("a"),
    failure: Object.assign(new Error("b"), { failure: { big: 1n }, status: "c" }),
    bare: Object.create(null),
    caused: new TypeError("f", { cause: new Error("g", { cause: "h" }) }),
    getter: { get stack() { throw new Error("d"); } },
    proxy: new Proxy({}, { getPrototypeOf() { throw new Error("e"); } }),
  };
  const plugin = new Plugin("a", "0.1.0");
  for (const [name, value] of Object.entries(thrown)) {
    plugin.endpoint(name, () => { throw value; });
  }
  plugin.health(() => { throw thrown.failure; });
  await plugin.run();
`, async (send) => {
  const message = { symbol: "Symbol(a)", failure: "Error: b", bare: "a value without text",
    caused: "TypeError: f; caused by Error: g; caused by h", getter: "[object Object]" };
  for (const [name, expected] of Object.entries(message)) {
    const [status, body] = await send("POST", `/${name}`);
    assert.deepEqual([status, JSON.parse(body).fault.message], [500, expected]);
  }
  // It cannot even be examined.
  await assert.rejects(send("POST", "/proxy"), { code: "ECONNRESET" });
  const [status, body] = await send("GET", "/healthz");
  assert.deepEqual([status, JSON.parse(body).fault.message], [503, "Error: b"]);
}));

test("cancelled function occupies its slot until it ends", { timeout: 60_000 }, () => serving(`
  const plugin = new Plugin("a", "0.1.0", { maxConcurrentCalls: 1 });
  let release;
  let running = 0;
  plugin.endpoint("hold", async () => {
    running += 1;
    await new Promise((resolve) => (release = resolve));
    running -= 1;
  });
  plugin.endpoint("running", () => running);
  plugin.health(() => release?.());
  await plugin.run();
`, async (send) => {
  for (const path of ["/hold", "/running", "/running"]) {
    const [status, body] = await send("POST", path, { "Hotbay-Deadline-Ms": "200" });
    assert.deepEqual([path, status, JSON.parse(body).code], [path, 422, 408]);
  }
  await send("GET", "/healthz");
  assert.deepEqual(await send("POST", "/running"), [200, "0"]);
}));

test("new program runs through a link", () => {
  const template = new URL("../../host/build/src/template/node/plugin.mjs", import.meta.url);
  const source = readFileSync(template, "utf8").replaceAll("{{name}}", "linked");
  return withProgram(source, (folder, program) => {
    const link = join(folder, "link.mjs");
    symlinkSync(program, link);
    for (const path of [program, link]) {
      const output = execFileSync(process.execPath, [path, "capabilities"]);
      assert.equal(JSON.parse(output).hotbay.name, "linked");
    }
  });
});

test("second function of a name is refused", () => {
  const plugin = new Plugin("a", "0.1.0").execute(() => "").endpoint("rows", () => "");
  for (const declare of [() => plugin.execute(() => ""), () => plugin.endpoint("rows", () => "")]) {
    assert.throws(declare, /is already declared/);
  }
  assert.throws(() => plugin.endpoint("batch", () => ""), /invalid name of an endpoint/);
});

test("examples of README.md run", () => {
  const folder = fileURLToPath(new URL(".", import.meta.url));
  const readme = readFileSync(join(folder, "README.md"), "utf8");
  const examples = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, source]) => source);
  assert.equal(examples.length, 3);
  const temporary = mkdtempSync(join(tmpdir(), "hotbay-"));
  try {
    copyFileSync(join(folder, "hotbay.mjs"), join(temporary, "hotbay.mjs"));
    const [, contract] = examples.map((source) => {
      const program = join(temporary, "program.mjs");
      writeFileSync(program, source);
      const output = execFileSync(process.execPath, [program, "capabilities"]);
      return JSON.parse(output).hotbay.contracts[0]?.text;
    });
    assert.ok(readme.includes(`\`\`\`text\n${contract}\`\`\``));
  } finally {
    rmSync(temporary, { recursive: true });
  }
});

test("types have the same text again", () => {
  const all = ["u64", "[u8]", "set<string>", "i64?", "(i64, string)", "map<u8, [bool]>", point];
  for (const type of [...all, "Pair(u8, u8)", "One(u8)", "json", "A { a: u8 = default }"]) {
    assert.equal(parseType(type).text, type);
  }
  assert.equal(parseType(" [ plain Point{x:f64,y :f64} ]").text, "[Point { x: f64, y: f64 }]");
  for (const type of ["", "u7", "[u8", "text", "map<f64, u8>", "u8 u8", "[".repeat(40)]) {
    assert.throws(() => parseType(type), TypeError, type);
  }
});

test("values are converted both ways", () => {
  const values = [
    ["[u8]", "[0,255]", Buffer.from([0, 255])], ["u64", "18446744073709551615", 2n ** 64n - 1n],
    ["i64", "-9007199254740991", -9007199254740991], ["f64", "1.5", 1.5],
    ["set<i64>", "[7]", new Set([7])], ["(i64, string)", '[1,"a"]', [1, "a"]],
    ["map<i64, string>", '{"-1":"a"}', { "-1": "a" }], ["unit", "null", null],
    ["string", '"1234567890123456789"', "1234567890123456789"], ["Pair(u8, u8)", "[1,2]", [1, 2]],
    [point, '{"x":1,"label":null,"color":"red"}', { x: 1, label: null, color: "red" }],
    [point, '{"x":1,"label":"a","color":{"Other":2}}', { x: 1, label: "a", color: { Other: 2 } }],
    ["json", '{"__proto__":[1]}', JSON.parse('{"__proto__":[1]}')],
    ["[u64]", "[12345678901234567890,1]", [12345678901234567890n, 1]],
  ];
  for (const [type, json, value] of values) {
    const found = parseType(type);
    if (type !== "unit") assert.deepEqual(found.decode(parseJson(json)), value, type);
    assert.equal(toJson(found.encode(value)), json, type);
  }
  assert.equal(parseType("f64").decode(parseJson("1234567890123456789")), 1234567890123456789);
  assert.equal(parseType("f64").decode(parseJson("0.1234567890123456789")), 0.1234567890123456789);
  assert.equal(parseType("f64").decode(parseJson("1e-1234567890123456")), 0);
  assert.equal(toJson(parseType("string?").encode(undefined)), "null");
});

test("long text beside a large integer is read", () => {
  const long = "1234567890123456 ".repeat(1e6) + '\\\\\\"'.repeat(1e5);
  const found = parseJson(`{"text":"${long}","n":12345678901234567890}`);
  assert.equal(found.text.length, 17e6 + 2e5);
  assert.equal(parseType("u64").decode(found.n), 12345678901234567890n);
});

test("mismatches name the place", () => {
  const values = [
    ["u8", "256", "expected u8, found 256"], ["i64", "true", "expected i64"],
    ["i64", "1.5", "expected i64"], ["f64", '"a"', "expected f64"], ["string", "7", "string"],
    ["string", "12345678901234567890", "expected string, found 12345678901234567890"],
    ["i64", "12345678901234567890", "expected i64, found 12345678901234567890"],
    ["[u8]", "[256]", "expected u8"], ["char", '"ab"', "expected char"], ["(u8, u8)", "[1]", "(u8"],
    ["map<i64, u8>", '{"a":1}', "map<i64, u8>"], ["unit", "0", "expected unit"],
    ["enum C { a, B(u8) }", '"B"', "expected one of a, B"], [point, '{"x":-1}', "`x`: expected u8"],
    [point, '{"x":1}', "missing `color` in Point"],
  ];
  for (const [type, json, message] of values) {
    assert.throws(() => parseType(type).decode(parseJson(json)), (error) =>
      error.message.includes(message) || assert.fail(`${type}: ${error.message}`));
  }
});

test("contract has the text of its methods", () => {
  const plugin = new Plugin("a", "0.1.0");
  const methods = {
    words: { args: { text: "string" }, returns: "u64", run: () => 1 },
    later: { args: { from: "i64?" }, returns: "unit", async: true, run: () => undefined },
    rows: { since: "1.1", permission: "read", returns: "u8", stream: true, run: () => [] },
  };
  plugin.contract({ name: "texts", version: "1.1", methods });
  assert.equal(plugin.capabilities().hotbay.contracts[0].text, `contract texts 1.1
fn words(text: string) -> u64
async fn later(from: i64?) -> unit
#since 1.1 #permission read stream fn rows() -> u8
`);
  const invalid = { name: "b", version: "1.0", methods: { f: { returns: "u7", run: () => 1 } } };
  assert.throws(() => plugin.contract(invalid), /method `f` of contract `b`: invalid type `u7`/);
});

test("durations are numbers or text", () => {
  const durations = [[0, 0], [1.5e9, 1500], ["5m", 3e5], ["1h30m", 54e5], ["300ms", 300], ["0", 0]];
  for (const [given, expected] of durations) assert.equal(milliseconds(given), expected);
  for (const given of ["", "5", "m", "-5m", "5 m", "5m3"]) {
    assert.throws(() => milliseconds(given), /invalid duration/, given);
  }
});

test("input that is not UTF-8 is rejected", () => {
  assert.equal(text(Buffer.from("hé")), "hé");
  assert.throws(() => text(Buffer.from([0xff])), { code: 400 });
});
