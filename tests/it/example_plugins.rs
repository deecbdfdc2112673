//! The example plugins: the test suite of the one in Python, a pipeline with one plugin of each kind,
//! and two of them linked into one program as ordinary crates.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hotbay::{Host, Output, Request};
use hotbay_tests::{Plugins, block_on, loaded};
use serde_json::json;

fn wordcount() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/wordcount")
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the plugin's tests are written in Python")]
fn python_plugin_passes_its_own_tests() {
    let output = Command::new("python3")
        .args(["-B", "-m", "unittest", "-q"])
        .current_dir(wordcount())
        .output()
        .expect("python3 starts; `wordcount` needs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pipeline_mixes_library_process_and_function() {
    let plugins = Plugins::new();
    let upper = plugins.add("upper", "transform").config(json!({ "mode": "upper" })).write();
    let folder = plugins.dir().join("wordcount");
    fs::create_dir(&folder).unwrap();
    for file in ["plugin.json", "wordcount.py"] {
        fs::copy(wordcount().join(file), folder.join(file)).unwrap();
    }
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .allow_unverified(true)
        .allow_writable_by_others(true)
        .register_fn("most", |_, input| {
            let counted: serde_json::Value = input.json()?;
            Ok(Output::text(counted["frequent"][0]["word"].as_str().unwrap_or("none")))
        })
        .build()
        .unwrap();
    loaded(&host, upper);
    loaded(&host, folder);
    let pipeline = host.pipeline(["upper", "wordcount", "most"]).unwrap();
    let reply =
        block_on(pipeline.run(Request::text("to be or not to be, that is to say"))).unwrap();
    assert_eq!(reply.as_text().unwrap(), "to");
}

/// A separate cargo call builds the program: a call that also builds the plugins would enable their
/// exports.
#[test]
#[allow(clippy::disallowed_methods, reason = "starts cargo")]
fn two_plugins_link_into_one_program() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tested = Command::new(cargo)
        .args(["test", "--package", "hotbay-linked", "--features", "linked"])
        .args(["--test", "linked", "--quiet"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    let output_text = String::from_utf8_lossy(&tested.stdout);
    let errors = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{output_text}\n{errors}");
    assert!(output_text.contains("3 passed"), "{output_text}");
}
