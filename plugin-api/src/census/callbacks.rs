//! A table of the C library functions that keep a pointer of their caller: to a callback that runs
//! later, or to memory that is read or written later. A library that passed a pointer into itself
//! must not be unmapped.
//!
//! Plugins and hosts share the table, and row numbers are part of the ABI: add rows at the end
//! only.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::root::CALL_WORDS;

/// A C library function that keeps a pointer of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Name in the C library.
    pub name: &'static str,
    /// Consequence for the plugin, as the end of a sentence that starts with "it called `name`, ".
    pub consequence: &'static str,
    /// Whether an interposer records calls. Other functions are recorded when they are looked up
    /// by name, or found among a file's imports.
    pub is_wrapped: bool,
}

const fn wrapped(name: &'static str, consequence: &'static str) -> Callback {
    Callback { name, consequence, is_wrapped: true }
}

const fn unwrapped(name: &'static str, consequence: &'static str) -> Callback {
    Callback { name, consequence, is_wrapped: false }
}

const HANDLER: &str = "and a later signal handler may still call the one that it installed";
const AT_EXIT: &str = "which runs plugin code when the process exits";
const REQUEST: &str = "whose request may still use plugin memory or run plugin code";
const STREAM: &str = "which leaves plugin memory in a stream";
const PRINTF: &str = "which runs plugin code in later calls of `printf`";
const OPENED: &str = "and the opened library may have started threads or may run plugin code";
const PROFILE: &str = "which writes to plugin memory while the process runs";
const HOOK: &str = "which may run plugin code later";
const THREAD: &str = "whose thread is not counted";

/// All functions that are known to keep a pointer of their caller. Threads and thread keys are
/// counted instead.
pub const CALLBACKS: [Callback; 70] = [
    wrapped("sigaction", HANDLER),
    wrapped("signal", HANDLER),
    wrapped("bsd_signal", HANDLER),
    wrapped("ssignal", HANDLER),
    wrapped("sysv_signal", HANDLER),
    wrapped("__sysv_signal", HANDLER),
    wrapped("sigset", HANDLER),
    wrapped("__sigaction", HANDLER),
    unwrapped("sigvec", HANDLER),
    wrapped("sigaltstack", "which leaves a signal stack of the plugin on a thread"),
    wrapped("timer_create", "whose timer may still run plugin code"),
    wrapped("mq_notify", "whose notification may still run plugin code"),
    wrapped("aio_read", REQUEST),
    wrapped("aio_read64", REQUEST),
    wrapped("aio_write", REQUEST),
    wrapped("aio_write64", REQUEST),
    wrapped("aio_fsync", REQUEST),
    wrapped("aio_fsync64", REQUEST),
    wrapped("lio_listio", REQUEST),
    wrapped("lio_listio64", REQUEST),
    wrapped("getaddrinfo_a", REQUEST),
    wrapped("on_exit", AT_EXIT),
    wrapped("__cxa_atexit", AT_EXIT),
    wrapped("__cxa_at_quick_exit", AT_EXIT),
    wrapped("__register_atfork", "which runs plugin code when the process forks"),
    unwrapped("pthread_atfork", "which runs plugin code when the process forks"),
    wrapped("fopencookie", "whose stream runs plugin code when it is flushed"),
    wrapped("setvbuf", STREAM),
    wrapped("setbuf", STREAM),
    wrapped("setbuffer", STREAM),
    wrapped("open_memstream", STREAM),
    wrapped("open_wmemstream", STREAM),
    wrapped("fmemopen", STREAM),
    unwrapped("_IO_setvbuf", STREAM),
    unwrapped("_IO_setbuffer", STREAM),
    wrapped("register_printf_function", PRINTF),
    wrapped("register_printf_specifier", PRINTF),
    wrapped("register_printf_type", PRINTF),
    wrapped("putenv", "which leaves plugin memory in the environment"),
    wrapped("openlog", "which leaves a plugin string in the syslog client"),
    wrapped("initstate", "which leaves plugin memory in the generator of `random`"),
    wrapped("setstate", "which leaves plugin memory in the generator of `random`"),
    wrapped("hsearch", "which leaves plugin memory in the hash table of the process"),
    wrapped("dlopen", OPENED),
    wrapped("dlmopen", OPENED),
    unwrapped("clone", THREAD),
    unwrapped("__clone", THREAD),
    unwrapped("profil", PROFILE),
    unwrapped("sprofil", PROFILE),
    unwrapped("mcheck", HOOK),
    unwrapped("mcheck_pedantic", HOOK),
    unwrapped("addseverity", "which leaves a plugin string in the C library"),
    unwrapped("svc_register", HOOK),
    unwrapped("obstack_alloc_failed_handler", HOOK),
    unwrapped("error_print_progname", HOOK),
    unwrapped("argp_program_version_hook", HOOK),
    unwrapped("__malloc_hook", HOOK),
    unwrapped("__realloc_hook", HOOK),
    unwrapped("__memalign_hook", HOOK),
    unwrapped("__free_hook", HOOK),
    unwrapped("__malloc_initialize_hook", HOOK),
    unwrapped("__after_morecore_hook", HOOK),
    unwrapped("__morecore", HOOK),
    // The interposers count these instead.
    unwrapped("pthread_create", THREAD),
    unwrapped("thrd_create", THREAD),
    unwrapped("pthread_key_create", "whose destructor may still run"),
    unwrapped("tss_create", "whose destructor may still run"),
    unwrapped("dlsym", "and the symbols that it looked up are unknown"),
    wrapped("__cxa_thread_atexit_impl", "which runs plugin code when a thread exits"),
    wrapped(
        "syscall",
        "which may have set a signal handler or started a thread that is not counted",
    ),
];

static RECORDED: [AtomicU64; CALL_WORDS] = [const { AtomicU64::new(0) }; CALL_WORDS];

/// Returns the row number of a function. Fails to compile if the table has no such row.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) const fn position_of(name: &str) -> usize {
    let mut at = 0;
    while at < CALLBACKS.len() {
        if is_same(CALLBACKS[at].name.as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("the table has no row with this name")
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
const fn is_same(left: &[u8], right: &[u8]) -> bool {
    let mut at = 0;
    while at < left.len() && at < right.len() && left[at] == right[at] {
        at += 1;
    }
    at == left.len() && at == right.len()
}

/// Records a call until the library is unmapped.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn record(position: usize) {
    RECORDED[position / 64].fetch_or(1 << (position % 64), Ordering::SeqCst);
}

/// Returns the recorded calls.
pub(super) fn recorded() -> [u64; CALL_WORDS] {
    RECORDED.each_ref().map(|word| word.load(Ordering::SeqCst))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_the_bit_set_and_have_unique_names() {
        assert!(CALLBACKS.len() <= CALL_WORDS * 64);
        let names: std::collections::HashSet<_> = CALLBACKS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), CALLBACKS.len());
    }
}
