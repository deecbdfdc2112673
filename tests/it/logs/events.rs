//! Logs of plugins reach the host program's subscriber with all their fields, and no amount of them
//! does harm.

use std::collections::BTreeSet;
use std::fs;
use std::sync::LazyLock;

use hotbay::{Host, HostEvent, LoadStep, PluginHandle, Request};
use hotbay_tests::{
    Plugin, Plugins, block_on, event, host, loaded, reloaded, rolled_back, unique, until,
};
use serde_json::{Value, json};
use tracing::Level;
use tracing::level_filters::LevelFilter;

use super::recorder::{FILTERED, Line, Recorder, install};

/// A plugin that logs, its host, and the lines recorded.
struct LogFixture {
    recorder: &'static Recorder,
    plugins: Plugins,
    host: Host,
    handle: PluginHandle,
    name: String,
}

impl LogFixture {
    fn new() -> Self {
        Self::with(|plugin| plugin.set("permissions", json!(["log"])))
    }

    /// Creates one whose library runs in its own process.
    #[cfg(unix)]
    fn isolated() -> Self {
        hotbay_tests::runner();
        Self::with(|it| it.set("permissions", json!(["log"])).set("isolation", "process"))
    }

    #[cfg(unix)]
    fn isolated_without_permission() -> Self {
        hotbay_tests::runner();
        Self::with(|plugin| plugin.set("isolation", "process"))
    }

    fn with(change: impl FnOnce(Plugin) -> Plugin) -> Self {
        let (recorder, plugins, name) = (install(), Plugins::new(), unique("chat"));
        let host = host(&plugins);
        let handle = loaded(&host, change(plugins.add(&name, "chatty")).write());
        Self { recorder, plugins, host, handle, name }
    }

    /// Makes it log on this thread, and returns its reply.
    fn call(&self, action: &Value) -> Value {
        let reply = self.handle.call(Request::json_text(&action.to_string())).unwrap();
        serde_json::from_slice(reply.as_bytes()).unwrap()
    }

    /// Makes it log on a worker thread.
    fn execute(&self, action: &Value) {
        block_on(self.handle.execute(Request::json_text(&action.to_string()))).unwrap();
    }

    fn lines(&self) -> Vec<Line> {
        self.recorder.of(&self.name)
    }

