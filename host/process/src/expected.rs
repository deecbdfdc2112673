//! The capabilities that programs printed before. They are never trusted: they allow a host to start
//! a program while it prints them again, and decide nothing if the two differ.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::capabilities::Capabilities;
use crate::program::Program;
use crate::sync::lock;

/// Maximum number of programs whose capabilities are remembered.
const MAX_PROGRAMS: usize = 256;

/// The last capabilities of each program.
#[derive(Debug, Default)]
pub(crate) struct ExpectedCapabilities {
    by_program: Mutex<BTreeMap<Key, Capabilities>>,
}

/// What usually determines the capabilities of a program.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    sha256: [u8; 32],
    args: Vec<OsString>,
    folder: PathBuf,
}

impl Key {
    fn of(program: &Program) -> Self {
        let (args, folder) = (program.args.clone(), program.folder.clone());
        Self { sha256: program.copy.sha256(), args, folder }
    }
}

impl ExpectedCapabilities {
    pub(crate) fn get(&self, program: &Program) -> Option<Capabilities> {
        lock(&self.by_program).get(&Key::of(program)).cloned()
    }

    pub(crate) fn set(&self, program: &Program, capabilities: Capabilities) {
        let mut by_program = lock(&self.by_program);
        if by_program.len() >= MAX_PROGRAMS {
            // Any other one: a program that is not found only starts later.
            by_program.pop_first();
        }
        by_program.insert(Key::of(program), capabilities);
    }
}
