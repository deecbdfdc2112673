//! Calls of contracts that a program makes. Each runs on its own thread: a worker of the plugin
//! called, or a thread of the runtime that all processes share, may wait for such a call.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use hotbay_plugin::abi::{Bounds, RawContext};
use hotbay_plugin::contract::internal::{CallFailure, MethodKind, OutgoingCall};
use hotbay_plugin::contract::{CallError, CallErrorKind, ContractText, Format};
use hotbay_plugin::{CallContext, Output};
use hotbay_process::{ContractCall, ContractFuture, ContractRequest};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::services::{CallableContracts, parse_one};
use crate::call::{Caller, ContractCalls, crossing};
use crate::error::{Error, ErrorKind, is_not_served};
use crate::sync::{block_on, lock};

impl CallableContracts {
    /// Starts a call of a program. Dropping the future cancels it.
    pub(super) fn call_of_program(&self, call: ContractCall) -> ContractFuture {
        let program = CallingProgram {
            caller: Arc::clone(&self.caller),
            calls: Arc::clone(&self.calls),
            checked: Arc::clone(&self.checked),
        };
        let token = CancellationToken::new();
        let (sender, receiver) = oneshot::channel();
        let guard = token.clone().drop_guard();
        let run = move || {
            // The receiver is gone if the program has closed the connection.
            let _ = sender.send(program.run(call, &token));
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

/// A program that calls contracts.
struct CallingProgram {
    caller: Arc<Caller>,
    calls: Arc<dyn ContractCalls>,
    /// The texts that it has checked last, by contract.
    checked: Arc<Mutex<BTreeMap<String, ContractText>>>,
}

impl CallingProgram {
    fn run(&self, call: ContractCall, token: &CancellationToken) -> Result<Vec<u8>, CallError> {
        let ContractCall { request, plugin, outer_id, deadline, trace } = call;
        let plugin = plugin.as_deref();
        let (contract, method, arguments) = match request {
            ContractRequest::Check(text) => {
                let text = parse_one(&text)?;
                self.calls.bind(&self.caller, text.clone(), plugin).map_err(crossing)?;
                // The host limits the number of contracts that it can bind.
                lock(&self.checked).insert(text.name.clone(), text);
                return Ok(b"{}".to_vec());
            }
            ContractRequest::Method { contract, method, arguments } => {
                (contract, method, arguments)
            }
        };
        let bounds = ProgramBounds { deadline, token };
        // Zero is the id of no call.
        let context = RawContext::new(outer_id.unwrap_or(0)).with_trace(trace.as_ref());
        let context = context.with_bounds(&bounds);
        let call =
            MethodCall { contract: &contract, method: &method, arguments: &arguments, plugin };
        match call.run(self, &context, token) {
            // It was swapped for another version after its text was read.
            Err(error) if was_not_served(&error) => call.run(self, &context, token),
            result => result,
        }
    }

    /// Returns the text of a contract as it is served. A manifest that maps a contract onto endpoints
    /// states no types: then it is the text that the program has checked.
    fn text_of(&self, contract: &str, plugin: Option<&str>) -> Result<ContractText, Error> {
        match self.calls.text_of(&self.caller, contract, plugin) {
            Err(error) if error.kind() == ErrorKind::NotProvided => {
                let hint = "if a manifest maps it onto endpoints, check its text first";
                let checked = lock(&self.checked).get(contract).cloned();
                checked.ok_or_else(|| error.with_hint(hint))
            }
            text => text,
        }
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
        program: &CallingProgram,
        context: &RawContext<'_>,
        token: &CancellationToken,
    ) -> Result<Vec<u8>, CallError> {
        let Self { contract, method, arguments, plugin } = *self;
        // The program's arguments are JSON by name, so it needs no text.
        let text = program.text_of(contract, plugin).map_err(crossing)?;
        let mut methods = text.methods.iter().enumerate();
        let found = methods.find(|(_, found)| found.name == method);
        let (index, kind) = found.map(|(index, found)| (index, found.kind)).ok_or_else(|| {
            let version = text.version;
            let message = format!("contract `{contract}` {version} has no method `{method}`");
            crossing(Error::new(ErrorKind::NotProvided, message))
        })?;
        let bound = program.calls.bind(&program.caller, text.clone(), plugin).map_err(crossing)?;
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
