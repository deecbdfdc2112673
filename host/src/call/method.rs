//! A call of a contract's method as a request: which method, and its arguments.

use std::any::Any;
use std::borrow::Cow;
#[cfg(all(unix, feature = "process"))]
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex};

#[cfg(all(unix, feature = "process"))]
use hotbay_manifest::MappedMethod;
use hotbay_plugin::CallContext;
use hotbay_plugin::contract::internal::{MethodCall, OwnedArguments};
use hotbay_plugin::contract::{CallError, CallErrorKind, Format, MethodText};
#[cfg(all(unix, feature = "process"))]
use hotbay_process::EndpointKind;
#[cfg(all(unix, feature = "process"))]
use serde_json::value::RawValue;

use crate::contracts::KnownContract;
use crate::sync::lock;

/// A call of a method.
#[derive(Clone, Debug)]
pub(crate) struct MethodRequest<'a> {
    pub(crate) contract: Arc<KnownContract>,
    /// The position of the method in the contract.
    pub(crate) index: usize,
    pub(crate) arguments: MethodArguments<'a>,
    /// Where the stream goes that the call opens.
    pub(crate) stream: Option<StreamSlot>,
}

/// Takes the stream that a call opens, since a reply is bytes. Erased: this module knows no streams.
#[derive(Clone, Default)]
pub(crate) struct StreamSlot(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

impl StreamSlot {
    /// Stores an open stream, and drops an earlier one.
    pub(crate) fn put(&self, stream: impl Any + Send) {
        let before = lock(&self.0).replace(Box::new(stream));
        // Not under the lock: dropping a stream runs code of its plugin.
        drop(before);
    }

    /// Takes the stream, if the call opened one.
    pub(crate) fn take<T: Any>(&self) -> Option<T> {
        let stream = lock(&self.0).take()?;
        stream.downcast().ok().map(|stream| *stream)
    }
}

impl fmt::Debug for StreamSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSlot").finish_non_exhaustive()
    }
}

/// The arguments of a method.
#[derive(Clone, Debug)]
pub(crate) enum MethodArguments<'a> {
    /// On the caller's stack.
    Borrowed(&'a MethodCall<'a>),
    /// Serialized.
    Owned(OwnedArguments),
    /// Serialized by a plugin that calls.
    Encoded(EncodedArguments<'a>),
    /// Not serializable.
    Invalid(CallError),
}

/// The arguments of a plugin that calls, and the call that it serves meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct EncodedArguments<'a> {
    pub(crate) format: Format,
    pub(crate) bytes: Cow<'a, [u8]>,
    pub(crate) outer: Option<CallContext<'a>>,
}

/// The reason arguments cannot be converted: only their plugin can serialize them as JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeedsJson;

impl fmt::Display for NeedsJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the arguments are needed as JSON")
    }
}

impl Error for NeedsJson {}

impl<'a> MethodArguments<'a> {
    /// Returns the format in which they are passed to a function that accepts `accepted`: JSON is
    /// always accepted.
    pub(crate) fn passed_as(&self, accepted: Format) -> Format {
        match self {
            Self::Encoded(arguments) if arguments.format == Format::Json => Format::Json,
            _ => accepted,
        }
    }

    /// Returns the call that the calling plugin serves on this thread, if it does.
    pub(crate) fn outer(&self) -> Option<CallContext<'a>> {
        match self {
            Self::Encoded(arguments) => arguments.outer,
            _ => None,
        }
    }
}

/// A call of a method as it is sent to a process.
#[cfg(all(unix, feature = "process"))]
#[derive(Debug)]
pub(crate) struct MethodMessage {
    pub(super) endpoint: String,
    pub(super) kind: EndpointKind,
    pub(super) format: Format,
    pub(super) arguments: Vec<u8>,
    /// The hash of its signature.
    pub(super) signature: u64,
}

