//! Panics: caught around the author's code, and recorded by a hook in the library's own std, so
//! that nothing is printed and no debug information is mapped.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{mem, ptr};

use crate::services::{HostServices, current};
use crate::{Fault, PluginError, census};

/// What a guarded call ended with that did not succeed. Small, so that success costs nothing.
pub(crate) enum Failure {
    Error(PluginError),
    Panic(Box<Fault>),
}

/// Runs the author's code; what unwinds ends here. `body` writes its own result where it
/// belongs, because moving it up through the guard would cost more than the guard.
#[inline]
pub(crate) fn guard<const LINKED: bool>(
    body: impl FnOnce() -> Result<(), PluginError>,
) -> Result<(), Failure> {
    let _quiet = LINKED.then(GuardedCall::enter);
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Error(error)),
        Err(payload) => Err(Failure::Panic(Box::new(fault_of(payload)))),
    }
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

/// Puts the hook in place before the author's code runs.
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
        current::set(services);
    }
    HOOK.call_once(|| std::panic::set_hook(Box::new(record_panic)));
}

/// Puts the hook of a program in place: a panic inside a guarded call is kept for it, any other,
/// such as one on a thread that the plugin started, is told with its message and location.
#[cfg(all(unix, feature = "serve"))]
pub(crate) fn prepare_program(services: &HostServices, tell: fn(&str, &str)) {
    current::set(services);
    std::panic::set_hook(Box::new(move |info| {
        let record = record_of(info);
        if DEPTH.get() > 0 {
            keep_record(record);
        } else {
            tell(&record.message, record.location.as_deref().unwrap_or_default());
        }
    }));
}

fn record_of(info: &PanicHookInfo<'_>) -> Record {
    Record {
        message: text_of(info.payload()),
        location: info.location().map(ToString::to_string),
        frames: frames(),
    }
}

fn record_panic(info: &PanicHookInfo<'_>) {
    let record = record_of(info);
    if census::on_plugin_thread() {
        if let Some(host) = current::get() {
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
