//! The plugin as its host sees it: configs, payloads, errors, and the manifest beside it.

use hotbay_plugin::prelude::*;
use hotbay_plugin::testing::FakeHost;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::Transform;

fn run(config: Value, input: &str) -> Result<Output, PluginError> {
    let host = FakeHost::new();
    let started = host.start::<Transform>(config).expect("the config is good");
    started.execute(Payload::text(input))
}

#[track_caller]
fn check(mode: &str, input: &str, expected: &str) {
    let output = run(json!({ "mode": mode }), input).unwrap();
    assert_eq!(output.as_text().unwrap(), expected, "{mode} of {input:?}");
}

#[test]
fn each_mode_changes_real_text() {
    check("upper", "Straße, ﬁn, ὀδυσσεύς", "STRASSE, FIN, ὈΔΥΣΣΕΎΣ");
    check("lower", "ΟΔΥΣΣΕΥΣ ΚΑΙ İ", "οδυσσευς και i\u{307}");
    check("title", "the QUICK fox's élan", "The Quick Fox's Élan");
    check("reverse", "añ🇯🇵👨‍👩‍👧\r\nz", "z\r\n👨‍👩‍👧🇯🇵ña");
    check("slug", "  Ünïcödé: Über alles?! ", "unicode-uber-alles");
    check("markdown", "**日本**", "<p><strong>日本</strong></p>\n");
}

#[test]
fn the_mode_is_upper_where_the_config_names_none() {
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
fn raw_html_passes_only_where_the_config_allows_it() {
    let html = |allow: bool| {
        let output = run(json!({ "mode": "markdown", "allow_html": allow }), "<i>x</i>").unwrap();
        output.as_text().unwrap().to_owned()
    };
    assert_eq!(html(false), "<p>&lt;i&gt;x&lt;/i&gt;</p>\n");
    assert_eq!(html(true), "<p><i>x</i></p>\n");
}

#[test]
fn a_slug_of_nothing_is_an_error_that_says_so() {
    let error = run(json!({ "mode": "slug" }), "—!—").unwrap_err();
    assert_eq!(error.code(), 422);
    assert!(error.message().contains("letter or digit"), "{}", error.message());
    assert!(!error.is_retryable());
}

#[test]
fn input_that_is_not_utf_8_is_refused() {
    let host = FakeHost::new();
    let started = host.start::<Transform>(json!({})).unwrap();
    let error = started.execute(Payload::bytes(b"a\xff")).unwrap_err();
    assert_eq!(error.code(), 400);
}

#[test]
fn a_wrong_config_is_refused_before_and_at_the_start() {
    for wrong in [
        json!({ "mode": "shout" }),
        json!({ "mode": 1 }),
        json!({ "mod": "upper" }),
        json!({ "allow_html": "yes" }),
    ] {
        let error = Transform::validate_config(&Config::from(wrong.clone())).unwrap_err();
        assert_eq!(error.code(), 400, "{wrong}");
        assert_eq!(FakeHost::new().start::<Transform>(wrong).unwrap_err().code(), 400);
    }
}

#[test]
fn the_start_is_told_in_one_line() {
    let host = FakeHost::new();
    let _started = host.start::<Transform>(json!({ "mode": "slug" })).unwrap();
    assert_eq!(host.logs(), [(Level::Debug, "mode is `slug`".to_owned())]);
}

#[test]
fn the_manifest_agrees_with_the_crate() {
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
    fn no_input_makes_it_panic(bytes in any::<Vec<u8>>(), text in any::<String>()) {
        let host = FakeHost::new();
        for mode in ["upper", "lower", "title", "reverse", "slug", "markdown"] {
            let started = host.start::<Transform>(json!({ "mode": mode })).unwrap();
            let _ = started.execute(Payload::bytes(&bytes));
            let _ = started.execute(Payload::text(&text));
        }
    }
}
