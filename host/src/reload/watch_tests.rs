//! Tests of the loop of `watch.rs`, with a visitor that only notes what it is asked.

use std::fs;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::super::fs_watcher::NotifyHandler;
use super::*;
use crate::sync::lock;

/// Notes which folders were to be looked at.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl ChangeHandler for Notes {
    fn run(&mut self, folder: &Path, look: Attempt, answerer: OutcomeSender) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lock(&self.0).push(format!("{name} {look:?}"));
        answerer.send(AttemptOutcome::Done);
    }

    fn waiting(&mut self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// A loop over `a` and `b` whose channel takes so many events; nothing rings by itself.
fn doorkeeper(room: usize) -> (tempfile::TempDir, WatchThread<Notes>, Receiver<Event>, Notes) {
    let root = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(root.path().join(name)).unwrap();
        fs::write(root.path().join(name).join(MANIFEST), "{").unwrap();
    }
    let rules =
        Rules { allow_unverified: true, allow_writable_by_others: true, max_library_bytes: 1 };
    let dirs = vec![root.path().to_owned()];
    // So seldom that nothing here is found by chance.
    let poll_interval = Some(Duration::from_secs(3600));
    let (sender, receiver) = sync_channel(room);
    let notes = Notes::default();
    let watching = WatchOptions { dirs, rules, poll_interval };
    let mut doorkeeper =
        WatchThread::new(watching, notes.clone(), sender, Arc::new(Flags::default()));
    doorkeeper.begin();
    doorkeeper.roots_at += Duration::from_secs(3600);
    (root, doorkeeper, receiver, notes)
}

fn clapper(doorkeeper: &WatchThread<Notes>) -> NotifyHandler {
    let (sender, flags) = (doorkeeper.sender.clone(), Arc::clone(&doorkeeper.flags));
    NotifyHandler { sender, flags, _alive: channel().0 }
}

fn event(path: PathBuf) -> notify::Event {
    let to = notify::event::ModifyKind::Name(notify::event::RenameMode::To);
    notify::Event::new(notify::EventKind::Modify(to)).add_path(path)
}

#[test]
fn what_did_not_fit_into_the_channel_is_found_by_looking_at_everything() {
    use notify::EventHandler as _;
    let (root, mut doorkeeper, receiver, notes) = doorkeeper(2);
    let mut clapper = clapper(&doorkeeper);
    for number in 0..100 {
        clapper.handle_event(Ok(event(root.path().join(format!("a/x{number}")))));
    }
    let now = Instant::now();
    fs::write(root.path().join("b").join(MANIFEST), "{ }").unwrap();
    clapper.handle_event(Ok(event(root.path().join("b").join(MANIFEST))));
    assert!(doorkeeper.flags.missed.load(Ordering::Acquire));
    assert_eq!(receiver.try_iter().map(|event| doorkeeper.receive(event)).count(), 2);
    doorkeeper.run_due(now);
    assert_eq!(*lock(&notes.0), Vec::<String>::new());
    doorkeeper.run_due(now + DebounceLimits::default().quiet_period);
    assert_eq!(*lock(&notes.0), ["b Tentative"]);
}

#[test]
fn what_the_system_lost_is_found_by_looking_at_everything() {
    use notify::EventHandler as _;
    let lost = notify::Event::new(notify::EventKind::Other);
    let lost = lost.set_flag(notify::event::Flag::Rescan);
    for told in [Ok(lost), Err(notify::Error::generic("no room"))] {
        let (root, mut doorkeeper, receiver, notes) = doorkeeper(2);
        fs::create_dir(root.path().join("new")).unwrap();
        fs::write(root.path().join("new").join(MANIFEST), "{").unwrap();
        clapper(&doorkeeper).handle_event(told);
        for event in receiver.try_iter() {
            doorkeeper.receive(event);
        }
        let now = Instant::now();
        doorkeeper.run_due(now);
        doorkeeper.run_due(now + DebounceLimits::default().quiet_period);
        assert_eq!(*lock(&notes.0), ["new Tentative"]);
    }
}
