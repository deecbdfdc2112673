// Tests of the plugin: `node --test` in this folder.
import assert from "node:assert/strict";
import test from "node:test";
import { greet, plugin } from "./plugin.mjs";

function greeting(name, config = {}) {
  plugin.config = config;
  return greet(Buffer.from(name));
}

test("name is greeted", () => assert.equal(greeting("Ada\n"), "Hello, Ada!"));

test("greeting is configurable", () => {
  assert.equal(greeting("Ada", { greeting: "Salut" }), "Salut, Ada!");
});

test("empty name is rejected", () => assert.throws(() => greeting(" "), { code: 400 }));
