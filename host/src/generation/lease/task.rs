//! Calls that run as tasks of the plugin, under a lease: of async methods, and of async plugins.

use std::pin::pin;

use futures_util::future::{Either, select};
use hotbay_plugin::OwnedPayload;
use hotbay_plugin::abi::RawContext;

use super::{CallArgs, DEPTH, InstanceRef};
use crate::boundary::task::RunningTask;
use crate::call::{Failure, ReplySlot};
use crate::error::{Error, bug};
use crate::generation::Backend;
use crate::generation::bindings::MethodBinding;
use crate::sync::block_on_until;

impl InstanceRef {
    /// Starts the task of a call.
    fn start_task(&self, args: CallArgs<'_>) -> Result<RunningTask, Error> {
        let Some(Backend::InProcess(instance)) = &self.backend else {
            return Err(bug!("a process was called by a function"));
        };
        let request = args.request;
        let guard = || self.generation.tasks.start();
        match (request.method_request(), self.start_execute) {
            (Some(method), _) => {
                let MethodBinding::Async(start, format) = *self.bind_method(method)? else {
                    return Err(bug!("a method was bound to another kind"));
                };
                let bytes = method.encode(format);
                let bytes = bytes.map_err(|error| self.generation.not_encoded(error))?;
                self.start_in_process(args, |context| {
                    instance.start_method(start, context, format, bytes, guard())
                })
            }
            (None, Some(start)) => {
                let input = OwnedPayload::from(request.payload());
                self.start_in_process(args, |context| {
                    instance.start_execute(start, context, input, guard())
                })
            }
            (None, None) => Err(bug!("a plugin that is not async was called as a task")),
        }
    }

    /// Starts a task with the context of the call.
    fn start_in_process(
        &self,
        args: CallArgs<'_>,
        start: impl FnOnce(&RawContext<'_>) -> Result<RunningTask, Failure>,
    ) -> Result<RunningTask, Error> {
        let mut task = None;
        self.run_in_process(args, |context| {
            let depth = DEPTH.get();
            DEPTH.set(depth + 1);
            let started = start(context);
            DEPTH.set(depth);
            let fail = |failure| self.generation.error_from_by(args.request.deadline(), failure);
            task = Some(started.map_err(fail)?);
            Ok(())
        })?;
        task.ok_or_else(|| bug!("a task was started and lost"))
    }

    /// Makes a call as a task, as a future; dropping it cancels the call.
    pub(super) async fn run_task(
        &self,
        args: CallArgs<'_>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        let output = self.start_task(args)?.await;
        let deadline = args.request.deadline();
        let output = output.map_err(|failure| self.generation.error_from_by(deadline, failure))?;
        reply.output_mut().set(output);
        match &self.backend {
            Some(Backend::InProcess(instance)) => self.check_reply(instance, reply),
            _ => Ok(()),
        }
    }

    /// Makes a call as a task, and waits for it on this thread until the call has ended.
    #[cold]
    pub(super) fn wait_for_task(
        &self,
        args: CallArgs<'_>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        let request = args.request;
        let ended = async {
            let state_ended = async {
                match args.state {
                    Some(state) => state.ended().await,
                    None => std::future::pending().await,
                }
            };
            select(pin!(state_ended), pin!(self.generation.calls_aborted())).await;
        };
        let cancelled = async {
            match request.cancellation_token() {
                Some(token) => token.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let run = pin!(self.run_task(args, reply));
        let (ended, cancelled) = (pin!(ended), pin!(cancelled));
        // A call with a state ends at its deadline by itself.
        let deadline = request.deadline().filter(|_| args.state.is_none());
        let stopped = pin!(select(ended, cancelled));
        match block_on_until(pin!(select(run, stopped)), deadline) {
            Some(Either::Left((outcome, _))) => outcome,
            Some(Either::Right((Either::Left(_), _))) => Err(match args.state {
                // Its caller may have its result already.
                Some(state) if state.timed_out() => self.generation.not_in_time(),
                Some(state) if !state.is_active() => self.generation.cancelled(),
                _ => self.generation.error_from(Failure::Cancelled),
            }),
            Some(Either::Right((Either::Right(_), _))) => Err(self.generation.cancelled()),
            None => Err(self.generation.not_in_time()),
        }
    }
}
