//! The functions on the boundary, and the macro that exports them.
//!
//! Every function catches what unwinds, turns it into a fault and returns a code: nothing
//! leaves the library but C values. A hook in the library's own std keeps panics from printing.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};
use std::{fmt, mem, ptr};

use abi_stable::prefix_type::WithMetadata;

use crate::context::{CallContext, RawContext};
use crate::payload::{Output, RawPayload};
use crate::root::{
    PluginRoot, PluginRootRef, RawCensus, RawFault, RawInstance, RawSnapshot, RawStart, code,
};
use crate::services::{HostServices, RawText};
use crate::{Config, Fault, Plugin, PluginError, Snapshot, census};

/// The functions of `T` on the boundary. `LINKED`: compiled into the host, not into a library.
pub struct Exports<T, const LINKED: bool = false>(PhantomData<T>);

impl<T, const LINKED: bool> fmt::Debug for Exports<T, LINKED> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exports").field("linked", &LINKED).finish()
    }
}

impl<T: Plugin, const LINKED: bool> Exports<T, LINKED> {
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
    });

    /// The module of functions.
    pub const ROOT: PluginRootRef = PluginRootRef(Self::MODULE.static_as_prefix());
}

/// Makes an instance of a plugin that was started elsewhere.
pub fn into_instance<T: Plugin>(plugin: T) -> RawInstance {
    Box::into_raw(Box::new(plugin)).cast_const().cast()
}

// Invariants of the functions below, kept by the host (`boundary/invoke.rs`):
// E1: pointers to write through are valid; pointers to read are valid until the return.
// E2: an instance came from `start` of the same module and was not ended yet.
// E3: nothing else uses the instance during restore, shutdown and discard, or after the last two.

unsafe extern "C" fn validate_config<T: Plugin, const LINKED: bool>(
    config: RawText,
    fault: *mut RawFault,
) -> i32 {
    prepare::<LINKED>(None, false);
    let done = guard::<LINKED, _>(|| {
        // SAFETY: E1.
        T::validate_config(&config_of(unsafe { config.get() })?)
    });
    // SAFETY: E1.
    unsafe { report(done, ptr::null_mut(), fault) }
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
    let done = guard::<LINKED, _>(|| {
        // SAFETY: E1.
        let config = config_of(unsafe { start.config.get() })?;
        Ok(into_instance(T::init(&config, services)?))
    });
    // SAFETY: E1.
    unsafe { report(done, instance, fault) }
}

unsafe extern "C" fn execute<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    context: *const RawContext<'_>,
    input: *const RawPayload<'_>,
    output: *mut Output,
    fault: *mut RawFault,
) -> i32 {
    let done = guard::<LINKED, _>(|| {
        // SAFETY: E2.
        let plugin = unsafe { &*instance.cast::<T>() };
        // SAFETY: E1.
        let context = CallContext::new(unsafe { &*context });
        // SAFETY: E1.
        let input = unsafe { &*input }.get();
        plugin.execute(&context, input)
    });
    // SAFETY: E1.
    unsafe { report(done, output, fault) }
}

unsafe extern "C" fn health<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    fault: *mut RawFault,
) -> i32 {
    // SAFETY: E2.
    let done = guard::<LINKED, _>(|| unsafe { &*instance.cast::<T>() }.health());
    // SAFETY: E1.
    unsafe { report(done, ptr::null_mut(), fault) }
}

unsafe extern "C" fn snapshot<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    snapshot: *mut RawSnapshot,
    fault: *mut RawFault,
) -> i32 {
    let done = guard::<LINKED, _>(|| {
        // SAFETY: E2.
        let taken = unsafe { &*instance.cast::<T>() }.snapshot()?;
        Ok(RawSnapshot {
            present: taken.is_some(),
            version: taken.as_ref().map_or(0, Snapshot::version),
            bytes: taken.map_or_else(Vec::new, Snapshot::into_bytes).into(),
        })
    });
    // SAFETY: E1.
    unsafe { report(done, snapshot, fault) }
}

unsafe extern "C" fn restore<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    snapshot: *const RawSnapshot,
    fault: *mut RawFault,
) -> i32 {
    let done = guard::<LINKED, _>(|| {
        // SAFETY: E1.
        let snapshot = unsafe { &*snapshot };
        let snapshot = Snapshot::new(snapshot.version, snapshot.bytes.as_bytes());
        // SAFETY: E2, E3 (the box came from `into_instance`, and nobody else uses it).
        unsafe { &mut *instance.cast_mut().cast::<T>() }.restore(snapshot)
    });
    // SAFETY: E1.
    unsafe { report(done, ptr::null_mut(), fault) }
}

