//! `hotbay pipe --lines`: sends each line through the plugins, writes the replies in order, reports
//! failed lines, and stops on request. A single loop; other threads read and call.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_core::Stream as _;
use hotbay::{Error, Pipeline, Reply, RunMany, RunOptions};
use indicatif::HumanCount;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender};

use crate::Status;
use crate::args::{OnError, Options, Pipe};
use crate::call::{bytes_json, reply_json};
use crate::failure::Failure;
use crate::input::max_input_bytes;
use crate::line_failures::LineFailures;
use crate::line_reader::StdinLines;
use crate::output::{Out, print_message};
use crate::progress::Progress;
use crate::request_stream::{LineState, LinesInFlight, MAX_BATCH};
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
