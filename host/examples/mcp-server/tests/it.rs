//! The server as a child process, with a client of the same library as its parent.

// Processes are found in `/proc`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test helpers are tests too")]

mod client;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use hotbay_tests::{
    Plugin, Plugins, ProgramFolder, has_interpreter, launch_folders, marked_processes, marks_below,
    until,
};
use rmcp::ServiceError;
use rmcp::model::{ErrorCode, SubscriptionFilter};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Client, Lifecycle, command, exists, run, text_of};

const BOTH: [Lifecycle; 2] = [Lifecycle::Initialize, Lifecycle::Discover];

/// A library that does what its arguments request.
fn scripted(plugins: &Plugins) -> Plugin {
    let schema = json!({ "type": "object", "properties": { "answers": { "type": "string" } } });
    let scripted = plugins.add("scripted", "faulty").config(json!({ "scripted": true }));
    scripted.set("description", "Does as requested").set("input_schema", schema)
}

/// The tool in Python of the example.
fn outline(plugins: &Plugins) -> ProgramFolder {
    let sdk = include_str!("../../../../plugin-api/python/hotbay.py");
    ProgramFolder::new(plugins.dir(), "outline")
        .set("description", "Lists headings")
        .file("outline.py")
        .bytes(include_bytes!("../tools/outline/outline.py").to_vec())
        .beside("hotbay.py", sdk)
}

fn path(file: &Path) -> Value {
    file.to_str().unwrap().into()
}

#[test]
fn tools_are_the_loaded_plugins() {
    let plugins = Plugins::new();
    plugins.add("text", "fragile").write();
    plugins.add("number", "faulty").set("input_schema", json!({ "type": "number" })).write();
    plugins.add("any", "faulty").set("input_schema", json!({ "minProperties": 1 })).write();
    scripted(&plugins).write();
    for lifecycle in BOTH {
        run(async {
            let client = Client::start(plugins.dir(), lifecycle).await;
            let tools = client.tools().await;
            let names: Vec<_> = tools.iter().map(|tool| &*tool.name).collect();
            assert_eq!(names, ["any", "scripted", "text"], "`number` takes no object");
            let schema = |index: usize| tools[index].schema_as_json_value();
            assert_eq!(schema(0), json!({ "type": "object", "minProperties": 1 }));
            assert_eq!(tools[1].description.as_deref(), Some("Does as requested"));
            assert_eq!(schema(1)["properties"]["answers"]["type"], "string");
            assert_eq!(tools[2].description, None);
            assert_eq!(schema(2)["required"], json!(["text"]));
            client.close().await;
        });
    }
}

