//! Plugins that require each other, share a name, or share a library.

use std::sync::{Mutex, mpsc};

use hotbay::{ErrorKind, Host, HostEvent, LoadReport, LoadStep, Manifest, Output, Request};
use hotbay_tests::{Plugin, Plugins, block_on, events_until, host, loaded, refused};
use serde_json::json;

/// Installs plugins: `web: store ^1` is the plugin `web`, which requires `store`. All have version
/// 0.1.0.
fn install(plugins: &Plugins, lines: &[&str]) {
    for line in lines {
        let (name, requires) = line.split_once(':').expect("a name");
        let requires = requires.split(',').map(str::trim);
        let requires = requires.filter_map(|one| one.split_once(' '));
        let requires = requires.map(|(name, version)| (name.to_owned(), json!(version)));
        let requires = serde_json::Value::Object(requires.collect());
        plugins.add(name, "faulty").set("requires", requires).write();
    }
}

#[track_caller]
fn check(report: &LoadReport, loaded: &[&str], refused: &[(&str, &str)]) {
    let names: Vec<_> = report.loaded.iter().map(|one| one.name.as_str()).collect();
    let errors: Vec<_> = report
        .refused
        .iter()
        .map(|one| (one.name.as_ref().map(|name| name.as_str()), one.error.full_message()))
        .collect();
    assert_eq!(names, loaded, "{errors:?}");
    assert_eq!(errors.len(), refused.len(), "{errors:?}");
    for ((name, message), (plugin, expected)) in errors.iter().zip(refused) {
        assert_eq!(*name, Some(*plugin));
        assert!(message.contains(expected), "`{expected}` in: {message}");
    }
    for one in &report.refused {
        assert_eq!(one.error.kind(), ErrorKind::Requires);
        assert_eq!(one.error.step(), Some(LoadStep::Requires));
    }
}

#[test]
fn requirements_start_first_and_stop_last() {
    let plugins = Plugins::new();
    install(&plugins, &["a: c *", "b: a *, c ^0.1", "c: d >=0.1.0", "d:"]);
    let host = host(&plugins);
    let mut events = host.events();
    let report = block_on(host.load_all());
    check(&report, &["a", "b", "c", "d"], &[]);
    block_on(host.shutdown(hotbay_tests::LIMIT));
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let names = |expected: fn(&HostEvent) -> Option<String>| -> Vec<String> {
        seen.iter().filter_map(expected).collect()
    };
    let loaded = names(|event| match event {
        HostEvent::Loaded { plugin, .. } => Some(plugin.to_string()),
        _ => None,
    });
    assert_eq!(loaded, ["d", "c", "a", "b"]);
    let closed = names(|event| match event {
        HostEvent::Closed { plugin, .. } => Some(plugin.to_string()),
        _ => None,
    });
    assert_eq!(closed, ["b", "a", "c", "d"]);
}

#[test]
fn requirement_cycle_is_reported_and_others_load() {
    let plugins = Plugins::new();
    install(&plugins, &["a: b *", "b: c *", "c: a *", "free:"]);
    let cycle = "a -> b -> c -> a";
    let report = block_on(host(&plugins).load_all());
    check(&report, &["free"], &[("a", cycle), ("b", cycle), ("c", cycle)]);
}

#[test]
fn unmet_requirement_is_refused() {
    let plugins = Plugins::new();
    install(&plugins, &["a: gone ^3", "b: base ^7", "base:", "c: a *", "d: broken *"]);
    let config = json!({ "error_in": "init" });
    plugins.add("broken", "faulty").config(config).write();
    let host = host(&plugins);
    let report = block_on(host.load_all());
    let names: Vec<_> = report.loaded.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["base"]);
    let message: Vec<_> = report.refused.iter().map(|one| one.error.full_message()).collect();
    let expected = [
        "`gone` ^3, which was not found",
        "`base` ^7; found 0.1.0",
        "in init, on request",
        "`a`, which cannot be started",
        "`broken`",
    ];
    for expected in expected {
        let found = message.iter().any(|message| message.contains(expected));
        assert!(found, "`{expected}` in: {message:#?}");
    }
    assert_eq!(message.len(), expected.len(), "{message:#?}");
}

