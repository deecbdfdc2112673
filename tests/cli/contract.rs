//! `hotbay contract`: the text of a plugin's contracts, and comparisons of two versions.

use std::fs;

use hotbay_tests::Plugins;
#[cfg(unix)]
use hotbay_tests::ProgramFolder;
#[cfg(unix)]
use serde_json::json;
use snapbox::str;

use crate::command::{examples, hotbay};

/// Returns folders with plugins that serve `text-analysis` 1.0 and 1.1.
fn analysts() -> Plugins {
    let plugins = Plugins::new();
    plugins.add("old", "analyst-old").write();
    plugins.add("new", "analyst").write();
    plugins
}

#[test]
fn inspect_prints_contracts() {
    let plugins = analysts();
    hotbay(plugins.dir(), &["inspect", "./old"]).exits(0).shows(str![[r#"
$ hotbay inspect ./old
old [VER] (library)
  folder         ./old
  requires API   ^1.0
  package        analyst-old [VER]
  built for API  [API]
  compiler       rustc [RUSTC]
  target         [TARGET], panic=unwind
  library        [ROOT]/old/libanalyst_old.so
  bytes          [BYTES]
  SHA-256        [DIGEST]
  digest         matches the manifest
  links          [NAMES]
  exports        [NAMES]
  contract       text-analysis 1.0
    fn words(text: string) -> u32
    fn score(a: f64, b: f64) -> f64
    fn sum(numbers: [f64]) -> f64
    fn lengths(texts: [string]) -> [u32]
    fn shout(text: string?) -> string?
    fn move_by(point: plain Point { x: f64, y: f64 }, by: plain Point { x: f64, y: f64 }) -> plain Point { x: f64, y: f64 }
    fn enrich(record: Record { text: string, words: u64?, tags: map<string, i64> }) -> Record { text: string, words: u64?, tags: map<string, i64> }
    fn fail(how: enum Failure { Error, Panic, None }) -> u32
    fn limits() -> (bool, bool)
    fn store(text: string) -> unit
    fn wait() -> unit
state: ready
"#]]);
    let json = hotbay(plugins.dir(), &["inspect", "./new", "--json"]).exits(0).json();
    let contract = &json["contracts"][0];
    assert_eq!(
        (contract["name"].as_str(), contract["version"].as_str()),
        (Some("text-analysis"), Some("1.1"))
    );
    let methods = contract["methods"].as_array().unwrap();
    let method = |name| methods.iter().find(|method| method["name"] == name).unwrap();
    assert_eq!(method("words")["signature"], "fn words(text: string) -> u64");
    assert_eq!(method("store")["permission"], "write");
    assert_eq!(method("top")["since"], "1.1");
    assert_eq!(method("top")["has_default"], true);
}

#[test]
fn contract_show_prints_text_that_diff_reads() {
    let plugins = analysts();
    let shown = hotbay(plugins.dir(), &["contract", "show", "old"]).exits(0);
    shown.shows(str![[r#"
$ hotbay contract show old
contract text-analysis 1.0
fn words(text: string) -> u32
fn score(a: f64, b: f64) -> f64
fn sum(numbers: [f64]) -> f64
fn lengths(texts: [string]) -> [u32]
fn shout(text: string?) -> string?
fn move_by(point: plain Point { x: f64, y: f64 }, by: plain Point { x: f64, y: f64 }) -> plain Point { x: f64, y: f64 }
fn enrich(record: Record { text: string, words: u64?, tags: map<string, i64> }) -> Record { text: string, words: u64?, tags: map<string, i64> }
fn fail(how: enum Failure { Error, Panic, None }) -> u32
fn limits() -> (bool, bool)
fn store(text: string) -> unit
fn wait() -> unit
"#]]);
    fs::write(plugins.dir().join("old.txt"), &shown.stdout).unwrap();
    let library = "old/libanalyst_old.so";
    for same in ["old", "old/plugin.json", library, "old.txt"] {
        let text = hotbay(plugins.dir(), &["contract", "show", same]).exits(0).text();
        assert_eq!(text, shown.text(), "{same}");
        let diff = hotbay(plugins.dir(), &["contract", "diff", "old.txt", same]).exits(0);
        assert_eq!(diff.text(), "text-analysis 1.0: unchanged\n");
    }
    let json = hotbay(plugins.dir(), &["contract", "show", "old", "--json"]).exits(0).json();
    assert_eq!(json["contracts"][0]["name"], "text-analysis");
}

#[test]
fn contract_of_installed_plugin_is_shown_beside_its_source() {
    let root = Plugins::new();
    let installed = root.dir().join("target/plugins");
    fs::create_dir_all(&installed).unwrap();
    root.add_in("target/plugins/greet", "greet", "analyst-old").write();
    fs::create_dir(root.dir().join("greet")).unwrap();
    let manifest = root.dir().join("greet/plugin.json");
    fs::copy(installed.join("greet/plugin.json"), manifest).unwrap();
    let show = |plugin: &str| hotbay(root.dir(), &["contract", "show", plugin]);
    assert_eq!(show("greet").exits(0).text(), show("target/plugins/greet").exits(0).text());
    // A path is that of the source.
    show("./greet").exits(1);
}

#[test]
fn contract_diff_of_libraries_finds_breaking_changes() {
    let plugins = analysts();
    hotbay(plugins.dir(), &["contract", "diff", "old", "new"]).exits(1).shows(str![[r#"
$ hotbay contract diff old new
text-analysis 1.0 -> 1.1: 2 added, 1 changed, 1 compatible, 2 breaking
  breaking    words
      hosts with 1.0 cannot call plugins with 1.1: result: `u64` cannot be read as `u32`
      old: fn words(text: string) -> u32
      new: fn words(text: string) -> u64
  breaking    lengths
      hosts with 1.0 cannot call plugins with 1.1: result: `u64` cannot be read as `u32`
      old: fn lengths(texts: [string]) -> [u32]
      new: fn lengths(texts: [string]) -> [u64]
  compatible  enrich
      old: fn enrich(record: Record { text: string, words: u64?, tags: map<string, i64> }) -> Record { text: string, words: u64?, tags: map<string, i64> }
      new: fn enrich(record: Record { text: string, words: u64?, tags: map<string, i64>, added: bool = default }) -> Record { text: string, words: u64?, tags: map<string, i64>, added: bool = default }
  changed     store
      old: fn store(text: string) -> unit
      new: #permission write fn store(text: string) -> unit
  added       top
      new: #since 1.1 #default fn top(text: string, n: u32) -> [Word { text: string, count: u64 }]
  added       longest
      new: #since 1.1 fn longest(text: string) -> string
--- stderr
hint: contract `text-analysis` needs version 2.0
--- exit code 1
"#]]);
    let diff = ["contract", "diff", "old", "new", "--json"];
    let json = hotbay(plugins.dir(), &diff).exits(1).json();
    assert_eq!(json["allowed"], false);
    let contract = &json["contracts"][0];
    assert_eq!((&contract["old"], &contract["new"]), (&"1.0".into(), &"1.1".into()));
    assert_eq!(contract["methods"][0]["change"], "breaking");
}

#[test]
fn contract_diff_of_texts_names_every_change() {
    let plugins = Plugins::new();
    let write = |name: &str, text: &str| fs::write(plugins.dir().join(name), text).unwrap();
    write("1.0.txt", "contract a 1.0\nfn f(n: u32) -> u64\nfn g() -> string\nfn h() -> unit\n");
    let added = "#since 1.1 fn i() -> unit\n";
    let compatible = "contract a 1.1\nfn f(n: u32, max: u32?) -> u64\nfn g() -> string\n\
                      #permission write fn h() -> unit\n";
    write("1.1.txt", &format!("{compatible}{added}contract b 1.0\n"));
    hotbay(plugins.dir(), &["contract", "diff", "1.0.txt", "1.1.txt"]).exits(0).shows(str![[r#"
$ hotbay contract diff 1.0.txt 1.1.txt
a 1.0 -> 1.1: 1 added, 1 changed, 1 compatible
  compatible  f
      old: fn f(n: u32) -> u64
      new: fn f(n: u32, max: u32?) -> u64
  changed     h
      old: fn h() -> unit
      new: #permission write fn h() -> unit
  added       i
      new: #since 1.1 fn i() -> unit
b 1.0: added
"#]]);
    write("breaking.txt", "contract a 1.1\nfn f(n: string) -> u64\nfn h() -> unit\nfn i() -> u8\n");
    hotbay(plugins.dir(), &["contract", "diff", "1.0.txt", "breaking.txt"]).exits(1).shows(str![[
        r#"
$ hotbay contract diff 1.0.txt breaking.txt
a 1.0 -> 1.1: 3 breaking
  breaking    f
      hosts with 1.1 cannot call plugins with 1.0: argument `n`: `string` cannot be read as `u32`
      hosts with 1.0 cannot call plugins with 1.1: argument `n`: `u32` cannot be read as `string`
      old: fn f(n: u32) -> u64
      new: fn f(n: string) -> u64
  breaking    i
      hosts with 1.1 cannot call plugins with 1.0: missing in the plugin, which serves version 1.0 of the contract
      new: fn i() -> u8
  breaking    g
      hosts with 1.0 cannot call plugins with 1.1: missing in the plugin, which serves version 1.1 of the contract
      old: fn g() -> string
--- stderr
hint: contract `a` needs version 2.0
--- exit code 1
"#
    ]]);
    write("unchanged.txt", "contract a 1.0\nfn f(n: u32) -> u32\nfn g() -> string\n");
    hotbay(plugins.dir(), &["contract", "diff", "1.0.txt", "unchanged.txt"]).exits(1).shows(str![[r#"
$ hotbay contract diff 1.0.txt unchanged.txt
a 1.0: 2 breaking
  breaking    f
      hosts with the new signature cannot call plugins with the old signature: result: `u64` cannot be read as `u32`
      old: fn f(n: u32) -> u64
      new: fn f(n: u32) -> u32
  breaking    h
      hosts with the old contract cannot call plugins with the new contract: missing in the plugin, which serves version 1.0 of the contract
      old: fn h() -> unit
--- stderr
hint: contract `a` needs version 2.0
--- exit code 1
"#]]);
    write("2.0.txt", "contract a 2.0\nfn f(n: string) -> u64\nfn g() -> string\nfn h() -> unit\n");
    hotbay(plugins.dir(), &["contract", "diff", "1.0.txt", "2.0.txt"]).exits(0).shows(str![[r#"
$ hotbay contract diff 1.0.txt 2.0.txt
a 1.0 -> 2.0: 1 breaking
  breaking    f
      hosts with 2.0 cannot call plugins with 1.0: argument `n`: `string` cannot be read as `u32`
      hosts with 1.0 cannot call plugins with 2.0: argument `n`: `u32` cannot be read as `string`
      old: fn f(n: u32) -> u64
      new: fn f(n: string) -> u64
"#]]);
    hotbay(plugins.dir(), &["contract", "diff", "2.0.txt", "1.0.txt"]).exits(1);
    write("none.txt", "// none\n");
    hotbay(plugins.dir(), &["contract", "diff", "1.0.txt", "none.txt"]).exits(1).shows(str![[r#"
$ hotbay contract diff 1.0.txt none.txt
a 1.0: removed, which is breaking
--- exit code 1
"#]]);
    hotbay(plugins.dir(), &["contract", "diff", "none.txt", "none.txt"]).exits(0).shows(str![[
        r#"
$ hotbay contract diff none.txt none.txt
no contracts
"#
    ]]);
}

#[test]
fn unreadable_contracts_are_errors() {
    let plugins = examples();
    let show = |plugin: &str| hotbay(plugins.dir(), &["contract", "show", plugin]).exits(1);
    show("transform").shows(str![[r#"
$ hotbay contract show transform
--- stderr
error: `transform` serves no contracts
  hint: export them with `export_plugin!(YourType, contracts = [YourTrait]);`
--- exit code 1
"#]]);
    show("missing.txt").shows(str![[r#"
$ hotbay contract show missing.txt
--- stderr
error: cannot read `missing.txt`
  because: No such file or directory (os error [ERRNO])
--- exit code 1
"#]]);
    show("missing").shows(str![[r#"
$ hotbay contract show missing
--- stderr
error: plugin `missing` not found in `plugins`
  hint: run `hotbay list` to see all plugins
--- exit code 1
"#]]);
    fs::write(plugins.dir().join("bad.txt"), "contract a 1.0\nfn f\n").unwrap();
    show("bad.txt").shows(str![[r#"
$ hotbay contract show bad.txt
--- stderr
error: `bad.txt` is not the text of contracts
  because: line 2, column 5: expected `(`
--- exit code 1
"#]]);
    fs::write(plugins.dir().join("bad.so"), b"\x7fELF\0").unwrap();
    show("./bad.so").shows(str![[r#"
$ hotbay contract show ./bad.so
--- stderr
error: cannot read the contracts of `./bad.so`
  because: the ELF header ends at byte 52, but the file has only 5 bytes
  hint: build or copy the file again; it may be incomplete
--- exit code 1
"#]]);
}

#[cfg(unix)]
#[test]
fn contracts_of_programs_are_unsupported() {
    let plugins = Plugins::new();
    let program = ProgramFolder::new(plugins.dir(), "served").built("served", "served");
    program.set("package", "served").install();
    hotbay(plugins.dir(), &["contract", "show", "served"]).exits(1).shows(str![[r#"
$ hotbay contract show served
--- stderr
error: cannot read the contracts of `served`
  because: it is a program, which describes its contracts only when it runs
  hint: run the program with the argument `capabilities`, which prints the text of its contracts; `hotbay check` calls their methods
--- exit code 1
"#]]);
    let methods = json!({ "ping": { "endpoint": "ping" }, "sum": { "endpoint": "execute" } });
    let provides = json!([{ "contract": "mapped", "version": "1.0.0", "methods": methods }]);
    let program = ProgramFolder::new(plugins.dir(), "old").set("package", "program");
    program.set("provides", provides).install();
    hotbay(plugins.dir(), &["contract", "show", "old"]).exits(1).shows(str![[r#"
$ hotbay contract show old
--- stderr
error: cannot read the contracts of `old`
  because: it is a program, which describes its contracts only when it runs; plugin.json maps contract `mapped` 1.0.0 onto endpoints, without types: ping -> ping, sum -> execute
  hint: run the program with the argument `capabilities`, which prints the text of its contracts; `hotbay check` calls their methods
--- exit code 1
"#]]);
}
