//! Inputs checked against the manifest's schema and the application's validators.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use hotbay::{
    Call, Error, ErrorKind, Host, HostEvent, HostLimits, Layer, LoadStep, Next, PluginHandle,
    Reply, Request,
};
#[cfg(unix)]
use hotbay_tests::ProgramFolder;
use hotbay_tests::{
    LIMIT, Plugin, Plugins, block_on, event, host, limits, loaded, refused, reloaded, rolled_back,
    until,
};
use serde_json::{Value, json};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { "n": { "type": "integer" }, "of": { "type": "array" } },
        "required": ["n"],
    })
}

fn checked(plugins: &Plugins, schema: Value) -> Plugin {
    plugins.add("sum", "faulty").set("input_schema", schema)
}

/// Sends an input by every call method, and compares the error message.
#[track_caller]
fn check(handle: &PluginHandle, input: &str, expected: Result<(), &str>) {
    let pinned = handle.pin().unwrap();
    let outcomes = [
        handle.call(Request::text(input)),
        pinned.call(Request::bytes(input.as_bytes())),
        block_on(handle.execute(Request::json_text(input))),
    ];
    for outcome in outcomes {
        match (outcome, expected) {
            (Ok(reply), Ok(())) => assert_eq!(reply.as_bytes(), input.as_bytes()),
            (Err(error), Err(expected)) => {
                let message = error.full_message();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{message}");
                assert_eq!(error.plugin(), Some(handle.name()));
                assert!(message.contains(expected), "`{expected}` in: {message}");
                assert!(message.len() < 2000, "{} bytes: {message}", message.len());
            }
            (outcome, _) => panic!("{expected:?} for {input:.80}: {outcome:?}"),
        }
    }
}

