//! `hotbay build --watch` of crates: which changes are built without cargo, and that the installed
//! library is always that of the current sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hotbay_tests::{Plugins, library_file_name, until};

use crate::build::Watch;
use crate::command::command;

/// A workspace with the plugins `a` and `b`, which link the crate `dep`. None depends on the SDK, so
/// that they compile quickly.
struct Crates {
    root: Plugins,
}

/// How a round built a plugin, as its line of durations says.
const REPLAYED: &str = ", rustc ";
const BY_CARGO: &str = ", cargo ";

impl Crates {
    fn new() -> Self {
        let crates = Self { root: Plugins::new() };
        let workspace =
            "[workspace]\nmembers = [\"plugins/a\", \"plugins/b\", \"dep\"]\nresolver = \"3\"\n";
        crates.write("Cargo.toml", workspace);
        crates.write("dep/Cargo.toml", &package("dep", ""));
        crates.write("dep/src/lib.rs", "pub const TEXT: &str = \"dep 1\";\n");
        for name in ["a", "b"] {
            let more = "[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n[dependencies]\ndep = { path = \"../../dep\" }\n";
            crates.write(&format!("plugins/{name}/Cargo.toml"), &package(name, more));
            let manifest = format!(
                r#"{{"name": "{name}", "version": "0.1.0", "api": "^1.0", "library": "{name}"}}"#
            );
            crates.write(&format!("plugins/{name}/plugin.json"), &manifest);
            crates.write(&format!("plugins/{name}/src/lib.rs"), &source("first"));
        }
        // Written by the first build otherwise, which then reads an older state.
        let locked = crates.cargo(&["generate-lockfile", "--offline"]);
        assert!(locked.status.success(), "{locked:?}");
        crates
    }

    fn here(&self) -> &Path {
        self.root.dir()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.here().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // At once, as editors do.
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    /// Starts a watch whose plugins are built.
    fn watch(&self) -> Watch {
        self.watch_with(|_| {})
    }

    fn watch_with(&self, configure: impl FnOnce(&mut Command)) -> Watch {
        let args = ["build", "plugins", "--out", "out", "--watch"];
        let mut command = command(self.here(), &args);
        command.env_remove("CARGO_TARGET_DIR");
        configure(&mut command);
        let watch = Watch::start_with(command);
        watch.wait_for("watching 2 plugins");
        watch
    }

    /// Waits until the library of `plugin` contains this text.
    fn installed(&self, plugin: &str, text: &str) {
        let file = self.here().join("out").join(plugin).join(library_file_name(plugin));
        contains(&file, text);
    }

    #[allow(clippy::disallowed_methods, reason = "compares with cargo")]
    fn cargo(&self, args: &[&str]) -> Output {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(args).current_dir(self.here()).env_remove("CARGO_TARGET_DIR");
        cargo.output().unwrap()
    }

    /// Changes the source of `a`, and waits until it is built this way and installed.
    fn changes(&self, watch: &Watch, text: &str, how: &str) {
        self.write("plugins/a/src/lib.rs", &source(text));
        self.built(watch, text, how);
    }

    fn built(&self, watch: &Watch, text: &str, how: &str) {
        let lines = watch.wait_for("ms after the change");
        assert!(lines.last().unwrap().contains(how), "expected {how:?}: {lines:#?}");
        self.installed("a", text);
    }
}

fn contains(file: &Path, text: &str) {
    let contains = || {
        let bytes = fs::read(file).ok()?;
        bytes.windows(text.len()).any(|part| part == text.as_bytes()).then_some(())
    };
    until(&format!("`{}` contains {text:?}", file.display()), contains);
}

fn package(name: &str, more: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}")
}

/// Returns the source of a library that contains `text` and the text of `dep`.
fn source(text: &str) -> String {
    exporting(&format!("\"{text}\""))
}

fn exporting(text: &str) -> String {
    format!(
        "const TEXT: &str = {text};\n\
         #[unsafe(no_mangle)]\n\
         pub extern \"C\" fn texts(first: bool) -> *const u8 {{\n    \
             if first {{ TEXT.as_ptr() }} else {{ dep::TEXT.as_ptr() }}\n\
         }}\n"
    )
}

#[test]
fn changed_sources_are_built_without_cargo() {
    let crates = Crates::new();
    let watch = crates.watch();
    crates.changes(&watch, "second", REPLAYED);
    crates.installed("a", "dep 1");

    crates.write("plugins/a/src/part.rs", "pub const TEXT: &str = \"in a new file\";\n");
    watch.wait_for("ms after the change");
    let text = format!("mod part;\n{}", exporting("part::TEXT"));
    crates.write("plugins/a/src/lib.rs", &text);
    crates.built(&watch, "in a new file", REPLAYED);

    crates.write("plugins/a/src/part.txt", "included");
    watch.wait_for("ms after the change");
    crates.write("plugins/a/src/lib.rs", &exporting("include_str!(\"part.txt\")"));
    crates.built(&watch, "included", REPLAYED);
    crates.write("plugins/a/src/part.txt", "included again");
    crates.built(&watch, "included again", REPLAYED);
    crates.installed("b", "first");
}

