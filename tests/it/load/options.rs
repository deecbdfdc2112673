//! Loads with options, custom discovery, plugins of the program at run time, factories, the
//! application's token, and reports of unloads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use hotbay::hotbay_plugin::{Config, HostServices};
use hotbay::manifest::Limits;
use hotbay::{
    CallContext, CancellationToken, Discovered, Discovery, Error, ErrorKind, Host, HostEvent,
    LoadOptions, LoadStep, Manifest, Output, Payload, Plugin, PluginError, PluginInfo, Request,
};
use hotbay_tests::{Plugins, block_on, event, host, limits, loaded, until};
use serde_json::json;

fn answer(host: &Host, name: &str) -> String {
    let reply = host.plugin(name).unwrap().call(Request::text("x")).unwrap();
    reply.as_text().unwrap().to_owned()
}

fn named(name: &str, answers: &str) -> LoadOptions {
    LoadOptions::new().with_name(name).with_config(json!({ "answers": answers }))
}

#[test]
fn folder_loads_under_several_names_with_own_configs() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let folder = plugins.add("echo", "faulty").config(json!({ "answers": "file" })).write();
    loaded(&host, &folder);
    for name in ["one", "two"] {
        let handle = block_on(host.load_with(&folder, named(name, name))).unwrap();
        assert_eq!(handle.name().as_str(), name);
    }
    assert_eq!(["echo", "one", "two"].map(|name| answer(&host, name)), ["file", "one", "two"]);
    // The folder serves under its own name too, so there is nothing to load.
    let report = block_on(host.load_all());
    assert!(report.is_clean() && report.loaded.is_empty(), "{report:?}");
    let error = block_on(host.load_with(&folder, named("one", "x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
}

#[test]
fn load_all_loads_a_folder_that_serves_under_another_name() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let folder = plugins.add("echo", "faulty").config(json!({ "answers": "file" })).write();
    block_on(host.load_with(&folder, named("one", "one"))).unwrap();
    let report = block_on(host.load_all());
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(answer(&host, "echo"), "file");
    // Loaded explicitly under its own name, it is not loaded twice.
    block_on(host.unload("echo")).unwrap();
    block_on(host.load_with(&folder, named("echo", "set"))).unwrap();
    let report = block_on(host.load_all());
    assert!(report.is_clean() && report.loaded.is_empty(), "{report:?}");
    assert_eq!(answer(&host, "echo"), "set");
}

#[test]
fn reload_keeps_the_options_of_the_load() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let write = |version: &str| {
        let plugin = plugins.add("echo", "faulty").config(json!({ "answers": "file" }));
        plugin.bytes(|bytes| bytes.extend_from_slice(version.as_bytes())).write()
    };
    let folder = write("1");
    let few = Limits::default().with_input_bytes(Some(4));
    block_on(host.load_with(&folder, named("one", "set").with_limits(few))).unwrap();
    write("2");
    block_on(host.reload("one")).unwrap();
    assert_eq!(answer(&host, "one"), "set");
    assert_eq!(host.list()[0].generation.map(|id| id.get()), Some(2));
    let error = host.plugin("one").unwrap().call(Request::text("12345")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn changed_folder_reloads_all_its_names() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).hot_reload(true).build().unwrap();
    let mut events = host.events();
    let drafts = Plugins::new();
    let draft = |version: &str| {
        let plugin = drafts.add("echo", "faulty");
        plugin.bytes(|bytes| bytes.extend_from_slice(version.as_bytes())).write()
    };
    let folder = plugins.dir().join("echo");
    std::fs::rename(draft("1"), &folder).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Loaded { .. }));
    block_on(host.load_with(&folder, named("one", "one"))).unwrap();
    let new = draft("2");
    for file in std::fs::read_dir(&new).unwrap() {
        let file = file.unwrap();
        std::fs::rename(file.path(), folder.join(file.file_name())).unwrap();
    }
    for _ in 0..2 {
        event(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
    }
    let is_new = |plugin: &PluginInfo| plugin.generation.is_some_and(|id| id.get() > 1);
    assert!(host.list().iter().all(is_new), "{:?}", host.list());
    assert_eq!(answer(&host, "one"), "one");
    std::fs::remove_dir_all(&folder).unwrap();
    until("both are unloaded", || host.list().is_empty().then_some(()));
}

