//! Tests the plugin as a host uses it: configs, payloads, errors and the manifest.

use hotbay_plugin::prelude::*;
use hotbay_plugin::testing::FakeHost;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::Transform;

fn run(config: Value, input: &str) -> Result<Output, PluginError> {
    let host = FakeHost::new();
    let plugin = host.start::<Transform>(config).expect("valid config");
    plugin.execute(Payload::text(input))
}

#[track_caller]
fn check(mode: &str, input: &str, expected: &str) {
    let output = run(json!({ "mode": mode }), input).unwrap();
    assert_eq!(output.as_text().unwrap(), expected, "{mode} of {input:?}");
}

#[test]
fn modes_transform_text() {
    check("upper", "Straße, ﬁn, ὀδυσσεύς", "STRASSE, FIN, ὈΔΥΣΣΕΎΣ");
    check("lower", "ΟΔΥΣΣΕΥΣ ΚΑΙ İ", "οδυσσευς και i\u{307}");
    check("title", "the QUICK fox's élan", "The Quick Fox's Élan");
    check("reverse", "añ🇯🇵👨‍👩‍👧\r\nz", "z\r\n👨‍👩‍👧🇯🇵ña");
    check("slug", "  Ünïcödé: Über alles?! ", "unicode-uber-alles");
    check("markdown", "**日本**", "<p><strong>日本</strong></p>\n");
}

#[test]
fn default_mode_is_upper() {
    assert_eq!(run(json!({}), "ab").unwrap().as_text().unwrap(), "AB");
}

#[test]
fn empty_text_stays_empty() {
    for mode in ["upper", "lower", "title", "reverse", "markdown"] {
        check(mode, "", "");
    }
}

#[test]
fn only_markdown_is_html() {
    let kind = |mode| run(json!({ "mode": mode }), "a").unwrap().content_type().to_owned();
    assert!(kind("markdown").starts_with("text/html"), "{}", kind("markdown"));
    assert!(kind("upper").starts_with("text/plain"), "{}", kind("upper"));
}

#[test]
fn raw_html_is_kept_only_if_configured() {
    let html = |allow: bool| {
        let output = run(json!({ "mode": "markdown", "allow_html": allow }), "<i>x</i>").unwrap();
        output.as_text().unwrap().to_owned()
    };
    assert_eq!(html(false), "<p>&lt;i&gt;x&lt;/i&gt;</p>\n");
    assert_eq!(html(true), "<p><i>x</i></p>\n");
}

#[test]
fn slug_of_text_without_letters_is_an_error() {
    let error = run(json!({ "mode": "slug" }), "—!—").unwrap_err();
    assert_eq!(error.code(), 422);
    assert!(error.message().contains("letter or digit"), "{}", error.message());
    assert!(!error.is_retryable());
}

#[test]
fn invalid_utf8_is_rejected() {
    let host = FakeHost::new();
    let plugin = host.start::<Transform>(json!({})).unwrap();
    let error = plugin.execute(Payload::bytes(b"a\xff")).unwrap_err();
    assert_eq!(error.code(), 400);
}

#[test]
fn invalid_config_is_rejected_by_validation_and_init() {
    for invalid in [
        json!({ "mode": "shout" }),
        json!({ "mode": 1 }),
        json!({ "mod": "upper" }),
        json!({ "allow_html": "yes" }),
    ] {
        let error = Transform::validate_config(&Config::from(invalid.clone())).unwrap_err();
        assert_eq!(error.code(), 400, "{invalid}");
        assert_eq!(FakeHost::new().start::<Transform>(invalid).unwrap_err().code(), 400);
    }
}

#[test]
fn start_logs_the_mode() {
    let host = FakeHost::new();
    let _plugin = host.start::<Transform>(json!({ "mode": "slug" })).unwrap();
    assert_eq!(host.logs(), [(Level::Debug, "mode is `slug`".to_owned())]);
}

#[test]
fn manifest_matches_the_crate() {
    let manifest: Value = serde_json::from_str(include_str!("../plugin.json")).unwrap();
    assert_eq!(manifest["name"], env!("CARGO_PKG_NAME"));
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["description"], env!("CARGO_PKG_DESCRIPTION"));
    let modes = manifest["config_schema"]["properties"]["mode"]["enum"].as_array().unwrap();
    for mode in modes {
        Transform::validate_config(&Config::from(json!({ "mode": mode }))).unwrap();
    }
    assert_eq!(modes.len(), 6);
    Transform::validate_config(&Config::from(manifest["config"].clone())).unwrap();
}

proptest! {
    #[test]
    fn no_input_causes_a_panic(bytes in any::<Vec<u8>>(), text in any::<String>()) {
        let host = FakeHost::new();
        for mode in ["upper", "lower", "title", "reverse", "slug", "markdown"] {
            let plugin = host.start::<Transform>(json!({ "mode": mode })).unwrap();
            let _ = plugin.execute(Payload::bytes(&bytes));
            let _ = plugin.execute(Payload::text(&text));
        }
    }
}
