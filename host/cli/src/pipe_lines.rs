//! `hotbay pipe --lines`: sends each line through the plugins, writes the replies in order, reports
//! failed lines, and stops on request. A single loop; other threads read and call.

use std::future::poll_fn;
use std::io::IsTerminal as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{fmt, io};

use futures_core::Stream as _;
use hotbay::{Error, Pipeline, Reply, RunMany, RunOptions};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender};

use crate::Status;
use crate::args::{OnError, Options, Pipe};
use crate::call::{bytes_json, reply_json};
use crate::failure::Failure;
use crate::input::max_input_bytes;
use crate::output::{Out, print_message};
use crate::request_stream::{LineState, LinesInFlight, MAX_BATCH, StdinLines};
use crate::signals::{StopRequest, expire_grace_after};
use crate::start::{GRACE, LoadedPlugins, block_on};

/// The number of polls between checks for stop requests while replies are ready.
const POLLS_PER_CHECK: u32 = 256;

pub(crate) fn pipe_lines(
    pipeline: &Pipeline,
    (stop_sender, stop_requests): (&Sender<StopRequest>, &mut Receiver<StopRequest>),
    loaded: &mut LoadedPlugins,
    args: &Pipe,
    options: &Options,
    out: &mut Out,
) -> Result<Status, Failure> {
    let lines = StdinLines::spawn(args.on_error == OnError::Keep)
        .map_err(|error| Failure::io("cannot read stdin", &error))?;
    let (stream, in_flight) = LinesInFlight::stream(lines.chunks);
    // One more, so that the stream decides where a batch ends.
    let run_options = RunOptions::ordered().with_max_chunk(MAX_BATCH + 1);
    let mut pump = LinePump {
        replies: pipeline.run_many(stream, run_options),
        in_flight,
        stop_sender,
        stop_requests,
        loaded,
        on_error: args.on_error,
        is_json: options.json,
        progress: Progress::new(options, out),
        failures: LineFailures::default(),
        completed: 0,
        read: lines.count,
        polls_until_check: 0,
        early_end: None,
    };
    let outcome = block_on(pump.run(out));
    pump.progress.finish(pump.failures.count);
    outcome?;
    pump.finish(out)
}

/// Moves lines from stdin through a pipeline to stdout.
struct LinePump<'a> {
    replies: RunMany,
    in_flight: LinesInFlight,
    stop_sender: &'a Sender<StopRequest>,
    stop_requests: &'a mut Receiver<StopRequest>,
    loaded: &'a mut LoadedPlugins,
    on_error: OnError,
    is_json: bool,
    progress: Progress,
    failures: LineFailures,
    /// Lines that succeeded or failed; also the number of the last one.
    completed: u64,
    /// Lines that were read so far.
    read: Arc<AtomicU64>,
    polls_until_check: u32,
    /// The reason it stops before the end of the input.
    early_end: Option<EarlyEnd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EarlyEnd {
    /// Running calls may finish within the grace period.
    Signal,
    /// Stops at once: stdout is closed.
    ReaderClosed,
    /// Stops at once, after the last completed line.
    FailedLine,
}

enum Event {
    Completed(Result<Reply, Error>),
    StopRequested(StopRequest),
    End,
}

