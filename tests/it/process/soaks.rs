//! Short variants of the process soaks: killed plugin processes under load, and killed hosts. Each
//! runs in a subprocess, so that all leftovers can be counted.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hotbay::Host;
use hotbay_tests::{
    Kills, LIMIT, Plugins, ProgramFolder, ResourceSnapshot, block_on, host_until_killed,
    kill_often, loaded, orphan, rerun_test, run_in_subprocess,
};

/// Set in the host to be killed: its staging folder and its plugins' folder.
const HOST: &str = "HOTBAY_TESTS_HOST_OF";
/// Set in a subprocess that runs a single test again.
const ALONE: &str = "HOTBAY_TESTS_ALONE";

#[test]
fn random_kills_cause_no_wrong_reply_and_leave_nothing() {
    const TEST: &str =
        concat!(module_path!(), "::random_kills_cause_no_wrong_reply_and_leave_nothing");
    if env::var_os(ALONE).is_none() {
        run_in_subprocess(TEST, &[(ALONE, "1")]);
        return;
    }
    let plugins = Plugins::new();
    let folder = ProgramFolder::new(plugins.dir(), "echo").built("served", "served");
    let folder = folder.set("package", "served").install();
    let staging = plugins.dir().join("staged");
    fs::create_dir(&staging).unwrap();
    let run = |kills| {
        let host = Host::builder().quarantine(None).staging_dir(&staging).build().unwrap();
        let plugin = loaded(&host, &folder);
        let how = Kills {
            kills,
            callers: 4,
            timeout: Duration::from_secs(5),
            max_pause: Duration::from_millis(20),
        };
        let killed = kill_often(&plugin, &mut host.events(), how);
        block_on(host.shutdown(LIMIT));
        killed
    };
    // Resources that are created once and kept exist by now.
    run(1);
    let before = ResourceSnapshot::take();
    let killed = run(10);
    assert!(killed.wrong.is_empty(), "{:?}", killed.wrong);
    assert!(killed.answered > 0, "{killed:?}");
    let left = before.leftovers_within(LIMIT);
    assert!(left.is_empty(), "{left:?}");
    let staged: Vec<_> = fs::read_dir(&staging).unwrap().collect();
    assert!(staged.is_empty(), "{staged:?}");
}

#[test]
fn killed_host_leaves_no_plugin_process() {
    const TEST: &str = concat!(module_path!(), "::killed_host_leaves_no_plugin_process");
    if let Some(dir) = env::var_os(HOST) {
        let dir = PathBuf::from(dir);
        host_until_killed(&[dir.join("one"), dir.join("two")], &dir.join("staged"));
        return;
    }
    let plugins = Plugins::new();
    for name in ["one", "two"] {
        ProgramFolder::new(plugins.dir(), name).set("package", "program").install();
    }
    fs::create_dir(plugins.dir().join("staged")).unwrap();
    for _ in 0..3 {
        let orphaned = orphan(rerun_test(TEST).env(HOST, plugins.dir()));
        assert_eq!(orphaned.launches, 2, "{orphaned:?}");
        // Per plugin: its process, three descendants and a guardian.
        assert_eq!(orphaned.processes, 10, "{orphaned:?}");
        assert!(orphaned.left.is_empty(), "{orphaned:?}");
    }
}
