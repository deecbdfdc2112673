//! Methods as a program serves them: with serialized arguments.

use std::fmt;

use super::codec::Format;
use super::method::{Failed, Serves, call_serialized};
use super::stream::ServedItems;
use crate::PluginError;
use crate::context::RawContext;
use crate::payload::Output;

/// A method that a program serves with values of the type `T`.
#[derive(Debug)]
pub struct ServedMethod<T: 'static> {
    /// Its name.
    pub name: &'static str,
    /// The hash of its signature.
    pub hash: u64,
    /// Calls it; does not catch panics.
    pub call: ServedCall<T>,
}

/// How a program calls a method with serialized arguments.
pub enum ServedCall<T: 'static> {
    /// It returns its serialized result.
    Value(&'static SerializedCall<T>),
    /// It opens a stream of serialized items.
    Stream(&'static OpenCall<T>),
}

/// Calls a method with serialized arguments, and returns its serialized result.
pub type SerializedCall<T> =
    dyn Fn(&T, &RawContext<'_>, Format, &[u8]) -> Result<Output, (Failed, PluginError)> + Sync;

/// Opens a stream with serialized arguments.
pub type OpenCall<T> = dyn Fn(&T, &RawContext<'_>, Format, &[u8]) -> Result<Box<dyn ServedItems>, (Failed, PluginError)>
    + Sync;

impl<T> fmt::Debug for ServedCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value(_) => "Value",
            Self::Stream(_) => "Stream",
        })
    }
}

/// Returns a method that the plugin type `T` serves in a program.
pub const fn served<T: 'static, M: Serves<T>>() -> ServedMethod<T> {
    let call = ServedCall::Value(&call_serialized::<T, M>);
    ServedMethod { name: M::SHAPE.name, hash: M::SHAPE.hash(), call }
}
