//! What a host without its default features does with plugins that need them.

#![cfg(all(unix, not(any(feature = "process", feature = "schema", feature = "watch"))))]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use hotbay::{ErrorKind, Host};

#[test]
fn plugin_with_schema_is_refused_without_schema_validation() {
    struct Plain;

    impl hotbay::Plugin for Plain {
        fn init(
            _: &hotbay::hotbay_plugin::Config,
            _: hotbay::hotbay_plugin::HostServices,
        ) -> Result<Self, hotbay::PluginError> {
            Ok(Self)
        }
        fn execute(
            &self,
            _: &hotbay::CallContext<'_>,
            _: hotbay::Payload<'_>,
        ) -> Result<hotbay::Output, hotbay::PluginError> {
            Ok(hotbay::Output::text("plain"))
        }
    }

    let manifest = || hotbay::Manifest::new("x", "1.0.0").unwrap();
    let schema = || serde_json::json!({ "type": "object" });
    let with_schemas =
        [manifest().with_config_schema(schema()), manifest().with_input_schema(schema())];
    for manifest in with_schemas {
        let builder = Host::builder().register::<Plain>(manifest.unwrap());
        let error = builder.build().map(drop).unwrap_err();
        let message = error.full_message();
        assert_eq!(error.kind(), ErrorKind::Config, "{message}");
        assert!(message.contains("built without schema validation"), "{message}");
        assert_eq!(error.hint(), Some("enable the feature `schema` of `hotbay`"));
    }
    assert!(Host::builder().register::<Plain>(manifest()).build().is_ok());
}

#[test]
fn process_plugin_is_refused_without_process_plugins() {
    use std::os::unix::fs::PermissionsExt as _;

    let plugins = tempfile::tempdir().unwrap();
    let folder = plugins.path().join("x");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("x.sh"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(folder.join("x.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let builder = Host::builder().allow_unverified(true).allow_writable_by_others(true);
    let host = builder.build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let library = format!("{}x{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    fs::write(folder.join(library), "not opened").unwrap();
    for field in [r#""kind": "process", "command": ["x.sh"]"#, r#""isolation": "process""#] {
        let start = r#""name": "x", "version": "1.0.0", "api": "^1""#;
        fs::write(folder.join("plugin.json"), format!("{{ {start}, {field} }}")).unwrap();
        let error = runtime.block_on(host.load(&folder)).map(drop).unwrap_err();
        let message = error.full_message();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{message}");
        assert!(message.contains("built without process plugins"), "{message}");
        assert_eq!(error.hint(), Some("enable the feature `process` of `hotbay`"));
    }
}

#[test]
fn hot_reload_polls_without_file_watcher() {
    let plugins = tempfile::tempdir().unwrap();
    let builder = Host::builder().plugin_dir(plugins.path()).allow_writable_by_others(true);
    let host = builder
        .hot_reload(true)
        .watch_poll_interval(std::time::Duration::from_millis(10))
        .build()
        .unwrap();
    let mut events = host.events();
    let folder = plugins.path().join("x");
    fs::create_dir(&folder).unwrap();
    // Not complete, so that nothing has to be built: the event is that it was refused.
    fs::write(folder.join("plugin.json"), r#"{ "name": "x", "version": "1" }"#).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let limit = std::time::Duration::from_secs(60);
    let event = runtime.block_on(async { tokio::time::timeout(limit, events.next()).await });
    let event = event.expect("an event").expect("the host lives");
    assert!(matches!(event, hotbay::HostEvent::Refused { .. }), "{event:?}");
}
