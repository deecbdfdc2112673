//! Runs the fixture `program` as a process plugin and records all its launches, so that a test can
//! check that nothing is left.

use std::fs;
use std::path::{Path, PathBuf};

use hotbay::{Error, Host, HostBuilder, PluginHandle, Reply, Request};
use hotbay_tests::{Plugins, ProgramFolder, block_on, launches, loaded, state_of, unique, until};
use serde_json::{Value, json};

/// A temporary folder for one plugin and the files it writes.
pub(crate) struct ProcessFixture {
    plugins: Plugins,
    pub(crate) name: String,
}

impl ProcessFixture {
    pub(crate) fn new() -> Self {
        Self { plugins: Plugins::new(), name: unique("trial") }
    }

    /// Returns the path of a file in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.plugins.dir().join(name)
    }

    /// Prepares the fixture for installation.
    pub(crate) fn program(&self, mut behavior: Value) -> ProgramFolder {
        behavior["journal"] = json!(self.file("journal"));
        behavior["marks"] = json!(self.file("marks"));
        let program = ProgramFolder::new(self.plugins.dir(), &self.name).behavior(behavior);
        program.set("package", "program")
    }

    /// Starts it in a new host.
    #[track_caller]
    pub(crate) fn run(self, behavior: Value) -> Running {
        self.run_with(behavior, |program| program, |builder| builder)
    }

    /// Starts it in a new host, after changes to both.
    #[track_caller]
    pub(crate) fn run_with(
        self,
        behavior: Value,
        program: impl FnOnce(ProgramFolder) -> ProgramFolder,
        host: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Running {
        let folder = program(self.program(behavior)).install();
        let host = host(Host::builder()).build().expect("a host");
        let handle = loaded(&host, folder);
        Running { fixture: self, host, handle }
    }

    /// Returns the started processes, in order.
    pub(crate) fn started(&self) -> Vec<u32> {
        launches(&self.file("journal"), "start")
    }

    /// Waits until no process, descendant or folder of any launch is left.
    pub(crate) fn assert_nothing_left(&self) {
        let journal = self.file("journal");
        let ids = [launches(&journal, "capabilities"), launches(&journal, "start")].concat();
        until("its processes have exited", || ids.iter().all(|&id| has_exited(id)).then_some(()));
        let marks = fs::read_to_string(self.file("marks")).unwrap_or_default();
        for line in marks.lines() {
            let (mark, folder) = line.split_once(' ').expect("a mark and a folder");
            until("its folder is gone", || {
                (folder.is_empty() || !Path::new(folder).exists()).then_some(())
            });
            until("its descendants have exited", || {
                marked_processes(mark).is_empty().then_some(())
            });
        }
    }
}

/// A loaded plugin.
pub(crate) struct Running {
    pub(crate) fixture: ProcessFixture,
    pub(crate) host: Host,
    pub(crate) handle: PluginHandle,
}

impl Running {
    /// Calls it on this thread.
    pub(crate) fn call(&self, action: &Value) -> Result<Reply, Error> {
        self.handle.call(Request::json_text(&action.to_string()))
    }

    /// Calls it, and returns the JSON reply of a successful call.
    #[track_caller]
    pub(crate) fn call_json(&self, action: &Value) -> Value {
        match self.call(action) {
            Ok(reply) => reply.json().expect("the reply is JSON"),
            Err(error) => panic!("{action}: {}", error.full_message()),
        }
    }

    /// Asserts that it answers by `call` and by `execute`. The requests are idempotent, since the
    /// host may not have noticed the exit of the last process yet.
    #[track_caller]
    pub(crate) fn serves(&self) {
        // JSON, since some programs accept nothing else.
        let request = || Request::json_text("\"still here\"").with_idempotent(true);
        for reply in [self.handle.call(request()), block_on(self.handle.execute(request()))] {
            match reply {
                Ok(reply) => assert_eq!(reply.as_bytes(), b"\"still here\""),
                Err(error) => panic!("{}", error.full_message()),
            }
        }
    }

    /// Returns the process started last.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        *self.fixture.started().last().expect("a process was started")
    }

    /// Unloads it and asserts that nothing is left.
    pub(crate) fn end(self) {
        block_on(self.host.unload(&self.fixture.name)).expect("the plugin unloads");
        self.fixture.assert_nothing_left();
    }
}

/// Returns whether the process is gone, reaped included.
pub(crate) fn has_exited(process: u32) -> bool {
    state_of(process).is_none()
}

/// Returns whether only the owner can access a folder.
pub(crate) fn is_private(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = fs::metadata(folder).expect("the folder exists");
    metadata.permissions().mode() & 0o777 == 0o700
}

/// Kills a process and waits until its host has reaped it: threads of a zombie may still hold its
/// sockets.
pub(crate) fn kill(process: u32) {
    signal(process, "KILL");
    until("the process is reaped", || has_exited(process).then_some(()));
}

/// Sends a signal to a process.
#[allow(clippy::disallowed_methods, reason = "`kill` sends the signal")]
pub(crate) fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(sent.expect("`kill` starts").success(), "{name} to {process}");
}

/// Returns the processes whose environment or arguments contain this tag, except zombies.
fn marked_processes(mark: &str) -> Vec<u32> {
    let holds = |id: &u32| {
        ["environ", "cmdline"].iter().any(|file| {
            let text = fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
            text.windows(mark.len().max(1)).any(|part| part == mark.as_bytes())
        })
    };
    let all = fs::read_dir("/proc").expect("`/proc` exists").flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(holds).collect()
}
