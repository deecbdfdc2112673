//! Help, usage errors, completion scripts and man pages.

use std::fs;

use hotbay_tests::Plugins;
use snapbox::{file, str};

use crate::command::{assert_shows, examples, hotbay};

#[test]
fn help_describes_every_subcommand() {
    let plugins = Plugins::new();
    let help = |args: &[&str]| hotbay(plugins.dir(), args).exits(0);
    help(&["--help"]).shows(file!["snapshots/help.txt"]);
    help(&["new", "--help"]).shows(file!["snapshots/help-new.txt"]);
    help(&["build", "--help"]).shows(file!["snapshots/help-build.txt"]);
    help(&["list", "--help"]).shows(file!["snapshots/help-list.txt"]);
    help(&["inspect", "--help"]).shows(file!["snapshots/help-inspect.txt"]);
    help(&["contract", "--help"]).shows(file!["snapshots/help-contract.txt"]);
    help(&["contract", "show", "--help"]).shows(file!["snapshots/help-contract-show.txt"]);
    help(&["contract", "diff", "--help"]).shows(file!["snapshots/help-contract-diff.txt"]);
    help(&["check", "--help"]).shows(file!["snapshots/help-check.txt"]);
    help(&["seal", "--help"]).shows(file!["snapshots/help-seal.txt"]);
    help(&["sign", "--help"]).shows(file!["snapshots/help-sign.txt"]);
    help(&["call", "--help"]).shows(file!["snapshots/help-call.txt"]);
    help(&["pipe", "--help"]).shows(file!["snapshots/help-pipe.txt"]);
    help(&["run", "--help"]).shows(file!["snapshots/help-run.txt"]);
    help(&["completions", "--help"]).shows(file!["snapshots/help-completions.txt"]);
    help(&["man", "--help"]).shows(file!["snapshots/help-man.txt"]);
}

#[test]
fn short_help_lists_subcommands_and_options() {
    let plugins = Plugins::new();
    hotbay(plugins.dir(), &["-h"]).exits(0).shows(file!["snapshots/help-short.txt"]);
    let short = hotbay(plugins.dir(), &["-h"]).exits(0).text();
    let none = hotbay(plugins.dir(), &[]).exits(2);
    assert_eq!((none.text(), none.stderr), (String::new(), short));
    let long = hotbay(plugins.dir(), &["--help"]).exits(0).text();
    assert_eq!(hotbay(plugins.dir(), &["help"]).exits(0).text(), long);
}

#[test]
fn usage_errors_and_failures_have_distinct_exit_codes() {
    let plugins = examples();
    let fails = |code: i32, args: &[&str]| hotbay(plugins.dir(), args).exits(code);
    fails(2, &["cal"]).shows(str![[r#"
$ hotbay cal
--- stderr
error: unrecognized subcommand 'cal'

  tip: some similar subcommands exist: 'seal', 'call'

Usage: hotbay [OPTIONS] <COMMAND>

For more information, try '--help'.
--- exit code 2
"#]]);
    fails(2, &["call"]).shows(str![[r#"
$ hotbay call
--- stderr
error: the following required arguments were not provided:
  <PLUGIN>

Usage: hotbay call <PLUGIN>

For more information, try '--help'.
--- exit code 2
"#]]);
    fails(2, &["call", "transform", "--text", "a", "--input", "b"]).shows(str![[r#"
$ hotbay call transform --text a --input b
--- stderr
error: the argument '--text <STRING>' cannot be used with '--input <FILE>'

Usage: hotbay call --text <STRING> <PLUGIN>

For more information, try '--help'.
--- exit code 2
"#]]);
    fails(2, &["call", "transform", "--text", "a", "--repeat", "0"]).shows(str![[r#"
$ hotbay call transform --text a --repeat 0
--- stderr
error: invalid value '0' for '--repeat <N>': 0 is not in 1..18446744073709551615

For more information, try '--help'.
--- exit code 2
"#]]);
    fails(2, &["pipe"]).shows(str![[r#"
$ hotbay pipe
--- stderr
error: the following required arguments were not provided:
  <PLUGIN>...

Usage: hotbay pipe <PLUGIN>...

For more information, try '--help'.
--- exit code 2
"#]]);
    fails(2, &["seal"]).shows(str![[r#"
$ hotbay seal
--- stderr
error: the following required arguments were not provided:
  <FOLDER>...

Usage: hotbay seal <FOLDER>...

For more information, try '--help'.
--- exit code 2
"#]]);
    fails(2, &["list", "--color"]).shows(str![[r#"
$ hotbay list --color
--- stderr
error: unexpected argument '--color' found

Usage: hotbay list [OPTIONS]

For more information, try '--help'.
--- exit code 2
"#]]);
    fails(2, &["completions", "tcsh"]).shows(str![[r#"
$ hotbay completions tcsh
--- stderr
error: invalid value 'tcsh' for '<SHELL>'
  [possible values: bash, elvish, fish, powershell, zsh]

  tip: a similar value exists: 'zsh'

For more information, try '--help'.
--- exit code 2
"#]]);
    fails(1, &["call", "missing", "--text", "a"]).shows(str![[r#"
$ hotbay call missing --text a
--- stderr
error: plugin `missing` not found in `plugins`
  hint: run `hotbay list` to see all plugins
--- exit code 1
"#]]);
    fails(0, &["help", "call"]);
    fails(0, &["--version"]).shows(str![[r#"
$ hotbay --version
hotbay [VER]
"#]]);
}

#[test]
fn completion_script_names_every_subcommand() {
    let plugins = Plugins::new();
    let verbs =
        ["new", "build", "list", "inspect", "contract", "check", "seal", "call", "pipe", "run"];
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = hotbay(plugins.dir(), &["completions", shell]).exits(0).text();
        for verb in verbs {
            assert!(script.contains(verb), "`{verb}` in the script for {shell}");
        }
    }
}

#[test]
fn man_pages_cover_every_subcommand() {
    let plugins = Plugins::new();
    let page = hotbay(plugins.dir(), &["man"]).exits(0).text();
    assert!(page.contains(".SH SYNOPSIS") && page.contains("hotbay"), "{page}");
    assert_eq!(hotbay(plugins.dir(), &["man", "--out", "pages"]).exits(0).text(), "");
    let pages = fs::read_dir(plugins.dir().join("pages")).unwrap();
    let name = |page: std::io::Result<fs::DirEntry>| page.unwrap().file_name().into_string();
    let mut names: Vec<_> = pages.map(|page| name(page).unwrap()).collect();
    names.sort();
    assert_shows(
        &names.join("\n"),
        plugins.dir(),
        str![[r#"
hotbay-build.1
hotbay-call.1
hotbay-check.1
hotbay-completions.1
hotbay-config-check.1
hotbay-config-schema.1
hotbay-config-show.1
hotbay-config.1
hotbay-contract-diff.1
hotbay-contract-show.1
hotbay-contract.1
hotbay-doctor.1
hotbay-inspect.1
hotbay-list.1
hotbay-man.1
hotbay-new.1
hotbay-pipe.1
hotbay-run.1
hotbay-seal.1
hotbay-sign.1
hotbay.1
"#]],
    );
}
