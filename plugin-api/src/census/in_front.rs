//! Functions in front of those of the C library that keep a pointer of their caller: each notes
//! its call if the pointer may be one of this library, and hands it on.
//!
//! As in `on_linux`, nothing here allocates or blocks. System calls are seen that go through
//! `syscall`. What is looked up by `dlvsym` is seen on x86-64.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::{mem, ptr};

use super::callbacks::{CALLBACKS, Callback, note, position_of};
use super::real::{look_up, look_up_version, real};
use super::{keys, on_linux};

/// Functions of a stream of the program's own; passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CookieFunctions([*const c_void; 4]);

/// An entry of the process's hash table; passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    key: *const c_char,
    data: *const c_void,
}

macro_rules! in_front {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty, or $missing:expr, if $when:expr;)*) => {
        $(
            #[doc = concat!("Stands in front of `", stringify!($name), "`.")]
            ///
            /// # Safety
            ///
            /// The contract of that function.
            #[allow(clippy::unused_unit, reason = "some return nothing")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $answer {
                type Real = unsafe extern "C" fn($($type),*) -> $answer;
                static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
                const NAME: &str = concat!(stringify!($name), "\0");
                let Some(real) = real(&REAL, name_of(NAME)) else { return $missing };
                // Before the call: there is no moment at which it has an effect and is not noted.
                if $when {
                    note(const { position_of(stringify!($name)) });
                }
                // SAFETY: L1 (the C library's function of this name has this type).
                let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
                // SAFETY: the caller's contract.
                unsafe { real($($argument),*) }
            }
        )*

        /// The function of this file in front of the one with this name.
        fn noting(name: &[u8]) -> Option<*mut c_void> {
            $(
                if name == stringify!($name).as_bytes() {
                    return Some($name as *const () as *mut c_void);
                }
            )*
            None
        }
    };
}

in_front! {
    sigaction(signal: c_int, action: *const c_void, old: *mut c_void) -> c_int, or -1, if installs(action);
    __sigaction(signal: c_int, action: *const c_void, old: *mut c_void) -> c_int, or -1, if installs(action);
    signal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_own(handler);
    bsd_signal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_own(handler);
    ssignal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_own(handler);
    sysv_signal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_own(handler);
    __sysv_signal(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_own(handler);
    sigset(signal: c_int, handler: usize) -> usize, or libc::SIG_ERR, if is_own(handler);
    sigaltstack(stack: *const c_void, old: *mut c_void) -> c_int, or -1, if is_own_stack(stack);
    timer_create(clock: c_int, event: *const c_void, timer: *mut c_void) -> c_int, or -1, if calls_back(event);
    mq_notify(queue: c_int, event: *const c_void) -> c_int, or -1, if calls_back(event);
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
    __cxa_atexit(function: *const c_void, argument: *mut c_void, library: *const c_void) -> c_int, or -1, if !is_own(library.addr());
    __cxa_at_quick_exit(function: *const c_void, library: *const c_void) -> c_int, or -1, if !is_own(library.addr());
    __register_atfork(before: *const c_void, parent: *const c_void, child: *const c_void, library: *const c_void) -> c_int, or libc::ENOMEM, if !is_own(library.addr());
    __cxa_thread_atexit_impl(function: *const c_void, argument: *mut c_void, library: *const c_void) -> c_int, or -1, if !is_own(library.addr());
    syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long, or -1, if is_left_by(number, a, b);
    fopencookie(cookie: *mut c_void, mode: *const c_char, functions: CookieFunctions) -> *mut c_void, or ptr::null_mut(), if true;
    setvbuf(stream: *mut c_void, buffer: *mut c_char, mode: c_int, size: usize) -> c_int, or -1, if is_own(buffer.addr());
    setbuf(stream: *mut c_void, buffer: *mut c_char) -> (), or (), if is_own(buffer.addr());
    setbuffer(stream: *mut c_void, buffer: *mut c_char, size: usize) -> (), or (), if is_own(buffer.addr());
    open_memstream(buffer: *mut c_void, size: *mut usize) -> *mut c_void, or ptr::null_mut(), if is_own(buffer.addr()) || is_own(size.addr());
    open_wmemstream(buffer: *mut c_void, size: *mut usize) -> *mut c_void, or ptr::null_mut(), if is_own(buffer.addr()) || is_own(size.addr());
    fmemopen(buffer: *mut c_void, size: usize, mode: *const c_char) -> *mut c_void, or ptr::null_mut(), if is_own(buffer.addr());
    register_printf_function(specifier: c_int, print: *const c_void, arguments: *const c_void) -> c_int, or -1, if true;
    register_printf_specifier(specifier: c_int, print: *const c_void, arguments: *const c_void) -> c_int, or -1, if true;
    register_printf_type(function: *const c_void) -> c_int, or -1, if true;
    putenv(entry: *mut c_char) -> c_int, or -1, if sets(entry);
    openlog(name: *const c_char, options: c_int, facility: c_int) -> (), or (), if !name.is_null();
    initstate(seed: c_uint, state: *mut c_char, size: usize) -> *mut c_char, or ptr::null_mut(), if true;
    setstate(state: *mut c_char) -> *mut c_char, or ptr::null_mut(), if is_own(state.addr());
    hsearch(entry: Entry, action: c_int) -> *mut c_void, or ptr::null_mut(), if action == ENTER;
}

/// The action of `hsearch` that adds the entry.
const ENTER: c_int = 1;

const fn name_of(name: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"",
    }
}