#[test]
fn errors_are_printed_as_by_cargo_and_recovered_from() {
    let crates = Crates::new();
    let watch = crates.watch();
    crates.changes(&watch, "second", REPLAYED);
    let broken = source("third") + "fn unused() {}\npub fn broken() -> u8 { \"text\" }\n";
    crates.write("plugins/a/src/lib.rs", &broken);
    let lines = watch.wait_for("the last successful build stays installed");
    crates.installed("a", "second");

    let by_cargo = crates.cargo(&["build", "--package", "a", "--color", "never"]);
    assert!(!by_cargo.status.success());
    let by_cargo = String::from_utf8(by_cargo.stderr).unwrap();
    let messages = by_cargo.lines().skip_while(|line| !line.starts_with("error"));
    let messages: Vec<_> = messages.collect();
    assert!(messages.last().unwrap().starts_with("error: could not compile `a`"), "{by_cargo}");
    let printed = lines.join("\n");
    assert!(printed.contains(&messages.join("\n")), "{printed}\n---\n{by_cargo}");

    crates.changes(&watch, "third", REPLAYED);
}

#[test]
fn changed_manifest_or_settings_are_built_by_cargo() {
    let crates = Crates::new();
    let watch = crates.watch();
    crates.changes(&watch, "second", REPLAYED);
    let by_feature = exporting("if cfg!(feature = \"x\") { \"with x\" } else { \"without x\" }");
    crates.write("plugins/a/src/lib.rs", &by_feature);
    crates.built(&watch, "without x", REPLAYED);
    let manifest = fs::read_to_string(crates.here().join("plugins/a/Cargo.toml")).unwrap();
    let with_feature = format!("{manifest}[features]\ndefault = [\"x\"]\nx = []\n");
    crates.write("plugins/a/Cargo.toml", &with_feature);
    crates.built(&watch, "with x", BY_CARGO);
    crates.changes(&watch, "third", REPLAYED);

    // No change of these is noticed, but the next build takes them into account.
    crates.write(".cargo/config.toml", "[build]\nrustflags = [\"--cfg\", \"set\"]\n");
    let by_flag = exporting("if cfg!(set) { \"with flag\" } else { \"without flag\" }");
    crates.write("plugins/a/src/lib.rs", &by_flag);
    crates.built(&watch, "with flag", BY_CARGO);
    crates.changes(&watch, "fourth", REPLAYED);
}

#[test]
fn invalid_manifest_is_reported_once() {
    let crates = Crates::new();
    let watch = crates.watch();
    let manifest = fs::read_to_string(crates.here().join("plugins/a/Cargo.toml")).unwrap();
    crates.write("plugins/a/Cargo.toml", "[package\n");
    let mut lines = watch.wait_for("the last successful build stays installed");
    // Affects no plugin, but what is watched is determined again.
    crates.write("plugins/a/tests/unused.rs", "");
    crates.write("plugins/a/Cargo.toml", &manifest);
    lines.extend(watch.wait_for("ms after the change"));
    // Cargo's own error, and that of the plugin.
    let errors = lines.iter().filter(|line| line.starts_with("error")).count();
    assert_eq!(errors, 2, "{lines:#?}");
}

#[test]
fn library_is_not_installed_as_program() {
    let crates = Crates::new();
    let watch = crates.watch();
    crates.changes(&watch, "second", REPLAYED);
    let manifest =
        r#"{"name": "a", "version": "0.1.0", "api": "^1.0", "kind": "process", "command": ["a"]}"#;
    crates.write("plugins/a/plugin.json", manifest);
    watch.wait_for("the last successful build stays installed");
    assert!(!crates.here().join("out/a/a").exists());
    crates.installed("a", "second");
}

#[test]
fn changed_dependency_is_built_by_cargo() {
    let crates = Crates::new();
    let watch = crates.watch();
    crates.changes(&watch, "second", REPLAYED);
    crates.write("dep/src/lib.rs", "pub const TEXT: &str = \"dep 2\";\n");
    for _ in 0..2 {
        let lines = watch.wait_for("ms after the change");
        assert!(lines.last().unwrap().contains(BY_CARGO), "{lines:#?}");
    }
    crates.installed("a", "dep 2");
    crates.installed("b", "dep 2");
    crates.changes(&watch, "third", REPLAYED);
    crates.installed("a", "dep 2");
}

