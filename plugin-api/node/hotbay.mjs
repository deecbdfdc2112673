/**
 * The SDK of hotbay plugins in JavaScript: serves functions to a host, as a program.
 *
 *     import { Plugin, text } from "./hotbay.mjs";
 *
 *     const plugin = new Plugin("upper", "0.1.0");
 *     plugin.execute((input, call) => text(input).toUpperCase());
 *     await plugin.run();
 *
 * One file without dependencies, for Node.js 18 and later. It implements PROTOCOL.md.
 *
 * All functions run on one thread. A host restarts a program that answers nothing for 5 s, so use
 * `node:worker_threads` for long computations. Limits: 1024 connections, `maxConcurrentCalls`
 * calls at once, and `maxBodyBytes` for the body of a request.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { existsSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import { createServer, request as httpRequest } from "node:http";
import { join } from "node:path";
import { randomBytes, timingSafeEqual } from "node:crypto";

const MAX_CONNECTIONS = 1024;
const MAX_HEAD_BYTES = 64 << 10;
const MAX_BATCH = 100;
const MAX_RESPONSE_BYTES = 256 << 20; // Of the host.
const MAX_DEPTH = 32;
const DRAIN_TIMEOUT_MS = 5_000;
const TOKEN_TIMEOUT_MS = 10_000;
const MAX_TIMER_MS = 2 ** 31 - 1;
/** Maximum number of causes in the message of an error. */
const MAX_CAUSES = 8;
const CANCELLED_GRACE_MS = 200;
const DEFAULT_IDLE_TIMEOUT = "1h";
const JSON_TYPE = "application/json";
const TEXT_TYPE = "text/plain; charset=utf-8";
const BYTES_TYPE = "application/octet-stream";
const LINES_TYPE = "application/x-ndjson";
const UNIT_MS = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1e3, m: 60e3, h: 3600e3 };
// The codes of errors that a plugin passes on to its caller, by the `kind` of a `CallError`.
const CALL_CODES = {
  "invalid-input": 400, "permission-denied": 403, cancelled: 499, "not-provided": 501,
  panicked: 502, "invalid-output": 502, overloaded: 503, unavailable: 503,
  "deadline-exceeded": 504, circular: 508,
};
const NOTHING = { type: JSON_TYPE, body: "{}" };

/**
 * An error of the plugin, which its caller gets with this code, message and details.
 *
 * The plugin's author chooses the code, a signed 32-bit number. `details` is any JSON value.
 * `retryable` means that the same call may succeed later.
 */
export class PluginError extends Error {
  constructor(code, message, { details, retryable = false } = {}) {
    super(message);
    Object.assign(this, { name: "PluginError", code, details, retryable });
  }

  /** Returns the error as an object that becomes JSON. */
  toJSON() {
    const { code, message, retryable, details } = this;
    return { code, message, retryable, details };
  }
}

/**
 * A call of a contract has failed, other than by an error of the method.
 *
 * `kind` is one of those in PROTOCOL.md, such as `unavailable`; `hint` is advice, if any. A plugin
 * that does not catch the error passes it on to its caller.
 */
export class CallError extends PluginError {
  constructor(kind, message, hint) {
    const retryable = ["overloaded", "unavailable"].includes(kind);
    super(CALL_CODES[kind] ?? 500, message, { retryable });
    Object.assign(this, { name: "CallError", kind, hint });
  }
}

/** The plugin's configuration is invalid, so it does not start. */
export class ConfigError extends Error {}

/** Bytes with a content type, as the result of a function. */
export class Output {
  constructor(body, contentType) {
    Object.assign(this, { body, contentType });
  }
}

/** Returns an input as text; throws a `PluginError` with code 400 if it is not UTF-8. */
export function text(input) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(input);
  } catch {
    throw new PluginError(400, "invalid UTF-8");
  }
}

// Functions that use private parts of `Call`.
let cancel;
let endCall;
let hasEnded;

/** The call that is served where this is read. */
const servedCall = new AsyncLocalStorage();

/** A call that is served. */
export class Call {
  #controller = new AbortController();
  #timer;
  #hasEnded = false;

