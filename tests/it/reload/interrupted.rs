//! Reloads interrupted by an unload or a shutdown: everything that was started for them ends.

use std::fs;
use std::path::PathBuf;
use std::thread;

use hotbay::{ErrorKind, Host, HostEvent, Request};
use hotbay_tests::{LIMIT, Plugins, block_on, event, host, images, loaded, threads, unique, until};
use serde_json::{Value, json};

/// A plugin whose reload hangs at an entry point until released.
struct Hanging {
    plugins: Plugins,
    host: Host,
    name: String,
    release: PathBuf,
    entered: PathBuf,
}

impl Hanging {
    fn new(handover: &str, entry: &str) -> Self {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let file = |name: &str| plugins.dir().join(name);
        let (release, entered, now) = (file("go"), file("entered"), file("now"));
        let name = unique("cut");
        let mut config = json!({ "count": true, "hang_in": entry });
        for (key, file) in [("release", &release), ("entered", &entered), ("while", &now)] {
            config[key] = json!(file);
        }
        let install = |config: Value| {
            plugins.add(&name, "faulty").set("handover", handover).config(config).write()
        };
        loaded(&host, install(config.clone()));
        config["at"] = 2.into();
        install(config);
        fs::write(now, "").unwrap();
        Self { plugins, host, name, release, entered }
    }

    /// Waits until nothing of the plugin is left.
    fn has_exited(&self) {
        until("no image is left", || images(&self.name).is_empty().then_some(()));
        let prefix = format!("{}-", self.name);
        until("no thread is left", || threads(&prefix).is_empty().then_some(()));
        until("nothing is kept", || self.host.retained().is_empty().then_some(()));
    }
}

/// Entry points at which a reload can hang, by handover; the old build's snapshot holds a lease.
const PLACES: [(&str, &str); 7] = [
    ("overlap", "init"),
    ("overlap", "restore"),
    ("overlap", "snapshot"),
    ("pause", "init"),
    ("pause", "restore"),
    ("stop-first", "init"),
    ("stop-first", "health"),
];

#[test]
fn unload_during_reload_leaves_nothing_and_frees_name() {
    for (handover, entry) in PLACES {
        let hanging = Hanging::new(handover, entry);
        let Hanging { plugins, host, name, release, entered } = &hanging;
        let handle = host.plugin(name).unwrap();
        thread::scope(|scope| {
            let reload = scope.spawn(|| block_on(host.reload(name)));
            until("the reload hangs", || entered.exists().then_some(()));
            let unload = scope.spawn(|| block_on(host.unload(name)));
            until("it is out of service", || {
                let error = handle.pin().err()?;
                (error.kind() == ErrorKind::Retired).then_some(())
            });
            fs::write(release, "").unwrap();
            unload.join().unwrap().unwrap();
            let error = reload.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Retired, "{}", error.full_message());
        });
        assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Retired);
        let error = block_on(handle.execute(Request::text("x"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retired, "by {handover} in {entry}");
        hanging.has_exited();
        let handle = loaded(host, plugins.add(name, "faulty").write());
        assert!(handle.call(Request::text("x")).is_ok());
    }
}

#[test]
fn shutdown_during_reload_leaves_nothing() {
    for (handover, entry) in PLACES {
        let hanging = Hanging::new(handover, entry);
        let Hanging { host, name, release, entered, .. } = &hanging;
        let mut events = host.events();
        let handle = host.plugin(name).unwrap();
        thread::scope(|scope| {
            let reload = scope.spawn(|| block_on(host.reload(name)));
            until("the reload hangs", || entered.exists().then_some(()));
            let shutdown = scope.spawn(|| block_on(host.shutdown(LIMIT)));
            until("it is out of service", || {
                let error = handle.pin().err()?;
                (error.kind() == ErrorKind::Shutdown).then_some(())
            });
            fs::write(release, "").unwrap();
            shutdown.join().unwrap();
            let error = reload.join().unwrap().unwrap_err();
            let right = [ErrorKind::Retired, ErrorKind::Shutdown];
            assert!(right.contains(&error.kind()), "{}", error.full_message());
        });
        event(&mut events, |event| matches!(event, HostEvent::Stopped));
        assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Shutdown);
        hanging.has_exited();
    }
}

#[test]
fn reload_after_shutdown_is_refused() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    loaded(&host, plugins.add("over", "faulty").write());
    block_on(host.shutdown(LIMIT));
    let error = block_on(host.reload("over")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown, "{}", error.full_message());
}