#[test]
fn invalid_input_is_refused_at_its_field() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let handle = loaded(&host, checked(&plugins, schema()).write());
    check(&handle, r#"{ "n": 1 }"#, Ok(()));
    check(&handle, r#"{ "n": "1" }"#, Err("`/n`: \"1\" is not of type \"integer\""));
    check(&handle, "{}", Err("\"n\" is a required property"));
    check(&handle, "[1]", Err("[1] is not of type \"object\""));
    check(&handle, "", Err("it is empty; expected JSON"));
    check(&handle, "n = 1", Err("it is not JSON"));
    check(&handle, "\u{feff}{}", Err("it is not JSON"));
    let info = &host.list()[0];
    assert_eq!((info.stats.refused, info.stats.errors, info.stats.faults), (6 * 3, 0, 0));
}

#[test]
fn long_or_deep_input_is_refused_concisely() {
    let plugins = Plugins::new();
    let limits: HostLimits = limits(|limits| limits.max_input_bytes = 1 << 20);
    let host = Host::builder().limits(limits).build().unwrap();
    let mut recursive = schema();
    recursive["properties"]["of"]["items"] = json!({ "anyOf": [{ "$ref": "#" }, {
        "type": "array", "items": { "$ref": "#/properties/of" },
    }] });
    let handle = loaded(&host, checked(&plugins, recursive).write());
    let nested = |depth: usize| {
        format!("{{ \"n\": 1, \"of\": {}{} }}", "[".repeat(depth), "]".repeat(depth))
    };
    check(&handle, r#"{ "n": 1, "of": [{ "n": 2 }, { "n": 3, "of": [] }] }"#, Ok(()));
    check(&handle, r#"{ "n": 1, "of": [{ "n": "2" }] }"#, Err("/of/0"));
    check(&handle, &nested(60), Ok(()));
    check(&handle, &nested(70), Err("it is nested deeper than 64 levels"));
    check(&handle, &nested(400_000), Err("recursion limit exceeded"));
    check(&handle, &"[".repeat(1 << 20), Err("recursion limit exceeded"));
    check(&handle, &format!("{{ \"n\": \"{}\" }}", "é".repeat(50_000)), Err("`/n`: \"éé"));
    check(&handle, &format!("{{ \"{}\": 1 }}", "k".repeat(50_000)), Err("required"));
    let many = format!("{{ \"n\": 1, \"of\": [{}0] }}", "0,".repeat(400_000));
    check(
        &handle,
        &many,
        Err(
            "it does not match the schema; the violation cannot be located because the value is too large",
        ),
    );
    check(&handle, &" ".repeat((1 << 20) + 1), Err("`limits.input_bytes` is 1048576"));
}

#[test]
fn invalid_schema_is_refused_with_position() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let check = |schema: Value, expected: &[&str]| {
        let error = refused(&host, checked(&plugins, schema).write());
        let message = error.full_message();
        let step = (error.kind(), error.step());
        assert_eq!(step, (ErrorKind::Config, Some(LoadStep::Config)), "{message}");
        assert!(
            expected.iter().all(|expected| message.contains(expected)),
            "{expected:?} in: {message}"
        );
    };
    let place = "`input_schema.properties.n.type`: \"word\" is not";
    check(json!({ "properties": { "n": { "type": "word" } } }), &["plugin.json:", place]);
    check(json!({ "$ref": "#/gone" }), &["`input_schema`", "/gone"]);
    check(json!({ "$ref": "https://example.com/schema.json" }), &["example.com"]);
    check(json!({ "$ref": "file:///etc/passwd" }), &["passwd"]);
    check(json!({ "pattern": "(" }), &["`input_schema.pattern`"]);
    check(json!("gone.json"), &["gone.json"]);
    let folder = plugins.dir().join("sum");
    fs::write(folder.join("schema.json"), "{ \"type\": ").unwrap();
    check(json!("schema.json"), &["schema.json", "EOF while parsing"]);
    fs::write(folder.join("schema.json"), "{ \"type\": \"word\" }").unwrap();
    check(json!("schema.json"), &["cannot use `schema.json` as `input_schema`", "`/type`"]);
    fs::write(folder.join("schema.json"), "[]").unwrap();
    check(json!("schema.json"), &["schema.json"]);
    assert!(host.list().is_empty());
}

#[test]
#[cfg(unix)]
fn schema_file_outside_folder_is_refused() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let outside = plugins.dir().join("outside.json");
    fs::write(&outside, "{}").unwrap();
    let error = refused(&host, checked(&plugins, json!("../outside.json")).write());
    assert_eq!(error.step(), Some(LoadStep::Manifest), "{error:?}");
    let folder = checked(&plugins, json!("schema.json")).write();
    std::os::unix::fs::symlink(&outside, folder.join("schema.json")).unwrap();
    let error = refused(&host, &folder);
    assert_eq!((error.kind(), error.step()), (ErrorKind::Config, Some(LoadStep::Config)));
    fs::remove_file(folder.join("schema.json")).unwrap();
    fs::write(folder.join("schema.json"), schema().to_string()).unwrap();
    let handle = loaded(&host, &folder);
    check(&handle, "{}", Err("\"n\" is a required property"));
}

#[test]
fn reload_applies_changed_schema() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let write = |schema: Value| {
        let folder = plugins.dir().join("sum");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("schema.json"), schema.to_string()).unwrap();
    };
    write(json!({ "type": "integer" }));
    let handle = loaded(&host, checked(&plugins, json!("schema.json")).write());
    check(&handle, "1", Ok(()));
    check(&handle, "\"1\"", Err("\"1\" is not of type \"integer\""));
    assert!(matches!(block_on(host.reload("sum")), Ok(hotbay::Reloaded::Unchanged)));
    write(json!({ "type": "string" }));
    reloaded(&host, "sum");
    check(&handle, "1", Err("1 is not of type \"string\""));
    check(&handle, "\"1\"", Ok(()));
    // An invalid schema leaves the previous one in force.
    write(json!({ "type": "word" }));
    assert_eq!(rolled_back(&host, "sum").step(), Some(LoadStep::Config));
    check(&handle, "1", Err("1 is not of type \"string\""));
    let _ = plugins.add("sum", "faulty").write();
    reloaded(&host, "sum");
    check(&handle, "anything", Ok(()));
}

