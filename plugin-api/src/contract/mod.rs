//! Typed contracts: one Rust trait that libraries, programs and compiled-in plugins serve.
//!
//! An application declares the trait once, in a crate that host and plugins share:
//!
//! ```
//! use hotbay_plugin::contract::CallError;
//!
//! #[hotbay_plugin::contract(name = "text-analysis", version = "1.1")]
//! pub trait TextAnalysis {
//!     /// Returns the number of words.
//!     fn words(&self, text: &str) -> Result<u64, CallError>;
//!
//!     /// Returns the `n` most frequent words.
//!     #[since("1.1")]
//!     fn top(&self, text: &str, n: u32) -> Result<Vec<Word>, CallError> {
//!         let _ = (text, n);
//!         Ok(Vec::new()) // For plugins built against 1.0.
//!     }
//! }
//!
//! #[hotbay_plugin::data]
//! #[derive(Debug, PartialEq)]
//! pub struct Word {
//!     pub text: String,
//!     pub count: u64,
//! }
//!
//! // In a plugin; `export_plugin!(Counter, contracts = [TextAnalysis])` exports it.
//! struct Counter;
//!
//! impl TextAnalysis for Counter {
//!     fn words(&self, text: &str) -> Result<u64, CallError> {
//!         Ok(text.split_whitespace().count() as u64)
//!     }
//! }
//!
//! // In an application: takes a plugin, or its own value.
//! fn report(analysis: &impl TextAnalysis) -> Result<u64, CallError> {
//!     analysis.words("to be or not to be")
//! }
//!
//! assert_eq!(report(&Counter)?, 6);
//! # Ok::<(), CallError>(())
//! ```
//!
//! A host creates a [`Proxy`], which implements the trait: `host.contract::<dyn TextAnalysis>("my-plugin")`.
//!
//! A plugin calls contracts of the host and of other plugins with
//! [`HostServices::contract`](crate::HostServices::contract).
//!
//! # What may cross
//!
//! - Arguments: data, and `&str`, `&[T]`, `&T` and options of these. At most twelve.
//! - Results: `Result<T, E>`, where `T` is data or a [`Stream`] of data, and `E` implements `From<CallError>` and
//!   `Into<PluginError>`. [`CallError`] and [`PluginError`](crate::PluginError) do.
//! - [`Data`]: numbers, `bool`, `char`, `String`, options, lists, sets, maps and tuples, types with
//!   `#[hotbay_plugin::data]`, and [`Json`].
//!
//! Methods may be `async fn`. A plugin, a program or a host's own value serves them on a tokio runtime,
//! with the feature `tokio` of this crate (Unix). A [`Stream`] is made by
//! [`Stream::from_items`], `from_results`, or `from_stream` with that feature.
//!
//! In one process, numbers, text, lists of numbers, and data types with `#[repr(C)]` cross without
//! serialization; everything else crosses as postcard. If the signatures of both sides differ but
//! one can be read as the other, arguments and results cross as JSON by name. If not, the plugin is
//! rejected before its library is opened, if the host knows the contract when it loads the plugin:
//! by `Host::builder().contract::<dyn TextAnalysis>()`, or since `host.contract` was called. Otherwise,
//! `host.contract` fails.
//!
//! JSON has one `null`, and only finite numbers. There, `Some(None)` becomes `None`, and so does an
//! optional number that is not finite. Any other such number cannot be read.
//!
//! # Errors
//!
//! [`CallError::kind`] classifies the failure of a call, [`CallError::plugin_error`] is the error that
//! the plugin returned, and [`CallError::full_message`] has the text of both.
//!
//! # Versions
//!
//! - A method that a later version adds has `#[since("MAJOR.MINOR")]`. If it has a default body, that runs
//!   for plugins without the method; otherwise, the call fails with `NotProvided`.
//! - A reader ignores unknown fields, and an unknown argument that is optional. A missing field needs
//!   `#[serde(default)]` or an optional type; a missing argument needs an optional type.
//! - Numbers may become wider. Readers may have more variants of an enum than writers.
//! - All else is a breaking change, and needs another major version. A unit test with
//!   [`check_golden`] finds such changes; so does `hotbay contract diff`. The test
//!   `check_golden::<dyn TextAnalysis>("contracts/text-analysis.txt")` compares the trait with that file
//!   of its crate, which `UPDATE_CONTRACTS=1 cargo test` writes.

