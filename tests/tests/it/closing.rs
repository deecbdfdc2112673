//! Unloading of replaced libraries: a library is unmapped only when nothing can run in it anymore.
//! Otherwise it is kept, the reason is reported, and it is unmapped when the reason ends.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hotbay::{Events, Host, HostEvent, LoadStep, PluginHandle, Reply, Request};
use hotbay_tests::{
    Plugins, block_on, event, host, images, limits, loaded, reloaded, rolled_back, unique, until,
};
use serde_json::{Value, json};

/// A plugin to be reloaded, in a host with nothing else.
struct Swap {
    plugins: Plugins,
    host: Host,
    events: Events,
    name: String,
    package: &'static str,
}

impl Swap {
    fn of(package: &'static str) -> Self {
        let plugins = Plugins::new();
        Self::in_host(host(&plugins), plugins, package)
    }

    fn in_host(host: Host, plugins: Plugins, package: &'static str) -> Self {
        Self { events: host.events(), host, plugins, name: unique("end"), package }
    }

    fn load(&self, config: Value) -> PluginHandle {
        loaded(&self.host, self.plugins.add(&self.name, self.package).config(config).write())
    }

    /// Reloads it with a harmless build, and returns why generation 1 was kept, or `None`.
    fn swap(&mut self) -> Option<String> {
        self.plugins.add(&self.name, self.package).config(json!({ "at": 2 })).write();
        assert_eq!(reloaded(&self.host, &self.name).get(), 2);
        self.end()
    }

