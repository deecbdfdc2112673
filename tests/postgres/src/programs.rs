//! Finds the programs of PostgreSQL, and the user that may run its server.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The programs `initdb`, `postgres` and `psql` of one version.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
    /// The user and group that run them, if this process runs as root, which a server refuses.
    user: Option<(u32, u32)>,
}

impl Programs {
    /// Returns `None` if there are none, or no user that may run them.
    pub(crate) fn find() -> Option<Self> {
        let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut debian: Vec<_> = debian.map(|version| version.path().join("bin")).collect();
        // By number: as text, 9 would come after 16.
        debian.sort_by_cached_key(|folder| {
            let version = folder.parent().and_then(Path::file_name);
            version.and_then(|version| version.to_str()?.parse::<f64>().ok()).map(f64::to_bits)
        });
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = debian.into_iter().rev().chain(env::split_paths(&path));
        let is_complete = |folder: &PathBuf| {
            ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).is_file())
        };
        let folder = folders.into_iter().find(is_complete)?;
        if !rustix::process::geteuid().is_root() {
            return Some(Self { folder, user: None });
        }
        let users = fs::read_to_string("/etc/passwd").ok()?;
        let mut fields =
            users.lines().find(|line| line.starts_with("postgres:"))?.split(':').skip(2);
        let mut number = || fields.next()?.parse().ok();
        Some(Self { folder, user: Some((number()?, number()?)) })
    }

    /// Returns the folder in which folders of servers are created. The server's user must reach it,
    /// and must be able to remove its folder from it.
    pub(crate) fn temporary_folder(&self) -> PathBuf {
        if self.user.is_some() { PathBuf::from("/tmp") } else { env::temp_dir() }
    }

    pub(crate) fn user(&self) -> Option<(u32, u32)> {
        self.user
    }

    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// Returns a command that runs a program as the user of the server, in a folder.
    pub(crate) fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        // Nothing else of this process may change what they do, such as `PGDATA`.
        let names = env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.current_dir(folder).env("LC_ALL", "C");
        command
    }
}
