//! Requests that name an operation, checked against the permissions granted to the plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hotbay::{Error, ErrorKind, Host, LoadStep, PluginHandle, Request};
use hotbay_tests::{Plugin, Plugins, block_on, host, loaded, refused, reloaded};
use hotbay_tests::{rolled_back, until};
use serde_json::{Value, json};

/// Prepares a plugin that echoes and requests these permissions.
fn asking(plugins: &Plugins, permissions: &[&str]) -> Plugin {
    plugins.add("store", "faulty").set("permissions", json!(permissions))
}

/// Requests an operation by every call method.
fn all_call_methods(handle: &PluginHandle, operation: &str) -> Vec<Result<(), Error>> {
    let request = || Request::text("x").with_operation(operation.to_owned());
    let pinned = handle.pin().unwrap();
    vec![
        handle.call(request()).map(drop),
        pinned.call(request()).map(drop),
        block_on(handle.execute(request())).map(drop),
    ]
}

#[track_caller]
fn check(handle: &PluginHandle, granted: &[&str], denied: &[&str]) {
    for operation in granted {
        for outcome in all_call_methods(handle, operation) {
            outcome.unwrap_or_else(|error| panic!("{operation}: {error:?}"));
        }
    }
    for operation in denied {
        for outcome in all_call_methods(handle, operation) {
            let error = outcome.expect_err(operation);
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
            assert_eq!(error.plugin(), Some(handle.name()));
            let message = error.to_string();
            let named = operation.escape_debug().to_string().replace("\\0", "\\u{0}");
            let expected = [format!("it has no permission for `{named}`"), "`".to_owned()];
            assert!(expected.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}

#[test]
fn plugin_only_receives_operations_in_its_manifest() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let handle = loaded(&host, asking(&plugins, &["read", "exec", "db:drop"]).write());
    check(&handle, &["read", "exec", "db:drop"], &["write", "db", "db:drop ", "", "Read", "\0"]);
    assert!(handle.call(Request::text("x")).is_ok());
    let info = &host.list()[0];
    assert_eq!((info.stats.refused, info.stats.faults, info.stats.errors), (6 * 3, 0, 0));
    assert_eq!(info.notes, Vec::<String>::new());
}

#[test]
fn plugin_without_permissions_answers_plain_calls_only() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let handle = loaded(&host, plugins.add("store", "faulty").write());
    check(&handle, &[], &["read"]);
    assert!(handle.call(Request::text("x")).is_ok());
    let pipeline = host.pipeline(["store", "store"]).unwrap();
    let error = block_on(pipeline.run(Request::text("x").with_operation("read"))).unwrap_err();
    assert_eq!((error.kind(), error.skipped().len()), (ErrorKind::PermissionDenied, 1));
}

#[test]
fn permission_policy_narrows_grants_once_per_load() {
    let plugins = Plugins::new();
    let folder =
        asking(&plugins, &["log", "read", "write"]).config(json!({ "log": ["a line"] })).write();
    let queries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&queries);
    let grant = move |plugin: &hotbay::PluginName, permission: &str| {
        counted.fetch_add(1, Ordering::Relaxed);
        plugin.as_str() == "store" && permission == "read"
    };
    let host = Host::builder().permission_policy(grant).build().unwrap();
    let handle = loaded(&host, folder);
    assert_eq!(queries.load(Ordering::Relaxed), 3);
    check(&handle, &["read"], &["write", "exec"]);
    let error = all_call_methods(&handle, "write").remove(0).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("permission policy")), "{error:?}");
    let error = all_call_methods(&handle, "exec").remove(0).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("plugin.json")), "{error:?}");
    // The host's own services need permissions as well.
    let answer = handle.call(Request::text("x")).unwrap();
    assert!(!answer.as_text().unwrap().contains("logged"), "{answer:?}");
    let notes = &host.list()[0].notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("`log`") && notes[1].contains("`write`"), "{notes:?}");
    assert_eq!(queries.load(Ordering::Relaxed), 3);
}

#[test]
fn panicking_permission_policy_refuses_only_that_load() {
    let plugins = Plugins::new();
    let grant = |_: &hotbay::PluginName, permission: &str| match permission {
        "exec" => panic!("unknown permission {permission}"),
        _ => true,
    };
    let host = Host::builder().permission_policy(grant).build().unwrap();
    let error = refused(&host, asking(&plugins, &["exec"]).write());
    assert_eq!((error.kind(), error.step()), (ErrorKind::LayerPanicked, Some(LoadStep::Manifest)));
    let message = error.full_message();
    assert!(message.contains("unknown permission exec") && message.contains("`exec`"), "{message}");
    let handle = loaded(&host, asking(&plugins, &["read"]).write());
    let _ = asking(&plugins, &["exec", "read"]).write();
    let error = rolled_back(&host, "store");
    assert_eq!(error.kind(), ErrorKind::LayerPanicked, "{error:?}");
    check(&handle, &["read"], &["exec"]);
}

#[test]
fn granted_permissions_follow_reloads() {
    let plugins = Plugins::new();
    let may_write = Arc::new(AtomicBool::new(false));
    let granted = Arc::clone(&may_write);
    let grant = move |_: &hotbay::PluginName, permission: &str| {
        permission != "write" || granted.load(Ordering::Relaxed)
    };
    let host = Host::builder().permission_policy(grant).build().unwrap();
    let handle = loaded(&host, asking(&plugins, &["read", "write"]).write());
    check(&handle, &["read"], &["write"]);
    may_write.store(true, Ordering::Relaxed);
    let _ = asking(&plugins, &["write"]).write();
    reloaded(&host, "store");
    check(&handle, &["write"], &["read"]);
}

/// A call that waits during a pause is checked against the permissions of the new build.
#[test]
fn call_waiting_for_reload_uses_permissions_of_new_build() {
    let plugins = Plugins::new();
    let was_checked = Arc::new(AtomicBool::new(false));
    let checked = Arc::clone(&was_checked);
    // Runs after the permission check, before the call waits.
    let validator = move |_: &Request<'_>| {
        checked.store(true, Ordering::Release);
        Ok(())
    };
    let host = Host::builder().validate("store", validator).build().unwrap();
    let installed = |permissions: &[&str], more: Value| {
        let it = asking(&plugins, permissions).set("handover", "pause");
        it.config(more).write()
    };
    let (entered, release) = (plugins.dir().join("entered"), plugins.dir().join("release"));
    let hang = json!({ "hang_in": "snapshot", "entered": entered, "release": release });
    let handle = loaded(&host, installed(&["write"], hang));
    let outcome = std::thread::scope(|scope| {
        let _ = installed(&["read"], json!({}));
        let reload = scope.spawn(|| reloaded(&host, "store"));
        until("it is paused", || entered.exists().then_some(()));
        let call = scope.spawn(|| handle.call(Request::text("x").with_operation("write")));
        until("the permissions were checked", || was_checked.load(Ordering::Acquire).then_some(()));
        std::fs::write(&release, "").unwrap();
        reload.join().unwrap();
        call.join().unwrap()
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PermissionDenied);
    check(&handle, &["read"], &["write"]);
}
