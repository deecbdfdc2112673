//! Calls of contracts that a program makes. Each runs on its own thread: a worker of the plugin
//! called, or a thread of the runtime that all processes share, may wait for such a call.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use hotbay_plugin::abi::{Bounds, RawContext};
use hotbay_plugin::contract::internal::{CallFailure, MethodKind, OutgoingCall};
use hotbay_plugin::contract::{CallError, CallErrorKind, Format};
use hotbay_plugin::{CallContext, Output};
use hotbay_process::{ContractCall, ContractFuture, ContractRequest};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::services::{CallableContracts, parse_one};
use crate::call::{Caller, ContractCalls, crossing};
use crate::error::{Error, ErrorKind, is_not_served};
use crate::sync::block_on;

impl CallableContracts {
    /// Starts a call of a program. Dropping the future cancels it.
    pub(super) fn call_of_program(&self, call: ContractCall) -> ContractFuture {
        let (caller, calls) = (Arc::clone(&self.caller), Arc::clone(&self.calls));
        let token = CancellationToken::new();
        let (sender, receiver) = oneshot::channel();
        let guard = token.clone().drop_guard();
        let run = move || {
            // The receiver is gone if the program has closed the connection.
            let _ = sender.send(run(&caller, &*calls, call, &token));
        };
        let spawned = self.caller.call_on_thread(run);
        Box::pin(async move {
            let _guard = guard;
            spawned?;
            receiver.await.unwrap_or_else(|_| {
                let message = "the thread of the call exited without a result";
                Err(CallError::new(CallErrorKind::Other, message))
            })
        })
    }
}

/// The limits of the call that a program serves while it calls.
struct ProgramBounds<'a> {
    deadline: Option<Instant>,
    token: &'a CancellationToken,
}

impl Bounds for ProgramBounds<'_> {
    fn is_cancelled(&self) -> bool {
        self.token.is_cancelled() || self.remaining().is_some_and(|left| left.is_zero())
    }

    fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }
}

fn run(
    caller: &Arc<Caller>,
    calls: &dyn ContractCalls,
    call: ContractCall,
    token: &CancellationToken,
) -> Result<Vec<u8>, CallError> {
    let ContractCall { request, plugin, outer_id, deadline, trace } = call;
    let plugin = plugin.as_deref();
    let (contract, method, arguments) = match request {
        ContractRequest::Check(text) => {
            calls.bind(caller, parse_one(&text)?, plugin).map_err(crossing)?;
            return Ok(b"{}".to_vec());
        }
        ContractRequest::Method { contract, method, arguments } => (contract, method, arguments),
    };
    let bounds = ProgramBounds { deadline, token };
    // Zero is the id of no call.
    let context = RawContext::new(outer_id.unwrap_or(0)).with_trace(trace.as_ref());
    let context = context.with_bounds(&bounds);
    let call = MethodCall { contract: &contract, method: &method, arguments: &arguments, plugin };
    match call.run(caller, calls, &context, token) {
        // It was swapped for another version after its text was read.
        Err(error) if was_not_served(&error) => call.run(caller, calls, &context, token),
        result => result,
    }
}

/// Returns whether a plugin was not called, since it does not serve the contract or the method.
fn was_not_served(error: &CallError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    source.is_some_and(is_not_served)
}

/// A call of a method by its name.
struct MethodCall<'a> {
    contract: &'a str,
    method: &'a str,
    arguments: &'a [u8],
    plugin: Option<&'a str>,
}

impl MethodCall<'_> {
    /// Calls the method as its plugin serves it now.
    fn run(
        &self,
        caller: &Arc<Caller>,
        calls: &dyn ContractCalls,
        context: &RawContext<'_>,
        token: &CancellationToken,
    ) -> Result<Vec<u8>, CallError> {
        let Self { contract, method, arguments, plugin } = *self;
        // The program's arguments are JSON by name, so it needs no text.
        let text = calls.text_of(caller, contract, plugin).map_err(crossing)?;
        let mut methods = text.methods.iter().enumerate();
        let found = methods.find(|(_, found)| found.name == method);
        let (index, kind) = found.map(|(index, found)| (index, found.kind)).ok_or_else(|| {
            let version = text.version;
            let message = format!("contract `{contract}` {version} has no method `{method}`");
            crossing(Error::new(ErrorKind::NotProvided, message))
        })?;
        let bound = calls.bind(caller, text.clone(), plugin).map_err(crossing)?;
        let outgoing = OutgoingCall {
            target: 0,
            method: index,
            format: Format::Json,
            arguments,
            outer: Some(CallContext::new(context)),
        };
        let result = match kind {
            MethodKind::Async => bound.start(&outgoing).and_then(|task| {
                match block_on(pin!(select(task, pin!(token.cancelled())))) {
                    Either::Left((result, _)) => result,
                    // The program has closed the connection.
                    Either::Right(_) => {
                        Err(CallError::new(CallErrorKind::Cancelled, "the call was cancelled")
                            .into())
                    }
                }
            }),
            _ => bound.call(&outgoing),
        };
        result.map_err(error_of).map(|output: Output| output.as_bytes().to_vec())
    }
}

#[cold]
fn error_of(failure: CallFailure) -> CallError {
    match failure {
        CallFailure::Failed(error) => error,
        CallFailure::WrongFormat => {
            CallError::new(CallErrorKind::Other, "arguments as JSON were refused")
        }
    }
}
