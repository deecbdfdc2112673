//! Captures the return addresses of a panic. The host resolves them, because resolving them in the
//! plugin would map debug information and keep the library mapped forever.

/// Maximum number of captured frames.
const MAX_FRAMES: usize = 64;

/// Returns the return addresses of the current call stack, innermost first.
#[cfg(unix)]
pub(crate) fn capture() -> Vec<usize> {
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
pub(crate) fn capture() -> Vec<usize> {
    let _ = MAX_FRAMES;
    Vec::new()
}