unsafe extern "C" fn shutdown<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    fault: *mut RawFault,
) -> i32 {
    let done = guard::<LINKED, _>(|| {
        // SAFETY: E2, E3.
        let plugin = *unsafe { Box::from_raw(instance.cast_mut().cast::<T>()) };
        plugin.shutdown()
    });
    // SAFETY: E1.
    unsafe { report(done, ptr::null_mut(), fault) }
}

unsafe extern "C" fn discard<T: Plugin, const LINKED: bool>(
    instance: RawInstance,
    fault: *mut RawFault,
) -> i32 {
    let done = guard::<LINKED, _>(|| {
        // SAFETY: E2, E3.
        drop(unsafe { Box::from_raw(instance.cast_mut().cast::<T>()) });
        Ok(())
    });
    // SAFETY: E1.
    unsafe { report(done, ptr::null_mut(), fault) }
}

unsafe extern "C" fn take_census(census: *mut RawCensus) {
    // SAFETY: E1.
    unsafe { census.write(census::take()) }
}

unsafe extern "C" fn release_keys() {
    census::release_keys();
}

fn config_of(text: &str) -> Result<Config, PluginError> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| PluginError::new(PluginError::BAD_INPUT, error.to_string()))?;
    Ok(Config::from(value))
}

/// How a guarded call ended.
enum Done<R> {
    Ok(R),
    Error(PluginError),
    Panic(Fault),
}

/// Runs the author's code; what unwinds ends here.
#[inline]
fn guard<const LINKED: bool, R>(body: impl FnOnce() -> Result<R, PluginError>) -> Done<R> {
    let _quiet = LINKED.then(Quiet::enter);
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Done::Ok(value),
        Ok(Err(error)) => Done::Error(error),
        Err(payload) => Done::Panic(fault_of(payload)),
    }
}

/// Writes how a call ended through the pointers of the caller.
///
/// # Safety
///
/// `fault` is valid to write; so is `output` unless `R` has no size.
#[inline]
unsafe fn report<R>(done: Done<R>, output: *mut R, fault: *mut RawFault) -> i32 {
    let (raw, code) = match done {
        Done::Ok(value) => {
            if size_of::<R>() > 0 {
                // SAFETY: this function's contract.
                unsafe { output.write(value) };
            }
            return code::OK;
        }
        Done::Error(error) => (RawFault::from_error(&error), code::ERROR),
        Done::Panic(panic) => (RawFault::from_panic(&panic), code::PANIC),
    };
    // SAFETY: this function's contract.
    unsafe { fault.write(raw) };
    code
}

/// What the hook saw of a panic.
struct Record {
    message: String,
    location: Option<String>,
    frames: Vec<usize>,
}

thread_local! {
    /// The last panic of this thread, for `fault_of`. Without a destructor, because one would
    /// keep the library mapped; so it is a raw pointer, taken back by the next panic.
    static RECORD: Cell<*mut Record> = const { Cell::new(ptr::null_mut()) };
    /// How many guarded calls this thread is in; only where plugins share the host's std.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

fn take_record() -> Option<Box<Record>> {
    let record = RECORD.replace(ptr::null_mut());
    // SAFETY: the cell holds null or what `keep_record` leaked into it, and was just emptied.
    (!record.is_null()).then(|| unsafe { Box::from_raw(record) })
}

fn keep_record(record: Record) {
    drop(take_record());
    RECORD.set(Box::into_raw(Box::new(record)));
}

struct Quiet;

impl Quiet {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

#[cold]
#[inline(never)]
fn fault_of(payload: Box<dyn Any + Send>) -> Fault {
    let message = text_of(&*payload);
    // A panic that the author caught leaves a record too; `resume_unwind` leaves none.
    let record = take_record().filter(|record| record.message == message);
    // A payload that panics when dropped would abort the host, and its own payload may too.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(second);
        drop(take_record());
    }
    match record {
        Some(record) => Fault::new(message, record.location, record.frames),
        None => Fault::new(message, None, Vec::new()),
    }
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("(the payload is no text)").to_owned()
}

static WANT_FRAMES: AtomicBool = AtomicBool::new(false);
/// The host, for panics on the library's own threads. Leaked by `dlclose`, so plain data.
static HOST: OnceLock<HostServices> = OnceLock::new();

/// Puts the hook in place before the author's code runs.
fn prepare<const LINKED: bool>(services: Option<&HostServices>, want_frames: bool) {
    static HOOK: Once = Once::new();
    if want_frames {
        WANT_FRAMES.store(true, Ordering::Relaxed);
    }
    if LINKED {
        PanicRecords::install();
        return;
    }
    if let Some(services) = services {
        let _ = HOST.set(services.clone());
    }
    HOOK.call_once(|| std::panic::set_hook(Box::new(record_panic)));
}

fn record_panic(info: &PanicHookInfo<'_>) {
    let record = Record {
        message: text_of(info.payload()),
        location: info.location().map(ToString::to_string),
        frames: frames(),
    };
    if census::on_plugin_thread() {
        if let Some(host) = HOST.get() {
            host.thread_panicked(&record.message, record.location.as_deref().unwrap_or_default());
        }
    } else {
        keep_record(record);
    }
}

fn frames() -> Vec<usize> {
    if WANT_FRAMES.load(Ordering::Relaxed) { crate::frames::capture() } else { Vec::new() }
}

/// The hook for plugins that are compiled into a host and share its std.
#[derive(Debug)]
pub struct PanicRecords;

impl PanicRecords {
    /// Keeps panics inside guarded calls from printing; all others go on to the hook before.
    pub fn install() {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if DEPTH.get() > 0 { record_panic(info) } else { before(info) }
            }));
        });
    }
}

