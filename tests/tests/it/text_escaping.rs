//! Texts from plugins: each is limited, and none can control a terminal, reorder text or forge a
//! line wherever it is shown.

use hotbay::{ErrorKind, Host, HostEvent, PluginHandle, Request};
use hotbay_tests::{Plugins, block_on, event, host, loaded, unique};
use serde_json::{Value, json};

use crate::hotbay_command::hotbay;
use crate::logs::recorder;

/// Sets colors, clears the screen, reverses text, and ends lines.
const HOSTILE: &str = "a\u{1b}[31mb\u{7f}\u{9b}2J\rc\u{202e}d\u{2066}e\u{61c}\u{2028}f\u{0}";
const SHOWN: &str = "a\\u{1b}[31mb\\u{7f}\\u{9b}2J\\rc\\u{202e}d\\u{2066}e\\u{61c}\\u{2028}f\\u{0}";

/// Returns whether the text contains control or bidirectional characters other than line ends.
fn steers(text: &str) -> bool {
    let turns = |char| {
        matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    text.chars().any(|char| turns(char) || char.is_control() && char != '\n')
}

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
    assert!(error.fault().unwrap().to_string().contains(SHOWN), "{error:?}");
    assert!(error.full_message().contains(SHOWN) && !steers(&error.full_message()));
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
    assert!(own.to_string().contains(SHOWN) && !steers(&error.full_message()));
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

#[test]
fn command_escapes_control_characters_of_plugins() {
    let plugins = Plugins::new();
    let config = json!({ "scripted": true });
    let folder = plugins.add("hostile", "faulty").set("config", config);
    folder.set("description", json!(HOSTILE)).set("authors", json!([HOSTILE])).write();
    let error = json!({ "message": HOSTILE, "details": { HOSTILE: HOSTILE } });
    let fails = json!({ "error_in": "execute", "error": error }).to_string();
    let panics = json!({ "panic_in": "execute", "panic_message": HOSTILE }).to_string();
    for input in [&fails, &panics] {
        for more in [&[][..], &["--json"]] {
            let args =
                [&["call", "hostile", "--dir", ".", "--text", input.as_str()], more].concat();
            let run = hotbay(plugins.dir(), &args).exits(1);
            let (text, stderr) = (run.text().to_owned(), run.stderr.clone());
            assert!(!steers(&text) && !steers(&stderr), "{text:?} {stderr:?}");
            assert!(text.contains("031") || text.contains("1b") || stderr.contains("\\u{1b}"));
        }
    }
    for args in [&["list", "--dir", "."][..], &["inspect", "hostile", "--dir", "."]] {
        for more in [&[][..], &["--json"]] {
            let run = hotbay(plugins.dir(), &[args, more].concat()).exits(0);
            assert!(!steers(&run.text()), "{:?}", run.text());
        }
    }
    let two = json!({ "error_in": "execute", "error": { "message": "one\nerror: two" } });
    let args = ["call", "hostile", "--dir", ".", "--text", &two.to_string()];
    let run = hotbay(plugins.dir(), &args).exits(1);
    assert!(run.stderr.contains("one\n    error: two"), "{}", run.stderr);
}
