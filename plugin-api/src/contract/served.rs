//! Methods as a program serves them: with serialized arguments.

use super::codec::Format;
use super::method::{Failed, Serves, call_serialized};
use super::stream::Items;
use crate::PluginError;
use crate::context::RawContext;
use crate::payload::Output;

/// A method that a program serves with values of the type `T`.
#[derive(Debug)]
pub struct ServedMethod<T> {
    /// Its name.
    pub name: &'static str,
    /// The hash of its signature.
    pub hash: u64,
    /// Calls it; does not catch panics.
    pub call: ServedCall<T>,
}

/// How a program calls a method with serialized arguments.
#[derive(Debug)]
pub enum ServedCall<T> {
    /// It returns its serialized result.
    Value(SerializedCall<T>),
    /// It opens a stream of serialized items.
    Stream(OpenCall<T>),
}

/// Calls a method with serialized arguments, and returns its serialized result.
pub type SerializedCall<T> =
    fn(&T, &RawContext<'_>, Format, &[u8]) -> Result<Output, (Failed, PluginError)>;

/// Opens a stream with serialized arguments.
pub type OpenCall<T> =
    fn(&T, &RawContext<'_>, Format, &[u8]) -> Result<Items, (Failed, PluginError)>;

/// Returns a method that the plugin type `T` serves in a program.
pub const fn served<T: 'static, M: Serves<T>>() -> ServedMethod<T> {
    let call = ServedCall::Value(call_serialized::<T, M>);
    ServedMethod { name: M::SHAPE.name, hash: M::SHAPE.hash(), call }
}
