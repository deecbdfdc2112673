//! Lines through plugins: writes the replies in order, tells what failed, ends when it is asked
//! to. One loop; reading and calling are done on other threads.

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

use crate::Verdict;
use crate::args::{OnError, Options, Pipe};
use crate::call::{bytes_json, reply_json};
use crate::failure::Failure;
use crate::failures::Failures;
use crate::feed::{State, TOGETHER_MAX, UnderWay};
use crate::input::bytes_max;
use crate::lines::Lines;
use crate::output::{Out, say};
use crate::progress::Progress;
use crate::signals::{Ask, enough_after};
use crate::start::{GRACE, Started, block_on};

/// After how many lines it is looked whether somebody asks for the end.
const LOOK_EVERY: u32 = 256;

pub(crate) fn each_line(
    pipeline: &Pipeline,
    (asking, asked): (&Sender<Ask>, &mut Receiver<Ask>),
    started: &mut Started,
    args: &Pipe,
    options: &Options,
    out: &mut Out,
) -> Result<Verdict, Failure> {
    let lines = Lines::of_stdin(args.on_error == OnError::Keep)
        .map_err(|error| Failure::io("cannot read stdin", &error))?;
    let (feed, under_way) = UnderWay::feed(lines.chunks);
    // One more, so that it is the feed that says what goes together.
    let many = RunOptions::ordered().with_max_chunk(TOGETHER_MAX + 1);
    let mut work = Work {
        replies: pipeline.run_many(feed, many),
        under_way,
        asking,
        asked,
        started,
        on_error: args.on_error,
        is_json: options.json,
        progress: Progress::new(options, out),
        failures: Failures::default(),
        done: 0,
        read: lines.count,
        until_look: 0,
        end: None,
    };
    let ended = block_on(work.go_on(out));
    work.progress.end(work.failures.count);
    ended?;
    work.sum_up(out)
}

struct Work<'a> {
    replies: RunMany,
    under_way: UnderWay,
    asking: &'a Sender<Ask>,
    asked: &'a mut Receiver<Ask>,
    started: &'a mut Started,
    on_error: OnError,
    is_json: bool,
    progress: Progress,
    failures: Failures,
    /// Lines that were answered or failed; the number of the last one.
    done: u64,
    /// Lines that were read so far.
    read: Arc<AtomicU64>,
    until_look: u32,
    /// Why it ends before the input does.
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After what runs, if that takes no longer than the grace.
    Signal,
    /// Now, for nobody reads any more.
    ReaderGone,
    /// Now, at the line that was done last.
    FailedLine,
}

/// What there is to react to.
enum Happening {
    Done(Result<Reply, Error>),
    Asked(Ask),
    Ended,
}

