//! Runs the example on real plugins.

use std::process::{Command, Output};

use hotbay_tests::Plugins;

#[allow(clippy::disallowed_methods, reason = "tests start the program")]
fn run(plugins: &Plugins, arguments: [&str; 2]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_minimal"));
    program.arg(plugins.dir()).args(arguments).output().expect("the program starts")
}

#[test]
fn plugin_of_the_folder_is_called() {
    let plugins = Plugins::new();
    plugins.add("transform", "transform").write();
    let output = run(&plugins, ["transform", "hello"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "HELLO\n");
}

#[test]
fn refused_and_unknown_plugins_are_reported() {
    let plugins = Plugins::new();
    plugins.add("damaged", "transform").stale_digest().bytes(|bytes| bytes.truncate(1000)).write();
    let output = run(&plugins, ["transform", "hello"]);
    assert!(!output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("plugin `damaged`"), "{stderr}");
    assert!(stderr.contains("plugin `transform` not found"), "{stderr}");
}
