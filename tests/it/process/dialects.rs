//! Programs of the older dialects, and without an environment: config types, endpoints with methods and headers, sockets at
//! fixed paths, and other kinds of sockets.

use std::fs;
use std::path::Path;

use futures_util::{StreamExt as _, stream};
use hotbay::{ErrorKind, HostEvent, Reloaded, Request, RunOptions};
use hotbay_tests::{block_on, event, until};
use serde_json::{Value, json};

use super::fixture::{ProcessFixture, Running, is_private, kill};

fn older(capabilities: Value, location: Value) -> Value {
    let mut capabilities = json!({ "json": capabilities });
    capabilities["dialect"] = "older".into();
    json!({
        "capabilities": capabilities,
        "location": location,
        "serve": {
            "needs_no_token": true, "conforms": true, "exit_code": 1, "leaves_lock": true,
        },
    })
}

fn notes(running: &Running) -> Vec<String> {
    running.host.list().into_iter().next().expect("the plugin is listed").notes
}

fn given(running: &Running) -> Vec<(String, Value)> {
    use base64::Engine as _;
    let reply = running.call_json(&json!({ "do": "report" }));
    let entries = reply["config"]["configTypes"].as_array().expect("a list").clone();
    let entry = |entry: Value| {
        let data = entry["data"].as_str().expect("base64").to_owned();
        let data = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        (entry["type"].as_str().unwrap().to_owned(), serde_json::from_slice(&data).unwrap())
    };
    entries.into_iter().map(entry).collect()
}

#[test]
fn config_types_are_delivered_by_name_rest_is_reported() {
    let declares = json!({ "configTypes": ["database-config", "logging-config"] });
    let config = json!({ "database-config": { "url": "x" }, "other": [1] });
    let running = ProcessFixture::new().run_with(
        older(declares, json!({})),
        |it| it.config(config),
        |builder| builder,
    );
    assert_eq!(given(&running), [("database-config".to_owned(), json!({ "url": "x" }))]);
    let notes = notes(&running);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("`logging-config`"), "{notes:?}");
    assert!(notes[1].contains("`config.other`"), "{notes:?}");
    running.end();
}

#[test]
fn complete_config_has_no_notes() {
    let declares = json!({ "configTypes": ["a/v1", "b"] });
    let config = json!({ "a/v1": null, "b": "text" });
    let running = ProcessFixture::new().run_with(
        older(declares, json!({})),
        |it| it.config(config),
        |builder| builder,
    );
    let expected = [("a/v1".to_owned(), Value::Null), ("b".to_owned(), json!("text"))];
    assert_eq!(given(&running), expected);
    assert_eq!(notes(&running), Vec::<String>::new());
    running.end();
}

