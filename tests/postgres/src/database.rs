//! A database of a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::client::Client;

/// A database, which is removed when this is dropped.
#[derive(Debug)]
pub struct Database {
    client: Client,
    name: String,
}

impl Database {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the text by which a client connects to it, as a superuser.
    pub fn dsn(&self) -> String {
        self.client.dsn(&self.name)
    }

    /// Runs statements as a superuser, and returns their rows without a head.
    ///
    /// # Panics
    ///
    /// Panics if one fails.
    pub fn run(&self, sql: &str) -> String {
        self.client.run(&self.name, sql)
    }

    /// Opens a session that stays open.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be opened.
    pub fn session(&self) -> Session {
        let mut command = self.client.psql(&self.name);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut psql = command.spawn().expect("`psql` starts");
        let input = psql.stdin.take().expect("the pipe is configured");
        let output = BufReader::new(psql.stdout.take().expect("the pipe is configured"));
        Session { psql, input: Some(input), output }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A panic here would hide that of the test; the server's folder is removed in any case.
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let _ = self.client.psql("postgres").args(["-c", &drop]).output();
    }
}

/// A session, which ends when it is dropped.
#[derive(Debug)]
pub struct Session {
    psql: Child,
    /// `None` when it ends.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Runs statements, and waits until they have ended.
    ///
    /// # Panics
    ///
    /// Panics if one fails.
    pub fn run(&mut self, sql: &str) {
        let input = self.input.as_mut().expect("the session is open");
        writeln!(input, "{sql};\n\\echo done").expect("`psql` reads");
        let ended = self.output.by_ref().lines().map_while(Result::ok).any(|line| line == "done");
        assert!(ended, "`{sql}` failed");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.psql.wait();
    }
}
