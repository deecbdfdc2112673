//! A server for one process of tests.

use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::client::Client;
use crate::database::Database;
use crate::programs::Programs;

/// Limit for a server to start, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the server until this process ends or closes the pipe, so that no server outlives its test,
/// however the test ends. Without a line on the pipe, the data is removed, too.
const SUPERVISE: &str = r#"
    folder=$1; shift
    "$@" >>"$folder/log" 2>&1 </dev/null &
    server=$!
    if read -r line; then keep=yes; else keep=; fi
    kill -QUIT "$server"
    wait "$server"
    if [ -z "$keep" ]; then cd / && rm -rf "$folder"; fi
"#;

/// Settings for tests: only a socket, little memory and disk, and no protection from power failures.
const SETTINGS: [&str; 11] = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "min_wal_size=32MB",
    "max_wal_size=128MB",
    "shared_buffers=16MB",
    "max_connections=300",
    "dynamic_shared_memory_type=mmap",
];

/// A server, which is stopped and removed when this is dropped or the process ends.
#[derive(Debug)]
pub struct Server {
    programs: Programs,
    client: Client,
    folder: PathBuf,
    /// `None` while it is stopped.
    supervisor: Option<Child>,
    databases: AtomicU32,
}

impl Server {
    /// Returns the server that all tests of this process share. `None` if PostgreSQL is not
    /// installed, and the test is to be skipped.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start, or is missing and `CI` is set. So do all functions below
    /// if something fails.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// Returns whether servers can be started. Prints that the test is skipped otherwise.
    ///
    /// # Panics
    ///
    /// Panics if they cannot and `CI` is set, on Linux.
    pub fn is_installed() -> bool {
        let is_installed = Programs::find().is_some();
        if !is_installed {
            let hint = "install PostgreSQL (Debian: apt-get install postgresql)";
            let is_required = cfg!(target_os = "linux") && env::var_os("CI").is_some();
            assert!(!is_required, "PostgreSQL not found; {hint}");
            eprintln!("skipped: PostgreSQL not found; {hint}");
        }
        is_installed
    }

    /// Starts a server; see [`shared`](Self::shared).
    pub fn start() -> Option<Self> {
        if !Self::is_installed() {
            return None;
        }
        let programs = Programs::find()?;
        let folder =
            tempfile::Builder::new().prefix("hotbay-pg-").tempdir_in(programs.temporary_folder());
        let folder = folder.expect("a temporary folder can be created").keep();
        if let Some((user, group)) = programs.user() {
            chown(&folder, Some(user), Some(group)).expect("root may change owners");
        }
        let client = Client::new(programs.clone(), folder.clone());
        let databases = AtomicU32::new(0);
        let mut server = Self { programs, client, folder, supervisor: None, databases };
        server.create_cluster();
        server.resume();
        Some(server)
    }

    fn create_cluster(&self) {
        let mut command = self.programs.command(&self.programs.path("initdb"), &self.folder);
        command.args(["--no-sync", "--auth=trust", "--username=postgres", "--locale=C"]);
        command.args(["--encoding=UTF8", "--pgdata"]).arg(self.folder.join("data"));
        let output = command.output().expect("`initdb` starts");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        // Members of this role need a password.
        let rules = "local all +with_password scram-sha-256\nlocal all all trust\n";
        fs::write(self.folder.join("data/pg_hba.conf"), rules).expect("the cluster was created");
    }

    /// Starts the server after [`stop`](Self::stop), with the same socket and data, and waits until it
    /// can be used.
    pub fn resume(&mut self) {
        assert!(self.supervisor.is_none(), "the server runs");
        let mut command = self.programs.command(Path::new("/bin/sh"), &self.folder);
        command.args(["-c", SUPERVISE, "sh"]).arg(&self.folder);
        command.arg(self.programs.path("postgres")).arg("-D").arg(self.folder.join("data"));
        command.arg("-k").arg(&self.folder);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.supervisor = Some(command.spawn().expect("a shell starts"));
        let start = Instant::now();
        while self.client.query("postgres", "SELECT 1").is_err() {
            assert!(start.elapsed() < LIMIT, "PostgreSQL does not start: {}", self.log());
            thread::yield_now();
        }
    }

    /// Stops the server without a checkpoint, as a crash does, and waits until its processes have
    /// ended. Its data stays.
    pub fn stop(&mut self) {
        let mut supervisor = self.supervisor.take().expect("the server runs");
        let mut pipe = supervisor.stdin.take().expect("the pipe is configured");
        pipe.write_all(b"stop\n").expect("the supervisor reads");
        supervisor.wait().expect("a child of this process");
    }

    /// Creates an empty database.
    pub fn database(&self) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.client.run("postgres", &format!("CREATE DATABASE {name}"));
        Database::new(self.client.clone(), name)
    }

    /// Returns what the server logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            drop(supervisor.stdin.take());
            let _ = supervisor.wait();
        }
        // The supervisor has removed it, unless the server was stopped.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
