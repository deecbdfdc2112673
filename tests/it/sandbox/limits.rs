//! Programs that exceed the limits of their sandboxes: the fault says which limit.

use std::fs;

use hotbay::HostEvent;
use hotbay_tests::{Plugins, event};
use serde_json::{Value, json};

use super::{attempt, can_confine, start};

/// Lets the program exceed a limit that ends it; returns what the host reports.
#[track_caller]
fn exceed(limits: Value, write: Value, action: Value) -> String {
    let running = start(json!({ "limits": limits, "write": write }));
    let mut events = running.host.events();
    let outcome = running.call(&action);
    assert!(outcome.is_err(), "{outcome:?}");
    let exited = event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    let HostEvent::ChildExited { reason, .. } = exited else { panic!("{exited:?}") };
    running.end();
    reason
}

#[test]
fn processor_time_is_limited() {
    let reason = exceed(json!({ "cpu_seconds": 1 }), json!([]), json!({ "do": "spin" }));
    assert!(reason.contains("exceeded its CPU time limit"), "{reason}");
}

#[test]
fn size_of_files_is_limited() {
    let folder = Plugins::new();
    let file = folder.dir().join("file");
    let action = json!({ "do": "fill", "path": file });
    let reason = exceed(json!({ "file_bytes": 65536 }), json!([folder.dir()]), action);
    assert!(reason.contains("exceeded its file size limit"), "{reason}");
    assert_eq!(fs::metadata(&file).expect("the file").len(), 65536);
}

#[test]
fn memory_is_limited() {
    let running = start(json!({ "limits": { "memory_bytes": 256 << 20 } }));
    assert_eq!(attempt(&running, json!({ "do": "memory", "mebibytes": 16 })), "permitted");
    let too_much = attempt(&running, json!({ "do": "memory", "mebibytes": 512 }));
    assert_eq!(too_much, format!("denied {}", libc::ENOMEM));
    running.end();
}

#[test]
fn memory_of_all_processes_is_limited() {
    // The limit of each process is not reached.
    let limits = json!({ "memory_bytes": 96 << 20 });
    let action = json!({ "do": "processes", "count": 6, "mebibytes": 32 });
    let reason = exceed(limits, json!([]), action);
    assert!(reason.contains("exceeded its limit `memory_bytes`"), "{reason}");
}

#[test]
fn number_of_processes_is_limited() {
    let action = json!({ "do": "bomb", "count": 200 });
    let reason = exceed(json!({ "processes": 4 }), json!([]), action);
    assert!(reason.contains("exceeded its limit `processes`"), "{reason}");
    assert!(reason.contains("4 are permitted"), "{reason}");
}

#[test]
fn one_process_cannot_start_others() {
    if !can_confine(0) {
        return;
    }
    let running = start(json!({ "limits": { "processes": 1 } }));
    assert_eq!(attempt(&running, json!({ "do": "processes", "count": 3 })), "0");
    assert_eq!(attempt(&running, json!({ "do": "thread" })), "permitted");
    running.end();
    let running = start(json!({}));
    assert_eq!(attempt(&running, json!({ "do": "processes", "count": 3 })), "3");
    running.end();
}