#[test]
fn deleted_target_folder_is_built_by_cargo() {
    let crates = Crates::new();
    let watch = crates.watch();
    crates.changes(&watch, "second", REPLAYED);
    fs::remove_dir_all(crates.here().join("target")).unwrap();
    crates.changes(&watch, "third", BY_CARGO);
    crates.changes(&watch, "fourth", REPLAYED);
}

#[test]
fn cargo_builds_current_sources_after_replays() {
    let crates = Crates::new();
    let watch = crates.watch();
    crates.changes(&watch, "second", REPLAYED);
    crates.changes(&watch, "first", REPLAYED);
    crates.changes(&watch, "third", REPLAYED);
    let built = crates.cargo(&["build", "--package", "a"]);
    assert!(built.status.success(), "{built:?}");
    let file: PathBuf = crates.here().join("target/debug").join(library_file_name("a"));
    contains(&file, "third");
    // With the watch's own settings, cargo has only built the first sources so far.
    let manifest = fs::read_to_string(crates.here().join("plugins/a/Cargo.toml")).unwrap();
    crates.write("plugins/a/Cargo.toml", &(manifest + "# changed\n"));
    crates.built(&watch, "third", BY_CARGO);
}

#[test]
fn plugins_changed_at_once_are_both_built() {
    let crates = Crates::new();
    let watch = crates.watch();
    crates.write("plugins/b/src/lib.rs", &source("b 2"));
    crates.write("plugins/a/src/lib.rs", &source("a 2"));
    crates.installed("a", "a 2");
    crates.installed("b", "b 2");
    for _ in 0..2 {
        let lines = watch.wait_for("ms after the change");
        assert!(lines.last().unwrap().contains(REPLAYED), "{lines:#?}");
    }
}

#[test]
fn crate_whose_build_script_reads_sources_needs_cargo() {
    let crates = Crates::new();
    // Without `rerun-if-changed`, every file of the crate counts.
    let script = "fn main() {\n    let text = std::fs::read_to_string(\"src/lib.rs\").unwrap();\n    \
                  println!(\"cargo::rustc-env=LENGTH=length {}\", text.len());\n}\n";
    crates.write("plugins/a/build.rs", script);
    let watch = crates.watch();
    let text = exporting("env!(\"LENGTH\")");
    for more in ["", "// longer\n"] {
        let text = format!("{text}{more}");
        crates.write("plugins/a/src/lib.rs", &text);
        crates.built(&watch, &format!("length {}", text.len()), BY_CARGO);
    }
}

#[test]
fn crate_whose_build_script_always_runs_needs_cargo() {
    let crates = Crates::new();
    // Cargo runs a script each time if a file that it names is missing.
    let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=missing\");\n    \
                  let text = std::fs::read_to_string(\"src/lib.rs\").unwrap();\n    \
                  println!(\"cargo::rustc-env=LENGTH=length {}\", text.len());\n}\n";
    crates.write("plugins/a/build.rs", script);
    let watch = crates.watch();
    let text = exporting("env!(\"LENGTH\")");
    for more in ["", "// longer\n"] {
        let text = format!("{text}{more}");
        crates.write("plugins/a/src/lib.rs", &text);
        crates.built(&watch, &format!("length {}", text.len()), BY_CARGO);
    }
}

#[test]
fn time_of_change_during_a_build_is_that_of_its_report() {
    let crates = Crates::new();
    // The build of `a` waits until the source of `b` has changed.
    let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=wait\");\n    \
                  while std::path::Path::new(\"wait\").exists() {\n        \
                  std::thread::sleep(std::time::Duration::from_millis(10));\n    }\n}\n";
    crates.write("plugins/a/build.rs", script);
    let watch = crates.watch();
    let manifest = fs::read_to_string(crates.here().join("plugins/a/Cargo.toml")).unwrap();
    crates.write("plugins/a/wait", "");
    crates.write("plugins/a/Cargo.toml", &manifest);
    watch.wait_for("changed");
    crates.write("plugins/b/src/lib.rs", &source("b 2"));
    fs::remove_file(crates.here().join("plugins/a/wait")).unwrap();
    watch.wait_for("ms after the change");
    let lines = watch.wait_for("ms after the change");
    assert!(lines.last().unwrap().contains(": earlier build "), "{lines:#?}");
    crates.installed("b", "b 2");
}

#[test]
fn user_wrapper_of_the_compiler_is_kept() {
    let crates = Crates::new();
    let watch = crates.watch_with(|command| {
        // Becomes its arguments, as a wrapper does.
        command.env("RUSTC_WORKSPACE_WRAPPER", "env");
    });
    crates.changes(&watch, "second", BY_CARGO);
    crates.changes(&watch, "third", BY_CARGO);
}
