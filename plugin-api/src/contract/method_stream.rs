//! Methods that return streams: the C functions that open a stream and make its items.

use std::marker::PhantomData;

use super::argument::{self, Arguments};
use super::codec::{CodecError, Format};
use super::method::{ArgumentTypes, Failed, Method, MethodError, bad, run_guarded};
use super::served::{ServedCall, ServedMethod};
use super::stream::{BlockingItems, Items, ServedItems, Stream};
#[cfg(all(unix, feature = "tokio"))]
use super::stream_async;
use super::table::{RawMethod, RawStr, RawStream, code};
use crate::PluginError;
use crate::context::{RawContext, in_context};
use crate::payload::{Output, RawPayload};
use crate::root::{self, RawFault, RawInstance};

/// A method that returns a stream, which values of the type `T` serve.
pub trait ServesStream<T: ?Sized>: Method {
    /// Opens the stream. Its items are of the type `Output`.
    ///
    /// # Errors
    ///
    /// Those of the method.
    fn call(
        target: &T,
        arguments: ArgumentTypes<'_, Self>,
    ) -> Result<Stream<Self::Output>, Self::Error>;
}

/// Returns the entry of a method that returns a stream, which the plugin type `T` serves. `LINKED` is
/// `true` if it is compiled into the host.
pub const fn entry_stream<T: 'static, M: ServesStream<T>, const LINKED: bool>() -> RawMethod {
    RawMethod {
        name: RawStr::new(M::SHAPE.name),
        hash: M::SHAPE.hash(),
        direct: None,
        serialized: None,
        start: None,
        open: Some(open::<T, M, LINKED>),
    }
}

/// Returns a method that returns a stream, which the plugin type `T` serves in a program.
pub const fn served_stream<T: 'static, M: ServesStream<T>>() -> ServedMethod<T> {
    let call = ServedCall::Stream(&serve_items::<T, M>);
    ServedMethod { name: M::SHAPE.name, hash: M::SHAPE.hash(), call }
}

/// Fails: only programs open streams so.
#[cfg(not(all(unix, feature = "serve")))]
#[allow(clippy::extra_unused_type_parameters, reason = "the same as with `serve`")]
fn serve_items<T, M>(
    _: &T,
    _: &RawContext<'_>,
    _: Format,
    _: &[u8],
) -> Result<Box<dyn ServedItems>, (Failed, PluginError)> {
    Err((Failed::Method, PluginError::new(501, "needs the feature `serve` of `hotbay-plugin`")))
}

/// Opens a stream with serialized arguments, for a program.
#[cfg(all(unix, feature = "serve"))]
fn serve_items<T, M: ServesStream<T>>(
    target: &T,
    context: &RawContext<'_>,
    format: Format,
    arguments: &[u8],
) -> Result<Box<dyn ServedItems>, (Failed, PluginError)> {
    Ok(Box::new(open_items::<T, M>(target, context, format, arguments)?))
}

/// Opens a stream with serialized arguments.
fn open_items<T, M: ServesStream<T>>(
    target: &T,
    context: &RawContext<'_>,
    format: Format,
    arguments: &[u8],
) -> Result<Items, (Failed, PluginError)> {
    let bad_arguments = |error: CodecError| (Failed::Arguments, bad(&error));
    let space = argument::decode::<M::Arguments>(format, arguments, M::SHAPE.names);
    let mut space = space.map_err(bad_arguments)?;
    let arguments = M::Arguments::borrow(&mut space)
        .ok_or_else(|| bad_arguments(CodecError::new("missing")))?;
    let stream = in_context(context, || M::call(target, arguments));
    let stream = stream.map_err(|error| (Failed::Method, error.into_plugin_error()))?;
    Ok(stream.into_items(format))
}

// Invariants of the functions below, kept by the host (`boundary/stream.rs`), besides M1 and M2 of
// `method.rs`, which hold for `open`:
// S1: the data of a stream is what its `open` wrote. Until it is released, one function uses it at a
//     time, except that `cancel` may be called during any other, and that a stream which was cancelled
//     may be requested though a request is not answered.
// S2: a stream is released once, and not used afterward.

unsafe extern "C" fn open<T, M: ServesStream<T>, const LINKED: bool>(
    instance: RawInstance,
    context: *const RawContext<'_>,
    format: u32,
    arguments: *const RawPayload<'_>,
    stream: *mut RawStream,
    fault: *mut RawFault,
) -> i32 {
    let serve = |failed: &mut Failed| {
        // SAFETY: M1.
        let target = unsafe { &*instance.cast::<T>() };
        // SAFETY: M2.
        let context = unsafe { &*context };
        // SAFETY: M2.
        let arguments = unsafe { &*arguments }.get();
        let opened = match Format::of_code(format) {
            Some(format) => open_items::<T, M>(target, context, format, arguments.as_bytes()),
            None => {
                let error = CodecError::new("unknown serialization format");
                Err((Failed::Arguments, bad(&error)))
            }
        };
        let items = opened.map_err(|(part, error)| {
            *failed = part;
            error
        })?;
        let opened = match items {
            Items::Blocking(items) => Blocking::<LINKED>::raw(items),
            #[cfg(all(unix, feature = "tokio"))]
            Items::Polled(items) => stream_async::raw(items, context),
        };
        // SAFETY: M2.
        unsafe { stream.write(opened) };
        Ok(())
    };
    // SAFETY: M2.
    unsafe { run_guarded::<LINKED>(serve, fault) }
}

/// The functions of a stream that is made by an iterator.
struct Blocking<const LINKED: bool>(PhantomData<()>);

impl<const LINKED: bool> Blocking<LINKED> {
    fn raw(items: BlockingItems) -> RawStream {
        RawStream {
            data: Box::into_raw(Box::new(items)).cast_const().cast(),
            next: Some(Self::next),
            request: None,
            cancel: Self::cancel,
            release: Self::release,
        }
    }

    unsafe extern "C" fn next(
        data: *const (),
        context: *const RawContext<'_>,
        output: *mut Output,
        fault: *mut RawFault,
    ) -> i32 {
        let mut is_finished = false;
        let make = |failed: &mut Failed| {
            // SAFETY: S1 (`raw` made it of a box; `cancel` does not use it).
            let items = unsafe { &mut *data.cast_mut().cast::<BlockingItems>() };
            // SAFETY: M2.
            let context = unsafe { &*context };
            match in_context(context, items) {
                // SAFETY: M2.
                Some(Ok(item)) => unsafe { item.store(output) },
                Some(Err((part, error))) => {
                    *failed = part;
                    return Err(error);
                }
                None => is_finished = true,
            }
            Ok(())
        };
        // SAFETY: M2.
        let code = unsafe { run_guarded::<LINKED>(make, fault) };
        if code == root::code::OK && is_finished { code::FINISHED } else { code }
    }

    /// Does nothing: an iterator queries the context of `next`.
    unsafe extern "C" fn cancel(_: *const ()) {}

    unsafe extern "C" fn release(data: *const (), fault: *mut RawFault) -> i32 {
        let release = |_: &mut Failed| {
            // SAFETY: S2 (`raw` made it of a box).
            drop(unsafe { Box::from_raw(data.cast_mut().cast::<BlockingItems>()) });
            Ok(())
        };
        // SAFETY: M2.
        unsafe { run_guarded::<LINKED>(release, fault) }
    }
}
