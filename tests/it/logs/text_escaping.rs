//! Texts from plugins: each is limited, and none can control a terminal, reorder text or forge a
//! line wherever it is shown.

use hotbay::{ErrorKind, Host, HostEvent, PluginHandle, Request};
use hotbay_tests::{
    HOSTILE, HOSTILE_ESCAPED, Plugins, block_on, event, host, loaded, steers, unique,
};
use serde_json::{Value, json};

use crate::logs::recorder;

fn faulty(plugins: &Plugins, host: &Host) -> PluginHandle {
    let name = unique("texts");
    loaded(host, plugins.add(&name, "faulty").set("config", json!({ "scripted": true })).write())
}

fn call(plugin: &PluginHandle, action: &Value) -> Result<hotbay::Reply, hotbay::Error> {
    plugin.call(Request::json_text(&action.to_string()))
}

#[test]
fn panic_message_is_escaped_everywhere() {
    let (recorder, plugins) = (recorder::install(), Plugins::new());
    let host = host(&plugins);
    let plugin = faulty(&plugins, &host);
    let mut events = host.events();
    let action = json!({ "panic_in": "execute", "panic_message": HOSTILE });
    let error = call(&plugin, &action).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(error.fault().unwrap().message(), HOSTILE);
    assert!(error.fault().unwrap().to_string().contains(HOSTILE_ESCAPED), "{error:?}");
    assert!(error.full_message().contains(HOSTILE_ESCAPED) && !steers(&error.full_message()));
    assert!(!steers(&format!("{error:?}")));
    let faulted = event(&mut events, |event| matches!(event, HostEvent::Faulted { .. }));
    assert!(!steers(&format!("{faulted:?}")));
    for line in recorder.of(plugin.name().as_str()) {
        assert!(!steers(line.message()), "{line:?}");
    }
}

#[test]
fn error_message_is_escaped_and_truncated() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let plugin = faulty(&plugins, &host);
    let answers = |message: &str, details: Value| {
        let error = json!({ "message": message, "details": details });
        call(&plugin, &json!({ "error_in": "execute", "error": error })).unwrap_err()
    };
    let error = answers(HOSTILE, json!({ "a": HOSTILE }));
    let own = error.plugin_error().unwrap();
    assert_eq!((own.message(), own.details()), (HOSTILE, Some(&json!({ "a": HOSTILE }))));
    assert!(own.to_string().contains(HOSTILE_ESCAPED) && !steers(&error.full_message()));
    assert!(answers("two\nlines", json!(1)).full_message().contains("two\nlines"));

    let error = answers(&"é".repeat(1 << 20), json!("x".repeat(1 << 20)));
    let own = error.plugin_error().unwrap();
    assert!(own.message().len() <= 16 << 10 && own.message().ends_with("(cut)"));
    assert!(own.details().unwrap().as_str().unwrap().len() <= 64 << 10);
    let action = json!({ "panic_in": "execute", "panic_bytes": 1 << 20 });
    let error = call(&plugin, &action).unwrap_err();
    assert!(error.fault().unwrap().message().len() <= 16 << 10);
}

#[test]
fn content_type_with_control_characters_is_refused() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let plugin = faulty(&plugins, &host);
    let answers = |name: &str| call(&plugin, &json!({ "answers": "x", "content_type": name }));
    let refused = |name: &str| {
        let error = answers(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOutput, "{name:?}");
        assert!(error.to_string().contains("content type") && !steers(&error.to_string()));
        let action = json!({ "answers": "x", "content_type": name }).to_string();
        let error = block_on(plugin.execute(Request::json_text(&action))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOutput, "{name:?}");
    };
    assert_eq!(
        answers("text/csv; header=present").unwrap().content_type(),
        "text/csv; header=present"
    );
    assert_eq!(answers(&"x".repeat(256)).unwrap().content_type().len(), 256);
    for name in ["text/plain\r\nSet-Cookie: a=b", "a\tb", "\u{1b}[2J", "a\0", "a\u{202e}b", "\n"] {
        refused(name);
    }
    refused(&"x".repeat(257));
    assert_eq!(
        plugin.call(Request::json_text(r#"{"answers":"well"}"#)).unwrap().as_bytes(),
        b"well"
    );
}

#[test]
fn logged_line_is_one_event_without_control_characters() {
    let (recorder, plugins, name) = (recorder::install(), Plugins::new(), unique("chat"));
    let host = host(&plugins);
    let chatty = plugins.add(&name, "chatty").set("permissions", json!(["log"]));
    let chatty = loaded(&host, chatty.write());
    let message = format!("{HOSTILE}\n2026-01-01 ERROR forged");
    for method in ["event", "types", "spans", "record", "host"] {
        let target = format!("t{HOSTILE}");
        let action = json!({ "method": method, "message": message, "target": target });
        call(&chatty, &action).unwrap();
    }
    let lines = recorder.of(&name);
    let own: Vec<_> = lines.iter().filter(|line| line.message().contains("forged")).collect();
    assert!(own.len() >= 5, "{own:?}");
    for line in &lines {
        assert!(!steers(line.message()) && !line.message().contains('\n'), "{line:?}");
        assert!(!steers(&line.target) && !line.target.contains('\n'), "{line:?}");
        assert!(!steers(&format!("{line:?}")), "{line:?}");
    }
}