#[allow(unsafe_code, reason = "reads arguments that cross as they are")]
mod argument;
mod bytes;
#[allow(unsafe_code, reason = "calls the C functions of a contract")]
mod call;
mod changes;
mod codec;
mod compatibility;
mod data;
mod error;
#[allow(unsafe_code, reason = "values that cross between libraries as they are")]
mod form;
#[allow(unsafe_code, reason = "calls the C functions of a contract")]
mod function;
mod golden;
#[allow(unsafe_code, reason = "functions of the host")]
mod host_functions;
#[allow(unsafe_code, reason = "the C functions of a contract")]
mod method;
#[allow(unsafe_code, reason = "the C functions of a contract")]
#[cfg_attr(not(all(unix, feature = "tokio")), path = "no_async.rs")]
mod method_async;
#[allow(unsafe_code, reason = "the C functions of a contract")]
mod method_direct;
#[allow(unsafe_code, reason = "the C functions of a stream")]
mod method_stream;
mod proxy;
mod schema;
mod served;
mod services;
mod shape;
mod stream;
#[allow(unsafe_code, reason = "the C functions of a stream")]
#[cfg(all(unix, feature = "tokio"))]
mod stream_async;
#[allow(unsafe_code, reason = "the C structs of a contract")]
mod table;
mod text;

pub use crate::context::with_context;
pub use changes::{Changes, Impact, MethodChange, compare};
pub use codec::{CodecError, Format};
pub use compatibility::{Binding, Incompatible, bind};
pub use data::{Data, Json};
pub use error::{CallError, CallErrorKind};
pub use golden::check_golden;
#[cfg(all(unix, feature = "tokio"))]
pub(crate) use method_async::{CallLimits, Complete, spawn_call, write_task};
pub use proxy::{Contract, Proxy, Transport};
pub use services::ServiceTransport;
pub use stream::Stream;
pub use text::{ContractText, ContractVersion, FieldTypes, InvalidText, MethodText, Type};

/// For the expansion of the macros, and for the host.
#[doc(hidden)]
pub mod internal {
    pub use super::argument::{Argument, Arguments, ByRef, ByValue, Maybe, Slice, Str};
    pub use super::call::{
        LoweredCall, MethodCall, OwnedArguments, TypedCall, TypedResult, decode_result,
        encode_arguments,
    };
    pub use super::data::Data;
    pub use super::form::{Copied, Encoded, Form, List, Plain, is_repr_c};
    pub use super::function::{Invocation, Passed};
    pub use super::host_functions::{
        CallFailure, CancelCall, Completer, ContractHost, OutgoingCall, RawHostFunctions,
    };
    pub use super::method::{ArgumentTypes, Failed, Method, MethodError, Serves, ServesAsync};
    pub use super::method_async::{entry_async, served_async};
    pub use super::method_direct::{PassedTo, entry};
    pub use super::method_stream::{ServesStream, entry_stream, served_stream};
    pub use super::proxy::{
        HostTransport, ProviderTransport, ServedBy, WithOptions, is_not_provided,
    };
    pub use super::served::{OpenCall, SerializedCall, ServedCall, ServedMethod, served};
    pub use super::shape::{
        Description, Field, Fields, MAX_TEXT_BYTES, MethodKind, MethodShape, SYMBOL, Shape,
        ShapeList, Variant, export_length, export_text,
    };
    pub use super::stream::{ItemResult, ItemSource, Items, ServedItems, Stream};
    pub use super::table::{
        DirectFn, OpenFn, RawAsyncPlugin, RawCompletion, RawContract, RawMethod, RawStr, RawStream,
        RawTask, SerializedFn, StartExecuteFn, StartFn, batch, code, tables,
    };
    pub use serde;

    pub mod bytes {
        pub use super::super::bytes::{deserialize, serialize};
    }
}
