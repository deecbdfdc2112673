//! Interposers of the C library functions that keep a pointer of their caller. Each records the
//! call if the pointer may point into this library, and forwards it.
//!
//! As in `threads`, nothing here allocates or blocks. System calls are recorded only if they go
//! through `syscall`, lookups by `dlvsym` only on x86-64.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::AtomicPtr;
use std::{mem, ptr};

use super::callbacks::{CALLBACKS, Callback, position_of, record};
use super::symbols::{is_in_library, look_up, look_up_version, real};
use super::threads;

/// `cookie_io_functions_t`, passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CookieFunctions([*const c_void; 4]);

/// `ENTRY` of the hash table of the process, passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    key: *const c_char,
    data: *const c_void,
}

macro_rules! interpose {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty, or $fallback:expr, if $condition:expr;)*) => {
        $(
            #[doc = concat!("Interposes on `", stringify!($name), "`.")]
            ///
            /// # Safety
            ///
            /// The contract of that function.
            #[allow(clippy::unused_unit, reason = "some functions return `()`")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                type Real = unsafe extern "C" fn($($type),*) -> $result;
                static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
                const NAME: &str = concat!(stringify!($name), "\0");
                let Some(real) = real(&REAL, name_of(NAME)) else { return $fallback };
                // Recorded before the call, so that its effect is never unrecorded.
                if $condition {
                    record(const { position_of(stringify!($name)) });
                }
                // SAFETY: L1 (the C library's function of this name has this type).
                let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
                // SAFETY: the caller's contract.
                unsafe { real($($argument),*) }
            }
        )*

        /// Returns the interposer in this macro of the function with the given name.
        fn interposer_of(name: &[u8]) -> Option<*mut c_void> {
            $(
                if name == stringify!($name).as_bytes() {
                    return Some($name as *const () as *mut c_void);
                }
            )*
            None
        }
    };
}

