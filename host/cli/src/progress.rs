//! The progress of `hotbay pipe --lines` on stderr. Draws nothing unless stderr is a terminal and
//! stdin and stdout are not.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::Options;
use crate::output::Out;

/// The number of lines between checks of [`DRAW_INTERVAL`].
const LINES_PER_CHECK: u64 = 256;

const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Counts lines, and draws the counts.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    drawn: Instant,
    lines: u64,
    bytes: u64,
}

impl Progress {
    /// Starts the progress, which draws nothing if stdin, stdout or the log use the terminal too.
    pub(crate) fn new(options: &Options, out: &Out) -> Self {
        let is_enabled = io::stderr().is_terminal()
            && !(io::stdin().is_terminal() || out.is_terminal() || options.log > 0);
        let now = Instant::now();
        let bar = is_enabled.then(|| bar(stdin_bytes()));
        Self { bar, started: now, drawn: now, lines: 0, bytes: 0 }
    }

    /// Counts a completed line.
    pub(crate) fn add(&mut self, bytes: u64, failed: u64) {
        self.lines += 1;
        self.bytes += bytes;
        if self.lines.is_multiple_of(LINES_PER_CHECK) {
            self.show(failed);
        }
    }

    /// Draws the counts, at most once per [`DRAW_INTERVAL`].
    pub(crate) fn show(&mut self, failed: u64) {
        if self.bar.is_some() && self.drawn.elapsed() >= DRAW_INTERVAL {
            self.draw(failed);
        }
    }

    /// Runs `print` with the progress bar hidden.
    pub(crate) fn suspended(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Draws the final counts, which remain visible.
    pub(crate) fn finish(&mut self, failed: u64) {
        self.draw(failed);
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
    }

    fn draw(&mut self, failed: u64) {
        let Some(bar) = &self.bar else { return };
        self.drawn = Instant::now();
        bar.set_position(self.bytes);
        // Also draws.
        bar.set_message(counts(self.lines, failed, self.started.elapsed()));
    }
}

fn counts(lines: u64, failed: u64, elapsed: Duration) -> String {
    let per_s = u128::from(lines) * 1000 / elapsed.as_millis().max(1);
    let per_s = u64::try_from(per_s).unwrap_or(u64::MAX);
    let lines = format!("{} lines, {} lines/s", HumanCount(lines), HumanCount(per_s));
    match failed {
        0 => lines,
        _ => format!("{lines}, {} failed", HumanCount(failed)),
    }
}

fn bar(bytes: Option<u64>) -> ProgressBar {
    let template = match bytes {
        Some(_) => "[{bar:24}] {percent:>3}%  {msg}  {eta} left",
        None => "{spinner} {msg}  {elapsed}",
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    let target = ProgressDrawTarget::stderr_with_hz(10);
    let bar = ProgressBar::with_draw_target(bytes, target).with_style(style);
    bar.with_message(counts(0, 0, Duration::ZERO))
}

/// Returns the number of bytes to read if stdin is a file.
#[cfg(unix)]
fn stdin_bytes() -> Option<u64> {
    use std::io::Seek as _;
    use std::os::fd::AsFd as _;
    let mut file = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(metadata.len().saturating_sub(file.stream_position().ok()?))
}

#[cfg(not(unix))]
fn stdin_bytes() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_include_failed_lines_if_any() {
        let second = Duration::from_secs(1);
        assert_eq!(counts(12_345, 0, second), "12,345 lines, 12,345 lines/s");
        assert_eq!(counts(10, 2, second * 2), "10 lines, 5 lines/s, 2 failed");
        assert_eq!(counts(0, 0, Duration::ZERO), "0 lines, 0 lines/s");
    }
}
