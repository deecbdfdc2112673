//! Two plugin crates linked into one program as ordinary crates, without their exports. They run
//! side by side, and beside the library of one of them.

use filter::Filter;
use hotbay::{ErrorKind, Host, Manifest, PluginError, PluginState, Request};
use hotbay_tests::{Plugins, block_on, loaded};
use serde_json::json;
use transform::Transform;

fn manifest(name: &str, config: serde_json::Value) -> Manifest {
    let manifest = Manifest::new(name, "0.1.0").expect("a manifest");
    manifest.with_config(config).expect("a config")
}

fn both() -> Host {
    let rules = json!({ "rules": [{ "rule": "positive", "field": "" }] });
    Host::builder()
        .register::<Transform>(manifest("transform", json!({ "mode": "upper" })))
        .register::<Filter>(manifest("filter", rules))
        .build()
        .expect("both start")
}

#[test]
fn linked_plugin_crates_run_side_by_side() {
    let host = both();
    let transform = host.plugin("transform").unwrap();
    let filter = host.plugin("filter").unwrap();
    let reply = transform.call(Request::text("straße")).unwrap();
    assert_eq!(reply.as_text().unwrap(), "STRASSE");
    let reply = block_on(filter.execute(Request::json_text("[-1, 2.0, 0, 3]"))).unwrap();
    assert_eq!(reply.json::<Vec<f64>>().unwrap(), [2.0, 3.0]);
    let error = filter.call(Request::text("not JSON")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Plugin);
    assert_eq!(error.plugin_error().map(PluginError::code), Some(400));
    // The output of one is the input of the other.
    let reply = transform.call(Request::json_text("[1, -2]")).unwrap();
    let reply = filter.call(Request::from(reply)).unwrap();
    assert_eq!(reply.json::<Vec<f64>>().unwrap(), [1.0]);
    let states: Vec<_> = host.list().into_iter().map(|info| (info.folder, info.state)).collect();
    assert_eq!(states, vec![(None, PluginState::Serving); 2]);
    block_on(host.unload("filter")).unwrap();
    assert!(host.retained().is_empty());
    assert!(transform.call(Request::text("x")).is_ok());
}

#[test]
fn linked_plugin_with_invalid_config_fails_host_build() {
    let manifest = manifest("transform", json!({ "mode": "sideways" }));
    let error = Host::builder().register::<Transform>(manifest).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{}", error.full_message());
    assert_eq!(error.plugin_error().map(PluginError::code), Some(400));
}

#[test]
fn linked_plugin_matches_its_library() {
    let plugins = Plugins::new();
    let config = json!({ "mode": "title" });
    let library = plugins.add("library", "transform").config(config.clone());
    let builder = Host::builder().register::<Transform>(manifest("linked", config));
    let host = builder.build().unwrap();
    let handles = [host.plugin("linked").unwrap(), loaded(&host, library.write())];
    for text in ["", "one two", "ÉCOLE d'été", "ﬃ ǆ"] {
        let [linked, library] = handles.each_ref().map(|handle| {
            let reply = handle.call(Request::text(text)).unwrap();
            reply.as_text().unwrap().to_owned()
        });
        assert_eq!(linked, library, "{text}");
    }
}
