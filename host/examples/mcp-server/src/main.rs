//! A server of the Model Context Protocol over standard input and output, whose tools are plugins.
//!
//! `hotbay-mcp-server [FOLDER]` reads `hotbay.toml` in the folder, or else loads the plugins below
//! it. By default, that is the working directory.

mod catalog;
mod messages;
mod server;
mod streams;

use std::env;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hotbay::{CancellationToken, Host};
use rmcp::ServiceExt as _;
use tracing_subscriber::EnvFilter;

use crate::catalog::Catalog;
use crate::server::ToolServer;
use crate::streams::{Input, output};

/// Time limit of a call, unless the configuration or the manifest sets another.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// Time that replies, and then plugins, have to finish when the client has closed the connection.
/// Clients kill a server that takes long.
const GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // Standard output belongs to the protocol.
    let filter = EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("warn,hotbay_mcp_server=info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(io::stderr().is_terminal()).init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let folder = env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(serve(&folder));
    // Does not wait for the thread that reads standard input, which may still be open.
    runtime.shutdown_background();
    served
}

/// Serves the plugins until the client closes the connection.
async fn serve(folder: &Path) -> anyhow::Result<()> {
    let output = output().context("cannot take standard output")?;
    let host = host(folder)?;
    let events = host.events();
    host.load_all().await;
    let catalog = Arc::new(Catalog::new(host.clone()));
    let following = tokio::spawn(Arc::clone(&catalog).follow(events));
    let ended = CancellationToken::new();
    let server = ToolServer::new(catalog, ended.clone());
    let input = Input::new(tokio::io::stdin(), ended.clone());
    let served = match server.serve((input, output)).await {
        Ok(session) => tokio::select! {
            quit = session.waiting() => quit.map(drop).context("the session failed"),
            () = grace(&ended) => Ok(()),
        },
        // The client left before it had initialized the session.
        Err(_) if ended.is_cancelled() => Ok(()),
        Err(error) => Err(error).context("cannot initialize the session"),
    };
    host.shutdown(GRACE).await;
    following.abort();
    served
}

/// Waits until the time of the last replies is over.
async fn grace(ended: &CancellationToken) {
    ended.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

fn host(folder: &Path) -> anyhow::Result<Host> {
    anyhow::ensure!(folder.is_dir(), "`{}` is not a folder", folder.display());
    let builder = Host::builder().default_deadline(DEFAULT_DEADLINE).hot_reload(true);
    let config = folder.join("hotbay.toml");
    let builder =
        if config.is_file() { builder.config_file(config) } else { builder.plugin_dir(folder) };
    builder.build().map_err(|error| {
        let message = error.full_message();
        match error.hint() {
            Some(hint) => anyhow::anyhow!("{message}\nhint: {hint}"),
            None => anyhow::anyhow!(message),
        }
    })
}
