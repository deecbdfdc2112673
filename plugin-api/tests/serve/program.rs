//! The fixture `served` as a running program, and a client of a few lines.

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

/// When a test gives up.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const TOKEN: &str = "0123456789abcdef";

/// Waits until that is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < give_up, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// The fixture, built once.
pub(crate) fn served() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build)
}

#[allow(clippy::disallowed_methods, reason = "tests build what they start with cargo")]
fn build() -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--message-format=json", "--package", "served", "--bin", "served"]);
    // What `cargo test` says about the package under test would make build scripts run again.
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
    file.expect("cargo told of no program")
}

/// A start of the fixture that is yet to happen.
#[allow(clippy::disallowed_methods, reason = "tests start the program")]
pub(crate) fn command() -> Command {
    let mut command = Command::new(served());
    for name in ["HOTBAY_CONFIG", "HOTBAY_TOKEN", "HOTBAY_HOST", "HOTBAY_SOCKET_DIR"] {
        command.env_remove(name);
    }
    command
}

/// How a program is to be started.
pub(crate) struct Start {
    pub(crate) config: Value,
    pub(crate) idle: Value,
    pub(crate) way: &'static str,
    pub(crate) host: Option<String>,
    pub(crate) in_tmp: bool,
}

impl Default for Start {
    fn default() -> Self {
        let (config, idle) = (json!({}), json!(0));
        Self { config, idle, way: "unix", host: None, in_tmp: false }
    }
}

/// A program that was started; killed with this value.
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

    /// Starts the program and waits until it serves.
    #[track_caller]
    pub(crate) fn run(self) -> Program {
        let mut program = self.spawn(TempDir::new().unwrap());
        program.read_location();
        assert!(!program.location.is_empty(), "did not start: {}", program.errors());
        program
    }

    /// Starts the program, with its socket in that folder.
    pub(crate) fn spawn(self, folder: TempDir) -> Program {
        let data = STANDARD.encode(self.config.to_string());
        let config = json!({
            "id": "fixture",
            "type": self.way,
            "idleTimeout": self.idle,
            "configTypes": [{ "type": "hotbay/v1", "data": data }],
        });
        let mut command = command();
        command.env("HOTBAY_CONFIG", config.to_string()).env("HOTBAY_TOKEN", TOKEN);
        let variable = if self.in_tmp { "TMPDIR" } else { "HOTBAY_SOCKET_DIR" };
        command.env(variable, folder.path());
        if let Some(host) = self.host {
            command.env("HOTBAY_HOST", host);
        }
        Program::of(command, folder)
    }
}

impl Program {
    /// Starts a program whose socket will be in that folder.
    pub(crate) fn of(mut command: Command, folder: TempDir) -> Self {
        let files = TempDir::new().unwrap();
        let errors = files.path().join("stderr");
        command.stdout(Stdio::piped()).stderr(fs::File::create(&errors).unwrap());
        let child = command.spawn().unwrap();
        Self { child, location: String::new(), folder, errors, _files: files }
    }

    /// Reads where it can be reached; stays empty where it ends before.
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

    /// What it said on stderr so far.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the program ended", || {
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

    /// A request on a connection of its own.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.connect().unwrap().ask(method, path, &[], body).unwrap()
    }

    #[track_caller]
    pub(crate) fn execute(&self, input: Value) -> Answer {
        self.ask("POST", "/execute", &input.to_string())
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

/// A connection that is kept.
pub(crate) struct Client(BufReader<Box<dyn Socket>>);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
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

    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Answer> {
        self.send(method, path, headers, body)?;
        self.receive()
    }

    /// Writes a request, with the token unless `headers` have one.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<()> {
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
        text.push_str(body);
        self.0.get_mut().write_all(text.as_bytes())
    }

    pub(crate) fn receive(&mut self) -> io::Result<Answer> {
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
        let mut answer = Answer { status, headers, body: String::new() };
        let length = answer.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        answer.body = String::from_utf8(body).unwrap();
        Ok(answer)
    }
}
