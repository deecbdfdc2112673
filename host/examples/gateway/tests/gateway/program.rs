//! The program, with a folder of plugins and its own configuration.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use hotbay_tests::{Plugins, until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A gateway that runs. It is killed when this is dropped.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    child: Child,
    /// Contains the configuration and copies of libraries.
    _folder: TempDir,
}

impl Gateway {
    /// Starts a gateway with these plugins and policies. `more` is the rest of its configuration.
    pub(crate) fn start(plugins: &Plugins, policies: &str, more: &str) -> Self {
        let folder = TempDir::with_prefix("hotbay-gateway-").unwrap();
        let config = format!(
            "plugin_dirs = ['{}']\nstaging_dir = '{}'\ndefault_deadline = '30s'\nreload.watch = true\n\
             [x-gateway]\nlisten = '127.0.0.1:0'\npolicies = {policies}\nmax_body_bytes = 1000\n\
             body_timeout_s = 30\nshutdown_grace_s = 30\n{more}",
            plugins.dir().display(),
            folder.path().display(),
        );
        let file = folder.path().join("hotbay.toml");
        std::fs::write(&file, config).unwrap();
        let mut child = program(&file).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().expect("a pipe");
        let mut gateway =
            Self { address: SocketAddr::from(([0, 0, 0, 0], 0)), child, _folder: folder };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://");
        gateway.address = address.expect("the program prints its address").parse().unwrap();
        gateway
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::TERM).unwrap();
    }

    /// Waits until the program exits.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        until("the program exits", || self.child.try_wait().unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "tests start the program")]
fn program(config: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_gateway"));
    program.arg(config).env("RUST_LOG", "error");
    program
}
