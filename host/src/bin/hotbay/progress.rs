//! How far the lines have come, on a terminal that shows nothing else; elsewhere nothing at all.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::Options;
use crate::output::Out;

/// How often it is looked whether something is to be drawn.
const LOOK_EVERY: u64 = 256;

const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Counts lines, and shows the counts where they can be seen.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    drawn: Instant,
    lines: u64,
    bytes: u64,
}

impl Progress {
    /// Drawn on stderr if that is a terminal, and neither stdin nor stdout nor the log is there.
    pub(crate) fn new(options: &Options, out: &Out) -> Self {
        let is_alone = io::stderr().is_terminal()
            && !(io::stdin().is_terminal() || out.is_terminal() || options.log > 0);
        let now = Instant::now();
        let bar = is_alone.then(|| bar(stdin_bytes()));
        Self { bar, begun: now, drawn: now, lines: 0, bytes: 0 }
    }

    /// One more line is done.
    pub(crate) fn add(&mut self, bytes: u64, failed: u64) {
        self.lines += 1;
        self.bytes += bytes;
        if self.lines.is_multiple_of(LOOK_EVERY) {
            self.show(failed);
        }
    }

    /// Draws the counts unless that was done just now.
    pub(crate) fn show(&mut self, failed: u64) {
        if self.bar.is_some() && self.drawn.elapsed() >= DRAW_EVERY {
            self.draw(failed);
        }
    }

    /// Does something else with the terminal.
    pub(crate) fn beside(&self, tell: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(tell),
            None => tell(),
        }
    }

    /// Leaves the last counts where they are.
    pub(crate) fn end(&mut self, failed: u64) {
        self.draw(failed);
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
    }

    fn draw(&mut self, failed: u64) {
        let Some(bar) = &self.bar else { return };
        self.drawn = Instant::now();
        bar.set_position(self.bytes);
        // This draws.
        bar.set_message(counts(self.lines, failed, self.begun.elapsed()));
    }
}

fn counts(lines: u64, failed: u64, took: Duration) -> String {
    let per_s = u128::from(lines) * 1000 / took.as_millis().max(1);
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

/// How many bytes are to come, if stdin is a file.
#[cfg(unix)]
fn stdin_bytes() -> Option<u64> {
    use std::io::Seek as _;
    use std::os::fd::AsFd as _;
    let mut file = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let about = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(about.len().saturating_sub(file.stream_position().ok()?))
}

#[cfg(not(unix))]
fn stdin_bytes() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_name_failed_lines_if_there_are_any() {
        let second = Duration::from_secs(1);
        assert_eq!(counts(12_345, 0, second), "12,345 lines, 12,345 lines/s");
        assert_eq!(counts(10, 2, second * 2), "10 lines, 5 lines/s, 2 failed");
        assert_eq!(counts(0, 0, Duration::ZERO), "0 lines, 0 lines/s");
    }
}
