//! Runs statements on a server with `psql`.

use std::path::PathBuf;
use std::process::Command;

use crate::programs::Programs;

/// A client of a server, as a superuser.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    programs: Programs,
    /// The folder of the server's socket.
    folder: PathBuf,
}

impl Client {
    pub(crate) fn new(programs: Programs, folder: PathBuf) -> Self {
        Self { programs, folder }
    }

    /// Runs statements, and returns their rows without a head.
    ///
    /// # Panics
    ///
    /// Panics if one fails.
    pub(crate) fn run(&self, database: &str, sql: &str) -> String {
        self.query(database, sql).unwrap_or_else(|error| panic!("`{sql}`: {error}"))
    }

    /// Runs statements, and returns their rows without a head, or the error of the client.
    pub(crate) fn query(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = self.psql(database).args(["-c", sql]).output().expect("`psql` starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub(crate) fn psql(&self, database: &str) -> Command {
        let mut command = self.programs.command(&self.programs.path("psql"), &self.folder);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]);
        command.arg(&self.folder).arg(database);
        command
    }

    /// Returns the text by which any client connects to a database.
    pub(crate) fn dsn(&self, database: &str) -> String {
        format!("postgresql:///{database}?user=postgres&host={}", self.folder.display())
    }
}
