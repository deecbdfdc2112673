//! Runs the same scenarios for each kind of plugin: the fixture `served`, as a library, as a library
//! in its own process, and as a program. Contains only helpers.

use std::fs;
use std::path::{Path, PathBuf};

use hotbay::{Error, PluginHandle, Request};
use hotbay_tests::{Plugin, Plugins, ProgramFolder, library_file_name, runner, state_of, until};
use serde_json::{Value, json};

/// The way in which a plugin runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Library,
    Isolated,
    Process,
}

/// The kinds that are installed as files.
pub(crate) const KINDS: [Kind; 3] = [Kind::Library, Kind::Isolated, Kind::Process];

impl Kind {
    /// Prepares the fixture under this name.
    pub(crate) fn served(self, plugins: &Plugins, name: &str) -> Draft {
        match self {
            Self::Library => Draft::Library(plugins.add(name, "served")),
            Self::Isolated => {
                runner();
                Draft::Library(plugins.add(name, "served").set("isolation", "process"))
            }
            Self::Process => {
                let program = ProgramFolder::new(plugins.dir(), name).built("served", "served");
                Draft::Process(program.set("package", "served").remove("permissions"))
            }
        }
    }

    /// Returns the name of its library or program file.
    pub(crate) fn file(self) -> String {
        match self {
            Self::Library | Self::Isolated => library_file_name("served"),
            Self::Process => "program".to_owned(),
        }
    }
}

/// The fixture as one of the kinds, to be installed.
#[must_use = "nothing is installed before `install`"]
pub(crate) enum Draft {
    Library(Plugin),
    Process(ProgramFolder),
}

impl Draft {
    pub(crate) fn config(self, config: Value) -> Self {
        self.set("config", config)
    }

    pub(crate) fn set(self, field: &str, value: impl Into<Value>) -> Self {
        match self {
            Self::Library(plugin) => Self::Library(plugin.set(field, value)),
            Self::Process(program) => Self::Process(program.set(field, value)),
        }
    }

    pub(crate) fn install(self) -> PathBuf {
        match self {
            Self::Library(plugin) => plugin.write(),
            Self::Process(program) => program.install(),
        }
    }
}

/// The fixture's journal of starts: the process, and the folder of its sockets.
pub(crate) struct Journal(pub(crate) PathBuf);

impl Journal {
    pub(crate) fn new(plugins: &Plugins) -> Self {
        Self(plugins.dir().join("journal"))
    }

    pub(crate) fn starts(&self) -> Vec<(u32, PathBuf)> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let start = |line: &str| {
            let (process, folder) = line.split_once(' ').unwrap();
            (process.parse().unwrap(), PathBuf::from(folder))
        };
        text.lines().map(start).collect()
    }

    /// Asserts that of all started processes only `serving` remains, and that the others left no
    /// socket folder. Libraries start no processes.
    #[track_caller]
    pub(crate) fn assert_only_one_left(&self, serving: Option<u32>) {
        for (process, folder) in self.starts() {
            if process == std::process::id() || Some(process) == serving {
                continue;
            }
            until("a process is reaped and its folder removed", || {
                (state_of(process).is_none() && !folder.exists()).then_some(())
            });
        }
    }
}

/// Returns a request with an action for the fixture.
pub(crate) fn action_request(action: Value) -> Request<'static> {
    Request::json(&action).unwrap()
}

pub(crate) fn count() -> Request<'static> {
    action_request(json!({ "do": "count" }))
}

/// Increments the count and returns it.
#[track_caller]
pub(crate) fn increment(handle: &PluginHandle) -> u64 {
    handle.call(count()).unwrap_or_else(|error| panic!("{}", error.full_message())).json().unwrap()
}

/// Returns a request that creates the file `entered`, then waits for the file `release`.
pub(crate) fn waits(entered: &Path, release: &Path) -> Request<'static> {
    action_request(json!({ "do": "wait", "creates": entered, "until": release }))
}

#[track_caller]
pub(crate) fn answer(handle: &PluginHandle) -> String {
    let reply = handle.call(Request::text("x"));
    let reply = reply.unwrap_or_else(|error| panic!("{}", error.full_message()));
    reply.as_text().unwrap().to_owned()
}

#[track_caller]
pub(crate) fn served(outcome: Result<hotbay::Reply, Error>) {
    outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
}
