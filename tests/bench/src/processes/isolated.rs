//! Calls of an isolated library, compared with frames that a program without a protocol sends.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hotbay::{Host, PluginHandle};
use serde_json::json;

use super::setup::{BODY, Place, request};
use crate::fixtures::{self, Library, block_on, folder, install_with, title};
use crate::process::this_program;
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MAX_RATIO: f64 = 1.3;

/// One round: returns the nanoseconds of each call.
type Round<'a> = Box<dyn FnMut(usize) -> anyhow::Result<Vec<f64>> + 'a>;

pub(crate) fn measure(quick: bool, report: &Report) -> anyhow::Result<()> {
    let (rounds, calls) = if quick { (2, 100) } else { (41, 2000) };
    let place = Place::new()?;
    let dir = folder()?;
    let library = Library::copy("bench-echo", &fixtures::library("bench-echo")?, dir.path())?;
    let fields = json!({ "isolation": "process", "config": { "output": "in-place" } });
    let folder = install_with(&library, &dir.path().join("plugins"), "isolated", fields)?;
    let host = Host::builder().quarantine(None).runner(fixtures::runner()?).build()?;
    let isolated = block_on(host.load(&folder))??;
    let frames = Frames::start(dir.path())?;
    let mut contenders: [(&str, Round<'_>); 3] = [
        ("bare frames", Box::new(|calls| frames.calls(calls))),
        ("`call` of an isolated library", Box::new(|calls| called(&isolated, calls))),
        ("`call` of a program", Box::new(|calls| called(&place.echo, calls))),
    ];
    let mut found = [const { Vec::new() }; 3];
    for (_, contender) in &mut contenders {
        contender(calls)?;
    }
    for _ in 0..rounds {
        for ((_, contender), found) in contenders.iter_mut().zip(&mut found) {
            let times = contender(calls)?;
            let rate = calls as f64 / times.iter().sum::<f64>() * 1e9;
            found.push([
                quantile(times.clone(), 0.5),
                quantile(times.clone(), 0.9),
                quantile(times, 0.99),
                rate,
            ]);
        }
    }
    let what =
        format!("Isolated libraries: round trips of 16 bytes, {rounds} × {calls} calls (µs)");
    let head = ["what", "p50, best", "p50", "p90", "p99", "calls/s", "vs. frames", "goal", ""];
    let mut table = Table::new(title(&what), head);
    for (index, (name, _)) in contenders.iter().enumerate() {
        let all = |part: usize| found[index].iter().map(move |round| round[part]);
        let at = |part| format!("{:.1}", quantile(all(part).collect(), 0.5) / 1e3);
        let pairs = all(0).zip(&found[0]);
        let ratio = quantile(pairs.map(|(own, bare)| own / bare[0]).collect(), 0.5);
        let is_goal = index == 1;
        table.row([
            (*name).to_owned(),
            format!("{:.1}", all(0).fold(f64::INFINITY, f64::min) / 1e3),
            at(0),
            at(1),
            at(2),
            format!("{:.0}", quantile(all(3).collect(), 0.5)),
            format!("{ratio:.2}"),
            if is_goal { format!("≤ {MAX_RATIO}") } else { none() },
            if is_goal { verdict(ratio <= MAX_RATIO) } else { none() },
        ]);
    }
    table.note(
        "Bare frames: a length and 16 bytes, written and read with blocking calls on a Unix socket, by \
         one thread in each of two processes, without HTTP, limits, deadlines or supervision. Each \
         quantile is the median of that quantile over all rounds. The ratios are medians of the p50 \
         ratios of each round.",
    );
    report.print(&table);
    Ok(())
}

fn called(plugin: &PluginHandle, calls: usize) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        let answer = plugin.call(request())?;
        times.push(start.elapsed().as_nanos() as f64);
        ensure!(answer.as_bytes() == BODY, "unexpected reply");
    }
    Ok(times)
}

/// A server of frames in another process, which exits when this is dropped.
struct Frames {
    server: Child,
    stream: UnixStream,
}

impl Frames {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let socket = dir.join("frames.socket");
        let listener = UnixListener::bind(&socket)?;
        let arguments = ["--child", "frames-server", &socket.display().to_string()];
        let mut command = this_program(&arguments.map(str::to_owned))?;
        let server = command.stdin(Stdio::null()).spawn()?;
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { server, stream })
    }

    fn calls(&self, calls: usize) -> anyhow::Result<Vec<f64>> {
        let mut stream = &self.stream;
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            let start = Instant::now();
            write_frame(&mut stream, &BODY)?;
            let answer = read_frame(&mut stream)?.context("the server has exited")?;
            times.push(start.elapsed().as_nanos() as f64);
            ensure!(answer == BODY, "unexpected reply");
        }
        Ok(times)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Runs as the server of frames until its client closes the connection.
pub(crate) fn serve_frames(socket: &Path) -> anyhow::Result<()> {
    let mut stream = &UnixStream::connect(socket)?;
    while let Some(frame) = read_frame(&mut stream)? {
        write_frame(&mut stream, &frame)?;
    }
    Ok(())
}

/// Writes a frame with one call of the system.
fn write_frame(stream: &mut &UnixStream, bytes: &[u8]) -> anyhow::Result<()> {
    let mut frame = u32::try_from(bytes.len())?.to_le_bytes().to_vec();
    frame.extend_from_slice(bytes);
    Ok(stream.write_all(&frame)?)
}

/// Reads a frame; `None` at the end of the connection.
fn read_frame(stream: &mut &UnixStream) -> anyhow::Result<Option<Vec<u8>>> {
    let mut buffer = [0; 64];
    // A small frame arrives as a whole.
    let read = stream.read(&mut buffer)?;
    let Some((length, body)) = buffer[..read].split_first_chunk() else { return Ok(None) };
    ensure!(u32::from_le_bytes(*length) as usize == body.len(), "an incomplete frame");
    Ok(Some(body.to_vec()))
}
