//! Interference from outside with a running process: its private copy is removed, its guardian is
//! killed, or files near it become writable by other users.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use hotbay::{ErrorKind, Host, HostBuilder, HostEvent, LoadStep};
use hotbay_tests::{children, event, loaded, refused, state_of, until};
use serde_json::json;
use tempfile::TempDir;

use super::fixture::{ProcessFixture, Running, kill, signal};

fn patient(builder: HostBuilder) -> HostBuilder {
    builder.quarantine(None)
}

fn is_restart(event: &HostEvent) -> bool {
    matches!(event, HostEvent::Restarted { .. })
}

/// Starts a plugin whose copies are staged in a temporary folder.
fn staged() -> (TempDir, Running) {
    let staging = TempDir::new().unwrap();
    let host = |builder: HostBuilder| patient(builder).staging_dir(staging.path());
    let running = ProcessFixture::new().run_with(json!({}), |it| it, host);
    (staging, running)
}

fn remove_all_in(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
}

#[test]
fn missing_copy_is_staged_again_at_restart() {
    let (staging, running) = staged();
    for _ in 0..2 {
        let mut events = running.host.events();
        remove_all_in(staging.path());
        kill(running.pid());
        event(&mut events, is_restart);
        running.serves();
    }
    let Running { fixture, host, handle } = running;
    drop((handle, host));
    fixture.assert_nothing_left();
    until("no copy is left", || {
        fs::read_dir(staging.path()).unwrap().next().is_none().then_some(())
    });
}

#[test]
fn missing_copy_is_not_staged_from_another_build() {
    let (staging, running) = staged();
    let program = running.fixture.file(&running.fixture.name).join("program");
    let kept = running.fixture.file("kept");
    fs::rename(&program, &kept).unwrap();
    let script = "#!/bin/sh\nexit 7\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    remove_all_in(staging.path());
    let mut events = running.host.events();
    kill(running.pid());
    event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    let message = until("the failed start is reported", || {
        let error = format!("{:?}", running.call(&json!({ "do": "count" })).err()?);
        error.contains("step `stage`").then_some(error)
    });
    assert!(message.contains("has changed since"), "{message}");
    // The start is retried, and works once the file is back.
    fs::rename(&kept, &program).unwrap();
    event(&mut events, is_restart);
    running.serves();
    running.end();
}

/// Returns the guardians of this process's plugins that carry this tag.
fn guardians(mark: &str) -> Vec<u32> {
    let expected = format!("HOTBAY_GUARDED={mark}");
    let is_one = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|own| own == expected.as_bytes())
    };
    let alive = children().into_iter().filter(|(_, state)| *state != 'Z');
    alive.map(|(pid, _)| pid).filter(is_one).collect()
}

#[test]
fn killed_guardian_is_replaced_in_same_group() {
    let running = ProcessFixture::new().run(json!({}));
    let reply = running.call_json(&json!({ "do": "report" }));
    let mark = reply["environment"]["HOTBAY_LAUNCH"].as_str().expect("a mark").to_owned();
    let group_of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(2).unwrap().to_owned()
    };
    let group = group_of(running.pid());
    for _ in 0..2 {
        let [guardian] = guardians(&mark)[..] else { panic!("one guardian") };
        assert_eq!(group_of(guardian), group);
        let arguments = fs::read(format!("/proc/{guardian}/cmdline")).unwrap();
        let arguments = String::from_utf8(arguments).unwrap();
        assert!(!arguments.contains(&mark) && !arguments.contains("hotbay-run-"), "{arguments}");
        signal(guardian, "KILL");
        until("another guardian exists", || {
            let now = guardians(&mark);
            (now.len() == 1 && now[0] != guardian).then_some(())
        });
    }
    running.serves();
    let Running { fixture, host, handle } = running;
    let pid = *fixture.started().last().unwrap();
    hotbay_tests::block_on(host.unload(&fixture.name)).unwrap();
    drop(handle);
    fixture.assert_nothing_left();
    assert!(guardians(&mark).is_empty() && state_of(pid).is_none());
    assert!(!Path::new(&format!("/proc/{group}")).exists(), "its first guardian is reaped");
}

