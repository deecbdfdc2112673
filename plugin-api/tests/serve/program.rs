//! Starts the fixture `served` as a program, with a minimal HTTP client.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Time limit of a wait.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) const TOKEN: &str = "0123456789abcdef";

/// Waits until `condition` returns `true`.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out while waiting for: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Returns the path of the fixture, which is built once.
pub(crate) fn fixture() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build)
}

#[allow(clippy::disallowed_methods, reason = "tests build what they start with cargo")]
fn build() -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--message-format=json", "--package", "served", "--bin", "served"]);
    // Variables that `cargo test` sets for this package would make build scripts run again.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_")
            || name.to_string_lossy().starts_with("CARGO_MANIFEST_")
        {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let file = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    file.expect("cargo built an executable")
}

/// Returns a command that runs the fixture.
#[allow(clippy::disallowed_methods, reason = "tests start the program")]
pub(crate) fn command() -> Command {
    let mut command = Command::new(fixture());
    for name in ["HOTBAY_CONFIG", "HOTBAY_TOKEN", "HOTBAY_HOST", "HOTBAY_SOCKET_DIR"] {
        command.env_remove(name);
    }
    command
}

/// Options to start the fixture with.
pub(crate) struct Start {
    pub(crate) config: Value,
    pub(crate) idle: Value,
    pub(crate) transport: &'static str,
    pub(crate) host: Option<String>,
    pub(crate) in_temp_dir: bool,
}

impl Default for Start {
    fn default() -> Self {
        let (config, idle) = (json!({}), json!(0));
        Self { config, idle, transport: "unix", host: None, in_temp_dir: false }
    }
}

/// A running program, killed on drop.
pub(crate) struct Program {
    child: Child,
    location: String,
    folder: TempDir,
    errors: PathBuf,
    _files: TempDir,
}

impl Start {
    pub(crate) fn with(config: Value) -> Self {
        Self { config, ..Self::default() }
    }

    /// Starts the program and waits until it prints its location.
    #[track_caller]
    pub(crate) fn run(self) -> Program {
        let mut program = self.spawn(TempDir::new().unwrap());
        program.read_location();
        assert!(!program.location.is_empty(), "the program did not start: {}", program.errors());
        program
    }

    /// Starts the program with its socket in `folder`.
    pub(crate) fn spawn(self, folder: TempDir) -> Program {
        let data = STANDARD.encode(self.config.to_string());
        let config = json!({
            "id": "fixture",
            "type": self.transport,
            "idleTimeout": self.idle,
            "configTypes": [{ "type": "hotbay/v1", "data": data }],
        });
        let mut command = command();
        command.env("HOTBAY_CONFIG", config.to_string()).env("HOTBAY_TOKEN", TOKEN);
        let variable = if self.in_temp_dir { "TMPDIR" } else { "HOTBAY_SOCKET_DIR" };
        command.env(variable, folder.path());
        if let Some(host) = self.host {
            command.env("HOTBAY_HOST", host);
        }
        Program::of(command, folder)
    }
}

impl Program {
    /// Starts a program that creates its socket in `folder`.
    pub(crate) fn of(mut command: Command, folder: TempDir) -> Self {
        let files = TempDir::new().unwrap();
        let errors = files.path().join("stderr");
        command.stdout(Stdio::piped()).stderr(fs::File::create(&errors).unwrap());
        let child = command.spawn().unwrap();
        Self { child, location: String::new(), folder, errors, _files: files }
    }

    /// Reads the location; leaves it empty if the program exits first.
    pub(crate) fn read_location(&mut self) {
        let stdout = self.child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut self.location).unwrap();
    }

    pub(crate) fn location(&self) -> &str {
        self.location.trim()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Returns the output on stderr so far.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    /// Returns the number of threads of this name, at most 15 bytes. Others come and go.
    #[cfg(target_os = "linux")]
    pub(crate) fn threads(&self, name: &str) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        // A thread can exit after it was listed.
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the program exits.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the program to exit", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn connect(&self) -> io::Result<Client> {
        match self.location().strip_prefix("http+unix://") {
            Some(path) => Ok(Client::new(Box::new(UnixStream::connect(path)?))),
            None => {
                let address = self.location().strip_prefix("http://").unwrap();
                Ok(Client::new(Box::new(TcpStream::connect(address)?)))
            }
        }
    }

    /// Sends a request on a new connection.
    #[track_caller]
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Response {
        self.connect().unwrap().request(method, path, &[], body).unwrap()
    }

    #[track_caller]
    pub(crate) fn execute(&self, input: Value) -> Response {
        self.request("POST", "/execute", &input.to_string())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// A kept connection.
pub(crate) struct Client(BufReader<Box<dyn Socket>>);

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    fn new(socket: Box<dyn Socket>) -> Self {
        Self(BufReader::new(socket))
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> io::Result<Response> {
        self.send(method, path, headers, body)?;
        self.receive()
    }

    /// Writes a request, with the token unless `headers` contain one.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> io::Result<()> {
        let body = body.as_ref();
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: unix\r\n");
        if !headers.iter().any(|(name, _)| *name == "Hotbay-Token") {
            text.push_str(&format!("Hotbay-Token: {TOKEN}\r\n"));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !headers.iter().any(|(name, _)| *name == "Content-Length") {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        self.0.get_mut().write_all(&[text.as_bytes(), body].concat())
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Reads bytes as they are.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.0.read(space)
    }

    /// Reads a response without its body.
    pub(crate) fn receive_head(&mut self) -> io::Result<Response> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        Ok(Response { status, headers, body: String::new() })
    }

    pub(crate) fn receive(&mut self) -> io::Result<Response> {
        let mut response = self.receive_head()?;
        let length = response.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        response.body = String::from_utf8(body).unwrap();
        Ok(response)
    }
}