/// Exports a plugin from the crate's library.
///
/// Takes a type that is a [`Plugin`](crate::Plugin). What makes a library a plugin stands behind
/// the feature `export` of the crate that calls the macro, which is to be on by default; a host
/// that links the crate as an ordinary one switches it off.
///
/// - `export_plugin!(Transform)` counts what the system allocator gives out;
/// - `export_plugin!(Transform, allocator = MiMalloc)` counts around that allocator, the path
///   of a unit struct;
/// - `export_plugin!(Transform, allocator = uncounted)` sets no allocator: live bytes are then
///   unknown to the host.
///
/// Does not compile with `panic = "abort"`: no panic could be caught.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty $(,)?) => {
        $crate::export_plugin!(@allocator ::std::alloc::System);
        $crate::export_plugin!(@exports $plugin);
    };
    ($plugin:ty, allocator = uncounted $(,)?) => {
        $crate::export_plugin!(@exports $plugin);
    };
    ($plugin:ty, allocator = $allocator:path $(,)?) => {
        $crate::export_plugin!(@allocator $allocator);
        $crate::export_plugin!(@exports $plugin);
    };
    (@allocator $allocator:path) => {
        #[cfg(feature = "export")]
        const _: () = {
            #[global_allocator]
            static ALLOCATOR: $crate::abi::Counting<$allocator> =
                $crate::abi::Counting::new($allocator);
        };
    };
    (@exports $plugin:ty) => {
        const _: fn() = || {
            fn is_a_plugin<T: $crate::Plugin>() {}
            is_a_plugin::<$plugin>();
        };

        #[cfg(all(feature = "export", panic = "abort"))]
        ::core::compile_error!(
            "a plugin needs `panic = \"unwind\"`: with \"abort\" a panic in it ends the host"
        );

        #[cfg(feature = "export")]
        const _: () = {
            use $crate::abi::abi_stable::library as __library;

            #[unsafe(export_name = "HOTBAY_PLUGIN_STAMP")]
            static STAMP: $crate::stamp::StampBytes = $crate::stamp::stamp(
                ::core::env!("CARGO_PKG_NAME"),
                ::core::env!("CARGO_PKG_VERSION"),
            );

            extern "C" fn root() -> __library::RootModuleResult {
                $crate::abi::stand_in_front();
                __library::__call_root_module_loader(|| <$crate::abi::Exports<$plugin>>::ROOT)
            }

            // The name under which abi_stable looks for a root module.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static ROOT: __library::LibHeader = unsafe {
                __library::LibHeader::from_constructor::<$crate::abi::PluginRootRef>(
                    root,
                    __library::CheckTypeLayout::Yes,
                )
            };
        };

        // In front of the C library's functions for this library alone: hidden, so exported to
        // nobody.
        #[cfg(all(feature = "export", target_os = "linux", target_env = "gnu"))]
        mod __hotbay_in_front {
            use ::core::ffi::{c_int, c_uint, c_void};
            use $crate::abi::on_linux as __census;

            ::core::arch::global_asm!(
                ".hidden pthread_create",
                ".hidden pthread_key_create",
                ".hidden pthread_key_delete",
                ".hidden pthread_setspecific",
            );

            #[unsafe(no_mangle)]
            unsafe extern "C" fn pthread_create(
                thread: *mut c_void,
                attributes: *const c_void,
                function: __census::StartFn,
                argument: *mut c_void,
            ) -> c_int {
                unsafe { __census::pthread_create(thread, attributes, function, argument) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn pthread_key_create(
                key: *mut c_uint,
                destructor: ::core::option::Option<__census::KeyDestructor>,
            ) -> c_int {
                unsafe { __census::pthread_key_create(key, destructor) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn pthread_key_delete(key: c_uint) -> c_int {
                unsafe { __census::pthread_key_delete(key) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn pthread_setspecific(key: c_uint, value: *const c_void) -> c_int {
                unsafe { __census::pthread_setspecific(key, value) }
            }
        }
    };
}