fn installs(action: *const c_void) -> bool {
    // SAFETY: null, or valid to read by the contract of `sigaction`.
    unsafe { action.cast::<libc::sigaction>().as_ref() }
        .is_some_and(|action| is_own(action.sa_sigaction))
}

/// Whether a system call leaves a handler of this library, or starts a thread.
fn is_left_by(number: c_long, a: usize, b: usize) -> bool {
    let starts_thread = |flags: usize| {
        let shares_memory = flags & libc::CLONE_VM as usize != 0;
        shares_memory && flags & libc::CLONE_VFORK as usize == 0
    };
    // The handler is the first word of the kernel's action, the flags are the first of the
    // arguments of `clone3`. What cannot be read counts.
    match number {
        libc::SYS_rt_sigaction => b != 0 && word_at(b).is_none_or(is_own),
        libc::SYS_clone => starts_thread(a),
        libc::SYS_clone3 => word_at(a).is_none_or(starts_thread),
        _ => false,
    }
}

/// Reads a word by the kernel, which returns an error for an address that is not valid: a caller
/// of `syscall` may pass any.
fn word_at(address: usize) -> Option<usize> {
    let mut word = 0_usize;
    let size = size_of::<usize>();
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size };
    let from = ptr::without_provenance_mut(address);
    let remote = libc::iovec { iov_base: from, iov_len: size };
    // SAFETY: no arguments; returns the process's id.
    let process = unsafe { libc::getpid() };
    // SAFETY: writes at most a word, into `word`.
    let read =
        unsafe { libc::process_vm_readv(process, &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(read) == Ok(size)).then_some(word)
}

fn is_own_stack(stack: *const c_void) -> bool {
    // SAFETY: null, or valid to read by the contract of `sigaltstack`.
    let stack = unsafe { stack.cast::<libc::stack_t>().as_ref() };
    stack.is_some_and(|stack| stack.ss_flags & libc::SS_DISABLE == 0 && is_own(stack.ss_sp.addr()))
}

fn calls_back(event: *const c_void) -> bool {
    // SAFETY: null, or valid to read by the contract of the caller.
    unsafe { event.cast::<libc::sigevent>().as_ref() }
        .is_some_and(|event| event.sigev_notify == libc::SIGEV_THREAD)
}

