//! Catches panics of the author's code. A hook in the library's own std records them, so that
//! nothing is printed and no debug information is mapped.

use std::any::Any;
use std::cell::Cell;
use std::panic::PanicHookInfo;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::panic::{catch_panic, drop_panic};
use crate::services::HostServices;
use crate::{Fault, PluginError, census};

/// Maximum number of captured return addresses.
const MAX_FRAMES: usize = 64;

/// The failure of a guarded call. Small, so that successful calls do not pay for it.
pub(crate) enum Failure {
    Error(PluginError),
    Panic(Box<Fault>),
}

/// Runs the author's code and catches panics. `body` writes its own result, because moving it
/// through the guard would cost more than the guard.
#[inline]
pub(crate) fn guard<const LINKED: bool>(
    body: impl FnOnce() -> Result<(), PluginError>,
) -> Result<(), Failure> {
    let _call = LINKED.then(GuardedCall::enter);
    match catch_panic(body) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Error(error)),
        Err(payload) => Err(Failure::Panic(Box::new(fault_of(payload)))),
    }
}

/// Polls an async method and catches panics. Such a panic is recorded, though a thread of the plugin
/// runs it.
#[cfg(all(unix, feature = "tokio"))]
pub(crate) fn catch_async<T>(poll: impl FnOnce() -> T) -> Result<T, Box<Fault>> {
    let _call = GuardedCall::enter();
    catch_panic(poll).map_err(|payload| Box::new(fault_of(payload)))
}

/// Drops a value of the author's code after the outcome of its call. A panic counts as one of the
/// plugin's threads, since no caller waits for it.
#[cfg(all(unix, feature = "tokio"))]
pub(crate) fn drop_after_outcome<T>(value: T) {
    if let Err(fault) = catch_async(|| drop(value))
        && let Some(host) = HostServices::current()
    {
        host.thread_panicked(fault.message(), fault.location().unwrap_or_default());
    }
}

/// A panic as recorded by the hook.
struct PanicRecord {
    message: String,
    location: Option<String>,
    frames: Vec<usize>,
}

