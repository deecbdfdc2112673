//! Tests of the thread of `watch.rs`, with a handler that only records attempts.

use std::fs;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::super::fs_watcher::NotifyHandler;
use super::*;
use crate::sync::lock;

/// Records which folders were attempted.
#[derive(Clone, Default)]
struct Attempts(Arc<Mutex<Vec<String>>>);

impl ChangeHandler for Attempts {
    fn run(&mut self, folder: &Path, attempt: Attempt, sender: OutcomeSender) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lock(&self.0).push(format!("{name} {attempt:?}"));
        sender.send(AttemptOutcome::Done);
    }

    fn waiting(&mut self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn instances(&mut self) -> BTreeSet<PathBuf> {
        BTreeSet::new()
    }
}

/// Returns a thread over `a` and `b` whose channel has this capacity; it receives no events itself.
fn watch_thread(
    capacity: usize,
) -> (tempfile::TempDir, WatchThread<Attempts>, Receiver<Event>, Attempts) {
    let root = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(root.path().join(name)).unwrap();
        fs::write(root.path().join(name).join(MANIFEST), "{").unwrap();
    }
    let rules = Rules {
        allow_unverified: true,
        allow_writable_by_others: true,
        max_library_bytes: 1,
        signatures: Default::default(),
    };
    let dirs = vec![root.path().to_owned()];
    // So rare that no test finds anything by polling.
    let poll_interval = Some(Duration::from_secs(3600));
    let (sender, receiver) = sync_channel(capacity);
    let attempts = Attempts::default();
    let options = WatchOptions { dirs, rules, poll_interval };
    let mut thread =
        WatchThread::new(options, attempts.clone(), sender, Arc::new(Flags::default()));
    thread.begin();
    thread.check_roots_at += Duration::from_secs(3600);
    (root, thread, receiver, attempts)
}

fn notify_handler(thread: &WatchThread<Attempts>) -> NotifyHandler {
    let (sender, flags) = (thread.sender.clone(), Arc::clone(&thread.flags));
    NotifyHandler { sender, flags, _alive: channel().0 }
}

fn event(path: PathBuf) -> notify::Event {
    let to = notify::event::ModifyKind::Name(notify::event::RenameMode::To);
    notify::Event::new(notify::EventKind::Modify(to)).add_path(path)
}

#[test]
fn full_channel_makes_thread_scan_everything() {
    use notify::EventHandler as _;
    let (root, mut thread, receiver, attempts) = watch_thread(2);
    let mut handler = notify_handler(&thread);
    for number in 0..100 {
        handler.handle_event(Ok(event(root.path().join(format!("a/x{number}")))));
    }
    let now = Instant::now();
    fs::write(root.path().join("b").join(MANIFEST), "{ }").unwrap();
    handler.handle_event(Ok(event(root.path().join("b").join(MANIFEST))));
    assert!(thread.flags.events_lost.load(Ordering::Acquire));
    assert_eq!(receiver.try_iter().map(|event| thread.receive(event)).count(), 2);
    thread.run_due(now);
    assert_eq!(*lock(&attempts.0), Vec::<String>::new());
    thread.run_due(now + DebounceLimits::default().quiet_period);
    assert_eq!(*lock(&attempts.0), ["b Tentative"]);
}

#[test]
fn event_loss_makes_thread_scan_everything() {
    use notify::EventHandler as _;
    let lost = notify::Event::new(notify::EventKind::Other);
    let lost = lost.set_flag(notify::event::Flag::Rescan);
    for event in [Ok(lost), Err(notify::Error::generic("queue overflow"))] {
        let (root, mut thread, receiver, attempts) = watch_thread(2);
        fs::create_dir(root.path().join("new")).unwrap();
        fs::write(root.path().join("new").join(MANIFEST), "{").unwrap();
        notify_handler(&thread).handle_event(event);
        for event in receiver.try_iter() {
            thread.receive(event);
        }
        let now = Instant::now();
        thread.run_due(now);
        thread.run_due(now + DebounceLimits::default().quiet_period);
        assert_eq!(*lock(&attempts.0), ["new Tentative"]);
    }
}

#[test]
fn poll_interval_of_zero_does_not_spin() {
    let rules = Rules {
        allow_unverified: true,
        allow_writable_by_others: true,
        max_library_bytes: 1,
        signatures: Default::default(),
    };
    let options = WatchOptions { dirs: Vec::new(), rules, poll_interval: Some(Duration::ZERO) };
    let (sender, _receiver) = sync_channel(1);
    let flags = Arc::new(Flags::default());
    let mut thread = WatchThread::new(options, Attempts::default(), sender, flags);
    thread.begin();
    let now = Instant::now() + Duration::from_secs(10);
    thread.run_due(now);
    assert!(!thread.wait(now).is_zero());
}