impl LinePump<'_> {
    async fn run(&mut self, out: &mut Out) -> Result<(), Failure> {
        while !matches!(self.early_end, Some(EarlyEnd::ReaderClosed | EarlyEnd::FailedLine)) {
            match poll_fn(|context| self.poll(context, out)).await? {
                Event::Completed(outcome) => self.complete(outcome, out)?,
                Event::StopRequested(StopRequest::ReaderClosed) => {
                    self.early_end = Some(EarlyEnd::ReaderClosed);
                }
                Event::StopRequested(StopRequest::Signal) => self.stop(),
                Event::StopRequested(StopRequest::GraceExpired) => break,
                Event::End => {
                    self.fail_unsent(out)?;
                    break;
                }
            }
            if out.is_closed() {
                break;
            }
        }
        out.flush()?;
        if out.is_closed() {
            self.early_end = Some(EarlyEnd::ReaderClosed);
        }
        let error = self.in_flight.take_error();
        error.map_or(Ok(()), |error| Err(Failure::io("cannot read stdin", &error)))
    }

    fn poll(&mut self, context: &mut Context<'_>, out: &mut Out) -> Poll<Result<Event, Failure>> {
        if self.polls_until_check == 0 {
            self.polls_until_check = POLLS_PER_CHECK;
            if let Ok(request) = self.stop_requests.try_recv() {
                return Poll::Ready(Ok(Event::StopRequested(request)));
            }
        }
        self.polls_until_check -= 1;
        match Pin::new(&mut self.replies).poll_next(context) {
            Poll::Ready(Some(done)) => return Poll::Ready(Ok(Event::Completed(done.outcome))),
            Poll::Ready(None) => return Poll::Ready(Ok(Event::End)),
            Poll::Pending => {}
        }
        if let Poll::Ready(Some(request)) = self.stop_requests.poll_recv(context) {
            return Poll::Ready(Ok(Event::StopRequested(request)));
        }
        // A reader that waits for a reply gets it before the next line is awaited.
        self.fail_unsent(out)?;
        out.flush()?;
        self.progress.show(self.failures.count);
        match out.is_closed() || self.early_end == Some(EarlyEnd::FailedLine) {
            true => Poll::Ready(Ok(Event::End)),
            false => Poll::Pending,
        }
    }

    fn stop(&mut self) {
        if self.early_end.is_none() {
            self.early_end = Some(EarlyEnd::Signal);
            self.in_flight.stop();
            expire_grace_after(GRACE, self.stop_sender);
            if !self.is_json {
                let note =
                    "note: finishing running calls, at most 10 s; a second signal exits at once";
                self.progress.suspended(|| print_message(note));
            }
        }
    }

    /// Handles the outcome of the oldest line in flight.
    fn complete(&mut self, outcome: Result<Reply, Error>, out: &mut Out) -> Result<(), Failure> {
        self.fail_unsent(out)?;
        if self.early_end == Some(EarlyEnd::FailedLine) {
            return Ok(());
        }
        let Some(line) = self.in_flight.pop() else { return Ok(()) };
        self.completed += 1;
        match outcome {
            Ok(reply) => self.write(&reply, out)?,
            Err(error) => {
                self.loaded.record_error(&error);
                let LineState::Sent { copy, .. } = line.state else { return Ok(()) };
                self.fail(&error.into(), copy, out)?;
            }
        }
        self.progress.add(line.bytes, self.failures.count);
        Ok(())
    }

    /// Reports the lines before the oldest line in flight that were not sent.
    fn fail_unsent(&mut self, out: &mut Out) -> Result<(), Failure> {
        while self.early_end != Some(EarlyEnd::FailedLine)
            && let Some(line) = self.in_flight.pop_unsent()
        {
            self.completed += 1;
            let message = format!("the line exceeds the limit of {} bytes", max_input_bytes());
            self.fail(&Failure::new("input", message), None, out)?;
            self.progress.add(line.bytes, self.failures.count);
        }
        Ok(())
    }

    fn write(&self, reply: &Reply, out: &mut Out) -> Result<(), Failure> {
        if self.is_json {
            let mut json = reply_json(reply);
            json["line"] = self.completed.into();
            return out.json_line(&json);
        }
        out.bytes(reply.as_bytes())?;
        out.bytes(b"\n")
    }

    fn fail(
        &mut self,
        failure: &Failure,
        copy: Option<Vec<u8>>,
        out: &mut Out,
    ) -> Result<(), Failure> {
        let kept = (self.on_error == OnError::Keep).then(|| copy.unwrap_or_default());
        let messages = self.failures.record(self.completed, failure);
        if self.on_error == OnError::Stop {
            self.early_end = Some(EarlyEnd::FailedLine);
        }
        if self.is_json {
            let mut json = kept.map_or_else(|| json!({}), |line| bytes_json(&line));
            json["line"] = self.completed.into();
            json["error"] = failure.json();
            return out.json_line(&json);
        }
        if !messages.is_empty() {
            // Keeps the order if stdout and stderr are the same terminal.
            out.flush()?;
            self.progress.suspended(|| messages.iter().for_each(|line| print_message(line)));
        }
        if let Some(line) = kept {
            out.bytes(&line)?;
            out.bytes(b"\n")?;
        }
        Ok(())
    }

    /// Reports the failures that were not printed, and the lines that were not processed.
    fn finish(self, out: &mut Out) -> Result<Status, Failure> {
        let is_complete = self.early_end.is_none_or(|end| end == EarlyEnd::ReaderClosed);
        if !self.is_json
            && let Some(summary) = self.failures.summary()
        {
            print_message(&summary);
        }
        if self.early_end.is_some() {
            self.loaded.shorten_grace();
        }
        if is_complete {
            let has_failures = self.failures.count > 0;
            return Ok(if has_failures { Status::Failed } else { Status::Success });
        }
        let unprocessed = self.read.load(Ordering::Relaxed).saturating_sub(self.completed);
        match self.is_json {
            true => out.json_line(&self.stopped_json(unprocessed))?,
            false => print_message(&self.stopped_message(unprocessed)),
        }
        Ok(Status::Failed)
    }

    fn stopped_message(&self, unprocessed: u64) -> String {
        let place = match (self.early_end, self.completed) {
            (Some(EarlyEnd::FailedLine), number) => format!("at line {number}"),
            (_, 1) => "after 1 line".to_owned(),
            (_, count) => format!("after {} lines", HumanCount(count)),
        };
        let unprocessed = HumanCount(unprocessed);
        format!("error: stopped {place}; lines read but not processed: {unprocessed}")
    }

    fn stopped_json(&self, unprocessed: u64) -> Value {
        let is_signal = self.early_end == Some(EarlyEnd::Signal);
        json!({
            "stopped": if is_signal { "signal" } else { "failed_line" },
            "done": self.completed, "failed": self.failures.count, "not_done": unprocessed,
        })
    }
}

