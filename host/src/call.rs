//! What callers and bodies exchange: a request in, a reply out.

use std::borrow::Cow;
use std::fmt;

use hotbay_plugin::abi::Media;
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
    media: Media<'a>,
    /// The media type's name where the request owns it; then it counts.
    owned_media: Option<Box<str>>,
    trace: Option<Box<TraceContext>>,
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
        Self::new(Data::Borrowed(text.as_bytes()), Media::TEXT)
    }

    /// Any bytes.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self::new(Data::Borrowed(bytes), Media::BYTES)
    }

    /// Text that is already JSON.
    pub fn json_text(json: &'a str) -> Self {
        Self::new(Data::Borrowed(json.as_bytes()), Media::JSON)
    }

    /// Any bytes, given away.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self::new(Data::Owned(bytes), Media::BYTES)
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
        Ok(Self::new(Data::Owned(bytes), Media::JSON))
    }

    #[inline]
    fn new(data: Data<'a>, media: Media<'a>) -> Self {
        Self { data, media, owned_media: None, trace: None }
    }

    /// The same bytes under another media type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Cow<'a, str>>) -> Self {
        match content_type.into() {
            Cow::Borrowed(name) => {
                self.media = Media::of(name);
                self.owned_media = None;
            }
            Cow::Owned(name) => self.owned_media = Some(name.into()),
        }
        self
    }

    /// Says where in a distributed trace the call stands; the plugin can read it.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(Box::new(trace));
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
        self.owned_media.as_deref().unwrap_or_else(|| self.media.as_str())
    }

    #[inline]
    pub(crate) fn payload(&self) -> Payload<'_> {
        let media = match &self.owned_media {
            None => self.media,
            Some(name) => Media::of(name),
        };
        Payload::of_media(self.as_bytes(), media)
    }

    #[inline]
    pub(crate) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_deref()
    }

    /// The same request, owning what it borrowed.
    pub(crate) fn into_owned(self) -> Request<'static> {
        let (media, owned_media) = owned(self.content_type());
        Request {
            data: match self.data {
                Data::Borrowed(bytes) => Data::Owned(bytes.to_vec()),
                Data::Owned(bytes) => Data::Owned(bytes),
                Data::Reply(reply) => Data::Reply(reply),
            },
            media,
            owned_media,
            trace: self.trace,
        }
    }
}

/// A media type without an allocation if it is one of the usual.
fn owned(name: &str) -> (Media<'static>, Option<Box<str>>) {
    let usual = [ContentType::TEXT, ContentType::JSON, ContentType::BYTES, ContentType::HTML];
    match usual.into_iter().find(|usual| *usual == name) {
        Some(usual) => (Media::of(usual), None),
        None => (Media::BYTES, Some(name.into())),
    }
}

impl From<Reply> for Request<'static> {
    /// Passes a reply on to the next plugin, without a copy.
    fn from(reply: Reply) -> Self {
        let (media, owned_media) = owned(reply.content_type());
        Self { data: Data::Reply(Box::new(reply)), media, owned_media, trace: None }
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
    held: Held,
    generation: GenerationId,
}

impl Reply {
    /// A reply that is yet to be written. Made where the caller wants it and filled in place:
    /// moving it up through the corridor would cost more than the corridor.
    #[inline]
    pub(crate) fn vacant() -> Self {
        Self { output: Output::default(), held: Held(None), generation: GenerationId::FIRST }
    }

    /// Where the plugin writes.
    #[inline]
    pub(crate) fn output_mut(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Says who wrote the output, and counts it unless it lies in place.
    #[inline]
    pub(crate) fn written_by(&mut self, generation: GenerationId, outputs: &'static Tally) {
        self.generation = generation;
        if !self.output.is_inline() {
            self.held = Held::count(outputs);
        }
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
