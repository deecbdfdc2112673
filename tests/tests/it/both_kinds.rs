//! The same scenarios for every kind of plugin: the fixture `served`, once as a library and once
//! as a program. What has to be the same for both is written once; tests nothing itself.

mod command;
mod handover;
mod layers;
mod lifecycle;
mod pipelines;
mod rollback;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use hotbay::{Error, PluginHandle, Request};
use hotbay_tests::{Plugin, Plugins, ProgramFolder, library_file_name, state_of, until};
use serde_json::{Value, json};

/// How a plugin is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Library,
    Process,
}

/// Both kinds that are installed as files.
const BOTH: [Kind; 2] = [Kind::Library, Kind::Process];

impl Kind {
    /// Prepares the fixture under this name.
    fn served(self, plugins: &Plugins, name: &str) -> Draft {
        match self {
            Self::Library => Draft::Library(plugins.add(name, "served")),
            Self::Process => {
                let program = ProgramFolder::new(plugins.dir(), name).built("served", "served");
                Draft::Process(program.set("package", "served").remove("permissions"))
            }
        }
    }

    /// The file that is opened or run.
    fn file(self) -> String {
        match self {
            Self::Library => library_file_name("served"),
            Self::Process => "program".to_owned(),
        }
    }
}

/// The fixture as one of the kinds, about to be installed.
#[must_use = "nothing is installed before `install`"]
enum Draft {
    Library(Plugin),
    Process(ProgramFolder),
}

impl Draft {
    fn config(self, config: Value) -> Self {
        self.set("config", config)
    }

    fn set(self, field: &str, value: impl Into<Value>) -> Self {
        match self {
            Self::Library(plugin) => Self::Library(plugin.set(field, value)),
            Self::Process(program) => Self::Process(program.set(field, value)),
        }
    }

    fn install(self) -> PathBuf {
        match self {
            Self::Library(plugin) => plugin.write(),
            Self::Process(program) => program.install(),
        }
    }
}

/// The starts of the fixture that a journal tells of: the process, and the folder of its sockets.
struct Journal(PathBuf);

impl Journal {
    fn new(plugins: &Plugins) -> Self {
        Self(plugins.dir().join("journal"))
    }

    fn starts(&self) -> Vec<(u32, PathBuf)> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let start = |line: &str| {
            let (process, folder) = line.split_once(' ').unwrap();
            (process.parse().unwrap(), PathBuf::from(folder))
        };
        text.lines().map(start).collect()
    }

    /// Of all processes that were ever started, only `serving` is there, and none has left the
    /// folder of its sockets. In libraries there are none.
    #[track_caller]
    fn assert_only_one_left(&self, serving: Option<u32>) {
        for (process, folder) in self.starts() {
            if process == std::process::id() || Some(process) == serving {
                continue;
            }
            until("a process is reaped and its folder gone", || {
                (state_of(process).is_none() && !folder.exists()).then_some(())
            });
        }
    }
}

/// A request that the fixture obeys.
fn asks(ask: Value) -> Request<'static> {
    Request::json(&ask).unwrap()
}

fn count() -> Request<'static> {
    asks(json!({ "do": "count" }))
}

/// Counts one more; answers with the count.
#[track_caller]
fn counted(handle: &PluginHandle) -> u64 {
    handle.call(count()).unwrap_or_else(|error| panic!("{}", error.full_message())).json().unwrap()
}

/// A call that says by the file `entered` that it runs, and ends when `release` is there.
fn waits(entered: &Path, release: &Path) -> Request<'static> {
    asks(json!({ "do": "wait", "tells": entered, "until": release }))
}

#[track_caller]
fn answer(handle: &PluginHandle) -> String {
    let reply = handle.call(Request::text("x"));
    let reply = reply.unwrap_or_else(|error| panic!("{}", error.full_message()));
    reply.as_text().unwrap().to_owned()
}

#[track_caller]
fn served(outcome: Result<hotbay::Reply, Error>) {
    outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
}
