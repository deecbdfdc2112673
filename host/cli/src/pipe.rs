//! `hotbay pipe`: sends all of stdin through a pipeline of plugins, and stops on request. Lines are
//! handled by `pipe_lines`.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::thread;

use hotbay::{Pipeline, Quarantine, Reply};
use tokio::sync::mpsc::{self, Receiver};

use crate::Status;
use crate::args::{Options, Pipe};
use crate::call::{reply_json, write_reply};
use crate::failure::Failure;
use crate::input::Input;
use crate::output::{Out, print_message};
use crate::pipe_lines::pipe_lines;
use crate::signals::{self, StopRequest};
use crate::start::{block_on, start_with};

pub(crate) fn pipe(args: &Pipe, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let (sender, mut stop_requests) = mpsc::channel(4);
    // Before plugins are loaded, so that a signal always stops them.
    signals::listen(&sender).map_err(|error| Failure::io("cannot handle signals", &error))?;
    let mut loaded =
        start_with(&args.plugins, options, |builder| builder.quarantine(no_fault_quarantine()))?;
    let outcome = match loaded.pipeline(&args.plugins, args.deadline) {
        Err(error) => Err(error.into()),
        Ok(pipeline) if args.lines => {
            pipe_lines(&pipeline, (&sender, &mut stop_requests), &mut loaded, args, options, out)
        }
        Ok(pipeline) => {
            match block_on(until_stopped(run_on_stdin(&pipeline), &mut stop_requests)) {
                Ok(Ok(reply)) => write(&reply, options, out),
                Ok(Err(failure)) => {
                    if let Failure::Host(error) = &failure {
                        loaded.record_error(error);
                    }
                    Err(failure)
                }
                Err(request) => {
                    loaded.shorten_grace();
                    Ok(stopped(request))
                }
            }
        }
    };
    let outcome = outcome.and_then(|status| out.flush().map(|()| status));
    loaded.shut_down();
    outcome
}

/// Returns a policy without quarantine for faults: a line on which a plugin panics does not affect
/// others. Calls that never return still quarantine a plugin, since they would block its workers.
fn no_fault_quarantine() -> Quarantine {
    let mut quarantine = Quarantine::default();
    quarantine.max_faults = u32::MAX;
    quarantine
}

/// Reads stdin on a separate thread, which may wait for a person who types.
async fn run_on_stdin(pipeline: &Pipeline) -> Result<Reply, Failure> {
    let (sender, mut inputs) = mpsc::channel(1);
    thread::Builder::new()
        .name("hotbay-stdin".to_owned())
        .spawn(move || sender.blocking_send(Input::of_stdin()))
        .map_err(|error| Failure::io("cannot read stdin", &error))?;
    let exited = || Failure::io("cannot read stdin", &io::Error::other("its thread exited"));
    let input = inputs.recv().await.unwrap_or_else(|| Err(exited()))?;
    Ok(pipeline.run(input.into_request()).await?)
}

/// Returns the output of `future`, or the stop request that arrived first.
async fn until_stopped<T>(
    future: impl Future<Output = T>,
    stop_requests: &mut Receiver<StopRequest>,
) -> Result<T, StopRequest> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(Some(request)) = stop_requests.poll_recv(context) {
            return Poll::Ready(Err(request));
        }
        Pin::as_mut(&mut future).poll(context).map(Ok)
    })
    .await
}

fn write(reply: &Reply, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    match options.json {
        true => out.json(&reply_json(reply))?,
        false => write_reply(reply, out)?,
    }
    Ok(Status::Success)
}

fn stopped(request: StopRequest) -> Status {
    match request {
        StopRequest::ReaderClosed => Status::Success,
        StopRequest::Signal | StopRequest::GraceExpired => {
            print_message("error: stopped before the reply arrived");
            Status::Failed
        }
    }
}