  static {
    cancel = (call) => call.#cancel();
    endCall = (call) => {
      clearTimeout(call.#timer);
      call.#hasEnded = true;
    };
    hasEnded = (call) => call.#hasEnded;
  }

  constructor(headers) {
    /** The headers of the request, by name in lower case. */
    this.headers = headers;
    /** The content type of the input. */
    this.contentType = headers["content-type"] ?? BYTES_TYPE;
    /** The number of the call, unique in the host's process, as a BigInt. */
    this.id = BigInt(wholeNumber(headers, "hotbay-call-id") ?? 0);
    /** The W3C trace context of the caller, if any. */
    this.traceparent = headers.traceparent;
    const remaining = wholeNumber(headers, "hotbay-deadline-ms");
    /** The time of `performance.now()` at which the caller stops waiting, if any. */
    this.deadline = remaining === undefined ? undefined : performance.now() + Number(remaining);
    this.#watchDeadline();
  }

  /** Aborts when the caller no longer waits: it cancelled the call, or the deadline passed. */
  get signal() {
    return this.#controller.signal;
  }

  /** Whether the caller no longer waits. */
  get cancelled() {
    if (this.remaining === 0 && !this.#hasEnded) this.#cancel();
    return this.signal.aborted;
  }

  /** The time until the deadline in milliseconds, at least 0; `undefined` without a deadline. */
  get remaining() {
    if (this.deadline === undefined) return undefined;
    return Math.max(this.deadline - performance.now(), 0);
  }

  #cancel() {
    const reason = this.remaining === 0
      ? new PluginError(408, "the deadline passed", { retryable: true })
      : new PluginError(499, "cancelled");
    this.#controller.abort(reason);
  }

  #watchDeadline() {
    if (this.deadline === undefined) return;
    const wait = Math.min(Math.ceil(this.remaining), MAX_TIMER_MS);
    const check = () => (this.remaining > 0 ? this.#watchDeadline() : this.#cancel());
    this.#timer = setTimeout(check, wait);
    this.#timer.unref();
  }
}

/** Returns the result of a promise, or throws when the call is cancelled. */
async function race(call, promise) {
  Promise.resolve(promise).catch(() => undefined); // It may fail after it was cancelled.
  call.signal.throwIfAborted();
  let stop;
  const cancelled = new Promise((_, reject) => {
    stop = () => reject(call.signal.reason);
    call.signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([promise, cancelled]);
  } finally {
    call.signal.removeEventListener("abort", stop);
  }
}

/** The program's host: `await plugin.host.contract("key-value", "1.0").get({ key: "a" })`. */
class Host {
  /**
   * Returns an object whose methods call a contract of the host or of another plugin, with
   * arguments by name. A call returns a promise of the result, as JSON, in which integers beyond
   * 2⁵³ are BigInts. It rejects with the `PluginError` of the method, or with a `CallError`. It has
   * the deadline of the call that the plugin serves meanwhile, and ends with it.
   *
   * The manifest needs the permission `contract:NAME`. `plugin` names the plugin that is to serve
   * it. `timeout` is the time limit of each call in milliseconds. The first call checks that the
   * version is served, and with `methods`, lines of the contract's text, that these are.
   */
  contract(name, version, { plugin, timeout, methods = [] } = {}) {
    const text = [`contract ${name} ${version}`, ...methods].join("\n");
    let isChecked = false;
    const call = async (method, args) => {
      const deadline = timeout === undefined ? Infinity : performance.now() + timeout;
      if (!isChecked) await requestHost("/contract", { text, plugin }, plugin, deadline);
      isChecked = true;
      return requestHost(`/contract/${name}/${method}`, args, plugin, deadline);
    };
    // An object with `then` would be taken for a promise.
    const get = (_, method) =>
      (typeof method === "symbol" || method === "then" ? undefined
        : (args = {}) => call(method, args));
    return new Proxy({}, { get });
  }
}

/** Sends a request to the host; returns the result of the response, or throws its error. */
async function requestHost(path, body, plugin, timeLimit) {
  const names = path.split("/").slice(1);
  for (const name of [...names, plugin ?? "-"]) {
    const isName = names.length <= 3 && /^[\w-]+$/.test(name);
    if (!isName) throw new CallError("invalid-input", `invalid name: \`${name}\``);
  }
  let call = servedCall.getStore();
  if (call?.cancelled) throw call.signal.reason;
  if (call && hasEnded(call)) call = undefined; // The function has outlived the call.
  const json = toJson(body, argumentValue);
  const headers = { "Content-Type": JSON_TYPE, "Content-Length": Buffer.byteLength(json) };
  if (process.env.HOTBAY_TOKEN) headers["Hotbay-Token"] = process.env.HOTBAY_TOKEN;
  if (plugin) headers["Hotbay-Plugin"] = plugin;
  if (call) headers["Hotbay-Call-Id"] = `${call.id}`;
  if (call?.traceparent) headers.traceparent = call.traceparent;
  const deadline = Math.min(timeLimit, call?.deadline ?? Infinity);
  const remaining = Math.max(Math.ceil(deadline - performance.now()), 0);
  if (deadline < Infinity) headers["Hotbay-Deadline-Ms"] = `${remaining}`;
  const [status, text] = await exchange({ ...hostAddress(), path, headers }, json, call, deadline);
  return resultOf(status, text);
}

/** Returns where the services of the host are. */
function hostAddress() {
  const address = process.env.HOTBAY_HOST;
  if (!address) {
    const message = "the program has no host: HOTBAY_HOST is not set";
    throw new CallError("unavailable", message);
  }
  const [scheme, place] = address.split("://");
  if (scheme !== "http") return { socketPath: place };
  const { hostname, port } = new URL(address);
  return { hostname, port };
}

/** Returns status and body of the response to a request. A call that is cancelled ends it. */
async function exchange(options, body, call, deadline) {
  let request;
  try {
    request = httpRequest({ method: "POST", agent: false, ...options });
  } catch (error) {
    throw new CallError("invalid-input", `invalid name: ${error.message}`);
  }
  const onAbort = () => request.destroy(call.signal.reason);
  let timer;
  let isConnected = false;
  const watchDeadline = () => {
    const remaining = deadline - performance.now();
    if (remaining > 0) {
      timer = setTimeout(watchDeadline, Math.min(Math.ceil(remaining), MAX_TIMER_MS));
    } else if (!call?.cancelled) {
      request.destroy(new CallError("deadline-exceeded", "the deadline passed"));
    }
  };
  try {
    return await new Promise((resolve, reject) => {
      const fail = (error) => {
        const isOwn = error instanceof PluginError;
        if (isOwn) return reject(error);
        const lost = new CallError("unavailable", `no response: ${error.message}`);
        reject(isConnected ? Object.assign(lost, { retryable: false }) : lost); // It may have run.
      };
      request.on("socket", (socket) => socket.on("connect", () => (isConnected = true)));
      request.on("error", fail).on("response", (response) => {
        const parts = [];
        let size = 0;
        const add = (part) => {
          parts.push(part);
          size += part.length;
          if (size <= MAX_RESPONSE_BYTES) return;
          const message = `the response of the host exceeds ${MAX_RESPONSE_BYTES} bytes`;
          request.destroy(new CallError("invalid-output", message));
        };
        response.on("data", add).on("error", fail);
        response.on("end", () => resolve([response.statusCode, Buffer.concat(parts).toString()]));
      });
      call?.signal.addEventListener("abort", onAbort, { once: true });
      if (deadline < Infinity) watchDeadline();
      request.end(body);
    });
  } finally {
    call?.signal.removeEventListener("abort", onAbort);
    clearTimeout(timer);
  }
}

/** Returns the result in a response of the host, or throws its error. */
function resultOf(status, body) {
  let found;
  try {
    found = parseJson(body);
    if (status === 200) return withBigInts(found);
  } catch (error) {
    throw new CallError("invalid-output", `the host returned invalid JSON: ${error.message}`);
  }
  const { code = 500, message = "", details, retryable, kind, hint } = plain(found) ?? {};
  if (status === 422) throw new PluginError(code, message, { details, retryable });
  // A host that is too old for contracts states no kind.
  const byStatus = [404, 410].includes(status) ? "unavailable" : "other";
  throw new CallError(kind ?? byStatus, message, hint);
}

/** A plugin: declare its functions, then call `run`. */
export class Plugin {
  /** The plugin's configuration, a JSON object; set before `configure` runs. */
  config = {};
  /** The host, whose contracts can be called. */
  host = new Host();
  /** Writes lines to the host's log: `plugin.log.info("loaded", { rows: 3 })`. */
  log;

  #hooks = {};
  #endpoints = new Map();
  #contracts = new Map();

  constructor(name, version, options = {}) {
    const { configSchema, inputSchema, maxConcurrentCalls = 64, maxBodyBytes = 64 << 20 } = options;
    Object.assign(this, { name, version, configSchema, inputSchema });
    Object.assign(this, { maxConcurrentCalls, maxBodyBytes });
    this.log = {};
    for (const level of ["trace", "debug", "info", "warn", "error"]) {
      this.log[level] = (message, fields = {}) => {
        const line = { ...fields, level, msg: message, target: name };
        process.stderr.write(`${JSON.stringify(line, shownValue)}\n`);
      };
    }
  }

  /**
   * Declares the function `(input: Buffer, call: Call)` that serves calls; also in batches. It
   * returns bytes, text, an `Output`, nothing, any value that becomes JSON, or a promise of these.
   */
  execute(run) {
    return this.endpoint("execute", run);
  }

  /** Declares a function like `execute`, with its own name. */
  endpoint(name, run) {
    const taken = ["batch", "healthz", "restore", "shutdown", "snapshot"];
    if (taken.includes(name) || name.startsWith("/")) {
      throw new TypeError(`invalid name of an endpoint: \`${name}\``);
    }
    if (this.#endpoints.has(name)) throw new TypeError(`\`${name}\` is already declared`);
    this.#endpoints.set(name, run);
    return this;
  }

  /** Declares the function `(config)` of the start, which may throw a `ConfigError`. */
  configure(run) {
    return this.#hook("configure", run);
  }

  /** Declares the function that throws a `PluginError` if calls cannot work. */
  health(run) {
    return this.#hook("health", run);
  }

  /** Declares the function that returns `{ version, state }`, a number and bytes, or nothing. */
  snapshot(run) {
    return this.#hook("snapshot", run);
  }

  /** Declares the function `({ version, state })` that restores the state. */
  restore(run) {
    return this.#hook("restore", run);
  }

  /** Declares the function that runs after the last call. */
  shutdown(run) {
    return this.#hook("shutdown", run);
  }

  /**
   * Declares a contract: `{ name, version, methods }`. Each method, by name, has `args` (types by
   * name), `returns` (a type), and `run(args, call)`. Optional are `since`, `permission`, `async`
   * (the contract says `async fn`) and `stream` (`run` returns an iterable, of `returns`).
   * Types are written as in PROTOCOL.md. Integers beyond 2⁵³ are BigInts.
   */
  contract({ name, version, methods }) {
    if (this.#contracts.has(name)) throw new TypeError(`contract \`${name}\` is already declared`);
    const served = new Map();
    for (const [own, method] of Object.entries(methods)) {
      try {
        served.set(own, new Method(own, method));
      } catch (error) {
        throw new TypeError(`method \`${own}\` of contract \`${name}\`: ${error.message}`);
      }
    }
    const lines = [`contract ${name} ${version}`, ...[...served.values()].map(({ line }) => line)];
    this.#contracts.set(name, { served, text: `${lines.join("\n")}\n` });
    return this;
  }

  /** Returns what the command `capabilities` prints. */
  capabilities() {
    const { name, version, configSchema, inputSchema } = this;
    const optional = ["snapshot", "restore"].filter((hook) => hook in this.#hooks);
    const batch = this.#endpoints.has("execute") ? ["batch"] : [];
    const endpoints = [...this.#endpoints.keys(), ...batch, ...optional];
    const contracts = [...this.#contracts.values()].map(({ text }) => ({ text }));
    const own = { protocol: 1, name, version, endpoints, config: ["env", "file"], contracts };
    return { hotbay: { ...own, configSchema, inputSchema } };
  }

  /** Executes the command line; exits after the shutdown, with 2 if the command line is invalid. */
  async run(args = process.argv.slice(2)) {
    if (args.length === 1 && args[0] === "capabilities") {
      process.stdout.write(`${JSON.stringify(this.capabilities())}\n`);
      return;
    }
    let settings;
    try {
      settings = parseSettings(startConfig(args));
    } catch (error) {
      const usage = `usage: ${this.name} capabilities | --config JSON (or in HOTBAY_CONFIG)`;
      process.stderr.write(`invalid start configuration: ${error.message}\n\n${usage}\n`);
      process.exit(2);
    }
    this.config = settings.config;
    const declared = { hooks: this.#hooks, endpoints: this.#endpoints, contracts: this.#contracts };
    await new Server(this, declared).run({ ...settings, id: settings.id || this.name });
  }

  #hook(name, run) {
    if (name in this.#hooks) throw new TypeError(`\`${name}\` is already declared`);
    this.#hooks[name] = run;
    return this;
  }
}

/** A value that is not of its type. */
class Mismatch extends Error {}

/** A request that does not reach the plugin's code. */
class Rejected extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  toJSON() {
    return { message: this.message, statusCode: this.status };
  }
}

/** The health hook failed. */
class Unhealthy extends Error {
  constructor(failure) {
    super();
    this.failure = failure;
  }
}

/** A method of a contract: its line of the text, and how it is called. */
class Method {
  constructor(name, { args = {}, returns, run, since, permission, async, stream }) {
    this.run = run;
    this.isStream = Boolean(stream);
    this.args = Object.entries(args).map(([own, type]) => [own, parseType(type)]);
    this.output = parseType(returns);
    const kind = stream ? "stream fn" : async ? "async fn" : "fn";
    const shown = this.args.map(([own, type]) => `${own}: ${type.text}`).join(", ");
    const words = [since && `#since ${since}`, permission && `#permission ${permission}`];
    words.push(`${kind} ${name}(${shown}) -> ${this.output.text}`);
    this.line = words.filter(Boolean).join(" ");
  }

  /** Returns the arguments of a request. Unknown ones are ignored. */
  decode(body) {
    let given;
    try {
      given = parseJson(text(body));
    } catch (error) {
      throw new Mismatch(`invalid JSON: ${error.message}`);
    }
    const fields = this.args.map(([name, type]) => ({ name, type, hasDefault: false }));
    return readFields(given, fields, "an object with the arguments");
  }
}

// Types of contracts. A type has its text, and functions that convert its values from and to JSON.
// Integers beyond 2⁵³ are, in JSON values, strings that begin with this unpredictable text.
const BIG = `big-${randomBytes(16).toString("hex")}:`;
const BIG_STRING = new RegExp(`"${BIG}(-?\\d+)"`, "g");
const BIG_NUMBER = /-?\d{16,}(?![\d.eE])/g;

/** Parses JSON without losing digits of large integers. */
function parseJson(source) {
  if (!/\d{16}/.test(source)) return JSON.parse(source);
  const parts = [];
  // Of a number such as 1.0000000000000001, only the digits after the point would match.
  const mark = (found, index, all) =>
    (index > 0 && /[\d.eE+-]/.test(all[index - 1]) ? found : `"${BIG}${found}"`);
  let end = 0;
  while (end < source.length) {
    const start = indexOrEnd(source, '"', end);
    parts.push(source.slice(end, start).replace(BIG_NUMBER, mark));
    end = endOfString(source, start);
    parts.push(source.slice(start, end));
  }
  return JSON.parse(parts.join(""));
}

function indexOrEnd(source, found, from) {
  const index = source.indexOf(found, from);
  return index < 0 ? source.length : index;
}

/** Returns the index after the string that starts at an index. */
function endOfString(source, start) {
  for (let end = start; end < source.length;) {
    end = indexOrEnd(source, '"', end + 1);
    let escapes = 0;
    while (source[end - 1 - escapes] === "\\") escapes += 1;
    if (escapes % 2 === 0) return end + 1;
  }
  return source.length;
}

function toJson(value, replacer) {
  const json = JSON.stringify(value, replacer);
  return json.includes(BIG) ? json.replace(BIG_STRING, "$1") : json;
}

const isBig = (value) => typeof value === "string" && value.startsWith(BIG);

function mismatch(expected, value) {
  const json = isBig(value) ? value.slice(BIG.length) : JSON.stringify(value, shownValue);
  const shown = json === undefined || json.length <= 60 ? json : `${json.slice(0, 60)}…`;
  return new Mismatch(`expected ${expected}, found ${shown}`);
}

function expect(condition, expected, value) {
  if (!condition) throw mismatch(expected, value);
  return value;
}

/** Names a field or an argument if its value is invalid. */
function at(name, convert, value) {
  try {
    return convert(value);
  } catch (error) {
    throw error instanceof Mismatch ? new Mismatch(`\`${name}\`: ${error.message}`) : error;
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function integerType(name) {
  const bits = BigInt(name.slice(1));
  const [low, high] = name[0] === "i" ? [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n]
    : [0n, (1n << bits) - 1n];
  const check = (value, shown) => {
    const isInteger = typeof value === "bigint" || Number.isSafeInteger(value);
    return expect(isInteger && value >= low && value <= high, name, shown);
  };
  const decode = (value) => {
    if (!isBig(value)) return check(value, value);
    const big = BigInt(value.slice(BIG.length));
    check(big, value);
    return Number.isSafeInteger(Number(big)) ? Number(big) : big;
  };
  const encode = (value) => (check(value, value), typeof value === "bigint" ? BIG + value : value);
  return { decode, encode };
}

/** Returns JSON in which `convert` has made the integers beyond 2⁵³, from their digits. */
function withIntegers(value, convert) {
  if (isBig(value)) return convert(value.slice(BIG.length));
  if (Array.isArray(value)) return value.map((item) => withIntegers(item, convert));
  if (!isObject(value)) return value;
  const entries = Object.entries(value);
  return Object.fromEntries(entries.map(([name, item]) => [name, withIntegers(item, convert)]));
}

const plain = (value) => withIntegers(value, Number);
const withBigInts = (value) => withIntegers(value, BigInt);

/** Returns a value that is an argument, or in one, as JSON: a replacer of `JSON.stringify`. */
function argumentValue(name, json) {
  const value = this[name]; // Before `toJSON`.
  if (typeof value === "bigint") return BIG + value;
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new CallError("invalid-input", `an argument is not JSON: ${value}`);
  }
  if (ArrayBuffer.isView(value) || value instanceof Set) return Array.from(value);
  return value instanceof Map ? Object.fromEntries(value) : json;
}

/** Returns how values of a scalar type are converted; `undefined` if there is no such type. */
function scalarType(name) {
  if (/^[iu](8|16|32|64)$/.test(name)) return integerType(name);
  const of = (check) => {
    const convert = (value) => expect(check(value), name, value);
    return { decode: convert, encode: convert };
  };
  const isText = (value) => typeof value === "string" && !isBig(value);
  const types = {
    unit: { decode: (value) => expect(value === null, name, value), encode: () => null },
    bool: of((value) => typeof value === "boolean"),
    char: of((value) => isText(value) && [...value].length === 1),
    string: of(isText),
    f64: of(Number.isFinite),
    json: { decode: plain, encode: (value) => (value === undefined ? null : value) },
  };
  const { encode } = types.f64;
  const decode = (value) => encode(isBig(value) ? plain(value) : value);
  types.f64 = types.f32 = { decode, encode };
  return Object.hasOwn(types, name) ? types[name] : undefined;
}

/** Reads fields of an object. Missing optional ones are `null`; others may have a default. */
function readFields(given, fields, expected) {
  expect(isObject(given), expected, given);
  const entries = [];
  for (const { name, type, hasDefault } of fields) {
    if (Object.hasOwn(given, name)) entries.push([name, at(name, type.decode, given[name])]);
    else if (type.isOptional) entries.push([name, null]);
    else if (!hasDefault) throw new Mismatch(`missing \`${name}\` in ${expected}`);
  }
  return Object.fromEntries(entries);
}

const texts = (types) => types.map(({ text }) => text).join(", ");

function optionalType({ text, decode, encode }) {
  const optional = (convert) => (value) => (value === null ? null : convert(value));
  const orUndefined = (value) => optional(encode)(value ?? null);
  return { text: `${text}?`, isOptional: true, decode: optional(decode), encode: orUndefined };
}

function listType(item) {
  const text = `[${item.text}]`;
  const isList = (value) => Array.isArray(value) || ArrayBuffer.isView(value);
  const encode = (value) => Array.from(expect(isList(value), text, value), item.encode);
  const decode = (value) => expect(Array.isArray(value), text, value).map(item.decode);
  if (item.text !== "u8") return { text, decode, encode };
  return { text, encode, decode: (value) => Buffer.from(decode(value)) };
}

function setType(item) {
  const text = `set<${item.text}>`;
  return {
    text,
    decode: (value) => new Set(expect(Array.isArray(value), text, value).map(item.decode)),
    encode: (value) => Array.from(expect(value instanceof Set, text, value), item.encode),
  };
}

function mapType(key, value) {
  const text = `map<${key.text}, ${value.text}>`;
  const isNumber = /^[iu]\d+$/.test(key.text);
  if (!isNumber && key.text !== "string") throw new TypeError("keys are text or integers");
  const isKey = (own) => !isNumber || (/^-?\d{1,20}$/.test(own) && key.decode(BIG + own) !== null);
  const convert = (entries, convertValue) => Object.fromEntries(
    Array.from(entries, ([own, item]) =>
      [expect(isKey(own), text, own), at(own, convertValue, item)]));
  const isMap = (found) => found instanceof Map || isObject(found);
  return {
    text,
    decode: (found) => convert(Object.entries(expect(isObject(found), text, found)), value.decode),
    encode: (found) => {
      expect(isMap(found), text, found);
      return convert(found instanceof Map ? found : Object.entries(found), value.encode);
    },
  };
}

function tupleType(parts) {
  const text = `(${texts(parts)})`;
  const convert = (direction) => (value) => {
    expect(Array.isArray(value) && value.length === parts.length, text, value);
    return parts.map((part, index) => part[direction](value[index]));
  };
  return { text, decode: convert("decode"), encode: convert("encode") };
}

function structType(name, fields) {
  const shown = fields.map((field) =>
    `${field.name}: ${field.type.text}${field.hasDefault ? " = default" : ""}`);
  const encode = (value) => {
    expect(isObject(value), name, value);
    const entries = fields.map(({ name: own, type }) => [own, at(own, type.encode, value[own])]);
    return Object.fromEntries(entries);
  };
  return {
    text: `${name} { ${shown.join(", ")} }`,
    decode: (value) => readFields(value, fields, name),
    encode,
  };
}

/** A variant without fields is its name; others are an object with one member, their name. */
function enumType(name, variants) {
  const convert = (direction) => (value) => {
    const own = isObject(value) ? Object.keys(value)[0] : value;
    const variant = variants.find((found) => found.name === own);
    const expected = `one of ${variants.map((found) => found.name).join(", ")}`;
    expect(variant && isObject(value) === Boolean(variant.fields), expected, value);
    return variant.fields ? { [own]: at(own, variant.fields[direction], value[own]) } : own;
  };
  const shown = variants.map((variant) => variant.fields?.text ?? variant.name).join(", ");
  const text = `enum ${name} { ${shown} }`;
  return { text, decode: convert("decode"), encode: convert("encode") };
}

/** Parses a type, written as in the text of a contract. */
class TypeParser {
  constructor(source) {
    this.source = this.rest = source;
  }

  fail(expected) {
    const column = this.source.length - this.rest.length + 1;
    throw new TypeError(`invalid type \`${this.source}\`: column ${column}: expected ${expected}`);
  }

  skip(words) {
    this.rest = this.rest.trimStart();
    if (!this.rest.startsWith(words)) return false;
    this.rest = this.rest.slice(words.length).trimStart();
    return true;
  }

  expect(words) {
    if (!this.skip(words)) this.fail(`\`${words}\``);
  }

  name() {
    const [found] = this.rest.match(/^[\w-]+/) ?? this.fail("a name");
    this.rest = this.rest.slice(found.length).trimStart();
    return found;
  }

  all() {
    const type = this.type(0);
    return this.rest === "" ? type : this.fail("the end");
  }

  type(depth) {
    if (depth > MAX_DEPTH) this.fail(`at most ${MAX_DEPTH} levels`);
    let type = this.withoutMark(depth);
    while (this.skip("?")) type = optionalType(type);
    return type;
  }

  withoutMark(depth) {
    if (this.skip("[")) {
      const item = this.type(depth + 1);
      this.expect("]");
      return listType(item);
    }
    if (this.skip("set<")) {
      const item = this.type(depth + 1);
      this.expect(">");
      return setType(item);
    }
    if (this.skip("map<")) {
      const key = this.type(depth + 1);
      this.expect(",");
      const value = this.type(depth + 1);
      this.expect(">");
      return mapType(key, value);
    }
    if (this.rest.startsWith("(")) return tupleType(this.unnamed(depth));
    if (this.skip("enum ")) {
      const name = this.name();
      const variants = this.parts("{", "}", () => {
        const variant = this.name();
        return { name: variant, fields: this.fields(variant, depth) };
      });
      return enumType(name, variants);
    }
    this.skip("plain ");
    const name = this.name();
    const fields = this.fields(name, depth);
    if (fields) return fields;
    const scalar = scalarType(name);
    return scalar ? { text: name, ...scalar } : this.fail(`a type, found \`${name}\``);
  }

  /** Calls `read` for each part between brackets. */
  parts(open, close, read) {
    this.expect(open);
    const parts = [];
    while (!this.skip(close)) {
      if (parts.length > 0) this.expect(",");
      parts.push(read());
    }
    return parts;
  }

  unnamed(depth) {
    return this.parts("(", ")", () => this.type(depth + 1));
  }

  /** Parses the fields of a struct or a variant; `undefined` if it has none. */
  fields(name, depth) {
    if (this.rest.startsWith("(")) {
      const parts = this.unnamed(depth);
      const type = parts.length === 1 ? parts[0] : tupleType(parts);
      return { ...type, text: `${name}(${texts(parts)})`, isOptional: false };
    }
    if (!this.rest.startsWith("{")) return undefined;
    const fields = this.parts("{", "}", () => {
      const own = this.name();
      this.expect(":");
      return { name: own, type: this.type(depth + 1), hasDefault: this.skip("= default") };
    });
    return structType(name, fields);
  }
}

const parseType = (source) => new TypeParser(source).all();

/** Serves a plugin until a signal, `/shutdown`, or the idle timeout. */
class Server {
  #plugin;
  #hooks;
  #endpoints;
  #methods = new Map();
  #token = process.env.HOTBAY_TOKEN;
  #slots;
  /** The open connections, and whether each has a request without a response. */
  #sockets = new Map();
  #running = 0;
  #idleSince = performance.now();
  #isUsed = false;
  #isDraining = false;
  #stop;

  constructor(plugin, { hooks, endpoints, contracts }) {
    this.#plugin = plugin;
    this.#hooks = hooks;
    this.#endpoints = endpoints;
    this.#slots = new Slots(plugin.maxConcurrentCalls);
    for (const [name, { served }] of contracts) {
      for (const [own, method] of served) this.#methods.set(`/contract/${name}/${own}`, method);
    }
  }

  /** Starts the plugin, serves it, and exits after the shutdown. */
  async run({ id, type, idleTimeout, config }) {
    const { log } = this.#plugin;
    const stopped = new Promise((resolve) => (this.#stop = resolve));
    let isStarted = false;
    const onSignal = () => (isStarted ? this.#stop() : process.exit(1)); // A start may hang.
    process.on("SIGTERM", onSignal).on("SIGINT", onSignal);
    process.on("unhandledRejection", (error) => log.error("unhandled rejection", faultOf(error)));
    const http = createServer({
      headersTimeout: this.#token ? TOKEN_TIMEOUT_MS : 0,
      requestTimeout: 0,
      keepAliveTimeout: 0,
      connectionsCheckingInterval: TOKEN_TIMEOUT_MS / 2,
      maxHeaderSize: MAX_HEAD_BYTES,
    });
    http.maxConnections = MAX_CONNECTIONS;
    http.on("connection", (socket) => {
      this.#sockets.set(socket, false);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    http.on("request", (request, response) => this.#handle(request, response));
    http.on("clientError", (error, socket) => rejectInvalid(error, socket));
    let files = [];
    const removeFile = (file) => existsSync(file) && unlinkSync(file);
    const removeFiles = () => files.splice(0).forEach(removeFile);
    process.on("exit", removeFiles); // Also after a failed start.
    const location = await listen(http, id, type, files);
    try {
      await this.#hooks.configure?.(config);
    } catch (error) {
      if (error instanceof ConfigError || error instanceof PluginError) {
        log.error(`invalid configuration: ${error.message}`);
      } else {
        log.error("the start failed", faultOf(error));
      }
      process.exit(1);
    }
    isStarted = true;
    process.stdout.write(`${location}\n`);
    const idle = this.#untilIdle(idleTimeout);
    await Promise.race([stopped, idle.expired]);
    idle.cancel();
    if (!(await this.#drain(http, removeFiles))) {
      log.warn("`shutdown` skipped: calls were still running", { waitedMs: DRAIN_TIMEOUT_MS });
      process.exit(0);
    }
    try {
      await this.#hooks.shutdown?.();
    } catch (error) {
      log.error("`shutdown` failed", faultOf(error));
      process.exit(1);
    }
    process.exit(0);
  }

  /** Returns a promise that resolves when no call has run for a time. */
  #untilIdle(idleTimeout) {
    let timer;
    const expired = new Promise((resolve) => {
      const check = () => {
        const idle = this.#running > 0 ? 0 : performance.now() - this.#idleSince;
        if (idle >= idleTimeout) resolve();
        else timer = setTimeout(check, Math.min(Math.ceil(idleTimeout - idle), MAX_TIMER_MS));
      };
      if (idleTimeout > 0) check();
    });
    return { expired, cancel: () => clearTimeout(timer) };
  }

  /** Waits for running calls; returns false if some still run. */
  async #drain(http, removeFiles) {
    removeFiles();
    // Connections and requests that have already arrived are events of the next iterations.
    for (let i = 0; i < 3; i += 1) await new Promise((resolve) => setTimeout(resolve));
    this.#isDraining = true;
    let timer;
    const closed = new Promise((resolve) => http.close(() => resolve(true)));
    for (const [socket, isBusy] of this.#sockets) if (!isBusy) socket.destroy();
    const timeout = new Promise((resolve) => {
      timer = setTimeout(() => resolve(false), DRAIN_TIMEOUT_MS);
    });
    const isDrained = await Promise.race([closed, timeout]);
    clearTimeout(timer);
    return isDrained;
  }

  /** Responds to a request. */
  async #handle(request, response) {
    const { socket, url: path } = request;
    this.#sockets.set(socket, true);
    response.on("close", () => socket.destroyed || this.#sockets.set(socket, false));
    const send = (status, { type = JSON_TYPE, body, headers = {} }, isLast = false) => {
      if (isLast || this.#isDraining) response.setHeader("Connection", "close");
      const length = Buffer.byteLength(body);
      response.writeHead(status, { "Content-Type": type, "Content-Length": length, ...headers });
      response.end(body);
    };
    const fail = (error, isLast) => {
      const [status, failure] = failureOf(error);
      send(status, { body: toJson(failure) }, isLast);
    };
    // The token protects all paths, including unknown ones.
    if (this.#token && !isEqual(request.headers["hotbay-token"] ?? "", this.#token)) {
      const expected = "expected the value of HOTBAY_TOKEN";
      return fail(new Rejected(401, `invalid or missing header Hotbay-Token: ${expected}`), true);
    }
    const counts = path !== "/healthz";
    this.#running += counts;
    let call;
    response.on("close", () => response.writableFinished || (call && cancel(call)));
    try {
      const body = await readBody(request, this.#plugin.maxBodyBytes);
      call = new Call(request.headers);
      const output = await this.#respond(request.method, path, body, call);
      if (output.items) await sendLines(response, output, call, this.#plugin.log);
      else send(200, output, path === "/shutdown");
    } catch (error) {
      try {
        await untilNoticed(error, call, response);
        if (response.headersSent) response.destroy();
        else fail(error, error instanceof Rejected && error.status === 413);
      } catch { // The error has no form that can be sent.
        response.destroy();
      }
    } finally {
      if (call) endCall(call);
      this.#running -= counts;
      if (counts) this.#idleSince = performance.now();
    }
    return undefined;
  }

  /** Returns the output of a request: a body, or the items of a stream. */
  async #respond(method, path, body, call) {
    if (path === "/shutdown") {
      this.#stop();
      return NOTHING;
    }
    const name = path.slice(1);
    const served = this.#methods.get(path);
    const hooks = { "/healthz": "GET", "/snapshot": "GET", "/restore": "POST" };
    const isHook = path === "/healthz" || (Object.hasOwn(hooks, path) && name in this.#hooks);
    const isBatch = name === "batch" && this.#endpoints.has("execute");
    if (!isHook && !served && !isBatch && !this.#endpoints.has(name)) {
      throw new Rejected(404, `endpoint \`${path}\` not found`);
    }
    const expected = isHook ? hooks[path] : "POST";
    if (method !== expected) {
      const found = `expected ${expected}, found ${method}`;
      throw new Rejected(405, `wrong method for \`${path}\`: ${found}`);
    }
    if (path === "/healthz") return this.#health();
    if (isHook && path === "/snapshot") return this.#snapshot();
    const wasUsed = this.#isUsed;
    this.#isUsed = true;
    if (isHook) return this.#restore(call.headers, body, wasUsed);
    const release = await this.#slots.acquire(call);
    let running;
    const run = (start) => race(call, (running = servedCall.run(call, async () => start())));
    try {
      call.signal.throwIfAborted(); // It may have waited for its turn.
      if (served) return await callMethod(served, body, call, run);
      if (isBatch) return await this.#batch(body, call, run);
      const endpoint = this.#endpoints.get(name);
      return outputOf(await run(() => endpoint(body, call)));
    } finally {
      Promise.allSettled([running]).then(release); // The function may outlast its call.
    }
  }

  async #health() {
    try {
      await this.#hooks.health?.();
    } catch (error) {
      throw new Unhealthy(failureOf(error)[1]);
    }
    return NOTHING;
  }

  async #snapshot() {
    const found = await this.#hooks.snapshot();
    if (found === undefined || found === null) return { type: BYTES_TYPE, body: "" };
    const headers = { "Hotbay-Snapshot-Version": `${found.version}` };
    return { type: BYTES_TYPE, body: found.state, headers };
  }

  async #restore(headers, state, wasUsed) {
    const version = wholeNumber(headers, "hotbay-snapshot-version");
    if (version === undefined) throw new Rejected(400, "missing header Hotbay-Snapshot-Version");
    if (wasUsed) throw new Rejected(409, "a state can be restored only before the first call");
    await this.#hooks.restore({ version: Number(version), state });
    return NOTHING;
  }

  async #batch(body, call, run) {
    let inputs;
    try {
      inputs = JSON.parse(text(body)).requests.map((entry) => {
        const decoded = Buffer.from(entry.body, "base64");
        if (decoded.toString("base64") !== entry.body) throw new Error("a body is not base64");
        return { decoded, contentType: entry.contentType ?? BYTES_TYPE };
      });
    } catch (error) {
      throw new Rejected(400, `invalid batch: ${error.message}`);
    }
    if (inputs.length > MAX_BATCH) {
      throw new Rejected(400, `too many requests: expected at most ${MAX_BATCH}`);
    }
    const replies = [];
    for (const { decoded, contentType } of inputs) {
      call.contentType = contentType;
      try {
        if (call.cancelled) call.signal.throwIfAborted();
        const execute = this.#endpoints.get("execute");
        const found = outputOf(await run(() => execute(decoded, call)));
        const encoded = Buffer.from(found.body).toString("base64");
        replies.push({ contentType: found.type, body: encoded });
      } catch (error) {
        replies.push({ error: failureOf(error)[1] });
      }
    }
    return { body: toJson({ replies }) };
  }
}

/** Limits the number of calls that run at once. Others wait in order. */
class Slots {
  #free;
  #waiting = new Set();

  constructor(free) {
    this.#free = free;
  }

  /** Waits for a slot; returns the function that frees it. Throws if the call is cancelled. */
  async acquire(call) {
    if (this.#free > 0) this.#free -= 1;
    else {
      let next;
      const turn = new Promise((resolve) => this.#waiting.add((next = resolve)));
      try {
        await race(call, turn);
      } catch (error) {
        if (!this.#waiting.delete(next)) this.#release();
        throw error;
      }
    }
    return () => this.#release();
  }

  #release() {
    const [next] = this.#waiting;
    if (!next) this.#free += 1;
    else {
      this.#waiting.delete(next);
      next();
    }
  }
}

async function callMethod(served, body, call, run) {
  let args;
  try {
    args = served.decode(body);
  } catch (error) {
    if (error instanceof Mismatch) throw new Rejected(400, `invalid arguments: ${error.message}`);
    throw error;
  }
  const result = await run(() => served.run(args, call));
  const encode = (value, what) => {
    try {
      return served.output.encode(value);
    } catch (error) {
      throw new Rejected(500, `${what} cannot be serialized: ${error.message}`);
    }
  };
  if (served.isStream) return { items: result, encode: (item) => encode(item, "an item") };
  return { body: toJson(encode(result, "the result")) };
}

/** Writes a line for each item; waits while the host does not read. */
async function sendLines(response, { items, encode }, call, log) {
  response.writeHead(200, { "Content-Type": LINES_TYPE, Connection: "close" });
  const write = async (line) => {
    if (response.write(`${toJson(line)}\n`) || call.cancelled) return;
    const drained = new Promise((resolve) => response.once("drain", resolve));
    await race(call, drained).catch(() => undefined);
  };
  let iterator;
  let last;
  try {
    iterator = items[Symbol.asyncIterator]?.() ?? items[Symbol.iterator]();
    while (!last && !response.destroyed) {
      const next = servedCall.run(call, () => iterator.next());
      const { done, value } = await race(call, next);
      if (done) last = { end: true };
      else await write({ item: encode(value) });
    }
  } catch (error) {
    await untilNoticed(error, call, response);
    last = { error: failureOf(error)[1] };
  }
  if (!last?.end) {
    // A generator that still runs ends when what it waits for ends.
    const ended = new Promise((resolve) => resolve(iterator?.return?.()));
    ended.catch((error) => log.error("the end of a stream failed", faultOf(error)));
  }
  if (last) response.end(`${toJson(last)}\n`);
}

/** Returns type and body of the output of a function. */
function outputOf(value) {
  if (value instanceof Output) return { type: value.contentType, body: value.body };
  if (value === undefined) return { type: BYTES_TYPE, body: "" };
  if (value instanceof Uint8Array) return { type: BYTES_TYPE, body: value };
  if (typeof value === "string") return { type: TEXT_TYPE, body: value };
  return { type: JSON_TYPE, body: JSON.stringify(value) };
}

/** Returns status and body of the response to a call that failed. */
function failureOf(error) {
  if (error instanceof Rejected) return [error.status, error];
  if (error instanceof PluginError) {
    try {
      JSON.stringify(error);
      return [422, error];
    } catch (invalid) {
      return failureOf(invalid); // Of its details.
    }
  }
  if (error instanceof Unhealthy) return [503, error.failure];
  return [500, { code: 500, message: "panicked", fault: faultOf(error) }];
}

/** Returns the message of a value that was thrown, and where. */
function faultOf(error) {
  const stack = textOf(() => error?.stack);
  const [, location] = stack.match(/(?:file:\/\/)?(\/[^\n()]+:\d+:\d+)/) ?? [];
  return { message: textOf(() => withCauses(error)), location };
}

/** Returns the text of an error with those of its causes: an error of `fetch` has only a cause. */
function withCauses(error) {
  const text = String(error);
  try {
    const seen = new Set([error]);
    const add = (causes) => {
      for (const cause of causes) {
        if (cause == null || seen.has(cause) || seen.size > MAX_CAUSES) continue;
        seen.add(cause);
        // What failed at several addresses has no message.
        add([cause.cause, ...(cause.errors ?? [])]);
      }
    };
    add([error?.cause]);
    return [text, ...[...seen].slice(1).map((cause) => textOf(() => cause))].join("; caused by ");
  } catch {
    return text;
  }
}

/** Returns a value as text. What was thrown may be any value, also one that throws by itself. */
function textOf(read) {
  try {
    return String(read());
  } catch {
    return "a value without text";
  }
}

/**
 * Waits until the host closes the connection, if the call has failed because it is cancelled. The
 * host notices a deadline on its own, maybe slightly later than the plugin.
 */
async function untilNoticed(error, call, response) {
  if (!call?.cancelled || error !== call.signal.reason || response.destroyed) return;
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, CANCELLED_GRACE_MS);
    response.on("close", () => resolve(clearTimeout(timer)));
  });
}

function readBody(request, maxBytes) {
  const length = request.headers["content-length"];
  const tooLarge = () => new Rejected(413, `body too large: expected at most ${maxBytes} bytes`);
  if (Number(length) > maxBytes) return Promise.reject(tooLarge());
  return new Promise((resolve, reject) => {
    const parts = [];
    let size = 0;
    request.on("data", (part) => {
      size += part.length;
      if (size > maxBytes) reject(tooLarge());
      else parts.push(part);
    });
    request.on("end", () => resolve(Buffer.concat(parts)));
    request.on("error", reject);
    request.on("close", () => reject(new Rejected(400, "incomplete body")));
  });
}

/** Responds to bytes that are not HTTP. */
function rejectInvalid(error, socket) {
  if (error.code === "ECONNRESET" || !socket.writable) return socket.destroy();
  const status = error.code === "HPE_HEADER_OVERFLOW" ? 431 : 400;
  const body = JSON.stringify(new Rejected(status, `invalid request: ${error.message}`));
  const head = `HTTP/1.1 ${status} -\r\nContent-Type: ${JSON_TYPE}\r\nConnection: close\r\n`;
  return socket.end(`${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
}

/** Listens on a socket or port; returns the location, and adds the files to `files`. */
async function listen(http, id, type, files) {
  const listening = (...where) => new Promise((resolve, reject) => {
    http.once("error", reject).listen(...where, () => resolve(http.address()));
  });
  if (type === "tcp") {
    const { port } = await listening(0, "127.0.0.1");
    return `http://127.0.0.1:${port}`;
  }
  const folder = process.env.HOTBAY_SOCKET_DIR;
  const name = folder ? `${randomBytes(8).toString("hex")}.socket` : `${id}-plugin.socket`;
  const path = join(folder || process.env.TMPDIR || "/tmp", name);
  const lock = `${path}.lock`;
  if (existsSync(path)) removeStale(path, lock);
  const mask = process.umask(0o077); // Only this user may connect.
  const listened = listening(path);
  process.umask(mask);
  files.push(path, lock);
  writeFileSync(lock, `${process.pid}`);
  await listened;
  return `http+unix://${path}`;
}

/** Removes the files of a process that has exited; exits if the socket may be in use. */
function removeStale(path, lock) {
  const refuse = (message) => {
    process.stderr.write(`${message}\n`);
    process.exit(1);
  };
  try {
    const owner = Number.parseInt(readFileSync(lock, "utf8"), 10);
    process.kill(owner, 0);
    refuse(`socket \`${path}\` is in use by process ${owner}`);
  } catch (error) {
    if (error.code !== "ESRCH") {
      const reason = `with an unknown owner (${error.message}); remove it`;
      refuse(`socket \`${path}\` already exists, ${reason}`);
    }
    [path, lock].forEach((file) => unlinkSync(file));
  }
}

/** Returns the start configuration: of the arguments, the file, or the environment. */
function startConfig(args) {
  const [first, second] = args;
  if (args.length === 2 && first === "--config") return second;
  if (args.length === 1 && first.startsWith("--config=")) return first.slice("--config=".length);
  if (args.length > 0) throw new Error(`unexpected arguments: ${args.join(" ")}`);
  const { HOTBAY_CONFIG_FILE: file, HOTBAY_CONFIG: found } = process.env;
  if (file) return readFileSync(file, "utf8");
  if (found === undefined) throw new Error("expected `--config JSON` or HOTBAY_CONFIG");
  return found;
}

function parseSettings(source) {
  const given = JSON.parse(source);
  const { id, type = "unix" } = given;
  if (!["unix", "tcp"].includes(type)) throw new Error(`expected unix or tcp, found \`${type}\``);
  if (id?.includes("/")) throw new Error("expected no `/` in `id`, since a file is named after it");
  const entry = (given.configTypes ?? []).find((found) => found.type === "hotbay/v1");
  const config = entry?.data ? JSON.parse(Buffer.from(entry.data, "base64").toString()) : {};
  if (!isObject(config)) throw new Error("expected an object as the data of `hotbay/v1`");
  return { id, type, config, idleTimeout: milliseconds(given.idleTimeout ?? DEFAULT_IDLE_TIMEOUT) };
}

/** Converts nanoseconds, or a text such as `1h30m`, to milliseconds. */
function milliseconds(duration) {
  if (typeof duration === "number") return duration / 1e6;
  const parts = [...duration.matchAll(/([\d.]+)(ns|us|µs|ms|s|m|h)/g)];
  const isWhole = parts.length > 0 && parts.map(([part]) => part).join("") === duration;
  if (!isWhole && duration !== "0") throw new Error(`invalid duration \`${duration}\``);
  return parts.reduce((sum, [, number, unit]) => sum + Number(number) * UNIT_MS[unit], 0);
}

function wholeNumber(headers, name) {
  const found = headers[name];
  if (found !== undefined && !/^\d+$/.test(found)) {
    const expected = "expected a whole number";
    throw new Rejected(400, `invalid header ${name}: ${expected}, found \`${found}\``);
  }
  return found;
}

/** Compares in constant time. */
function isEqual(given, expected) {
  const [one, other] = [Buffer.from(given), Buffer.from(expected)];
  return one.length === other.length && timingSafeEqual(one, other);
}

/** Shows values that JSON lacks as text. */
function shownValue(_, value) {
  return typeof value === "bigint" || typeof value === "symbol" ? String(value) : value;
}

/** What the tests of this file use. Not part of the SDK. */
export const internal = { milliseconds, parseJson, parseType, toJson };
