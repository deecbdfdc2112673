//! Async plugins behind the functions of a plugin: the function that starts a call as a task, and the
//! one that waits for it, for hosts and programs that do not know tasks.

use std::ptr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::context::AsyncContext;
use super::plugin::AsyncPlugin;
use crate::context::{CANCEL_INTERVAL, CallContext, RawContext};
use crate::contract::internal::{
    Failed, RawAsyncPlugin, RawCompletion, RawTask, code as task_code,
};
use crate::contract::{CallLimits, Complete, spawn_call, write_task};
use crate::payload::Output;
use crate::root::{AsyncFunctions, RawFault, RawInstance, code};
use crate::{Config, HostServices, OwnedPayload, Payload, Plugin, PluginError, Snapshot};

/// An [`AsyncPlugin`] as a [`Plugin`], for a host that registers it:
/// `register::<Async<MyPlugin>>(manifest)`. Hosts run its calls as tasks all the same.
// Transparent, since tables of contracts and `start` take a `T`.
#[derive(Debug)]
#[repr(transparent)]
pub struct Async<T>(T);

impl<T: AsyncPlugin> Async<T> {
    const FUNCTIONS: &'static RawAsyncPlugin = &RawAsyncPlugin { start: start::<T> };
}

impl<T: AsyncPlugin> Plugin for Async<T> {
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
        T::init(config, host).map(Self)
    }

    /// Runs the call as a task, and waits for it on this thread.
    fn execute(
        &self,
        context: &CallContext<'_>,
        input: Payload<'_>,
    ) -> Result<Output, PluginError> {
        // SAFETY: the future with this reference is dropped before its outcome is stored, and this
        // function waits for that.
        let plugin: &'static T = unsafe { &*ptr::from_ref(&self.0) };
        let limits = Arc::new(CallLimits::of(context));
        let future = run(plugin, Arc::clone(&limits), input.into());
        let waiter = Arc::new(Waiter::default());
        let task =
            spawn_call(Arc::clone(&limits), future, Arc::clone(&waiter)).map_err(|error| {
                let message = format!("cannot start the plugin's async runtime: {error}");
                PluginError::new(503, message).retryable()
            })?;
        let mut is_cancelled = false;
        let (code, output, fault) = loop {
            if let Some(outcome) = waiter.wait() {
                break outcome;
            }
            if !is_cancelled && context.is_cancelled() {
                is_cancelled = true;
                limits.cancel();
                Arc::clone(&task).cancel();
            }
        };
        match code {
            code::OK => Ok(output),
            // As a panic of this call.
            code::PANIC => {
                std::panic::resume_unwind(Box::new(fault.to_panic().message().to_owned()))
            }
            task_code::CANCELLED => Err(PluginError::new(499, "cancelled").retryable()),
            _ => Err(fault.to_error()),
        }
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        T::validate_config(config)
    }

    fn health(&self) -> Result<(), PluginError> {
        self.0.health()
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        self.0.snapshot()
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
        self.0.restore(snapshot)
    }

    fn shutdown(self) -> Result<(), PluginError> {
        self.0.shutdown()
    }

    fn __async_functions() -> AsyncFunctions {
        AsyncFunctions::at(ptr::from_ref(Self::FUNCTIONS).cast())
    }
}

type Answer = Result<Output, (Failed, PluginError)>;

async fn run<T: AsyncPlugin>(
    plugin: &'static T,
    limits: Arc<CallLimits>,
    input: OwnedPayload,
) -> Answer {
    let result = plugin.execute(AsyncContext::new(limits), input).await;
    result.map_err(|error| (Failed::Method, error))
}

/// Starts a call as a task; see T1 to T3 in `contract/method_async.rs`.
unsafe extern "C" fn start<T: AsyncPlugin>(
    instance: RawInstance,
    context: *const RawContext<'_>,
    input: Output,
    completion: RawCompletion,
    task: *mut RawTask,
    fault: *mut RawFault,
) -> i32 {
    // SAFETY: T1 (an instance is an `Async<T>`, which is transparent).
    let plugin: &'static T = unsafe { &*instance.cast::<T>() };
    // SAFETY: T2.
    let limits = Arc::new(CallLimits::of(&CallContext::new(unsafe { &*context })));
    let future = run(plugin, Arc::clone(&limits), OwnedPayload::new(input));
    let spawned = spawn_call(Arc::clone(&limits), future, completion);
    // SAFETY: T2.
    unsafe { write_task(spawned, limits, task, fault) }
}

type Outcome = (i32, Output, RawFault);

/// Where the outcome of a task is stored for the thread that waits for it. Not a channel or a parked
/// thread of std, which would leave a value with a destructor of this library on that thread.
#[derive(Default)]
struct Waiter {
    outcome: Mutex<Option<Outcome>>,
    changed: Condvar,
}

impl Waiter {
    /// Waits for the outcome, at most one interval.
    fn wait(&self) -> Option<Outcome> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let is_missing = |outcome: &mut Option<Outcome>| outcome.is_none();
        let waited = self.changed.wait_timeout_while(outcome, CANCEL_INTERVAL, is_missing);
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

impl Complete for Arc<Waiter> {
    fn complete(self, code: i32, output: Output, fault: RawFault) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, output, fault));
        self.changed.notify_all();
    }
}
