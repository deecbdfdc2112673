//! The C functions of a plugin's library, and the macro that exports them.
//!
//! Every function catches panics, converts them into a fault and returns a code, so only C values
//! leave the library.

mod macros;
pub(crate) mod panics;

use std::fmt;
use std::marker::PhantomData;

use abi_stable::prefix_type::WithMetadata;

use crate::context::{CallContext, RawContext, in_context};
use crate::payload::{Output, RawPayload};
use crate::root::{
    ContractSet, NoContracts, PluginRoot, PluginRootRef, RawCensus, RawFault, RawInstance,
    RawMeasure, RawSnapshot, RawStart, code,
};
use crate::services::{self, HostServices, RawText};
use crate::{Config, Plugin, PluginError, Snapshot, census};
pub use panics::PanicRecords;
use panics::prepare;
pub(crate) use panics::{Failure, guard};
#[cfg(all(unix, feature = "tokio"))]
pub(crate) use panics::{catch_async, drop_after_outcome};

/// The C functions of the plugin `T`, which serves the contracts `C`. `LINKED` is `true` if it is
/// compiled into the host.
pub struct Exports<T, const LINKED: bool = false, C = NoContracts>(PhantomData<(T, C)>);

impl<T, const LINKED: bool, C> fmt::Debug for Exports<T, LINKED, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exports").field("linked", &LINKED).finish()
    }
}

impl<T: Plugin, const LINKED: bool, C: ContractSet> Exports<T, LINKED, C> {
    const MODULE: &'static WithMetadata<PluginRoot> = &WithMetadata::new(PluginRoot {
        validate_config: validate_config::<T, LINKED>,
        start: start::<T, LINKED>,
        execute: execute::<T, LINKED>,
        health: health::<T, LINKED>,
        snapshot: snapshot::<T, LINKED>,
        restore: restore::<T, LINKED>,
        shutdown: shutdown::<T, LINKED>,
        discard: discard::<T, LINKED>,
        census: take_census,
        release_keys,
        contracts: contracts::<C>,
        connect,
        async_functions: async_functions::<T>,
        begin_call,
        end_call,
    });

    /// The module of these functions.
    pub const ROOT: PluginRootRef = PluginRootRef(Self::MODULE.static_as_prefix());
}

/// Converts a started plugin into an instance.
pub fn into_instance<T: Plugin>(plugin: T) -> RawInstance {
    Box::into_raw(Box::new(plugin)).cast_const().cast()
}

// Invariants of the functions below, kept by the host (`boundary/invoke.rs`):
// E1: output pointers are valid to write; input pointers are valid until the function returns.
// E2: an instance was created by `start` of the same module and has not been ended.
// E3: nothing else uses the instance during restore, shutdown and discard, or after the last two.

unsafe extern "C" fn validate_config<T: Plugin, const LINKED: bool>(
    config: RawText,
    fault: *mut RawFault,
) -> i32 {
    prepare::<LINKED>(None, false);
    let result = guard::<LINKED>(|| {
        // SAFETY: E1.
        T::validate_config(&config_of(unsafe { config.get() })?)
    });
    // SAFETY: E1.
    unsafe { report(result, fault) }
}

unsafe extern "C" fn start<T: Plugin, const LINKED: bool>(
    start: *const RawStart,
    instance: *mut RawInstance,
    fault: *mut RawFault,
) -> i32 {
    // SAFETY: E1.
    let start = unsafe { &*start };
    // SAFETY: E1.
    let services = HostServices::new(unsafe { *start.services });
    prepare::<LINKED>(Some(&services), start.want_frames);
    #[cfg(any(feature = "tracing", feature = "log"))]
    if !LINKED {
        crate::bridge::install();
    }
    let result = guard::<LINKED>(|| {
        // SAFETY: E1.
        let config = config_of(unsafe { start.config.get() })?;
        let started = into_instance(T::init(&config, services)?);
        // SAFETY: E1.
        unsafe { instance.write(started) };
        Ok(())
    });
    // SAFETY: E1.
    unsafe { report(result, fault) }
}

#[inline]
unsafe extern "C" fn execute<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    context: *const RawContext<'_>,
    input: *const RawPayload<'_>,
    output: *mut Output,
    fault: *mut RawFault,
) -> i32 {
    let result = guard::<LINKED>(|| {
        // SAFETY: E2.
        let plugin = unsafe { &*instance.cast::<T>() };
        // SAFETY: E1.
        let context = unsafe { &*context };
        // SAFETY: E1.
        let input = unsafe { &*input }.get();
        let reply = in_context(context, || plugin.execute(&CallContext::new(context), input))?;
        // SAFETY: E1.
        unsafe { reply.store(output) };
        Ok(())
    });
    // SAFETY: E1.
    unsafe { report(result, fault) }
}