    /// Returns the plugin's own messages, without those of the host about it.
    fn messages(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| !line.target.starts_with("hotbay"));
        lines.iter().map(|line| line.message().to_owned()).collect()
    }

    /// Unloads it, and returns why its library was kept, if it was.
    fn end(&self) -> Option<String> {
        let mut events = self.host.events();
        block_on(self.host.unload(&self.name)).unwrap();
        let end =
            |event: &HostEvent| matches!(event, HostEvent::Closed { .. } | HostEvent::Kept { .. });
        match event(&mut events, end) {
            HostEvent::Kept { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

fn check(line: &Line, level: Level, target: &str, fields: &[(&str, &str)]) {
    assert_eq!((line.level, &*line.target), (level, target));
    for (name, expected) in fields {
        assert_eq!(line.field(name), *expected, "`{name}`");
    }
}

#[test]
fn event_keeps_fields_of_each_type() {
    let fields = [
        ("message", "debug hello"),
        ("truth", "bool true"),
        ("whole", "i64 -5"),
        ("natural", "u64 18446744073709551615"),
        ("small", "u64 5"),
        ("real", "f64 0.1"),
        ("none", "f64 NaN"),
        ("text", r#"str "a \"text\"""#),
        ("shown", r#"debug Some("x")"#),
        ("written", "debug plain"),
        ("generation", "u64 1"),
        ("more", r#"debug {"generation":"not the host's"}"#),
    ];
    let action = json!({ "method": "types" });
    let (called, executed) = (LogFixture::new(), LogFixture::new());
    called.call(&action);
    executed.execute(&action);
    for fixture in [called, executed] {
        let line = fixture.recorder.only_of(&fixture.name);
        check(&line, Level::ERROR, "chatty::types", &fields);
        assert_eq!(line.fields.len(), fields.len() + 1, "`plugin` too: {line:?}");
        assert!(line.file.unwrap().ends_with("lib.rs"));
    }
}

/// The logs of an isolated library equal those of one in this process.
#[cfg(unix)]
#[test]
fn isolated_library_logs_the_same() {
    let (own, isolated) = (LogFixture::new(), LogFixture::isolated());
    for fixture in [&own, &isolated] {
        for method in ["types", "spans", "record", "event", "host"] {
            fixture.call(&json!({ "method": method }));
        }
    }
    let shown = |fixture: &LogFixture| -> Vec<_> {
        let shown = |line: Line| {
            let Line { level, target, file, mut fields } = line;
            fields.remove("plugin");
            let target = target.replace(&fixture.name, "itself");
            (level, target, file.map(|file| file.ends_with("lib.rs")), fields)
        };
        fixture.lines().into_iter().map(shown).collect()
    };
    let expected = shown(&own);
    assert_eq!(expected.len(), 5);
    assert_eq!(shown(&isolated), expected);
}

#[cfg(unix)]
#[test]
fn isolated_library_without_permission_logs_nothing() {
    let fixture = LogFixture::isolated_without_permission();
    // The response says that no level is wanted, so later lines are not sent.
    assert_eq!(fixture.call(&json!({ "method": "host" }))["result"], "Err(Denied)");
    for method in ["event", "types", "record"] {
        fixture.call(&json!({ "method": method }));
    }
    assert_eq!(fixture.messages(), [""; 0]);
}

#[test]
fn event_reports_its_spans() {
    let fixture = LogFixture::new();
    fixture.execute(&json!({ "method": "spans" }));
    let spans = [("spans", r#"str "request{id=7}:query{table=\"users\"}""#)];
    check(&fixture.recorder.only_of(&fixture.name), Level::INFO, "chatty", &spans);
}

#[test]
fn log_record_arrives_as_event() {
    let fixture = LogFixture::new();
    fixture.call(&json!({ "method": "record" }));
    let line = fixture.recorder.only_of(&fixture.name);
    check(&line, Level::WARN, "chatty::record", &[("message", "debug hello")]);
    assert!(line.file.unwrap().ends_with("lib.rs"));
}

#[test]
fn host_line_is_attributed_to_whole_plugin() {
    let fixture = LogFixture::new();
    assert_eq!(fixture.call(&json!({ "method": "host" }))["result"], "Ok(())");
    let line = fixture.recorder.only_of(&fixture.name);
    check(&line, Level::WARN, &fixture.name, &[("message", "debug hello")]);
    assert_eq!(line.file, None);
}

#[test]
fn log_during_start_arrives() {
    let init = json!({ "init": { "method": "event", "message": "started" } });
    let fixture = LogFixture::with(|it| it.set("permissions", json!(["log"])).config(init));
    assert_eq!(fixture.messages(), ["started"]);
}

#[test]
fn thread_scoped_subscriber_receives_its_calls() {
    let fixture = LogFixture::new();
    static RECORDER: LazyLock<Recorder> = LazyLock::new(Recorder::default);
    tracing::subscriber::with_default(super::recorder::subscriber(&RECORDER), || {
        fixture.call(&json!({ "message": "here" }));
    });
    assert_eq!(RECORDER.only_of(&fixture.name).message(), "here");
    assert_eq!(fixture.messages(), [""; 0]);
}

#[test]
fn disabled_event_is_not_formatted() {
    let fixture = LogFixture::new();
    let costly = json!({ "method": "costly", "message": "closely" });
    assert_eq!(fixture.call(&costly)["formatted"], 0);
    assert_eq!(fixture.messages(), [""; 0]);
    fixture.recorder.set_level(LevelFilter::DEBUG);
    assert_eq!(fixture.call(&costly)["formatted"], 1);
    fixture.recorder.set_level(LevelFilter::INFO);
    assert_eq!(fixture.call(&costly)["formatted"], 0);
    let line = fixture.recorder.only_of(&fixture.name);
    check(&line, Level::DEBUG, "chatty", &[("costly", "debug costly")]);
}

#[test]
fn denied_log_permission_drops_events_only() {
    let fixture = LogFixture::with(|plugin| plugin);
    for method in ["event", "types", "spans", "record"] {
        assert_eq!(fixture.call(&json!({ "method": method }))["result"], "");
        fixture.execute(&json!({ "method": method }));
    }
    assert_eq!(fixture.call(&json!({ "method": "host" }))["result"], "Err(Denied)");
    assert_eq!(fixture.messages(), [""; 0]);
}

#[test]
fn events_name_their_generation() {
    let fixture = LogFixture::new();
    fixture.call(&json!({ "message": "first" }));
    let next = fixture.plugins.add(&fixture.name, "chatty").config(json!({ "at": 2 }));
    next.set("permissions", json!(["log"])).write();
    assert_eq!(reloaded(&fixture.host, &fixture.name).get(), 2);
    fixture.call(&json!({ "message": "second" }));
    fixture.execute(&json!({ "method": "record", "message": "third" }));
    let reported: Vec<_> = fixture
        .lines()
        .iter()
        .map(|line| (line.message().to_owned(), line.field("generation").to_owned()))
        .collect();
    let expected = [("first", "u64 1"), ("second", "u64 2"), ("third", "u64 2")];
    assert_eq!(reported, expected.map(|(message, generation)| (message.into(), generation.into())));
}

#[test]
fn plugin_restarted_from_same_library_logs_again() {
    let stop_first =
        |plugin: Plugin| plugin.set("permissions", json!(["log"])).set("handover", "stop-first");
    let fixture = LogFixture::with(stop_first);
    fixture.call(&json!({ "message": "before" }));
    let bad = json!({ "init": { "method": "nonsense" } });
    stop_first(fixture.plugins.add(&fixture.name, "chatty").config(bad)).write();
    assert_eq!(rolled_back(&fixture.host, &fixture.name).step(), Some(LoadStep::Init));
    fixture.call(&json!({ "message": "after" }));
    fixture.call(&json!({ "method": "record", "message": "too" }));
    assert_eq!(fixture.messages(), ["before", "after", "too"]);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn plugin_that_logged_on_caller_thread_is_closed() {
    let fixture = LogFixture::new();
    for method in ["event", "types", "spans", "costly", "record", "host"] {
        fixture.call(&json!({ "method": method }));
        fixture.execute(&json!({ "method": method }));
    }
    assert_eq!(fixture.end(), None);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn log_after_end_is_dropped_safely() {
    let fixture = LogFixture::new();
    let (release, done) = (fixture.plugins.dir().join("go"), fixture.plugins.dir().join("done"));
    fixture
        .call(&json!({ "method": "types", "message": "late", "wait_for": release, "done": done }));
    fixture.call(&json!({ "message": "in time" }));
    assert_eq!(fixture.end().as_deref(), Some("threads: 1 still running"));
    fs::write(release, "").unwrap();
    until("the plugin has logged", || done.exists().then_some(()));
    assert_eq!(fixture.messages(), ["in time"]);
}

#[test]
fn log_flood_is_limited_and_counted() {
    for (method, lines) in [("event", 100_000), ("record", 10_000), ("host", 10_000)] {
        let fixture = LogFixture::new();
        fixture.call(&json!({ "method": method, "lines": lines }));
        block_on(fixture.host.unload(&fixture.name)).unwrap();
        let counts = |lines: &[Line]| {
            let (reported, arrived): (Vec<&Line>, Vec<_>) =
                lines.iter().partition(|line| line.target == "hotbay::plugin");
            let dropped = |line: &&Line| -> u64 {
                line.field("dropped").strip_prefix("u64 ").unwrap().parse().unwrap()
            };
            (arrived.len() as u64, reported.iter().map(dropped).sum::<u64>())
        };
        let (arrived, dropped) = until("all lines have arrived or been counted as dropped", || {
            let (arrived, dropped) = counts(&fixture.lines());
            (arrived + dropped == lines).then_some((arrived, dropped))
        });
        assert!(arrived >= 1000 && dropped > 0, "{arrived} of {method} arrived");
        let reported =
            fixture.lines().into_iter().find(|line| line.target == "hotbay::plugin").unwrap();
        let start = format!("plugin `{}` logged faster than 1000 lines/s; ", fixture.name);
        assert!(reported.message().starts_with(&start), "{}", reported.message());
    }
}

#[test]
fn huge_message_is_truncated() {
    let fixture = LogFixture::new();
    for method in ["event", "record", "host"] {
        fixture.call(&json!({ "method": method, "message": "0123456789", "repeat": 300_000 }));
    }
    assert_eq!(fixture.lines().len(), 3);
    for message in fixture.messages() {
        assert!(message.len() <= 64 << 10 && message.len() > 60 << 10, "{}", message.len());
        assert!(message.ends_with("… (cut)"));
    }
}

#[test]
fn each_target_can_be_filtered() {
    let fixture = LogFixture::new();
    fixture.call(&json!({ "method": "record", "target": FILTERED }));
    fixture.call(&json!({ "method": "record", "lines": 200, "target": "many", "targets": 200 }));
    let targets: BTreeSet<_> = fixture.lines().into_iter().map(|line| line.target).collect();
    assert_eq!(targets.len(), 200);
    assert!(targets.contains("many::0") && targets.contains("many::199"));
}

#[test]
fn subscriber_that_calls_plugin_does_not_recurse() {
    let fixture = LogFixture::new();
    fixture.recorder.call_back(&fixture.handle, r#"{"message":"again"}"#);
    for method in ["event", "record", "host"] {
        fixture.call(&json!({ "method": method, "message": method }));
        fixture.execute(&json!({ "method": method, "message": method }));
    }
    assert_eq!(fixture.messages(), ["event", "event", "record", "record", "host", "host"]);
}
