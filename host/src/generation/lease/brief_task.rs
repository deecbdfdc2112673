//! A call of an async method without options, which needs no middleware and only waits for its task.

use std::sync::Arc;

use futures_util::future::{Either, select};
use hotbay_plugin::abi::RawContext;
use hotbay_plugin::contract::{CallError, Format};

use super::{InstanceRef, in_plugin_call};
use crate::boundary::task::RunningTask;
use crate::call::{Failure, ReplySlot};
use crate::contracts::KnownContract;
use crate::error::{Error, bug};
use crate::generation::Backend;
use crate::sync::{ProcessEpoch, SameProcess};

/// The task of a call of an async method without options. Dropping it cancels the call.
pub(crate) struct BriefTask {
    /// Dropped before the instance, whose library it belongs to.
    running: RunningTask,
    format: Format,
    instance: Arc<InstanceRef>,
}

impl BriefTask {
    /// Starts an async method of a plugin in this process. Returns `None` if it is another method, or
    /// that is not known yet.
    pub(crate) fn start(
        instance: Arc<InstanceRef>,
        contract: &KnownContract,
        method: usize,
        call_id: u64,
        encode: impl FnOnce(Format) -> Result<Vec<u8>, CallError>,
    ) -> Option<Result<Self, Error>> {
        let (start, format) = instance.bindings.task(contract, method)?;
        let Some(Backend::InProcess(plugin)) = &instance.backend else { return None };
        let generation = &instance.generation;
        let bytes = match encode(format) {
            Ok(bytes) if bytes.len() as u64 > instance.limits.max_input_bytes => {
                return Some(Err(generation.input_too_large(bytes.len())));
            }
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(generation.not_encoded(error))),
        };
        let (context, guard) = (RawContext::new(call_id), generation.tasks.start());
        let started = in_plugin_call(|| plugin.start_method(start, &context, format, bytes, guard));
        Some(match started {
            Ok(running) => Ok(Self { running, format, instance }),
            Err(failure) => Err(generation.error_from(failure)),
        })
    }

    /// Returns the format of the output.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Waits for the output, or until the unload of the generation aborts its calls.
    pub(crate) async fn output(&mut self, process: ProcessEpoch) -> Result<ReplySlot, Error> {
        // Dropping it takes a lock. Boxed, so that it can be leaked in a forked child.
        let aborted = Box::pin(self.instance.generation.calls_aborted());
        let mut aborted = SameProcess::of(process, aborted);
        let output = match select(&mut self.running, &mut *aborted).await {
            Either::Left((output, _)) => output,
            Either::Right(_) => Err(Failure::Cancelled),
        };
        let output = output.map_err(|failure| self.instance.generation.error_from(failure))?;
        let Some(Backend::InProcess(plugin)) = &self.instance.backend else {
            return Err(bug!("a task runs in a process"));
        };
        let mut reply = ReplySlot::new();
        reply.output_mut().set(output);
        self.instance.check_reply(plugin, &mut reply)?;
        Ok(reply)
    }
}