impl Work<'_> {
    async fn go_on(&mut self, out: &mut Out) -> Result<(), Failure> {
        while !matches!(self.end, Some(End::ReaderGone | End::FailedLine)) {
            match poll_fn(|context| self.poll(context, out)).await? {
                Happening::Done(outcome) => self.take(outcome, out)?,
                Happening::Asked(Ask::ReaderGone) => self.end = Some(End::ReaderGone),
                Happening::Asked(Ask::Signal) => self.stop(),
                Happening::Asked(Ask::Enough) => break,
                Happening::Ended => {
                    self.fail_first(out)?;
                    break;
                }
            }
            if out.is_closed() {
                break;
            }
        }
        out.flush()?;
        if out.is_closed() {
            self.end = Some(End::ReaderGone);
        }
        let error = self.under_way.take_error();
        error.map_or(Ok(()), |error| Err(Failure::io("cannot read stdin", &error)))
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Out,
    ) -> Poll<Result<Happening, Failure>> {
        if self.until_look == 0 {
            self.until_look = LOOK_EVERY;
            if let Ok(ask) = self.asked.try_recv() {
                return Poll::Ready(Ok(Happening::Asked(ask)));
            }
        }
        self.until_look -= 1;
        match Pin::new(&mut self.replies).poll_next(context) {
            Poll::Ready(Some(done)) => return Poll::Ready(Ok(Happening::Done(done.outcome))),
            Poll::Ready(None) => return Poll::Ready(Ok(Happening::Ended)),
            Poll::Pending => {}
        }
        if let Poll::Ready(Some(ask)) = self.asked.poll_recv(context) {
            return Poll::Ready(Ok(Happening::Asked(ask)));
        }
        // Whoever waits for an answer gets it before the next line is waited for.
        self.fail_first(out)?;
        out.flush()?;
        self.progress.show(self.failures.count);
        match out.is_closed() || self.end == Some(End::FailedLine) {
            true => Poll::Ready(Ok(Happening::Ended)),
            false => Poll::Pending,
        }
    }

    fn stop(&mut self) {
        if self.end.is_none() {
            self.end = Some(End::Signal);
            self.under_way.stop();
            enough_after(GRACE, self.asking);
            if !self.is_json {
                self.progress.beside(|| {
                    say("finishing what runs, at most 10 s; a second time ends at once")
                });
            }
        }
    }

    /// What became of the oldest line that is under way.
    fn take(&mut self, outcome: Result<Reply, Error>, out: &mut Out) -> Result<(), Failure> {
        self.fail_first(out)?;
        if self.end == Some(End::FailedLine) {
            return Ok(());
        }
        let Some(given) = self.under_way.next() else { return Ok(()) };
        self.done += 1;
        match outcome {
            Ok(reply) => self.write(&reply, out)?,
            Err(error) => {
                self.started.note(&error);
                let State::Asked { copy, .. } = given.state else { return Ok(()) };
                self.fail(&error.into(), copy, out)?;
            }
        }
        self.progress.add(given.bytes, self.failures.count);
        Ok(())
    }

    /// Tells of the lines that failed before the oldest that is under way.
    fn fail_first(&mut self, out: &mut Out) -> Result<(), Failure> {
        while self.end != Some(End::FailedLine)
            && let Some(given) = self.under_way.next_failed()
        {
            self.done += 1;
            let message = format!("it is longer than {} bytes", bytes_max());
            self.fail(&Failure::new("input", message), None, out)?;
            self.progress.add(given.bytes, self.failures.count);
        }
        Ok(())
    }

    fn write(&self, reply: &Reply, out: &mut Out) -> Result<(), Failure> {
        if self.is_json {
            let mut json = reply_json(reply);
            json["line"] = self.done.into();
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
        let told = self.failures.note(self.done, failure);
        if self.on_error == OnError::Stop {
            self.end = Some(End::FailedLine);
        }
        if self.is_json {
            let mut json = kept.map_or_else(|| json!({}), |line| bytes_json(&line));
            json["line"] = self.done.into();
            json["error"] = failure.json();
            return out.json_line(&json);
        }
        if !told.is_empty() {
            // Both go to one terminal: in the order in which they came.
            out.flush()?;
            self.progress.beside(|| told.iter().for_each(|line| say(line)));
        }
        if let Some(line) = kept {
            out.bytes(&line)?;
            out.bytes(b"\n")?;
        }
        Ok(())
    }

    /// Says what was left out.
    fn sum_up(self, out: &mut Out) -> Result<Verdict, Failure> {
        let is_whole = self.end.is_none_or(|end| end == End::ReaderGone);
        if !self.is_json
            && let Some(rest) = self.failures.rest()
        {
            say(&rest);
        }
        if self.end.is_some() {
            self.started.leave();
        }
        if is_whole {
            return Ok(if self.failures.count == 0 { Verdict::Well } else { Verdict::Wrong });
        }
        let not_done = self.read.load(Ordering::Relaxed).saturating_sub(self.done);
        match self.is_json {
            true => out.json_line(&self.stopped_json(not_done))?,
            false => say(&self.stopped(not_done)),
        }
        Ok(Verdict::Wrong)
    }

    fn stopped(&self, not_done: u64) -> String {
        let (done, not_done) = (HumanCount(self.done), HumanCount(not_done));
        match self.end {
            Some(End::FailedLine) => {
                format!("stopped at line {}: {not_done} more read and not done", self.done)
            }
            _ if self.done == 1 => format!("stopped: 1 line done, {not_done} read and not done"),
            _ => format!("stopped: {done} lines done, {not_done} read and not done"),
        }
    }

    fn stopped_json(&self, not_done: u64) -> Value {
        let why = if self.end == Some(End::Signal) { "signal" } else { "failed_line" };
        json!({
            "stopped": why, "done": self.done, "failed": self.failures.count,
            "not_done": not_done,
        })
    }
}