#[test]
fn socket_at_fixed_path_stops_old_build_first() {
    let fixture = ProcessFixture::new();
    let place = fixture.file("place");
    fs::create_dir(&place).unwrap();
    let running = fixture.run(older(json!({}), json!({ "folder": place })));
    running.serves();
    let socket = place.join(format!("{}-plugin.socket", running.fixture.name));
    assert!(socket.exists());
    let noted = notes(&running);
    assert!(noted.iter().any(|note| note.contains("stop-first")), "{noted:?}");
    // A killed process leaves both files; the next process starts nevertheless.
    kill(running.pid());
    running.serves();
    let manifest = running.fixture.file(&running.fixture.name).join("plugin.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let changed = text.replace("\"permissions\"", "\"description\": \"new\", \"permissions\"");
    fs::write(&manifest, changed).unwrap();
    let mut events = running.host.events();
    let outcome = block_on(running.host.reload(&running.fixture.name));
    assert!(matches!(outcome, Ok(Reloaded::Promoted(_))), "{outcome:?}");
    let promoted = event(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
    assert!(matches!(promoted, HostEvent::Promoted { from: None, .. }), "{promoted:?}");
    running.serves();
    block_on(running.host.unload(&running.fixture.name)).unwrap();
    running.fixture.assert_nothing_left();
    let left: Vec<_> = fs::read_dir(&place).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn foreign_files_at_fixed_path_are_kept() {
    let fixture = ProcessFixture::new();
    let place = fixture.file("place");
    fs::create_dir(&place).unwrap();
    let running = fixture.run(older(json!({}), json!({ "folder": place })));
    let lock = place.join(format!("{}-plugin.socket.lock", running.fixture.name));
    fs::write(&lock, "1").unwrap();
    kill(running.pid());
    until("its exit is noticed", || (!is_running(&running)).then_some(()));
    assert_eq!(fs::read_to_string(&lock).unwrap(), "1");
    assert!(place.join(format!("{}-plugin.socket", running.fixture.name)).exists());
    running.end();
}

fn is_running(running: &Running) -> bool {
    running.host.list().into_iter().next().is_some_and(|info| info.pid.is_some())
}

#[test]
fn socket_in_temporary_folder_allows_overlap() {
    let running = ProcessFixture::new().run(older(json!({}), json!({})));
    let first = running.pid();
    let manifest = running.fixture.file(&running.fixture.name).join("plugin.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let changed = text.replace("\"permissions\"", "\"description\": \"new\", \"permissions\"");
    fs::write(&manifest, changed).unwrap();
    let mut events = running.host.events();
    hotbay_tests::reloaded(&running.host, &running.fixture.name);
    let promoted = event(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
    assert!(matches!(promoted, HostEvent::Promoted { from: Some(_), .. }), "{promoted:?}");
    assert_ne!(running.pid(), first);
    running.serves();
    running.end();
}

#[test]
fn manifest_may_request_tcp() {
    for behavior in [older(json!({}), json!({})), json!({})] {
        let running =
            ProcessFixture::new().run_with(behavior, |it| it.set("type", "tcp"), |builder| builder);
        let reply = running.call_json(&json!({ "do": "report" }));
        assert_eq!(reply["config"]["type"], "tcp");
        let folder = &reply["environment"]["HOTBAY_SOCKET_DIR"];
        if let Some(folder) = folder.as_str() {
            let sockets = fs::read_dir(Path::new(folder)).unwrap().flatten();
            let names: Vec<_> = sockets.map(|file| file.file_name()).collect();
            assert_eq!(names, ["host.socket"], "it listens on a port");
        }
        running.serves();
        running.end();
    }
}

#[test]
fn listener_beyond_loopback_is_reported() {
    let check = |kind: &str, is_reported: bool| {
        let fixture = ProcessFixture::new();
        let behavior = json!({ "location": { "kind": kind } });
        let folder = fixture.program(behavior).install();
        let host = hotbay::Host::builder().build().unwrap();
        let mut events = host.events();
        let handle = hotbay_tests::loaded(&host, folder);
        let running = Running { fixture, host, handle };
        running.serves();
        let listens = |event: &HostEvent| {
            let HostEvent::ListensBeyondLoopback { address, .. } = event else { return false };
            assert!(address.ip().is_unspecified(), "{address}");
            true
        };
        // It is found while calls are served.
        if is_reported {
            hotbay_tests::event(&mut events, listens);
        }
        block_on(running.host.unload(&running.fixture.name)).unwrap();
        let seen = hotbay_tests::events_until(&mut events, |event| {
            matches!(event, HostEvent::Closed { .. })
        });
        assert!(!seen.iter().any(listens), "{kind}: {seen:?}");
    };
    check("open", true);
    check("any6", true);
    check("tcp", false);
    // It reports 0.0.0.0, but has bound 127.0.0.1.
    check("any", false);
    check("unix", false);
}

#[test]
fn method_and_headers_reach_endpoint() {
    for behavior in [older(json!({}), json!({})), json!({})] {
        let running = ProcessFixture::new().run(behavior);
        let action = json!({ "do": "report" }).to_string();
        for call_async in [false, true] {
            let request = Request::json_text(&action)
                .with_endpoint("execute")
                .with_method("PUT")
                .with_header("Authorization", "Bearer x")
                .with_header("Accept", "text/csv");
            let reply = match call_async {
                false => running.handle.call(request),
                true => block_on(running.handle.execute(request)),
            };
            let message: Value = reply.unwrap().json().unwrap();
            assert_eq!(message["request"], "PUT /execute");
            assert_eq!(message["headers"]["authorization"], "Bearer x");
            assert_eq!(message["headers"]["accept"], "text/csv");
            assert!(message["headers"]["content-type"].is_string());
        }
        running.serves();
        running.end();
    }
}

#[test]
fn get_and_head_without_input_send_no_body() {
    let behavior = json!({
        "capabilities": { "hotbay": { "endpoints": ["execute", "formats"] } },
        "serve": { "formats": { "body": ["json"] } },
    });
    let running = ProcessFixture::new().run(behavior);
    let get = running
        .handle
        .call(Request::bytes(b"").with_endpoint("formats").with_method("GET"))
        .unwrap();
    assert_eq!(get.as_bytes(), b"[\"json\"]");
    running.end();
}

#[test]
fn reserved_header_is_refused_before_call() {
    let running = ProcessFixture::new().run(json!({}));
    for (name, value) in [
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Hotbay-Token", "x"),
        ("Content-Length", "3"),
        ("Host", "x"),
        ("X-Own", "a\r\nX-More: 1"),
        ("X Own", "a"),
    ] {
        let request = || Request::text("x").with_header(name, value);
        let outcomes =
            [running.handle.call(request()), block_on(running.handle.execute(request()))];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {}", error.full_message());
        }
    }
    assert_eq!(running.call_json(&json!({ "do": "count" })), 1, "nothing was sent");
    running.end();
}

#[test]
fn calls_with_own_headers_are_not_batched() {
    let running = ProcessFixture::new().run(json!({}));
    let action = json!({ "do": "report" }).to_string();
    let with = |token: String| {
        Request::owned(action.clone().into_bytes()).with_header("Authorization", token)
    };
    let requests: Vec<_> = (0..8).map(|at| with(format!("Bearer {at}"))).collect();
    let pipeline = running.host.pipeline([running.fixture.name.as_str()]).unwrap();
    let outcomes: Vec<_> = block_on(async {
        pipeline.run_many(stream::iter(requests), RunOptions::ordered()).collect().await
    });
    assert_eq!(outcomes.len(), 8);
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let reply: Value = outcome.outcome.unwrap().json().unwrap();
        assert_eq!(reply["headers"]["authorization"], format!("Bearer {at}"));
    }
    running.end();
}

#[test]
fn method_and_headers_are_unsupported_in_process() {
    let host = hotbay::Host::builder()
        .register_fn("echo", |_, input| Ok(hotbay::Output::copy_of(input.as_bytes())))
        .build()
        .unwrap();
    let echo = host.plugin("echo").unwrap();
    for request in [Request::text("x").with_method("GET"), Request::text("x").with_header("a", "b")]
    {
        let error = echo.call(request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.full_message());
        assert!(error.to_string().contains("over HTTP"), "{error}");
    }
}

#[test]
fn program_without_environment_gets_config_argument() {
    let behavior = json!({ "capabilities": { "hotbay": { "config": null } } });
    let running =
        ProcessFixture::new().run_with(behavior, |it| it.config(json!({ "depth": 3 })), |it| it);
    let reply = running.call_json(&json!({ "do": "report" }));
    assert_eq!(reply["arguments"][1], "--config");
    assert_eq!(reply["environment"]["HOTBAY_CONFIG"], Value::Null);
    assert_eq!(reply["config"]["configTypes"][0]["data"], "eyJkZXB0aCI6M30=");
    running.end();
}

#[test]
fn older_dialects_are_supported() {
    for dialect in ["older", "newer"] {
        let behavior = json!({
            "capabilities": { "dialect": dialect },
            "serve": { "needs_no_token": true, "spec/v1/validate": { "body": { "ok": true } } },
        });
        let running = ProcessFixture::new().run(behavior);
        running.serves();
        let message = running.call_json(&json!({ "do": "report" }));
        assert_eq!(message["arguments"][1], "--config", "{dialect}");
        let environment = &message["environment"];
        assert_eq!(environment["HOTBAY_SOCKET_DIR"], Value::Null);
        assert_eq!(environment["HOTBAY_TOKEN"], Value::Null);
        let folder = environment["TMPDIR"].as_str().expect("a folder").to_owned();
        assert!(is_private(folder.as_ref()), "{folder}");
        let socket = format!("{folder}/{}-plugin.socket", running.fixture.name);
        assert!(std::path::Path::new(&socket).exists(), "{socket}");
        // Contracts name their endpoints; the program decides which ones it supports.
        let request = || Request::json_text("{}").with_endpoint("spec/v1/validate");
        assert_eq!(running.handle.call(request()).unwrap().as_bytes(), b"{\"ok\":true}");
        let reply = block_on(running.handle.execute(request())).unwrap();
        assert_eq!(reply.as_bytes(), b"{\"ok\":true}");
        let unknown = running.handle.call(Request::text("x").with_endpoint("unknown")).unwrap_err();
        assert!(unknown.full_message().contains("no such endpoint"), "{unknown}");
        running.end();
        assert!(!std::path::Path::new(&folder).exists());
    }
}