/// Whether `putenv` keeps the entry: without `=` it removes one.
fn sets(entry: *const c_char) -> bool {
    // SAFETY: a C string by the contract of `putenv`.
    !unsafe { libc::strchr(entry, c_int::from(b'=')) }.is_null()
}

/// Where this library begins and ends; zeros until that was found out.
static RANGE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Whether an address lies in this library.
fn is_own(address: usize) -> bool {
    if address == 0 {
        return false;
    }
    if RANGE[1].load(Ordering::Acquire) == 0 {
        find_range();
    }
    let (start, end) = (RANGE[0].load(Ordering::Acquire), RANGE[1].load(Ordering::Acquire));
    // Unknown counts as its own.
    end == 0 || (start..end).contains(&address)
}

/// Finds out where this library begins and ends, before anything has to know it: the walk takes
/// a lock of the loader's.
pub(super) fn find_range() {
    // SAFETY: the visitor does not unwind and uses no data.
    unsafe { libc::dl_iterate_phdr(Some(visit), ptr::null_mut()) };
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the loader gives a valid entry for this visit.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the loader's own table of as many headers.
    let segments = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    // The widths of the fields differ between targets.
    #[allow(clippy::unnecessary_cast, reason = "needed on 32-bit targets")]
    let ranges = segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD).map(|segment| {
        let start = (info.dlpi_addr as usize).wrapping_add(segment.p_vaddr as usize);
        (start, start.wrapping_add(segment.p_memsz as usize))
    });
    let own = (&raw const RANGE).addr();
    if !ranges.clone().any(|(start, end)| (start..end).contains(&own)) {
        return 0;
    }
    RANGE[0].store(ranges.clone().map(|(start, _)| start).min().unwrap_or(0), Ordering::Release);
    RANGE[1].store(ranges.map(|(_, end)| end).max().unwrap_or(0), Ordering::Release);
    1
}

/// Stands in front of `dlopen`. What is opened may do anything, so a success is noted.
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
    // Without a name it is the program itself, which is open anyway.
    if !opened.is_null() && !file.is_null() {
        note(const { position_of("dlopen") });
    }
    opened
}

/// Stands in front of `dlmopen`, as [`dlopen`] does.
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
        note(const { position_of("dlmopen") });
    }
    opened
}

/// Stands in front of `dlsym`: a function that is counted or noted here is found here, and one
/// that is not is noted when it is looked up.
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
    // SAFETY: what was found has a name, which is a C string.
    let name = unsafe { CStr::from_ptr(name) };
    seen(name, found, true)
}

/// Stands in front of `dlvsym`, as [`dlsym`] does. What is not the newest version of a function is
/// handed out as it is, and noted: those in front call the newest.
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
    // SAFETY: what was found has a name, which is a C string.
    let newest = unsafe { look_up(handle, name) };
    // SAFETY: as above.
    let name = unsafe { CStr::from_ptr(name) };
    seen(name, found, newest == found)
}

/// What to hand out for a function that was looked up and `found`.
fn seen(name: &CStr, found: *mut c_void, is_newest: bool) -> *mut c_void {
    let own = match name.to_bytes() {
        b"dlopen" => Some(dlopen as *const () as *mut c_void),
        b"dlmopen" => Some(dlmopen as *const () as *mut c_void),
        b"dlsym" => Some(dlsym as *const () as *mut c_void),
        // The same function under all of its versions.
        b"dlvsym" => Some(dlvsym as *const () as *mut c_void),
        name => on_linux::counting(name).or_else(|| keys::counting(name)).or_else(|| noting(name)),
    };
    if let Some(own) = own.filter(|_| is_newest) {
        return own;
    }
    let row = |callback: &Callback| callback.name.as_bytes() == name.to_bytes();
    if let Some(position) = CALLBACKS.iter().position(row) {
        note(position);
    }
    found
}