/// Installs a valid plugin with a file, a folder and a nested file beside the program.
fn with_helpers(fixture: &ProcessFixture) -> PathBuf {
    let folder = fixture.program(json!({})).install();
    fs::create_dir(folder.join("lib")).unwrap();
    for file in ["helper.py", "lib/mod.py"] {
        fs::write(folder.join(file), "x").unwrap();
        fs::set_permissions(folder.join(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(folder.join("lib"), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn files_beside_program_are_checked_like_program() {
    type Corrupt = fn(&Path);
    fn set(path: PathBuf, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let cases: [(Corrupt, &str); 5] = [
        (|folder| set(folder.join("helper.py"), 0o666), "helper.py"),
        (|folder| set(folder.join("lib/mod.py"), 0o664), "lib/mod.py"),
        (|folder| set(folder.join("lib"), 0o777), "lib`"),
        (|folder| symlink("/etc/passwd", folder.join("lib/out")).unwrap(), "lib/out"),
        (|folder| symlink("../../x", folder.join("out")).unwrap(), "out`"),
    ];
    for (corrupt, names) in cases {
        let fixture = ProcessFixture::new();
        let folder = with_helpers(&fixture);
        let host = Host::builder().build().unwrap();
        loaded(&host, &folder);
        hotbay_tests::block_on(host.unload(&fixture.name)).unwrap();
        corrupt(&folder);
        let error = refused(&host, &folder);
        let message = error.full_message();
        assert_eq!((error.kind(), error.step()), (ErrorKind::Integrity, Some(LoadStep::Stage)));
        assert!(message.contains(names), "`{names}` in: {message}");
        let trusting = Host::builder().allow_writable_by_others(true).build().unwrap();
        loaded(&trusting, &folder);
        drop((host, trusting));
        fixture.assert_nothing_left();
    }
}

#[test]
fn files_beside_program_are_checked_at_each_restart() {
    let running = ProcessFixture::new().run_with(json!({}), |it| it, patient);
    let helper = running.fixture.file(&running.fixture.name).join("helper.py");
    fs::write(&helper, "x").unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o666)).unwrap();
    let mut events = running.host.events();
    kill(running.pid());
    until("the failed start is reported", || {
        let error = running.call(&json!({ "do": "count" })).err()?.full_message();
        (error.contains("step `stage`") && error.contains("helper.py")).then_some(())
    });
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o644)).unwrap();
    event(&mut events, is_restart);
    running.serves();
    running.end();
}

#[test]
fn folder_below_writable_ancestor_is_refused_unless_sticky() {
    let temporary = TempDir::new().unwrap();
    let (above, root) = (temporary.path().join("above"), temporary.path().join("above/root"));
    fs::create_dir_all(&root).unwrap();
    let program = hotbay_tests::ProgramFolder::new(&root, "below");
    let folder = program.set("package", "program").install();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    let set = |mode| fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o777, 0o775] {
        set(mode);
        let host = Host::builder().plugin_dir(&root).build().unwrap();
        let error = refused(&host, &folder);
        assert_eq!(error.kind(), ErrorKind::Integrity);
        let message = format!("{error:?}");
        assert!(message.contains("above`") && message.contains("--allow-writable"), "{message}");
        let report = hotbay_tests::block_on(host.load_all());
        assert!(report.loaded.is_empty(), "the directory is skipped");
        let builder = Host::builder().allow_writable_by_others(true);
        loaded(&builder.build().unwrap(), &folder);
    }
    for mode in [0o1777, 0o755] {
        set(mode);
        loaded(&Host::builder().build().unwrap(), &folder);
    }
}
