//! Calls of a generation as futures, one by one or as a batch, for backends whose calls need no
//! thread while they wait.

use super::lease::CallArgs;
use super::{Backend, InstanceRef};
#[cfg(all(unix, feature = "process"))]
use crate::call::Failure;
use crate::call::Reply;
use crate::error::Error;

impl InstanceRef {
    /// Calls like [`call`](Self::call), as a future; dropping it ends the call.
    pub(crate) async fn call_async(
        &self,
        args: CallArgs<'_>,
        reply: &mut Reply,
    ) -> Result<(), Error> {
        #[cfg(all(unix, feature = "process"))]
        if let Some(Backend::OutOfProcess(process)) = self.backend() {
            let CallArgs { request, state, call_id } = args;
            let generation = self.generation();
            generation.check_input(request)?;
            if let Some(state) = state
                && !state.enter_plugin(generation.id.get())
            {
                return Err(generation.ended_before_start(state));
            }
            let answer = process.call_async(&request.to_process_call(call_id)).await;
            if let Some(state) = state {
                state.leave_plugin();
            }
            return generation.fill_reply(request, answer.map_err(Failure::from), reply);
        }
        self.call(args, reply)
    }

    /// Returns the maximum number of calls in a batch; `None` if calls are sent one by one.
    pub(crate) fn batch(&self) -> Option<usize> {
        match self.backend()? {
            Backend::InProcess(_) => None,
            #[cfg(all(unix, feature = "process"))]
            Backend::OutOfProcess(process) => process.max_batch(),
        }
    }

    /// Sends many calls as one batch and returns their results in order.
    pub(crate) async fn call_many(&self, args: Vec<CallArgs<'_>>) -> Vec<Result<Reply, Error>> {
        #[cfg(all(unix, feature = "process"))]
        if let Some(Backend::OutOfProcess(process)) = self.backend() {
            return self.call_process_many(process, &args).await;
        }
        let mut answers = Vec::with_capacity(args.len());
        for args in args {
            let mut reply = Reply::vacant();
            answers.push(self.call_async(args, &mut reply).await.map(|()| reply));
        }
        answers
    }

    #[cfg(all(unix, feature = "process"))]
    async fn call_process_many(
        &self,
        process: &hotbay_process::Process,
        args: &[CallArgs<'_>],
    ) -> Vec<Result<Reply, Error>> {
        let generation = self.generation();
        // An input that is too large is not sent. A call that names an endpoint, a method or
        // headers is sent by itself.
        let is_batched = |args: &CallArgs<'_>| {
            args.request.endpoint().is_none()
                && !args.request.names_http()
                && generation.check_input(args.request).is_ok()
        };
        let calls: Vec<_> = args
            .iter()
            .filter(|args| is_batched(args))
            .map(|args| args.request.to_process_call(args.call_id))
            .collect();
        let results = match calls.len() {
            0 => Ok(Vec::new()),
            _ => process.call_many(&calls).await,
        };
        let mut results =
            results.map_err(|failure| generation.error_from(failure.into())).map(Vec::into_iter);
        let mut replies = Vec::with_capacity(args.len());
        for args in args {
            let mut reply = Reply::vacant();
            let outcome = if is_batched(args) {
                match &mut results {
                    Ok(results) => {
                        let answer = match results.next() {
                            Some(answer) => answer.map_err(Failure::from),
                            None => Err(Failure::Other(missing())),
                        };
                        generation.fill_reply(args.request, answer, &mut reply)
                    }
                    Err(error) => Err(error.cloned()),
                }
            } else {
                self.call_async(*args, &mut reply).await
            };
            replies.push(outcome.map(|()| reply));
        }
        replies
    }
}

#[cfg(all(unix, feature = "process"))]
#[cold]
fn missing() -> Error {
    crate::error::bug!("a batch has fewer results than calls")
}
