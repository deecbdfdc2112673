//! Streams of a plugin in this process: opens them, and makes or requests their items.
//!
//! Besides the invariants of this folder:
//!
//! - **S1.** A stream is used by one thread at a time (`&mut self`).
//! - **S2.** A stream is released once, when it is dropped. Its owner holds a wait guard of the
//!   generation longer than the stream, so its library is mapped.

use std::fmt;
use std::mem::MaybeUninit;

use hotbay_plugin::Output;
use hotbay_plugin::abi::{OutputSlot, RawContext, RawFault, RawPayload, code};
use hotbay_plugin::contract::Format;
use hotbay_plugin::contract::internal::{OpenFn, RawStream, code as contract_code};
use tokio::sync::oneshot;

use super::invoke::{Instance, method_failure};
use super::task::await_completion;
use crate::call::Failure;
use crate::sync::WaitGuard;

/// An open stream. Dropping it ends and releases it, which runs code of the plugin.
pub(crate) struct OpenStream {
    raw: RawStream,
    /// Held until the plugin has dropped the items. Taken on drop.
    guard: Option<WaitGuard>,
}

/// The items of a request, as a batch; received once.
pub(crate) type Requested = oneshot::Receiver<Result<Output, Failure>>;

impl OpenStream {
    /// Opens the stream of a method with serialized arguments. `guard` is held until it is gone, also
    /// from the plugin's runtime.
    pub(crate) fn open(
        guard: WaitGuard,
        instance: &Instance,
        open: OpenFn,
        context: &RawContext<'_>,
        format: Format,
        arguments: &RawPayload<'_>,
    ) -> Result<Self, Failure> {
        let mut fault = MaybeUninit::uninit();
        let mut stream = MaybeUninit::uninit();
        let code = instance.call_open(open, context, format, arguments, (&mut stream, &mut fault));
        if code == code::OK {
            // SAFETY: B5 (the code says so).
            let raw = unsafe { stream.assume_init() };
            return Ok(Self { raw, guard: Some(guard) });
        }
        // SAFETY: B5.
        Err(unsafe { method_failure(code, fault) })
    }

    /// Returns whether its items are made by [`request`](Self::request), and not by
    /// [`next`](Self::next).
    pub(crate) fn is_polled(&self) -> bool {
        self.raw.request.is_some()
    }

    /// Makes the next item on this thread and appends it to `item`; returns whether there was one.
    pub(crate) fn next(
        &mut self,
        context: &RawContext<'_>,
        item: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        let Some(next) = self.raw.next else { return Ok(false) };
        let (mut fault, mut output) = (MaybeUninit::uninit(), OutputSlot::new());
        // SAFETY: B5, S1, S2.
        let code = unsafe { next(self.raw.data, context, output.as_mut_ptr(), fault.as_mut_ptr()) };
        match code {
            code::OK => {
                // SAFETY: B5 (the code says so).
                unsafe { output.set_written() };
                // Copied, since the library frees its output (B6), and the item may live longer.
                item.extend_from_slice(output.get().map_or(&[], Output::as_bytes));
                Ok(true)
            }
            contract_code::FINISHED => Ok(false),
            // SAFETY: B5.
            code => Err(unsafe { method_failure(code, fault) }),
        }
    }

    /// Requests up to `max_items` items. `guard` is held until the plugin has answered.
    pub(crate) fn request(&mut self, max_items: u32, guard: WaitGuard) -> Requested {
        let (completion, requested) = await_completion(guard);
        if let Some(request) = self.raw.request {
            // SAFETY: S1, S2.
            unsafe { request(self.raw.data, max_items, completion) };
        }
        requested
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let RawStream { data, cancel, release, .. } = self.raw;
        if let Some(guard) = self.guard.take_if(|_| self.raw.request.is_some()) {
            // SAFETY: S1, S2.
            unsafe { cancel(data) };
            // Answered when the items were dropped on the plugin's runtime, before which the plugin
            // must not be stopped.
            drop(self.request(0, guard));
        }
        let mut fault = MaybeUninit::<RawFault>::uninit();
        // SAFETY: S2.
        let code = unsafe { release(data, fault.as_mut_ptr()) };
        if code != code::OK {
            // SAFETY: B5.
            let failure = unsafe { method_failure(code, fault) };
            tracing::warn!(?failure, "a plugin failed while its stream was dropped");
        }
    }
}

impl fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStream").field("is_polled", &self.is_polled()).finish_non_exhaustive()
    }
}
