//! What a process may do, with the paths of this machine.

use std::path::{Path, PathBuf};

use hotbay_manifest::{NetRule, Preset, SandboxLimits};

use crate::{Delegated, GrantedPath, Protected, SharedFolders, preset};

/// The beginning of a path in the private folder of a launch, which is known when it starts.
pub const TMP: &str = "{tmp}";

/// What a process may do; everything else is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Files and folders that can be read.
    pub read: Vec<GrantedPath>,
    /// Files and folders of the system that can be read.
    pub system: Vec<PathBuf>,
    /// Files and folders that can be read and changed. Rules of paths that pass through one of these
    /// folders lead to nothing outside of it, since the process could replace a part of such a path by
    /// a link.
    pub write: Vec<GrantedPath>,
    /// Programs, and folders of programs, that can be executed and read.
    pub run: Vec<GrantedPath>,
    /// Files and folders that processes of any policy of the host can change. Rules of paths that pass
    /// through such a folder lead to nothing outside of it.
    pub shared: Vec<PathBuf>,
    /// The folder with one such folder for each program.
    pub states: Option<PathBuf>,
    /// Files and folders that must not be changed, such as the private copies of other programs: a path
    /// in `write` that is or contains one, or is in one with its content, grants nothing.
    pub protected: Vec<Protected>,
    /// Folders of the program in protected ones, whose content it may change.
    pub own: Vec<PathBuf>,
    /// Ports that can be connected to.
    pub connect: Vec<NetRule>,
    /// TCP ports that can be listened on.
    pub listen: Vec<NetRule>,
    /// Whether it runs in new namespaces, as far as the kernel permits it.
    pub namespaces: bool,
    /// Limits of the process.
    pub limits: SandboxLimits,
    /// Where the groups of its launches are created; without it, some limits are not enforced.
    pub cgroup: Option<Delegated>,
}

impl Policy {
    /// Adds what a usual program of this kind needs to start. Searches interpreters in `path`, a
    /// value of `PATH`, and returns the value that the program must get: without folders whose
    /// interpreters are scripts, such as those of version managers, which start other programs, or
    /// can be replaced by programs. Accesses the disk.
    pub fn add_preset(&mut self, preset: Preset, path: &str) -> String {
        preset::add(self, preset, path)
    }

    /// Lets the process execute the first program of each name in `path`, a value of `PATH`, except
    /// for those that programs can replace. Returns the names that were not found. Accesses the disk.
    pub fn add_programs<'n>(&mut self, names: &'n [String], path: &str) -> Vec<&'n str> {
        if names.is_empty() {
            return Vec::new();
        }
        let shared = self.changeable();
        let mut missing = Vec::new();
        for name in names {
            match preset::find(name, path, &shared) {
                Some(program) => preset::add_program(self, program),
                None => missing.push(name.as_str()),
            }
        }
        missing
    }

    /// Returns the folders that programs can change, with those in `write`.
    pub(crate) fn changeable(&self) -> SharedFolders {
        let own = self.write.iter().map(|granted| &granted.path);
        SharedFolders::new(self.shared.iter().chain(own), self.states.as_deref())
    }

    /// Returns whether a port of the network is permitted.
    pub(crate) fn has_ports(&self) -> bool {
        self.has_tcp() || self.has_udp()
    }

    /// Returns whether a TCP port is permitted.
    pub(crate) fn has_tcp(&self) -> bool {
        !self.listen.is_empty() || self.connect.iter().any(|rule| !rule.udp)
    }

    /// Returns whether a UDP port is permitted.
    pub(crate) fn has_udp(&self) -> bool {
        self.connect.iter().any(|rule| rule.udp)
    }
}

/// Returns a path whose beginning [`TMP`] is replaced by a folder in `private`, which it must not
/// leave; `None` without that.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nothing is enforced"))]
pub(crate) fn resolve(granted: &GrantedPath, private: Option<&Path>) -> Option<GrantedPath> {
    let Ok(rest) = granted.path.strip_prefix(TMP) else { return Some(granted.clone()) };
    let folder = private?.join("tmp").canonicalize().ok()?;
    Some(GrantedPath::inside(folder.join(rest), folder))
}