thread_local! {
    /// The last panic of this thread, for `fault_of`. A destructor would keep the library mapped,
    /// so it is a raw pointer, which the next panic frees.
    static LAST_PANIC: Cell<*mut PanicRecord> = const { Cell::new(ptr::null_mut()) };
    /// Number of nested guarded calls of this thread. Counted only for plugins that share the
    /// host's std, and for async methods.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

fn take_record() -> Option<Box<PanicRecord>> {
    let record = LAST_PANIC.replace(ptr::null_mut());
    // SAFETY: the cell held null or a box that `store_record` leaked, and is empty now.
    (!record.is_null()).then(|| unsafe { Box::from_raw(record) })
}

fn store_record(record: PanicRecord) {
    drop(take_record());
    LAST_PANIC.set(Box::into_raw(Box::new(record)));
}

/// Marks the current thread as inside a guarded call until it is dropped.
struct GuardedCall;

impl GuardedCall {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for GuardedCall {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

#[cold]
#[inline(never)]
fn fault_of(payload: Box<dyn Any + Send>) -> Fault {
    // A library that runs in this program has recorded the panic itself.
    #[cfg(all(unix, feature = "serve"))]
    let payload = match payload.downcast::<Fault>() {
        Ok(fault) => return *fault,
        Err(payload) => payload,
    };
    let message = payload_text(&*payload);
    // The record may be of another panic, which the author caught; `resume_unwind` leaves none.
    let record = take_record().filter(|record| record.message == message);
    // A payload that panics while it is dropped would abort the host.
    if drop_panic(|| drop(payload)).is_none() {
        drop(take_record());
    }
    match record {
        Some(record) => Fault::new(message, record.location, record.frames),
        None => Fault::new(message, None, Vec::new()),
    }
}

fn payload_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("(panic payload is not a string)").to_owned()
}

static WANT_FRAMES: AtomicBool = AtomicBool::new(false);

/// Installs the panic hook before the author's code runs.
pub(super) fn prepare<const LINKED: bool>(services: Option<&HostServices>, want_frames: bool) {
    static HOOK: Once = Once::new();
    if want_frames {
        WANT_FRAMES.store(true, Ordering::Relaxed);
    }
    if LINKED {
        PanicRecords::install();
        return;
    }
    if let Some(services) = services {
        services.make_current();
    }
    HOOK.call_once(|| std::panic::set_hook(Box::new(record_panic)));
}

/// Installs the panic hook of a program. A panic inside a guarded call is recorded; any other, such
/// as one on a thread that the plugin started, is passed to `report` with its message and location.
#[cfg(all(unix, feature = "serve"))]
pub(crate) fn prepare_program(services: &HostServices, report: fn(&str, &str)) {
    services.make_current();
    std::panic::set_hook(Box::new(move |info| {
        let record = record_of(info);
        if DEPTH.get() > 0 {
            store_record(record);
        } else {
            report(&record.message, record.location.as_deref().unwrap_or_default());
        }
    }));
}

fn record_of(info: &PanicHookInfo<'_>) -> PanicRecord {
    let want_frames = WANT_FRAMES.load(Ordering::Relaxed);
    let frames = if want_frames { capture_frames() } else { Vec::new() };
    PanicRecord {
        message: payload_text(info.payload()),
        location: info.location().map(ToString::to_string),
        frames,
    }
}

fn record_panic(info: &PanicHookInfo<'_>) {
    let record = record_of(info);
    if census::on_plugin_thread() && DEPTH.get() == 0 {
        if let Some(host) = HostServices::current() {
            host.thread_panicked(&record.message, record.location.as_deref().unwrap_or_default());
        }
    } else {
        store_record(record);
    }
}

/// The panic hook for plugins that are compiled into a host and share its std.
#[derive(Debug)]
pub struct PanicRecords;

impl PanicRecords {
    /// Records panics inside guarded calls; passes all others to the previous hook.
    pub fn install() {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if DEPTH.get() > 0 { record_panic(info) } else { previous(info) }
            }));
        });
    }

    /// Runs code of the host; returns `None` if it panics, and reports nothing.
    pub fn catch_silently<T>(run: impl FnOnce() -> T) -> Option<T> {
        Self::install();
        let _call = GuardedCall::enter();
        let outcome = catch_panic(run);
        if outcome.is_err() {
            drop(take_record());
        }
        outcome.ok()
    }
}

/// Returns the return addresses of the current call stack, innermost first. The host resolves them,
/// because resolving them here would map debug information and keep the library mapped forever.
#[cfg(unix)]
fn capture_frames() -> Vec<usize> {
    use std::ffi::{c_int, c_void};

    type Callback = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
    // The unwinder that std links.
    unsafe extern "C" {
        fn _Unwind_Backtrace(callback: Callback, data: *mut c_void) -> c_int;
        fn _Unwind_GetIP(context: *mut c_void) -> usize;
    }

    const CONTINUE: c_int = 0;
    const END_OF_STACK: c_int = 5;

    unsafe extern "C" fn push_frame(context: *mut c_void, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the vector below, which nothing else uses during the walk.
        let frames = unsafe { &mut *data.cast::<Vec<usize>>() };
        if frames.len() == MAX_FRAMES {
            return END_OF_STACK;
        }
        // SAFETY: the unwinder passed this context for this call.
        frames.push(unsafe { _Unwind_GetIP(context) });
        CONTINUE
    }

    let mut frames = Vec::with_capacity(MAX_FRAMES);
    // SAFETY: the callback does not unwind, and `frames` outlives the walk.
    unsafe { _Unwind_Backtrace(push_frame, (&raw mut frames).cast()) };
    frames
}

/// Returns no addresses: only Unix is supported.
#[cfg(not(unix))]
fn capture_frames() -> Vec<usize> {
    let _ = MAX_FRAMES;
    Vec::new()
}
