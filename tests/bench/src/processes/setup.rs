//! What the benchmarks call: a host with one plugin, and the program of that plugin without a host.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::Context;
use hotbay::{Host, PluginHandle, Request};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::bare::Client;
use crate::fixtures::{self, block_on, folder, install_program};
use crate::process::program;

/// The request body.
pub(super) const BODY: [u8; 16] = *b"sixteen bytes in";

/// The token of a program that is started by hand.
pub(super) const TOKEN: &str = "of-the-benchmark";

/// A host with one plugin.
pub(super) struct Place {
    pub(super) host: Host,
    pub(super) echo: PluginHandle,
    pub(super) program: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) dir: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> anyhow::Result<Self> {
        let program = fixtures::program("bench-echo-program")?;
        let dir = folder()?;
        let folder = install_program(&program, &dir.path().join("plugins"), "echo")?;
        let host = Host::builder().quarantine(None).build()?;
        let echo = block_on(host.load(&folder))??;
        Ok(Self { host, echo, program, folder, dir })
    }
}

pub(super) fn request() -> Request<'static> {
    Request::bytes(&BODY)
}

/// The plugin's program, started by hand; it exits when this is dropped.
pub(super) struct Launched {
    child: Child,
    pub(super) socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Launched {
    pub(super) fn start(built: &Path, dir: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(dir)?;
        let config = json!({ "id": "bare", "type": "unix", "idleTimeout": 0, "configTypes": [] });
        let mut command = program(built);
        command
            .env("HOTBAY_SOCKET_DIR", dir.path())
            .env("HOTBAY_TOKEN", TOKEN)
            .env("HOTBAY_CONFIG", config.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut launched = Self { child, socket: PathBuf::new(), _dir: dir };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let socket = line.trim().strip_prefix("http+unix://");
        launched.socket = socket.with_context(|| format!("`{line}` is not a location"))?.into();
        Ok(launched)
    }

    pub(super) fn connect(&self) -> anyhow::Result<(Runtime, Client)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(Client::connect(&self.socket))?.with_token(TOKEN)?;
        Ok((runtime, client))
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