unsafe extern "C" fn health<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    fault: *mut RawFault,
) -> i32 {
    // SAFETY: E2.
    let result = guard::<LINKED>(|| unsafe { &*instance.cast::<T>() }.health());
    // SAFETY: E1.
    unsafe { report(result, fault) }
}

unsafe extern "C" fn snapshot<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    snapshot: *mut RawSnapshot,
    fault: *mut RawFault,
) -> i32 {
    let result = guard::<LINKED>(|| {
        // SAFETY: E2.
        let taken = unsafe { &*instance.cast::<T>() }.snapshot()?;
        let taken = RawSnapshot {
            present: taken.is_some(),
            version: taken.as_ref().map_or(0, Snapshot::version),
            bytes: taken.map_or_else(Vec::new, Snapshot::into_bytes).into(),
        };
        // SAFETY: E1.
        unsafe { snapshot.write(taken) };
        Ok(())
    });
    // SAFETY: E1.
    unsafe { report(result, fault) }
}

unsafe extern "C" fn restore<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    snapshot: *const RawSnapshot,
    fault: *mut RawFault,
) -> i32 {
    let result = guard::<LINKED>(|| {
        // SAFETY: E1.
        let snapshot = unsafe { &*snapshot };
        let snapshot = Snapshot::new(snapshot.version, snapshot.bytes.as_bytes());
        // SAFETY: E2, E3 (the box came from `into_instance`, and nothing else uses it).
        unsafe { &mut *instance.cast_mut().cast::<T>() }.restore(snapshot)
    });
    // SAFETY: E1.
    unsafe { report(result, fault) }
}

unsafe extern "C" fn shutdown<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    fault: *mut RawFault,
) -> i32 {
    let result = guard::<LINKED>(|| {
        // SAFETY: E2, E3.
        let plugin = *unsafe { Box::from_raw(instance.cast_mut().cast::<T>()) };
        plugin.shutdown()
    });
    end_runtime::<LINKED>();
    // SAFETY: E1.
    unsafe { report(result, fault) }
}

unsafe extern "C" fn discard<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    fault: *mut RawFault,
) -> i32 {
    let result = guard::<LINKED>(|| {
        // SAFETY: E2, E3.
        drop(unsafe { Box::from_raw(instance.cast_mut().cast::<T>()) });
        Ok(())
    });
    end_runtime::<LINKED>();
    // SAFETY: E1.
    unsafe { report(result, fault) }
}

/// Ends the runtime of a library's async methods. Compiled-in plugins share one with each other.
fn end_runtime<const LINKED: bool>() {
    #[cfg(all(unix, feature = "tokio"))]
    if !LINKED {
        crate::runtime::shut_down();
    }
}

unsafe extern "C" fn take_census(census: *mut RawCensus) {
    // SAFETY: E1.
    unsafe { census.write(census::take()) }
}

unsafe extern "C" fn release_keys() {
    census::release_keys();
}

unsafe extern "C" fn contracts<C: ContractSet>(count: *mut usize) -> *const () {
    // SAFETY: E1.
    unsafe { count.write(C::TABLES.count) };
    C::TABLES.first
}

unsafe extern "C" fn connect(functions: *const ()) {
    services::connect(functions);
}

unsafe extern "C" fn async_functions<T: Plugin>() -> *const () {
    T::__async_functions().0
}

unsafe extern "C" fn begin_call(measure: *mut RawMeasure) {
    // SAFETY: E1.
    unsafe { measure.write(census::begin_call()) }
}

unsafe extern "C" fn end_call(measure: *const RawMeasure) -> i64 {
    // SAFETY: E1.
    census::end_call(unsafe { *measure })
}

fn config_of(text: &str) -> Result<Config, PluginError> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| PluginError::new(PluginError::BAD_INPUT, error.to_string()))?;
    Ok(Config::from(value))
}

/// Returns the code of a result, and writes a failure through `fault`.
///
/// # Safety
///
/// `fault` is valid to write.
#[inline]
unsafe fn report(result: Result<(), Failure>, fault: *mut RawFault) -> i32 {
    match result {
        Ok(()) => code::OK,
        // SAFETY: this function's contract.
        Err(failure) => unsafe { report_failure(failure, fault) },
    }
}

/// Writes a failure through `fault` and returns its code.
///
/// # Safety
///
/// As for [`report`].
#[cold]
#[inline(never)]
pub(crate) unsafe fn report_failure(failure: Failure, fault: *mut RawFault) -> i32 {
    let (raw, code) = match failure {
        Failure::Error(error) => (RawFault::from_error(&error), code::ERROR),
        Failure::Panic(panic) => (RawFault::from_panic(&panic), code::PANIC),
    };
    // SAFETY: this function's contract.
    unsafe { fault.write(raw) };
    code
}