#[test]
fn watch_detects_schema_change() {
    let plugins = Plugins::new();
    let folder = plugins.dir().join("sum");
    fs::create_dir_all(&folder).unwrap();
    let write = |schema: Value| {
        let new = plugins.dir().join("new.json");
        fs::write(&new, schema.to_string()).unwrap();
        fs::rename(new, folder.join("schema.json")).unwrap();
    };
    write(json!({ "type": "integer" }));
    checked(&plugins, json!("schema.json")).write();
    let host = Host::builder().plugin_dir(plugins.dir()).hot_reload(true).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let handle = host.plugin("sum").unwrap();
    let mut events = host.events();
    write(json!({ "type": "string" }));
    event(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
    check(&handle, "\"1\"", Ok(()));
    write(json!({ "type": "word" }));
    event(&mut events, |event| matches!(event, HostEvent::RolledBack { .. }));
    check(&handle, "\"1\"", Ok(()));
    write(json!({ "type": "array" }));
    event(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
    check(&handle, "[]", Ok(()));
}

/// A call that waits during a pause goes to the new build, which has another schema.
#[test]
fn call_waiting_for_reload_is_validated_by_new_build() {
    let plugins = Plugins::new();
    let was_checked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&was_checked);
    // Runs after the schema, before the call waits.
    let validate = move |_: &Request<'_>| {
        flag.store(true, Ordering::Release);
        Ok(())
    };
    let host = Host::builder().validate("sum", validate).build().unwrap();
    let (entered, release) = (plugins.dir().join("entered"), plugins.dir().join("release"));
    let hang = json!({ "hang_in": "snapshot", "entered": entered, "release": release });
    let paused = plugins.add("sum", "faulty").set("handover", "pause");
    let handle = loaded(&host, paused.config(hang).write());
    let outcome = std::thread::scope(|scope| {
        let _ = checked(&plugins, schema()).set("handover", "pause").write();
        let reload = scope.spawn(|| reloaded(&host, "sum"));
        until("it is paused", || entered.exists().then_some(()));
        let call = scope.spawn(|| handle.call(Request::text("{}")));
        until("the input was validated", || was_checked.load(Ordering::Acquire).then_some(()));
        fs::write(&release, "").unwrap();
        reload.join().unwrap();
        call.join().unwrap()
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidInput);
    check(&handle, r#"{ "n": 1 }"#, Ok(()));
}

#[test]
fn restarted_build_keeps_schema_and_permissions() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let folder = plugins.dir().join("sum");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("schema.json"), schema().to_string()).unwrap();
    let stopped_first = || {
        let it = checked(&plugins, json!("schema.json")).set("handover", "stop-first");
        it.set("permissions", json!(["read"]))
    };
    let handle = loaded(&host, stopped_first().write());
    fs::write(folder.join("schema.json"), "{}").unwrap();
    let _ = stopped_first().config(json!({ "error_in": "init" })).write();
    let error = rolled_back(&host, "sum");
    assert!(error.to_string().contains("the previous build was restarted"), "{error:?}");
    check(&handle, "{}", Err("\"n\" is a required property"));
    check(&handle, r#"{ "n": 1 }"#, Ok(()));
    let read = Request::text(r#"{ "n": 1 }"#).with_operation("read");
    assert!(handle.call(read).is_ok());
}

#[test]
fn validators_run_after_schema_and_all_must_pass() {
    let plugins = Plugins::new();
    let host = Host::builder()
        .validate("sum", |request| match request.as_bytes().len() {
            0..20 => Ok(()),
            length => Err(format!("{length} bytes are too many for me")),
        })
        .validate("sum", |request| match request.as_bytes() {
            br#"{ "n": 7 }"# => Err("é".repeat(5000)),
            br#"{ "n": 8 }"# => panic!("eight, of all numbers"),
            _ => Ok(()),
        })
        .validate("other", |_| Err("never called".to_owned()))
        .build()
        .unwrap();
    let handle = loaded(&host, checked(&plugins, schema()).write());
    check(&handle, r#"{ "n": 1 }"#, Ok(()));
    check(&handle, r#"{ "n": "long enough to be refused" }"#, Err("is not of type"));
    check(&handle, r#"{ "n": 12345678901234 }"#, Err("23 bytes are too many for me"));
    let message = handle.call(Request::text(r#"{ "n": 7 }"#)).unwrap_err().full_message();
    assert!(message.ends_with("é…") && message.chars().count() < 1200, "{message}");
    for _ in 0..10 {
        let error = handle.call(Request::text(r#"{ "n": 8 }"#)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LayerPanicked, "{error:?}");
        assert!(error.full_message().contains("eight, of all numbers"), "{error:?}");
    }
    let error = block_on(handle.execute(Request::text(r#"{ "n": 8 }"#))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LayerPanicked);
    let info = &host.list()[0];
    assert_eq!((info.state.as_str(), info.stats.faults), ("serving", 0));
    check(&handle, r#"{ "n": 1 }"#, Ok(()));
}

#[test]
fn validator_for_invalid_name_fails_host_build() {
    let error = Host::builder().validate("No Name", |_| Ok(())).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("`No Name`"), "{error}");
}

/// Holds the first call on its way to the plugin until the test releases it.
struct Slow(Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>);

impl Layer for Slow {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        let first = self.0.lock().unwrap().take();
        if let Some((here, go)) = first {
            here.send(()).unwrap();
            go.recv_timeout(LIMIT).unwrap();
        }
        next.call(call)
    }
}

#[test]
fn input_is_validated_by_build_that_is_called() {
    type CallMethod = fn(&hotbay::PluginHandle, Request<'static>) -> Result<Reply, Error>;
    let methods: [(&str, CallMethod); 3] = [
        ("pin", |handle, request| handle.pin().unwrap().call(request)),
        ("execute", |handle, request| block_on(handle.execute(request))),
        ("call", |handle, request| handle.call(request)),
    ];
    for (method, call) in methods {
        let plugins = Plugins::new();
        let (here, is_here) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let slow = Slow(Mutex::new(Some((here, may_go))));
        let host = Host::builder().layer(slow).build().unwrap();
        let plugin = plugins.add("checked", "faulty").config(json!({ "answers": "old" }));
        let schema = json!({ "type": "object", "required": ["user"] });
        let handle = loaded(&host, plugin.set("input_schema", schema).write());
        let outcome = thread::scope(|scope| {
            let call = scope.spawn(|| call(&handle, Request::json_text("[1, 2]")));
            is_here.recv_timeout(LIMIT).unwrap();
            plugins.add("checked", "faulty").config(json!({ "answers": "new" })).write();
            reloaded(&host, "checked");
            go.send(()).unwrap();
            call.join().unwrap()
        });
        match outcome {
            Ok(reply) => assert_eq!(reply.as_bytes(), b"new", "{method}"),
            Err(error) => {
                let kinds = [ErrorKind::InvalidInput, ErrorKind::Retired];
                assert!(kinds.contains(&error.kind()), "{method}: {}", error.full_message());
            }
        }
    }
}

#[test]
fn remembered_checks_depend_on_schemas_and_config() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let number = json!({ "properties": { "output_bytes": { "type": "integer" } } });
    let plugin = |config: Value| {
        plugins.add("sum", "faulty").set("config_schema", json!("schema.json")).config(config)
    };
    let with_file = |folder: std::path::PathBuf, schema: &Value| {
        fs::write(folder.join("schema.json"), schema.to_string()).unwrap();
        folder
    };
    let valid = json!({ "output_bytes": 3 });
    for _ in 0..3 {
        loaded(&host, with_file(plugin(valid.clone()).write(), &number));
        block_on(host.unload("sum")).unwrap();
        let error = refused(&host, plugin(json!({ "output_bytes": "3" })).write());
        assert!(error.full_message().contains("output_bytes"), "{}", error.full_message());
    }
    // The same config, and the same name of the file.
    let text = json!({ "properties": { "output_bytes": { "type": "string" } } });
    let error = refused(&host, with_file(plugin(valid.clone()).write(), &text));
    assert_eq!(error.kind(), ErrorKind::Config, "{}", error.full_message());
    loaded(&host, with_file(plugin(valid).write(), &number));
}

#[test]
fn plugins_with_one_input_schema_share_its_check_and_outlive_each_other() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let add = |name: &str, schema: Value| {
        loaded(&host, plugins.add(name, "faulty").set("input_schema", schema).write())
    };
    let (first, second) = (add("first", schema()), add("second", schema()));
    let other = add("other", json!({ "type": "string" }));
    let (valid, text) = (r#"{ "n": 1 }"#, r#""text""#);
    check(&first, valid, Ok(()));
    block_on(host.unload("first")).unwrap();
    check(&second, valid, Ok(()));
    check(&second, r#"{ "n": "1" }"#, Err("`/n`"));
    block_on(host.unload("second")).unwrap();
    let third = add("third", schema());
    check(&third, valid, Ok(()));
    check(&third, text, Err("is not of type \"object\""));
    check(&other, text, Ok(()));
    check(&other, valid, Err("is not of type \"string\""));
}

#[test]
fn list_shows_the_schema_of_the_current_build() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let shown = || host.list()[0].input_schema.as_deref().cloned();
    loaded(&host, plugins.add("sum", "faulty").write());
    assert_eq!(shown(), None);
    checked(&plugins, schema()).write();
    reloaded(&host, "sum");
    assert_eq!(shown(), Some(schema()));
    let folder = checked(&plugins, json!("schema.json")).write();
    fs::write(folder.join("schema.json"), r#"{ "type": "string" }"#).unwrap();
    reloaded(&host, "sum");
    assert_eq!(shown(), Some(json!({ "type": "string" })));
    fs::write(folder.join("schema.json"), r#"{ "type": "word" }"#).unwrap();
    rolled_back(&host, "sum");
    assert_eq!(shown(), Some(json!({ "type": "string" })), "the file is not that of the build");
}

#[test]
#[cfg(unix)]
fn list_shows_the_schema_that_a_program_declares() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let program = |stated: Option<Value>| {
        let declared = json!({ "capabilities": { "hotbay": { "inputSchema": schema() } } });
        let program = ProgramFolder::new(plugins.dir(), "program").behavior(declared);
        match stated {
            Some(schema) => program.set("input_schema", schema).install(),
            None => program.install(),
        }
    };
    let shown = || host.list()[0].input_schema.as_deref().cloned();
    loaded(&host, program(None));
    assert_eq!(shown(), Some(schema()));
    program(Some(json!({ "type": "object" })));
    reloaded(&host, "program");
    assert_eq!(shown(), Some(json!({ "type": "object" })), "the manifest takes precedence");
}