#[test]
fn invalid_options_are_refused_and_name_the_field() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let schema = json!({ "properties": { "answers": { "type": "string" } } });
    let folder = plugins.add("echo", "faulty").set("config_schema", schema).write();
    let check = |options: LoadOptions, step: LoadStep, expected: &str| {
        let error = block_on(host.load_with(&folder, options)).unwrap_err();
        let message = error.full_message();
        assert_eq!(error.step(), Some(step), "{message}");
        assert!(message.contains(expected), "{message}");
    };
    check(LoadOptions::new().with_name("No Name"), LoadStep::Manifest, "`name` is \"No Name\"");
    check(LoadOptions::new().with_config(json!(1)), LoadStep::Manifest, "`config` is 1");
    let wrong = LoadOptions::new().with_config(json!({ "answers": 7 }));
    check(wrong, LoadStep::Config, "`config.answers`: 7");
    let zero = LoadOptions::new().with_limits(Limits::default().with_queue(Some(0)));
    check(zero, LoadStep::Manifest, "`limits.queue` is 0");
    assert!(host.list().is_empty());
}

struct Listed(Vec<PathBuf>, Arc<AtomicUsize>);

impl Discovery for Listed {
    fn discover(&self) -> Vec<Result<Discovered, Error>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let mut found: Vec<_> = self.0.iter().map(|folder| Ok(Discovered::new(folder))).collect();
        let first = Discovered::new(&self.0[0]).with_options(named("first", "first"));
        found.push(Ok(first));
        found.push(Err(Error::overloaded("the database is away")));
        found
    }
}

#[test]
fn custom_discovery_replaces_the_walk() {
    let (plugins, ignored) = (Plugins::new(), Plugins::new());
    ignored.add("ignored", "faulty").write();
    let folder = plugins.add("echo", "faulty").config(json!({ "answers": "file" })).write();
    let searches = Arc::new(AtomicUsize::new(0));
    let listed = Listed(vec![folder], Arc::clone(&searches));
    let host = Host::builder().plugin_dir(ignored.dir()).discovery(listed).build().unwrap();
    let report = block_on(host.load_all());
    let names: Vec<_> = report.loaded.iter().map(|plugin| plugin.name.as_str()).collect();
    assert_eq!(names, ["echo", "first"]);
    assert_eq!(report.refused.len(), 1);
    assert!(report.refused[0].error.full_message().contains("the database is away"));
    assert_eq!(["echo", "first"].map(|name| answer(&host, name)), ["file", "first"]);
    assert!(block_on(host.load_all()).loaded.is_empty());
    assert_eq!(searches.load(Ordering::Relaxed), 2);
}

#[test]
fn discovery_that_panics_is_one_refusal() {
    struct Panics;
    impl Discovery for Panics {
        fn discover(&self) -> Vec<Result<Discovered, Error>> {
            panic!("no list")
        }
    }
    let host = Host::builder().discovery(Panics).build().unwrap();
    let report = block_on(host.load_all());
    assert_eq!(report.refused[0].error.kind(), ErrorKind::LayerPanicked);
    assert!(report.refused[0].error.full_message().contains("no list"));
}

struct Counter;

impl Plugin for Counter {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        match config.get("fails") {
            Some(_) => Err(PluginError::new(7, "cannot start")),
            None => Ok(Self),
        }
    }
    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Ok(Output::text("counted"))
    }
    fn shutdown(self) -> Result<(), PluginError> {
        Err(PluginError::new(8, "cannot flush"))
    }
}