interpose! {
    sigaction(signal: c_int, action: *const c_void, old: *mut c_void) -> c_int, or -1, if installs_own_handler(action);
    __sigaction(signal: c_int, action: *const c_void, old: *mut c_void) -> c_int, or -1, if installs_own_handler(action);
    signal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_in_library(handler);
    bsd_signal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_in_library(handler);
    ssignal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_in_library(handler);
    sysv_signal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_in_library(handler);
    __sysv_signal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_in_library(handler);
    sigset(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_in_library(handler);
    sigaltstack(stack: *const c_void, old: *mut c_void) -> c_int, or -1, if is_stack_in_library(stack);
    timer_create(clock: c_int, event: *const c_void, timer: *mut c_void) -> c_int, or -1, if notifies_on_thread(event);
    mq_notify(queue: c_int, event: *const c_void) -> c_int, or -1, if notifies_on_thread(event);
    aio_read(request: *mut c_void) -> c_int, or -1, if true;
    aio_read64(request: *mut c_void) -> c_int, or -1, if true;
    aio_write(request: *mut c_void) -> c_int, or -1, if true;
    aio_write64(request: *mut c_void) -> c_int, or -1, if true;
    aio_fsync(operation: c_int, request: *mut c_void) -> c_int, or -1, if true;
    aio_fsync64(operation: c_int, request: *mut c_void) -> c_int, or -1, if true;
    lio_listio(mode: c_int, list: *const c_void, count: c_int, event: *mut c_void) -> c_int, or -1, if true;
    lio_listio64(mode: c_int, list: *const c_void, count: c_int, event: *mut c_void) -> c_int, or -1, if true;
    getaddrinfo_a(mode: c_int, list: *mut c_void, count: c_int, event: *mut c_void) -> c_int, or libc::EAI_SYSTEM, if true;
    on_exit(function: *const c_void, argument: *mut c_void) -> c_int, or -1, if true;
    __cxa_atexit(function: *const c_void, argument: *mut c_void, library: *const c_void) -> c_int, or -1, if !is_in_library(library.addr());
    __cxa_at_quick_exit(function: *const c_void, library: *const c_void) -> c_int, or -1, if !is_in_library(library.addr());
    __register_atfork(before: *const c_void, parent: *const c_void, child: *const c_void, library: *const c_void) -> c_int, or libc::ENOMEM, if !is_in_library(library.addr());
    __cxa_thread_atexit_impl(function: *const c_void, argument: *mut c_void, library: *const c_void) -> c_int, or -1, if !is_in_library(library.addr());
    syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long, or -1, if must_record_syscall(number, a, b);
    fopencookie(cookie: *mut c_void, mode: *const c_char, functions: CookieFunctions) -> *mut c_void, or ptr::null_mut(), if true;
    setvbuf(stream: *mut c_void, buffer: *mut c_char, mode: c_int, size: usize) -> c_int, or -1, if is_in_library(buffer.addr());
    setbuf(stream: *mut c_void, buffer: *mut c_char) -> (), or (), if is_in_library(buffer.addr());
    setbuffer(stream: *mut c_void, buffer: *mut c_char, size: usize) -> (), or (), if is_in_library(buffer.addr());
    open_memstream(buffer: *mut c_void, size: *mut usize) -> *mut c_void, or ptr::null_mut(), if is_in_library(buffer.addr()) || is_in_library(size.addr());
    open_wmemstream(buffer: *mut c_void, size: *mut usize) -> *mut c_void, or ptr::null_mut(), if is_in_library(buffer.addr()) || is_in_library(size.addr());
    fmemopen(buffer: *mut c_void, size: usize, mode: *const c_char) -> *mut c_void, or ptr::null_mut(), if is_in_library(buffer.addr());
    register_printf_function(specifier: c_int, print: *const c_void, arguments: *const c_void) -> c_int, or -1, if true;
    register_printf_specifier(specifier: c_int, print: *const c_void, arguments: *const c_void) -> c_int, or -1, if true;
    register_printf_type(function: *const c_void) -> c_int, or -1, if true;
    putenv(entry: *mut c_char) -> c_int, or -1, if adds_entry(entry);
    openlog(name: *const c_char, options: c_int, facility: c_int) -> (), or (), if !name.is_null();
    initstate(seed: c_uint, state: *mut c_char, size: usize) -> *mut c_char, or ptr::null_mut(), if true;
    setstate(state: *mut c_char) -> *mut c_char, or ptr::null_mut(), if is_in_library(state.addr());
    hsearch(entry: Entry, action: c_int) -> *mut c_void, or ptr::null_mut(), if action == ENTER;
}

/// The `hsearch` action that adds an entry.
const ENTER: c_int = 1;

const fn name_of(name: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"",
    }
}

fn installs_own_handler(action: *const c_void) -> bool {
    // SAFETY: null, or valid to read by the contract of `sigaction`.
    unsafe { action.cast::<libc::sigaction>().as_ref() }
        .is_some_and(|action| is_in_library(action.sa_sigaction))
}

/// Returns whether a system call installs a handler of this library or starts a thread.
fn must_record_syscall(number: c_long, a: usize, b: usize) -> bool {
    let starts_thread = |flags: usize| {
        let shares_memory = flags & libc::CLONE_VM as usize != 0;
        shares_memory && flags & libc::CLONE_VFORK as usize == 0
    };
    // The handler is the first word of the kernel's action; the flags are the first word of the
    // arguments of `clone3`. An unreadable address is recorded too.
    match number {
        libc::SYS_rt_sigaction => b != 0 && read_word(b).is_none_or(is_in_library),
        libc::SYS_clone => starts_thread(a),
        libc::SYS_clone3 => read_word(a).is_none_or(starts_thread),
        _ => false,
    }
}

/// Reads a word through the kernel, which reports an error for an invalid address. Callers of
/// `syscall` may pass any address.
fn read_word(address: usize) -> Option<usize> {
    let mut word = 0_usize;
    let size = size_of::<usize>();
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size };
    let from = ptr::without_provenance_mut(address);
    let remote = libc::iovec { iov_base: from, iov_len: size };
    // SAFETY: takes no arguments and returns the process id.
    let process = unsafe { libc::getpid() };
    // SAFETY: writes at most one word, into `word`.
    let read =
        unsafe { libc::process_vm_readv(process, &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(read) == Ok(size)).then_some(word)
}

