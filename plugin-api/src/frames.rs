//! Return addresses of a panic, unresolved: resolving them in the plugin would map its debug
//! information and keep the library for ever. The host prints them, if anybody asked.

/// Most frames that are kept.
const MAX_FRAMES: usize = 64;

/// The return addresses above this call, innermost first.
#[cfg(unix)]
pub(crate) fn capture() -> Vec<usize> {
    use std::ffi::{c_int, c_void};

    type Callback = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
    // The unwinder that std is linked to.
    unsafe extern "C" {
        fn _Unwind_Backtrace(callback: Callback, data: *mut c_void) -> c_int;
        fn _Unwind_GetIP(context: *mut c_void) -> usize;
    }

    const CONTINUE: c_int = 0;
    const END_OF_STACK: c_int = 5;

    unsafe extern "C" fn push_frame(context: *mut c_void, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the vector below, which nobody else uses meanwhile.
        let frames = unsafe { &mut *data.cast::<Vec<usize>>() };
        if frames.len() == MAX_FRAMES {
            return END_OF_STACK;
        }
        // SAFETY: the unwinder gave this context for this visit.
        frames.push(unsafe { _Unwind_GetIP(context) });
        CONTINUE
    }

    let mut frames = Vec::with_capacity(MAX_FRAMES);
    // SAFETY: the visitor does not unwind, and `frames` outlives the walk.
    unsafe { _Unwind_Backtrace(push_frame, (&raw mut frames).cast()) };
    frames
}

/// Nowhere else.
#[cfg(not(unix))]
pub(crate) fn capture() -> Vec<usize> {
    let _ = MAX_FRAMES;
    Vec::new()
}
