//! `hotbay pipe`: stdin through plugins in a row, as a whole; line by line is done elsewhere.
//! Ends cleanly when it is asked to, whatever it waits for.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::thread;

use hotbay::{Pipeline, Quarantine, Reply};
use tokio::sync::mpsc::{self, Receiver};

use crate::Verdict;
use crate::args::{Options, Pipe};
use crate::call::{reply_json, tell_bytes};
use crate::each_line::each_line;
use crate::failure::Failure;
use crate::input::Input;
use crate::output::{Out, say};
use crate::signals::{self, Ask};
use crate::start::{block_on, start_with};

pub(crate) fn pipe(args: &Pipe, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let (sender, mut asked) = mpsc::channel(4);
    // Before anything is loaded: from here on nothing stays behind.
    signals::listen(&sender).map_err(|error| Failure::io("cannot listen to signals", &error))?;
    let mut started =
        start_with(&args.plugins, options, |builder| builder.quarantine(never_for_faults()))?;
    let ended = match started.pipeline(&args.plugins, args.deadline) {
        Err(error) => Err(error.into()),
        Ok(pipeline) if args.lines => {
            each_line(&pipeline, (&sender, &mut asked), &mut started, args, options, out)
        }
        Ok(pipeline) => match block_on(until_asked(whole(&pipeline), &mut asked)) {
            Ok(Ok(reply)) => tell(&reply, options, out),
            Ok(Err(failure)) => {
                if let Failure::Host(error) = &failure {
                    started.note(error);
                }
                Err(failure)
            }
            Err(ask) => {
                started.leave();
                Ok(stopped(ask))
            }
        },
    };
    let ended = ended.and_then(|verdict| out.flush().map(|()| verdict));
    started.end();
    ended
}

/// Lines that make a plugin panic say nothing about those that follow. Calls that never return
/// do: once they hold all workers, nothing would be answered any more.
fn never_for_faults() -> Quarantine {
    let mut quarantine = Quarantine::default();
    quarantine.max_faults = u32::MAX;
    quarantine
}

/// Reads stdin on a thread of its own, which may wait for somebody who types.
async fn whole(pipeline: &Pipeline) -> Result<Reply, Failure> {
    let (sender, mut inputs) = mpsc::channel(1);
    thread::Builder::new()
        .name("hotbay-stdin".to_owned())
        .spawn(move || sender.blocking_send(Input::of_stdin()))
        .map_err(|error| Failure::io("cannot read stdin", &error))?;
    let lost = || Failure::io("cannot read stdin", &io::Error::other("its reader is gone"));
    let input = inputs.recv().await.unwrap_or_else(|| Err(lost()))?;
    Ok(pipeline.run(input.into_request()).await?)
}

/// What comes first: an end of the work, or a wish that it ends.
async fn until_asked<T>(
    work: impl Future<Output = T>,
    asked: &mut Receiver<Ask>,
) -> Result<T, Ask> {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(Some(ask)) = asked.poll_recv(context) {
            return Poll::Ready(Err(ask));
        }
        Pin::as_mut(&mut work).poll(context).map(Ok)
    })
    .await
}

fn tell(reply: &Reply, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    match options.json {
        true => out.json(&reply_json(reply))?,
        false => tell_bytes(reply, out)?,
    }
    Ok(Verdict::Well)
}

fn stopped(ask: Ask) -> Verdict {
    match ask {
        Ask::ReaderGone => Verdict::Well,
        Ask::Signal | Ask::Enough => {
            say("stopped: there is no reply yet");
            Verdict::Wrong
        }
    }
}