#[test]
fn plugin_of_the_program_registers_at_run_time_and_again() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    for generation in 1..=3 {
        let manifest = Manifest::new("counter", "1.0.0").unwrap();
        let handle = block_on(host.register::<Counter>(manifest)).unwrap();
        assert_eq!(handle.call(Request::text("x")).unwrap().as_text().unwrap(), "counted");
        let error = block_on(host.register_fn("counter", |_, _| Ok(Output::text("")))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Duplicate);
        let report = block_on(host.unregister("counter")).unwrap();
        let error = report.shutdown_error.expect("an error of the shutdown");
        assert_eq!(error.plugin_error().map(PluginError::code), Some(8), "{generation}");
        assert_eq!(report.plugin.as_str(), "counter");
        assert!(report.generation.is_some() && report.retain_reason.is_none());
    }
    let failed = Manifest::new("counter", "1.0.0").unwrap().with_config(json!({ "fails": 1 }));
    let error = block_on(host.register::<Counter>(failed.unwrap())).unwrap_err();
    assert_eq!(error.step(), Some(LoadStep::Init));
    event(
        &mut events,
        |event| matches!(event, HostEvent::Refused { plugin, .. } if plugin == "counter"),
    );
    let folder = plugins.add("file", "faulty").write();
    loaded(&host, &folder);
    let error = block_on(host.unregister("file")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(host.plugin("file").is_ok());
    let error = block_on(host.register_fn("No Name", |_, _| Ok(Output::text("")))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Manifest);
}

#[test]
fn factory_creates_plugins_by_config_and_its_faults_are_errors() {
    let host = Host::builder()
        .limits(limits(|limits| limits.start_timeout = std::time::Duration::from_secs(3)))
        .register_factory("counter", |config: &Config| {
            match config.get("do").and_then(|it| it.as_str()) {
                Some("panic") => panic!("no counter"),
                Some("fail") => return Err(PluginError::new(9, "not now")),
                Some("hang") => std::thread::park(),
                _ => {}
            }
            Ok(Counter)
        })
        .build()
        .unwrap();
    let create =
        |name: &str, what: &str| block_on(host.create("counter", name, json!({ "do": what })));
    for name in ["one", "two"] {
        assert!(create(name, "").unwrap().call(Request::text("x")).is_ok());
    }
    assert_eq!(create("one", "").unwrap_err().kind(), ErrorKind::Duplicate);
    for (what, expected) in [("panic", "no counter"), ("fail", "not now"), ("hang", "3000 ms")] {
        let error = create("three", what).unwrap_err();
        assert_eq!((error.kind(), error.step()), (ErrorKind::StartFailed, Some(LoadStep::Init)));
        assert!(error.full_message().contains(expected), "{}", error.full_message());
    }
    let error = block_on(host.create("countr", "four", json!({}))).unwrap_err();
    assert_eq!(
        (error.kind(), error.hint()),
        (ErrorKind::NotFound, Some("did you mean `counter`?"))
    );
    block_on(host.unload("one")).unwrap();
    assert!(create("one", "").is_ok());
}

#[test]
fn cancelled_token_shuts_the_host_down_after_running_calls() {
    let token = CancellationToken::new();
    let (started, start) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let host = Host::builder()
        .cancellation_token(token.clone())
        .register_fn("slow", move |_, _| {
            started.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
            Ok(Output::text("done"))
        })
        .build()
        .unwrap();
    let mut events = host.events();
    let slow = host.plugin("slow").unwrap();
    let call = std::thread::spawn(move || block_on(slow.execute(Request::text("x"))));
    start.recv().unwrap();
    token.cancel();
    until("new calls fail", || {
        host.plugin("slow").err().filter(|error| error.kind() == ErrorKind::Shutdown)
    });
    release.send(()).unwrap();
    assert_eq!(call.join().unwrap().unwrap().as_text().unwrap(), "done");
    event(&mut events, |event| matches!(event, HostEvent::Stopped));
}

#[test]
fn host_with_a_token_can_be_dropped() {
    let token = CancellationToken::new();
    let host = Host::builder().cancellation_token(token.clone()).build().unwrap();
    let mut events = host.events();
    drop(host);
    event(&mut events, |event| matches!(event, HostEvent::Stopped));
    token.cancel();
    // A token that was cancelled before the build ends the host at once.
    let host = Host::builder().cancellation_token(token).build().unwrap();
    until("it is shut down", || {
        host.plugin("x").err().filter(|error| error.kind() == ErrorKind::Shutdown)
    });
}
