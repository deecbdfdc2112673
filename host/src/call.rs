//! What callers and bodies exchange: a request in, a reply out.

use std::borrow::Cow;
use std::fmt;

use hotbay_plugin::{ContentType, Output, Payload, TraceContext};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::id::GenerationId;
use crate::sync::Tally;

/// The input of one call, borrowed where it can be.
#[derive(Debug)]
pub struct Request<'a> {
    data: Data<'a>,
    content_type: Cow<'a, str>,
    trace: Option<TraceContext>,
}

#[derive(Debug)]
enum Data<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
    /// What another plugin answered, passed on without a copy.
    Reply(Box<Reply>),
}

impl<'a> Request<'a> {
    /// Plain text.
    pub fn text(text: &'a str) -> Self {
        Self::new(Data::Borrowed(text.as_bytes()), ContentType::TEXT)
    }

    /// Any bytes.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self::new(Data::Borrowed(bytes), ContentType::BYTES)
    }

    /// Text that is already JSON.
    pub fn json_text(json: &'a str) -> Self {
        Self::new(Data::Borrowed(json.as_bytes()), ContentType::JSON)
    }

    /// Any bytes, given away.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self::new(Data::Owned(bytes), ContentType::BYTES)
    }

    /// A value written as JSON.
    ///
    /// # Errors
    ///
    /// `Input` when `value` cannot be JSON, such as a map whose keys are no text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::Input, "the request cannot be JSON").caused_by(error)
        })?;
        Ok(Self::new(Data::Owned(bytes), ContentType::JSON))
    }

    fn new(data: Data<'a>, content_type: &'a str) -> Self {
        Self { data, content_type: Cow::Borrowed(content_type), trace: None }
    }

    /// The same bytes under another media type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Cow<'a, str>>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Says where in a distributed trace the call stands; the plugin can read it.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.data {
            Data::Borrowed(bytes) => bytes,
            Data::Owned(bytes) => bytes,
            Data::Reply(reply) => reply.as_bytes(),
        }
    }

    /// The media type.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    #[inline]
    pub(crate) fn payload(&self) -> Payload<'_> {
        Payload::bytes(self.as_bytes()).with_content_type(&self.content_type)
    }

    #[inline]
    pub(crate) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// The same request, owning what it borrowed.
    pub(crate) fn into_owned(self) -> Request<'static> {
        Request {
            data: match self.data {
                Data::Borrowed(bytes) => Data::Owned(bytes.to_vec()),
                Data::Owned(bytes) => Data::Owned(bytes),
                Data::Reply(reply) => Data::Reply(reply),
            },
            content_type: match self.content_type {
                Cow::Borrowed(name) => known(name),
                Cow::Owned(name) => Cow::Owned(name),
            },
            trace: self.trace,
        }
    }
}

/// The name without an allocation if it is one of the usual.
fn known(name: &str) -> Cow<'static, str> {
    let usual = [ContentType::TEXT, ContentType::JSON, ContentType::BYTES, ContentType::HTML];
    match usual.into_iter().find(|usual| *usual == name) {
        Some(usual) => Cow::Borrowed(usual),
        None => Cow::Owned(name.to_owned()),
    }
}

impl From<Reply> for Request<'static> {
    /// Passes a reply on to the next plugin, without a copy.
    fn from(reply: Reply) -> Self {
        let content_type = known(reply.content_type());
        Self { data: Data::Reply(Box::new(reply)), content_type, trace: None }
    }
}

/// The output of one call.
///
/// A reply may hold memory of the plugin that made it; as long as it lives, the plugin's
/// library stays mapped, even after an unload. Short replies and [`Reply::into_vec`] hold
/// nothing.
pub struct Reply {
    // Dropped first: the library that frees it is held by the next field.
    output: Output,
    _held: Held,
    generation: GenerationId,
}

impl Reply {
    #[inline]
    pub(crate) fn new(output: Output, outputs: &'static Tally, generation: GenerationId) -> Self {
        let held = if output.is_inline() { Held(None) } else { Held::count(outputs) };
        Self { output, _held: held, generation }
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.output.as_bytes()
    }

    /// The bytes as text.
    ///
    /// # Errors
    ///
    /// `Output` when they are not UTF-8, naming the first byte that is not.
    pub fn as_text(&self) -> Result<&str, Error> {
        std::str::from_utf8(self.as_bytes())
            .map_err(|error| Error::new(ErrorKind::Output, "the reply is no text").caused_by(error))
    }

    /// The bytes read as JSON.
    ///
    /// # Errors
    ///
    /// `Output` when they do not fit `T`, with line and column.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.json_borrowed()
    }

    /// The bytes read as JSON that borrows from the reply.
    ///
    /// # Errors
    ///
    /// As [`Reply::json`].
    pub fn json_borrowed<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_slice(self.as_bytes()).map_err(|error| {
            Error::new(ErrorKind::Output, "the reply is not the JSON wanted").caused_by(error)
        })
    }

    /// The media type.
    pub fn content_type(&self) -> &str {
        self.output.content_type()
    }

    /// The bytes, copied; the plugin's memory is given back.
    pub fn into_vec(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    /// Which generation of the plugin answered.
    pub fn generation(&self) -> GenerationId {
        self.generation
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("len", &self.as_bytes().len())
            .field("content_type", &self.content_type())
            .field("generation", &self.generation)
            .finish()
    }
}

/// Counts an output that its plugin's library must outlive.
struct Held(Option<&'static Tally>);

impl Held {
    #[inline]
    fn count(outputs: &'static Tally) -> Self {
        outputs.add(1);
        Self(Some(outputs))
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        if let Some(outputs) = self.0 {
            outputs.add(-1);
        }
    }
}
