//! Runs the program on its data, kills and stops it in between, and compares what is stored.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "test helpers are tests too")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use hotbay_tests::{Plugins, host, loaded};
use rustix::process::{Pid, Signal, kill_process};
use storage_contract::{KeyValue, MAX_PAGE};

const BATCH: usize = 20;

/// Plugins, a configuration, a file and its store, in a temporary folder.
struct Fixture {
    plugins: Plugins,
    config: PathBuf,
    file: PathBuf,
    /// Where the step `gate` connects before it lets a batch pass.
    gate: TcpListener,
}

/// When a signal is sent.
#[derive(Clone, Copy)]
enum When {
    /// While a step runs.
    InStep,
    /// While the batch is stored, or the next one is read.
    AfterStep,
}

impl Fixture {
    fn new() -> Self {
        let plugins = Plugins::new();
        for step in ["validate", "tz-rules"] {
            plugins.add(step, step).write();
        }
        let (config, store) = (plugins.dir().join("hotbay.toml"), plugins.dir().join("store"));
        plugins.add("storage", "storage").config(serde_json::json!({ "file": store })).write();
        let gate = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = gate.local_addr().unwrap().to_string();
        plugins.add("gate", "etl-gate").config(serde_json::json!({ "address": address })).write();
        // That of the example, except for the folders.
        let example = fs::read_to_string("hotbay.toml").unwrap();
        let columns = example.split("[plugins.validate").nth(1).unwrap();
        let columns = columns.split("[plugins.storage").next().unwrap();
        let folder = plugins.dir().display();
        let text = format!(
            "plugin_dirs = ['{folder}']\nstaging_dir = '{folder}'\n[plugins.validate{columns}"
        );
        fs::write(&config, text).unwrap();
        Self { plugins, config, file: "data/tz-rules.csv".into(), gate }
    }

    fn with_rows(mut self, rows: &str) -> Self {
        self.file = self.plugins.dir().join("rows.csv");
        fs::write(&self.file, format!("rule,from,to,month,day,at,save,letters\n{rows}")).unwrap();
        self
    }

    #[allow(clippy::disallowed_methods, reason = "tests start the program")]
    fn program(&self) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_etl"));
        program.args([&self.config, &self.file]).args(["--batch", &BATCH.to_string()]);
        program
    }

    fn run(&self) -> Output {
        self.program().output().unwrap()
    }

    /// Runs until `batches` batches have passed the steps and another one is in the last step, and
    /// sends a signal.
    fn run_until(&self, batches: usize, when: When, signal: Signal) -> Output {
        let mut program = self.program();
        program.args(["--steps", "validate,tz-rules,gate"]);
        let child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut child = KillOnDrop(Some(child));
        let id = Pid::from_child(child.0.as_ref().unwrap());
        for _ in 0..batches {
            drop(self.gate.accept().unwrap());
        }
        let (held, _) = self.gate.accept().unwrap();
        match when {
            When::InStep => {
                kill_process(id, signal).unwrap();
                drop(held);
            }
            When::AfterStep => {
                drop(held);
                kill_process(id, signal).unwrap();
            }
        }
        child.0.take().unwrap().wait_with_output().unwrap()
    }

    /// Returns all keys and values, with the revision of each.
    fn stored(&self) -> Vec<(String, String, u64)> {
        let host = host(&self.plugins);
        loaded(&host, self.plugins.dir().join("storage"));
        let store = host.contract::<dyn KeyValue>("storage").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (mut all, mut last) = (Vec::new(), Vec::new());
        loop {
            let page = store.list(b"", &last, MAX_PAGE).unwrap();
            last = page.keys.last().cloned().unwrap_or_default();
            for key in page.keys {
                let entry = store.load(&key).unwrap();
                all.push((text(key), text(entry.value), entry.revision));
            }
            if !page.has_more {
                return all;
            }
        }
    }
}

/// Kills a program that a failing test leaves.
struct KillOnDrop(Option<Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have exited.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn summary(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn killed_load_continues_without_loss_or_doubles() {
    let complete = Fixture::new();
    let expected = "2178 of 2178 rows: 2178 stored, 0 rejected; 2178 of them in this run";
    assert_eq!(summary(&complete.run()), expected);

    let killed = Fixture::new();
    let mut at_most = 0;
    for (batches, when) in [(0, When::AfterStep), (30, When::InStep), (40, When::AfterStep)] {
        let output = killed.run_until(batches, when, Signal::KILL);
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        at_most += (batches + 1) * BATCH;
    }
    let output = summary(&killed.run());
    let (stored, in_this_run) = output.split_once("; ").unwrap();
    assert_eq!(stored, "2178 of 2178 rows: 2178 stored, 0 rejected");
    let in_this_run: usize = in_this_run.split(' ').next().unwrap().parse().unwrap();
    // Of each run, only the batch in the last step may be lost.
    let before = 2178 - in_this_run;
    assert!((at_most - 3 * BATCH..=at_most).contains(&before), "{before}");

    // Even the revisions are equal: the same changes were made in the same order, each once.
    let stored = killed.stored();
    assert_eq!(stored.len(), 2178 + 1);
    assert_eq!(stored, complete.stored());
    let (key, value, _) = &stored[1];
    assert_eq!(key, "row/0000000001");
    let first = r#"{"at":"82800","basis":"standard","day":"14","from":"1916","letters":"S","month":"6","rule":"d","save":"3600","to":"1916"}"#;
    assert_eq!(value, first);
}

#[test]
fn stopped_load_continues_and_a_complete_one_changes_nothing() {
    let fixture = Fixture::new();
    let output = fixture.run_until(5, When::InStep, Signal::TERM);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    // The batch that the signal interrupts is stored.
    let expected = "120 of 2178 rows: 120 stored, 0 rejected; 120 of them in this run\n\
                    stopped; run the same command to continue\n";
    assert_eq!(stdout, expected);
    assert!(summary(&fixture.run()).starts_with("2178 of 2178 rows: 2178 stored"));

    let stored = fixture.stored();
    assert!(summary(&fixture.run()).ends_with("; 0 of them in this run"));
    assert_eq!(fixture.stored(), stored);
}

#[test]
fn invalid_rows_are_stored_as_rejected() {
    let fixture = Fixture::new().with_rows(
        "EU,1981,ma,Mar,lastSu,1u,1,S\nEU,81,ma,Mar,lastSu,1u,1,S\nEU,1981,ma,M,lastSu,1u,1,S\nEU,1981\n",
    );
    let expected = "4 of 4 rows: 1 stored, 3 rejected; 4 of them in this run";
    assert_eq!(summary(&fixture.run()), expected);
    let stored = fixture.stored();
    let rejected = stored.iter().filter(|(key, ..)| key.starts_with("rejected/"));
    let rejected: Vec<_> = rejected.map(|(key, reason, _)| (&**key, &**reason)).collect();
    assert_eq!(
        rejected,
        [
            ("rejected/0000000002", "validate: column `from`: 81; expected 1900 to 2100"),
            ("rejected/0000000003", "tz-rules: `M` is not the beginning of one month"),
            ("rejected/0000000004", "2 fields; expected 8"),
        ]
    );
}

#[test]
fn store_of_another_file_is_refused() {
    let fixture = Fixture::new().with_rows("EU,1981,ma,Mar,lastSu,1u,1,S\n");
    summary(&fixture.run());
    let stored = fixture.stored();
    let other = fixture.with_rows("EU,1981,ma,O,lastSu,1u,1,S\n");
    let output = other.run();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("the store has rows of another file"), "{stderr}");
    assert_eq!(other.stored(), stored);
}
