//! The functions of the C library that keep a pointer of their caller: a callback that runs
//! later, or memory that is read or written later. A library that called one of them with a
//! pointer of its own must not be unmapped. The table is shared by plugins and hosts, and the
//! positions of its rows are part of the boundary: rows are added at the end only.

use std::sync::atomic::{AtomicU64, Ordering};

/// Words of the bit set of calls. A bit's number is the position of a row.
pub(crate) const WORDS: usize = 2;

/// A function that keeps a pointer of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Its name in the C library.
    pub name: &'static str,
    /// What it leaves behind, after "it called `name`, ".
    pub consequence: &'static str,
    /// Whether the library has a function of its own in front of it that notes calls. The others
    /// are noted when they are looked up, and found among a file's imports.
    pub is_wrapped: bool,
}

const fn wrapped(name: &'static str, consequence: &'static str) -> Callback {
    Callback { name, consequence, is_wrapped: true }
}

const fn unwrapped(name: &'static str, consequence: &'static str) -> Callback {
    Callback { name, consequence, is_wrapped: false }
}

const HANDLER: &str = "and a later signal handler may still call the one that it installed";
const AT_EXIT: &str = "which runs code of it when the process exits";
const REQUEST: &str = "whose request may still use its memory or run code of it";
const STREAM: &str = "which leaves memory of it in a stream";
const PRINTF: &str = "which runs code of it in later calls of `printf`";
const OPENED: &str = "and what it opened may have started threads or may run code of it";
const PROFILE: &str = "which writes to its memory while the process runs";
const HOOK: &str = "which may run code of it later";
const THREAD: &str = "whose thread is not counted";

/// Every function that is known to keep a pointer of its caller, except those that the census
/// counts instead: threads and thread keys.
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
    wrapped("sigaltstack", "which leaves a signal stack of it on a thread"),
    wrapped("timer_create", "whose timer may still run code of it"),
    wrapped("mq_notify", "whose notification may still run code of it"),
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
    wrapped("__register_atfork", "which runs code of it when the process forks"),
    unwrapped("pthread_atfork", "which runs code of it when the process forks"),
    wrapped("fopencookie", "whose stream runs code of it when it is flushed"),
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
    wrapped("putenv", "which leaves memory of it in the environment"),
    wrapped("openlog", "which leaves a text of it in the system log's client"),
    wrapped("initstate", "which leaves memory of it in the generator of `random`"),
    wrapped("setstate", "which leaves memory of it in the generator of `random`"),
    wrapped("hsearch", "which leaves memory of it in the process's hash table"),
    wrapped("dlopen", OPENED),
    wrapped("dlmopen", OPENED),
    unwrapped("clone", THREAD),
    unwrapped("__clone", THREAD),
    unwrapped("profil", PROFILE),
    unwrapped("sprofil", PROFILE),
    unwrapped("mcheck", HOOK),
    unwrapped("mcheck_pedantic", HOOK),
    unwrapped("addseverity", "which leaves a text of it in the C library"),
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
    // Counted where the census has functions in front of them.
    unwrapped("pthread_create", THREAD),
    unwrapped("thrd_create", THREAD),
    unwrapped("pthread_key_create", "whose destructor may still run"),
    unwrapped("tss_create", "whose destructor may still run"),
    unwrapped("dlsym", "and what it looked up is not known"),
    wrapped("__cxa_thread_atexit_impl", "which runs code of it when a thread ends"),
    wrapped("syscall", "which set a signal handler or started a thread that is not counted"),
];

static CALLS: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// The position of a row; does not compile for a name that has none.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) const fn position_of(name: &str) -> usize {
    let mut at = 0;
    while at < CALLBACKS.len() {
        if is_same(CALLBACKS[at].name.as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("the table has no row of this name")
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
const fn is_same(left: &[u8], right: &[u8]) -> bool {
    let mut at = 0;
    while at < left.len() && at < right.len() && left[at] == right[at] {
        at += 1;
    }
    at == left.len() && at == right.len()
}

/// Notes a call, for as long as the library is mapped.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn note(position: usize) {
    CALLS[position / 64].fetch_or(1 << (position % 64), Ordering::SeqCst);
}

/// The calls that were noted.
pub(super) fn noted() -> [u64; WORDS] {
    CALLS.each_ref().map(|word| word.load(Ordering::SeqCst))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_bit_and_a_name_of_its_own() {
        assert!(CALLBACKS.len() <= WORDS * 64);
        let names: std::collections::HashSet<_> = CALLBACKS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), CALLBACKS.len());
    }
}