fn is_stack_in_library(stack: *const c_void) -> bool {
    // SAFETY: null, or valid to read by the contract of `sigaltstack`.
    let stack = unsafe { stack.cast::<libc::stack_t>().as_ref() };
    stack.is_some_and(|stack| {
        stack.ss_flags & libc::SS_DISABLE == 0 && is_in_library(stack.ss_sp.addr())
    })
}

fn notifies_on_thread(event: *const c_void) -> bool {
    // SAFETY: null, or valid to read by the contract of the caller.
    unsafe { event.cast::<libc::sigevent>().as_ref() }
        .is_some_and(|event| event.sigev_notify == libc::SIGEV_THREAD)
}

/// Returns whether `putenv` keeps the entry; without `=` it removes a variable.
fn adds_entry(entry: *const c_char) -> bool {
    // SAFETY: a C string by the contract of `putenv`.
    !unsafe { libc::strchr(entry, c_int::from(b'=')) }.is_null()
}

/// Interposes on `dlopen`. The opened library may do anything, so success is recorded.
///
/// # Safety
///
/// The contract of `dlopen`.
pub unsafe extern "C" fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void {
    type Real = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = real(&REAL, c"dlopen") else { return ptr::null_mut() };
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
    // SAFETY: the caller's contract.
    let opened = unsafe { real(file, flags) };
    // A null name means the program itself, which is always open.
    if !opened.is_null() && !file.is_null() {
        record(const { position_of("dlopen") });
    }
    opened
}

/// Interposes on `dlmopen`, like [`dlopen`].
///
/// # Safety
///
/// The contract of `dlmopen`.
pub unsafe extern "C" fn dlmopen(
    namespace: c_long,
    file: *const c_char,
    flags: c_int,
) -> *mut c_void {
    type Real = unsafe extern "C" fn(c_long, *const c_char, c_int) -> *mut c_void;
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = real(&REAL, c"dlmopen") else { return ptr::null_mut() };
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
    // SAFETY: the caller's contract.
    let opened = unsafe { real(namespace, file, flags) };
    if !opened.is_null() && !file.is_null() {
        record(const { position_of("dlmopen") });
    }
    opened
}

/// Interposes on `dlsym`: returns the interposer of a function that has one, and records the lookup
/// of a function of the table that has none.
///
/// # Safety
///
/// The contract of `dlsym`.
pub unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    // SAFETY: the caller's contract.
    let found = unsafe { look_up(handle, name) };
    if found.is_null() {
        return found;
    }
    // SAFETY: the lookup succeeded, so the name is a C string.
    let name = unsafe { CStr::from_ptr(name) };
    resolve(name, found, true)
}

/// Interposes on `dlvsym`, like [`dlsym`]. The interposers call the newest version of a function,
/// so an older version is returned unchanged and recorded.
///
/// # Safety
///
/// The contract of `dlvsym`.
pub unsafe extern "C" fn dlvsym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    // SAFETY: the caller's contract.
    let found = unsafe { look_up_version(handle, name, version) };
    if found.is_null() {
        return found;
    }
    // SAFETY: the lookup succeeded, so the name is a C string.
    let newest = unsafe { look_up(handle, name) };
    // SAFETY: as above.
    let name = unsafe { CStr::from_ptr(name) };
    resolve(name, found, newest == found)
}

/// Returns the address to return for a function that was looked up as `found`.
fn resolve(name: &CStr, found: *mut c_void, is_newest: bool) -> *mut c_void {
    let interposer = match name.to_bytes() {
        b"dlopen" => Some(dlopen as *const () as *mut c_void),
        b"dlmopen" => Some(dlmopen as *const () as *mut c_void),
        b"dlsym" => Some(dlsym as *const () as *mut c_void),
        // All versions are the same function.
        b"dlvsym" => Some(dlvsym as *const () as *mut c_void),
        name => threads::interposer_of(name).or_else(|| interposer_of(name)),
    };
    if let Some(interposer) = interposer.filter(|_| is_newest) {
        return interposer;
    }
    let row = |callback: &Callback| callback.name.as_bytes() == name.to_bytes();
    if let Some(position) = CALLBACKS.iter().position(row) {
        record(position);
    }
    found
}
