#!/usr/bin/env node
// The plugin `{{name}}`: takes a name as text and returns a greeting.
import { realpathSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { Plugin, PluginError, text } from "./hotbay.mjs";

export const plugin = new Plugin("{{name}}", "{{version}}");

/** Greets the person that the input names. */
export function greet(input) {
  const name = text(input).trim();
  if (!name) throw new PluginError(400, "empty input: expected a name");
  return `${plugin.config.greeting ?? "Hello"}, ${name}!`;
}

plugin.execute(greet);

// Not when a test imports it. The path of a program may have links, the URL of a module has none.
if (import.meta.url === pathToFileURL(realpathSync(process.argv[1])).href) await plugin.run();
