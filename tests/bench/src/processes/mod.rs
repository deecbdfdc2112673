//! A process plugin compared with a handwritten alternative: a hyper client, a hyper server in
//! another process, and no supervision.

mod bare;
mod batch;
mod calls;
mod crowd;
mod starts;

use std::path::PathBuf;

use hotbay::{Host, PluginHandle, Request};

pub(crate) use bare::serve as bare_server;

use crate::fixtures::{self, block_on, folder, install_program};
use crate::table::Report;

/// The request body.
const BODY: [u8; 16] = *b"sixteen bytes in";

pub(crate) fn measure(quick: bool, report: &Report) -> anyhow::Result<()> {
    let place = Place::new()?;
    calls::measure(&place, quick, report)?;
    batch::measure(&place, quick, report)?;
    crowd::measure(&place, quick, report)?;
    starts::measure(&place, quick, report)
}

/// A host with one plugin.
struct Place {
    host: Host,
    echo: PluginHandle,
    program: PathBuf,
    folder: PathBuf,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let program = fixtures::program("bench-echo-program")?;
        let dir = folder()?;
        let folder = install_program(&program, &dir.path().join("plugins"), "echo")?;
        let host = Host::builder().quarantine(None).build()?;
        let echo = block_on(host.load(&folder))??;
        Ok(Self { host, echo, program, folder, dir })
    }
}

fn request() -> Request<'static> {
    Request::bytes(&BODY)
}