    /// Returns the next reported end of generation 1.
    fn end(&mut self) -> Option<String> {
        let is_end =
            |event: &HostEvent| matches!(event, HostEvent::Kept { .. } | HostEvent::Closed { .. });
        match event(&mut self.events, is_end) {
            HostEvent::Kept { reason, generation, .. } => {
                assert_eq!(generation.get(), 1);
                Some(reason)
            }
            HostEvent::Closed { generation, .. } => {
                assert_eq!(generation.get(), 1);
                None
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asserts that it is listed with its reason and mapped, and that the new build serves.
    fn is_kept(&self, reason: &str) {
        let kept = until("it is listed", || self.host.retained().pop());
        assert_eq!(kept.reason, reason);
        assert_eq!(kept.generation.map(|generation| generation.get()), Some(1));
        self.serves();
        #[cfg(target_os = "linux")]
        assert_eq!(images(&self.name).len(), 2);
    }

    /// Asserts that it is unmapped and no longer listed.
    fn is_closed(&self) {
        #[cfg(target_os = "linux")]
        until("it is unmapped", || (images(&self.name).len() == 1).then_some(()));
        until("it is not listed", || self.host.retained().is_empty().then_some(()));
        self.serves();
    }

    fn serves(&self) {
        let handle = self.host.plugin(&self.name).unwrap();
        assert_eq!(handle.call(Request::text("x")).unwrap().generation().get(), 2);
        let pooled = block_on(handle.execute(Request::text("x"))).unwrap();
        assert_eq!(pooled.generation().get(), 2);
    }
}

#[test]
fn clean_library_is_unmapped_at_once() {
    let mut swap = Swap::of("faulty");
    let handle = swap.load(json!({}));
    block_on(handle.execute(Request::text("x"))).unwrap();
    assert_eq!(swap.swap(), None);
    swap.is_closed();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn running_threads_keep_library_until_they_exit() {
    let mut swap = Swap::of("faulty");
    let (release, answer) = (swap.plugins.dir().join("go"), swap.plugins.dir().join("said"));
    let config = json!({ "leave_thread": true, "release": release, "answer": answer });
    let handle = swap.load(config);
    for _ in 0..3 {
        block_on(handle.execute(Request::text("x"))).unwrap();
    }
    assert_eq!(swap.swap().as_deref(), Some("threads: 3 still running"));
    swap.is_kept("threads: 3 still running");
    fs::write(release, "").unwrap();
    // The thread logged after its plugin's end. The file exists before its text.
    let logged = until("a thread has answered", || {
        fs::read_to_string(&answer).ok().filter(|logged| !logged.is_empty())
    });
    assert_eq!(logged, "Closed");
    assert_eq!(swap.end(), None);
    swap.is_closed();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn threads_that_exit_shortly_after_are_awaited() {
    let mut swap = Swap::of("faulty");
    swap.load(json!({ "late_thread": true }));
    // Longer than the wait only on a very busy machine.
    if let Some(reason) = swap.swap() {
        assert_eq!(reason, "threads: 1 still running");
        assert_eq!(swap.end(), None);
    }
    swap.is_closed();
}

/// Runs a caller thread on which the plugin leaves something, and which exits after the reload.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn leave_on_caller_thread(touch: &str, expected: &str) {
    let mut swap = Swap::of("faulty");
    let handle = swap.load(json!({ "touch_thread": touch }));
    let (go, wait) = mpsc::channel::<()>();
    let (called, was_called) = mpsc::channel();
    let caller = thread::spawn(move || {
        called.send(handle.call(Request::text("x")).is_ok()).unwrap();
        let _ = wait.recv();
    });
    assert!(was_called.recv().unwrap());
    let reason = swap.swap().expect("it is kept");
    assert!(reason.starts_with(expected), "{reason}");
    swap.is_kept(&reason);
    drop(go);
    caller.join().unwrap();
    assert_eq!(swap.end(), None);
    swap.is_closed();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn thread_local_on_caller_thread_keeps_library() {
    leave_on_caller_thread("local", "pinned: a live thread");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn caller_thread_handle_keeps_library_until_exit() {
    leave_on_caller_thread("current", "thread keys: 1 thread");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn replaced_signal_handler_keeps_library_forever() {
    let mut swap = Swap::of("handles-signal");
    swap.load(json!({}));
    // The new build replaces the handler, and could call the old one.
    let reason = "it called `signal`, and a later signal handler may still call the one that it \
                  installed";
    assert_eq!(swap.swap().as_deref(), Some(reason));
    swap.plugins.add(&swap.name, swap.package).config(json!({ "at": 3 })).write();
    swap.host.plugin(&swap.name).unwrap().call(Request::text("give back")).unwrap();
    block_on(swap.host.unload(&swap.name)).unwrap();
    let is_kept = |event: &HostEvent| matches!(event, HostEvent::Kept { .. });
    event(&mut swap.events, is_kept);
    assert_eq!(images(&swap.name).len(), 2);
}

#[test]
fn held_replies_stay_readable_and_keep_library() {
    let mut swap = Swap::of("faulty");
    let handle = swap.load(json!({ "output_bytes": 500 }));
    let replies: Vec<Reply> = (0..3)
        .map(|at| match at {
            0 => handle.call(Request::text("x")).unwrap(),
            _ => block_on(handle.execute(Request::text("x"))).unwrap(),
        })
        .collect();
    assert_eq!(swap.swap().as_deref(), Some("outputs: 3 still held"));
    swap.is_kept("outputs: 3 still held");
    for reply in replies {
        assert_eq!(reply.as_bytes(), [b'x'; 500]);
    }
    assert_eq!(swap.end(), None);
    swap.is_closed();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn unknown_linked_library_keeps_library_forever() {
    let mut swap = Swap::of("links-more");
    swap.load(json!({}));
    let reason = "it links libresolv.so.2, which this host does not know";
    assert_eq!(swap.swap().as_deref(), Some(reason));
    swap.is_kept(reason);
}

#[test]
fn not_unloadable_manifest_keeps_library_forever() {
    let mut swap = Swap::of("faulty");
    let plugin = swap.plugins.add(&swap.name, "faulty").set("unload", "keep");
    loaded(&swap.host, plugin.write());
    let reason = "its manifest sets `unload` to `keep`";
    assert_eq!(swap.swap().as_deref(), Some(reason));
    swap.is_kept(reason);
}

/// Turns the exported variable into a unique symbol in the symbol table of a 64-bit ELF library.
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
fn with_unique_symbol(bytes: &mut [u8]) {
    let word = |bytes: &[u8], at: usize, length: usize| {
        let mut word = [0; 8];
        word[..length].copy_from_slice(&bytes[at..at + length]);
        usize::try_from(u64::from_le_bytes(word)).unwrap()
    };
    const DYNAMIC_SYMBOLS: usize = 11;
    const GLOBAL_OBJECT: u8 = 0x11;
    const UNIQUE_OBJECT: u8 = 0xa1;
    let (sections, count) = (word(bytes, 0x28, 8), word(bytes, 0x3c, 2));
    let mut sections = (0..count).map(|at| sections + at * 64);
    let table = sections.find(|at| word(bytes, at + 4, 4) == DYNAMIC_SYMBOLS).unwrap();
    let (start, size) = (word(bytes, table + 0x18, 8), word(bytes, table + 0x20, 8));
    let mut symbols = (start..start + size).step_by(24);
    let is_defined = |at: &usize| word(bytes, at + 6, 2) != 0;
    let found = symbols.find(|at| bytes[at + 4] == GLOBAL_OBJECT && is_defined(at)).unwrap();
    bytes[found + 4] = UNIQUE_OBJECT;
}

#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
#[test]
fn unique_symbol_keeps_library_and_is_named() {
    let mut swap = Swap::of("faulty");
    let plugin = swap.plugins.add(&swap.name, swap.package);
    loaded(&swap.host, plugin.bytes(|bytes| with_unique_symbol(bytes)).write());
    let notes = swap.host.list().remove(0).notes;
    let reason = "it defines the unique symbol `HOTBAY_PLUGIN_STAMP`";
    assert_eq!(notes, [format!("its library stays mapped: {reason}")]);
    assert_eq!(swap.swap().as_deref(), Some(reason));
    swap.is_kept(reason);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn uncounted_import_keeps_library_and_is_named() {
    let mut swap = Swap::of("imports-clone");
    swap.load(json!({}));
    let reason = "it imports `clone`, whose thread is not counted";
    assert_eq!(swap.swap().as_deref(), Some(reason));
    swap.is_kept(reason);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn nodelete_library_is_noted_at_load_and_kept() {
    let mut swap = Swap::of("not-unloadable");
    let reason = "it is linked with `-z nodelete`";
    let folder = swap.plugins.add(&swap.name, swap.package).write();
    let inspection = hotbay::inspect::plugin(&Host::builder(), &folder);
    assert_eq!(inspection.stays_mapped.as_deref(), Some(reason));
    swap.load(json!({}));
    let notes = swap.host.list().remove(0).notes;
    assert_eq!(notes, [format!("its library stays mapped: {reason}")]);
    assert_eq!(swap.swap().as_deref(), Some(reason));
    swap.is_kept(reason);
}

#[test]
fn panic_in_shutdown_is_reported_and_keeps_library() {
    let mut swap = Swap::of("faulty");
    swap.load(json!({ "panic_in": "shutdown" }));
    let mut events = swap.host.events();
    let reason = swap.swap().expect("it is kept");
    assert!(reason.contains("shutdown: ") && reason.contains("on request"), "{reason}");
    swap.is_kept(&reason);
    event(&mut events, |event| matches!(event, HostEvent::ShutdownFailed { .. }));
}

#[test]
fn hanging_shutdown_keeps_library() {
    let plugins = Plugins::new();
    let wait = limits(|limits| limits.stop_timeout = Duration::from_millis(50));
    let host = Host::builder().limits(wait).build().unwrap();
    let mut swap = Swap::in_host(host, plugins, "faulty");
    let release = swap.plugins.dir().join("go");
    swap.load(json!({ "hang_in": "shutdown", "release": release }));
    assert_eq!(swap.swap().as_deref(), Some("shutdown: still running"));
    swap.is_kept("shutdown: still running");
    fs::write(release, "").unwrap();
}

#[test]
fn kept_libraries_are_bounded_and_service_continues() {
    let plugins = Plugins::new();
    let bounded = limits(|limits| limits.max_retained_libraries = 2);
    let host = Host::builder().limits(bounded).build().unwrap();
    let install = |at: u32| {
        let config = json!({ "output_bytes": 100, "at": at });
        plugins.add("bounded", "faulty").config(config).write()
    };
    let handle = loaded(&host, install(1));
    let mut held = Vec::new();
    for generation in 2..4 {
        held.push(handle.call(Request::text("x")).unwrap());
        install(generation);
        assert_eq!(reloaded(&host, "bounded").get(), u64::from(generation));
    }
    until("both are kept", || (host.retained().len() == 2).then_some(()));
    install(4);
    let error = rolled_back(&host, "bounded");
    let message = error.full_message();
    assert_eq!(error.step(), Some(LoadStep::Open), "{message}");
    for part in ["2 libraries", "`bounded` 2", " bytes", "generation 3 keeps serving"] {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
    let hint = error.hint().expect("a hint");
    for part in ["`max_retained_libraries`", "`Host::retained`", "restart"] {
        assert!(hint.contains(part), "`{part}` in: {hint}");
    }
    assert_eq!(handle.call(Request::text("x")).unwrap().generation().get(), 3);
    drop(held);
    until("they are closed", || host.retained().is_empty().then_some(()));
    assert!(reloaded(&host, "bounded").get() > 3);
}