/// Maximum number of failed lines that are printed.
const MAX_PRINTED: u64 = 20;

/// Maximum number of kinds that are counted separately.
const MAX_KINDS: usize = 8;

/// The failed lines so far.
#[derive(Default)]
pub(crate) struct LineFailures {
    pub(crate) count: u64,
    /// The failures that were not printed, in the order of their first line.
    counted: Vec<KindCount>,
}

struct KindCount {
    name: String,
    count: u64,
    /// The number of the first line.
    first: u64,
}

impl LineFailures {
    /// Records a failed line, and returns what to print for it.
    pub(crate) fn record(&mut self, number: u64, failure: &Failure) -> Vec<String> {
        self.count += 1;
        if self.count <= MAX_PRINTED {
            return line_messages(number, failure);
        }
        let name = match self.counted.len() {
            MAX_KINDS.. if !self.counted.iter().any(|kind| kind.name == kind_name(failure)) => {
                "other errors".to_owned()
            }
            _ => kind_name(failure),
        };
        match self.counted.iter_mut().find(|kind| kind.name == name) {
            Some(kind) => kind.count += 1,
            None => self.counted.push(KindCount { name, count: 1, first: number }),
        }
        Vec::new()
    }

    /// Returns a summary of the failures that were not printed.
    pub(crate) fn summary(&self) -> Option<String> {
        let more = self.count.checked_sub(MAX_PRINTED).filter(|more| *more > 0)?;
        let lines = if more == 1 { "line" } else { "lines" };
        let kinds: Vec<_> = self.counted.iter().map(ToString::to_string).collect();
        Some(format!("error: {} more {lines} failed: {}", HumanCount(more), kinds.join("; ")))
    }
}

impl fmt::Display for KindCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}, first line {}", HumanCount(self.count), self.name, self.first)
    }
}

/// Returns the message of a failed line, and the details of a plugin's own error.
fn line_messages(number: u64, failure: &Failure) -> Vec<String> {
    let mut lines = vec![format!("error: line {number}: {}", failure.full_message())];
    if let Failure::Host(error) = failure
        && let Some(details) = error.plugin_error().and_then(|error| error.details())
    {
        lines.push(format!("  details: {details}"));
    }
    lines
}

fn kind_name(failure: &Failure) -> String {
    match failure {
        Failure::Host(error) | Failure::Titled { error, .. } => {
            let plugin = error.plugin().map(|name| format!(" of plugin `{name}`"));
            format!("{}{}", code_or_kind(error), plugin.unwrap_or_default())
        }
        Failure::Usage(_) => "kind usage".to_owned(),
        Failure::Own { kind, .. } => format!("kind {kind}"),
    }
}

fn code_or_kind(error: &Error) -> String {
    match error.plugin_error() {
        Some(own) => format!("code {}", own.code()),
        None => format!("kind {}", error.kind()),
    }
}

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
    fn first_failures_are_printed_and_others_counted() {
        let mut failures = LineFailures::default();
        let (long, slow) = (Failure::new("input", "too long"), Failure::new("slow", "too slow"));
        for number in 1..=20 {
            let lines = failures.record(number, &long);
            assert_eq!(lines, [format!("error: line {number}: too long")]);
        }
        assert_eq!(failures.summary(), None);
        assert!(failures.record(21, &slow).is_empty());
        let summary = failures.summary().unwrap();
        assert_eq!(summary, "error: 1 more line failed: 1 with kind slow, first line 21");
        for number in 22..1300 {
            assert!(failures.record(number, &long).is_empty());
        }
        let summary = failures.summary().unwrap();
        let expected = "error: 1,279 more lines failed: 1 with kind slow, first line 21; \
                      1,278 with kind input, first line 22";
        assert_eq!(summary, expected);
    }

    #[test]
    fn many_kinds_are_counted_together() {
        const KINDS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let mut failures = LineFailures::default();
        for number in 1..=20 {
            failures.record(number, &Failure::new("a", ""));
        }
        for (number, kind) in (21..).zip(KINDS) {
            failures.record(number, &Failure::new(kind, ""));
        }
        let summary = failures.summary().unwrap();
        assert!(summary.starts_with("error: 12 more lines failed: 1 with kind a, first line 21;"));
        assert!(summary.ends_with("; 4 with other errors, first line 29"), "{summary}");
    }

    #[test]
    fn counts_include_failed_lines_if_any() {
        let second = Duration::from_secs(1);
        assert_eq!(counts(12_345, 0, second), "12,345 lines, 12,345 lines/s");
        assert_eq!(counts(10, 2, second * 2), "10 lines, 5 lines/s, 2 failed");
        assert_eq!(counts(0, 0, Duration::ZERO), "0 lines, 0 lines/s");
    }
}