#[test]
fn single_load_finds_requirements_already_serving() {
    let plugins = Plugins::new();
    install(&plugins, &["base:", "needs: base ^0.1"]);
    let host = host(&plugins);
    let error = refused(&host, plugins.dir().join("needs"));
    assert_eq!((error.kind(), error.step()), (ErrorKind::Requires, Some(LoadStep::Requires)));
    assert!(error.full_message().contains("`base`"));
    loaded(&host, plugins.dir().join("base"));
    loaded(&host, plugins.dir().join("needs"));

    let error = block_on(host.unload("base")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Requires);
    let message = error.to_string();
    assert!(message.contains("is required by `needs`"), "{message}");
    assert!(host.plugin("base").unwrap().call(Request::text("x")).is_ok());
    block_on(host.unload("needs")).unwrap();
    block_on(host.unload("base")).unwrap();
    let error = block_on(host.unload("base")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn duplicate_plugin_names_are_refused_with_folders() {
    let plugins = Plugins::new();
    plugins.add_in("one", "same", "faulty").write();
    plugins.add_in("two", "same", "faulty").write();
    plugins.add("other", "faulty").write();
    let host = host(&plugins);
    let report = block_on(host.load_all());
    assert_eq!((report.loaded.len(), report.refused.len()), (1, 2));
    for refused in &report.refused {
        let message = refused.error.full_message();
        assert_eq!(refused.error.kind(), ErrorKind::Duplicate);
        for folder in ["one", "two"] {
            let folder = plugins.dir().join(folder).display().to_string();
            assert!(message.contains(&folder), "{message}");
        }
    }
    // Loaded alone, the first one is not a duplicate; then the second one is.
    loaded(&host, plugins.dir().join("one"));
    let error = refused(&host, plugins.dir().join("two"));
    let message = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert!(message.contains("one`") && message.contains("two`"), "{message}");
}

#[test]
fn two_instances_of_one_library_are_independent() {
    let plugins = Plugins::new();
    let config = json!({ "output_bytes": 3 });
    plugins.add("filler", "faulty").config(config).write();
    for name in ["first", "second"] {
        let config = json!({ "count": true });
        plugins.add(name, "faulty").config(config).write();
    }
    let host = host(&plugins);
    assert!(block_on(host.load_all()).is_clean());
    let call = |name: &str| {
        let reply = host.plugin(name).unwrap().call(Request::text("x")).unwrap();
        reply.as_text().unwrap().to_owned()
    };
    let replies = ["first", "first", "second", "filler", "first"].map(call);
    assert_eq!(replies, ["1", "2", "1", "xxx", "3"]);
}

#[test]
fn compiled_in_plugins_start_in_order_and_meet_requirements() {
    let plugins = Plugins::new();
    install(&plugins, &["needs: mock *"]);
    let builder = Host::builder().plugin_dir(plugins.dir());
    let host = builder.register_fn("mock", |_, _| Ok(Output::text("mocked"))).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let error = block_on(host.unload("mock")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Requires);

    let manifest = Manifest::new("never", "0.1.0").unwrap();
    let manifest = manifest.with_requirement("nothing", "*").unwrap();
    let builder = Host::builder().register::<Never>(manifest);
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Requires, "{}", error.full_message());
}

/// Never starts: its requirement is missing.
struct Never;

impl hotbay_plugin::Plugin for Never {
    fn init(
        _: &hotbay_plugin::Config,
        _: hotbay_plugin::HostServices,
    ) -> Result<Self, hotbay::PluginError> {
        Ok(Self)
    }

    fn execute(
        &self,
        _: &hotbay::CallContext<'_>,
        _: hotbay::Payload<'_>,
    ) -> Result<Output, hotbay::PluginError> {
        Ok(Output::default())
    }
}

/// Reloads `echo` as `next` changes it, and calls `meanwhile` after the check of the requirements,
/// before the new build starts.
fn while_reloading<T>(
    plugins: &Plugins,
    next: impl Fn(Plugin) -> Plugin,
    meanwhile: impl FnOnce(&Host) -> T,
) -> (T, Result<(), hotbay::Error>) {
    let (started, start) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (started, released) = (Mutex::new(started), Mutex::new(released));
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .permission_policy(move |_, permission| {
            if permission == "wait" {
                let _ = started.lock().unwrap().send(());
                let _ = released.lock().unwrap().recv();
            }
            true
        })
        .build()
        .unwrap();
    loaded(&host, plugins.add("base", "faulty").write());
    loaded(&host, plugins.add("echo", "faulty").write());
    next(plugins.add("echo", "faulty").set("permissions", json!(["wait"]))).write();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| block_on(host.reload("echo")).map(drop));
        start.recv().unwrap();
        let result = meanwhile(&host);
        release.send(()).unwrap();
        (result, reload.join().unwrap())
    })
}

#[test]
fn requirement_of_a_reload_is_not_unloaded() {
    let plugins = Plugins::new();
    let next = |plugin: Plugin| plugin.set("requires", json!({ "base": "*" }));
    let (unloaded, reloaded) =
        while_reloading(&plugins, next, |host| block_on(host.unload("base")).map(drop));
    assert_eq!(unloaded.unwrap_err().kind(), ErrorKind::Requires);
    reloaded.unwrap();
}