impl MethodRequest<'_> {
    /// Returns the call as it is sent to a process: to `mapped`, if the manifest maps the method.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn message(
        &self,
        format: Format,
        mapped: Option<&MappedMethod>,
    ) -> Result<MethodMessage, CallError> {
        let (name, signature) = match self.method() {
            Some(method) => (method.name.as_str(), method.hash()),
            None => ("", 0),
        };
        let format = self.arguments.passed_as(format);
        let arguments = self.encode(format)?;
        let Some(MappedMethod { endpoint, body, .. }) = mapped else {
            let endpoint = hotbay_process::method_endpoint(&self.contract.text.name, name);
            let kind = EndpointKind::Method;
            return Ok(MethodMessage { endpoint, kind, format, arguments, signature });
        };
        let arguments = match body {
            Some(name) => json_member(&arguments, name)?,
            None => arguments,
        };
        let endpoint = endpoint.clone();
        let kind = EndpointKind::MappedMethod;
        Ok(MethodMessage { endpoint, kind, format, arguments, signature })
    }

    /// Returns the method's name and signature.
    pub(crate) fn method(&self) -> Option<&MethodText> {
        self.contract.text.methods.get(self.index)
    }

    /// Returns the number of bytes of the arguments.
    pub(crate) fn byte_len(&self) -> usize {
        match &self.arguments {
            MethodArguments::Borrowed(call) => call.byte_len(),
            MethodArguments::Owned(arguments) => arguments.as_postcard().len(),
            MethodArguments::Encoded(arguments) => arguments.bytes.len(),
            MethodArguments::Invalid(_) => 0,
        }
    }

    /// Serializes the arguments.
    pub(crate) fn encode(&self, format: Format) -> Result<Vec<u8>, CallError> {
        match (&self.arguments, format) {
            (MethodArguments::Borrowed(call), format) => call.encode(format),
            (MethodArguments::Owned(arguments), Format::Postcard) => {
                Ok(arguments.as_postcard().to_vec())
            }
            (MethodArguments::Owned(arguments), Format::Json) => arguments.to_json(),
            (MethodArguments::Encoded(arguments), format) if arguments.format == format => {
                Ok(arguments.bytes.to_vec())
            }
            (MethodArguments::Encoded(_), _) => {
                let message = "the signatures differ";
                Err(CallError::new(CallErrorKind::InvalidInput, message).with_source(NeedsJson))
            }
            (MethodArguments::Invalid(error), _) => Err(error.clone()),
        }
    }

    /// Serializes arguments that are on the caller's stack.
    pub(super) fn into_owned(self) -> MethodRequest<'static> {
        let Self { contract, index, arguments, stream } = self;
        let arguments = match arguments {
            MethodArguments::Borrowed(call) => match call.to_owned() {
                Ok(arguments) => MethodArguments::Owned(arguments),
                Err(error) => MethodArguments::Invalid(error),
            },
            MethodArguments::Owned(arguments) => MethodArguments::Owned(arguments),
            MethodArguments::Encoded(EncodedArguments { format, bytes, .. }) => {
                let bytes = Cow::Owned(bytes.into_owned());
                MethodArguments::Encoded(EncodedArguments { format, bytes, outer: None })
            }
            MethodArguments::Invalid(error) => MethodArguments::Invalid(error),
        };
        MethodRequest { contract, index, arguments, stream }
    }
}

/// Returns the value of a member of a JSON object; `null` if it is missing, as optional ones may be.
#[cfg(all(unix, feature = "process"))]
fn json_member(object: &[u8], name: &str) -> Result<Vec<u8>, CallError> {
    let invalid = |error| {
        CallError::new(CallErrorKind::InvalidInput, "the arguments are not a JSON object")
            .with_source(error)
    };
    let members: HashMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(object).map_err(invalid)?;
    let value = members.get(name).map_or("null", |value| value.get());
    Ok(value.as_bytes().to_vec())
}