#[test]
fn library_replies_and_fails_as_a_tool() {
    let plugins = Plugins::new();
    scripted(&plugins).write();
    plugins.add("fragile", "fragile").write();
    run(async {
        let client = Client::start(plugins.dir(), Lifecycle::Initialize).await;
        let reply = client.call("fragile", json!({ "text": "hello" })).await;
        assert_eq!((text_of(&reply), reply.is_error), ("hello", Some(false)));
        assert_eq!(reply.structured_content, None);
        let answer = json!({ "answers": r#"{ "n": 1.50 }"#, "content_type": "application/json" });
        let reply = client.call("scripted", answer).await;
        assert_eq!(text_of(&reply), r#"{ "n": 1.50 }"#, "the text is unchanged");
        assert_eq!(reply.structured_content, Some(json!({ "n": 1.5 })));

        // What a library prints would otherwise be in the line of the next message.
        let printed = json!({ "prints": "no message", "answers": "printed" });
        assert_eq!(text_of(&client.call("scripted", printed).await), "printed");

        let error = json!({ "code": 7, "message": "no such row", "details": { "row": 3 } });
        let reply = client.call("scripted", json!({ "error_in": "execute", "error": error })).await;
        assert_eq!((text_of(&reply), reply.is_error), ("error 7: no such row", Some(true)));
        let expected = json!({
            "kind": "plugin", "code": 7, "message": "no such row", "details": { "row": 3 },
            "retryable": false,
        });
        assert_eq!(reply.structured_content, Some(expected));

        let reply = client.call("fragile", json!({ "text": "boom" })).await;
        assert_eq!(reply.is_error, Some(true));
        assert!(text_of(&reply).starts_with("panicked: "), "{reply:?}");
        assert!(text_of(&reply).contains("the input contains `boom`"), "{reply:?}");
        let invalid = [("scripted", json!({ "answers": 1 })), ("fragile", json!({ "txt": "" }))];
        for (tool, arguments) in invalid {
            assert_eq!(client.failure(tool, arguments).await, "invalid_input");
        }
        match client.try_call("gone", json!({})).await {
            Err(ServiceError::McpError(error)) => {
                assert_eq!(error.code, ErrorCode::INVALID_PARAMS);
                assert_eq!(error.message, "tool `gone` not found");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(text_of(&client.call("fragile", json!({ "text": "still" })).await), "still");
        client.close().await;
    });
}

#[test]
fn python_program_is_a_tool() {
    if !has_interpreter("python3") {
        return;
    }
    let plugins = Plugins::new();
    outline(&plugins).install();
    run(async {
        let client = Client::start(plugins.dir(), Lifecycle::Initialize).await;
        let tools = client.tools().await;
        assert_eq!((tools.len(), &*tools[0].name), (1, "outline"));
        assert_eq!(tools[0].schema_as_json_value()["required"], json!(["text"]));
        let text = "# One #\n```\n# code\n```\n## Two\n### Three";
        let reply = client.call("outline", json!({ "text": text, "max_level": 2 })).await;
        let expected = json!({ "headings": [
            { "level": 1, "title": "One", "line": 1 },
            { "level": 2, "title": "Two", "line": 5 },
        ] });
        assert_eq!(reply.structured_content, Some(expected));
        let reply = client.call("outline", json!({ "text": "plain" })).await;
        assert_eq!(
            (text_of(&reply), reply.is_error),
            ("error 404: the text has no headings", Some(true))
        );
        let invalid = json!({ "text": "", "max_level": 9 });
        assert_eq!(client.failure("outline", invalid).await, "invalid_input");
        client.close().await;
    });
}

#[test]
fn replaced_plugin_changes_the_list() {
    for lifecycle in BOTH {
        let plugins = Plugins::new();
        plugins.add("tool", "faulty").set("description", "The first build").write();
        run(async {
            let mut client = Client::start(plugins.dir(), lifecycle).await;
            client.subscribe().await;
            assert_eq!(client.tools().await[0].description.as_deref(), Some("The first build"));
            let schema = json!({ "type": "object", "required": ["n"] });
            let next = plugins.add("tool", "faulty").set("description", "The second build");
            next.set("input_schema", schema.clone()).write();
            let tools = client
                .changed_until(|tools| tools[0].description.as_deref() != Some("The first build"))
                .await;
            assert_eq!(tools[0].description.as_deref(), Some("The second build"));
            assert_eq!(tools[0].schema_as_json_value(), schema);
            plugins.add("more", "fragile").write();
            let tools = client.changed_until(|tools| tools.len() == 2).await;
            assert_eq!(tools[0].name, "more");
            fs::remove_dir_all(plugins.dir().join("tool")).unwrap();
            let tools = client.changed_until(|tools| tools.len() == 1).await;
            assert_eq!(tools[0].name, "more");
            client.close().await;
        });
    }
}

#[test]
fn cancelled_request_cancels_the_call() {
    let plugins = Plugins::new();
    scripted(&plugins).write();
    let files = tempfile::tempdir().unwrap();
    let (entered, seen) = (files.path().join("entered"), files.path().join("seen"));
    run(async {
        let client = Client::start(plugins.dir(), Lifecycle::Initialize).await;
        let watch =
            json!({ "watch_call": "cancelled", "entered": path(&entered), "seen": path(&seen) });
        let request = client.send("scripted", watch).await;
        exists(&entered).await;
        request.cancel(Some("no longer needed".to_owned())).await.unwrap();
        exists(&seen).await;
        assert_eq!(text_of(&client.call("scripted", json!({ "answers": "next" })).await), "next");
        client.close().await;
    });
}

/// Returns a folder with a `hotbay.toml` for these plugins.
fn configured(plugins: &Plugins, settings: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    configure(
        folder.path(),
        &format!("plugin_dirs = ['{}']\n{settings}\n", plugins.dir().display()),
    );
    folder
}

fn configure(folder: &Path, config: &str) {
    let file = folder.join("hotbay.toml");
    fs::write(&file, config).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn configured_deadline_limits_a_call() {
    let plugins = Plugins::new();
    scripted(&plugins).write();
    let folder = configured(&plugins, "default_deadline = '50ms'");
    let release = folder.path().join("release");
    run(async {
        let client = Client::start(folder.path(), Lifecycle::Initialize).await;
        let hang = json!({ "hang_in": "execute", "release": path(&release) });
        assert_eq!(client.failure("scripted", hang).await, "deadline_exceeded");
        fs::write(&release, "").unwrap();
        client.close().await;
    });
}

#[test]
fn quarantined_plugin_stays_a_tool() {
    let plugins = Plugins::new();
    plugins.add("fragile", "fragile").write();
    let quarantine = "[quarantine]\nmax_faults = 1\ninitial_backoff = '1h'\nmax_backoff = '1h'";
    let folder = configured(&plugins, quarantine);
    run(async {
        let client = Client::start(folder.path(), Lifecycle::Initialize).await;
        assert_eq!(client.failure("fragile", json!({ "text": "boom" })).await, "panicked");
        assert_eq!(client.failure("fragile", json!({ "text": "" })).await, "quarantined");
        assert_eq!(client.tools().await.len(), 1);
        client.close().await;
    });
}

#[test]
fn closed_connection_ends_server_and_processes() {
    for lifecycle in BOTH {
        let plugins = Plugins::new();
        ProgramFolder::new(plugins.dir(), "program").install();
        run(async {
            let mut client = Client::start(plugins.dir(), lifecycle).await;
            client.subscribe().await;
            let reply = client.call("program", json!({ "text": "hello" })).await;
            assert_eq!(text_of(&reply), "hello");
            let server = client.id();
            let marks = marks_below(server);
            assert!(!marked_processes(&marks).is_empty());
            client.close().await;
            let left = (marked_processes(&marks), launch_folders(server));
            assert_eq!(left, (Vec::new(), Vec::new()));
        });
    }
}

#[test]
fn killed_server_leaves_no_process() {
    let plugins = Plugins::new();
    ProgramFolder::new(plugins.dir(), "program").install();
    run(async {
        let client = Client::start(plugins.dir(), Lifecycle::Initialize).await;
        let server = client.id();
        let marks = marks_below(server);
        assert!(!marked_processes(&marks).is_empty());
        client.kill().await;
        until("the processes are gone", || {
            (marked_processes(&marks).is_empty() && launch_folders(server).is_empty()).then_some(())
        });
    });
}

#[test]
fn subscription_covers_the_list_of_tools_only() {
    let plugins = Plugins::new();
    plugins.add("tool", "fragile").write();
    run(async {
        let client = Client::start(plugins.dir(), Lifecycle::Discover).await;
        let all = SubscriptionFilter::builder().tools_list_changed().prompts_list_changed().build();
        let accepted = client.accepted(all).await;
        assert_eq!(accepted, SubscriptionFilter::builder().tools_list_changed().build());
        client.close().await;
    });
}

#[test]
fn invalid_folder_or_configuration_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let check = |folder: &Path, expected: &str| {
        run(async {
            let output = command(folder).stdin(Stdio::null()).output().await.unwrap();
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{message}");
            assert!(message.contains(expected), "`{expected}` in: {message}");
        });
    };
    check(&folder.path().join("gone"), "is not a folder");
    configure(folder.path(), "plugin_dir = ['x']");
    check(folder.path(), "hint: did you mean `plugin_dirs`?");
}

#[test]
fn shipped_configuration_is_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/hotbay.toml");
    // The mode of the checkout is not the subject.
    let config = hotbay::ConfigFile::read_writable_by_others(file);
    assert!(config.is_ok(), "{}", config.unwrap_err().full_message());
}

#[test]
fn copy_of_the_sdk_is_current() {
    let copy = include_str!("../tools/outline/hotbay.py");
    let sdk = include_str!("../../../../plugin-api/python/hotbay.py");
    assert!(copy == sdk, "copy plugin-api/python/hotbay.py to tools/outline");
}
