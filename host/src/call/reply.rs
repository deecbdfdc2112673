//! The output of one call. Keeps the plugin's library mapped while it holds memory of the plugin.

use std::fmt;

use hotbay_plugin::abi::OutputSlot;
use hotbay_plugin::{ContentType, Fault, Output, PluginError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::id::GenerationId;
use crate::sync::ShardedCounter;

/// The output of one call.
///
/// A reply may hold memory of the plugin that made it. Until it is dropped, the plugin's library
/// stays mapped, even after an unload. [`Reply::into_vec`] holds nothing, nor does a reply of up to
/// 24 bytes that the plugin made with `Output::copy_of`.
///
/// ```
/// use hotbay::{Output, Reply};
///
/// let reply = Reply::new(Output::text(r#"{"words": 3}"#).with_content_type("application/json"));
/// assert_eq!(reply.as_text()?, r#"{"words": 3}"#);
/// assert_eq!(reply.json::<serde_json::Value>()?["words"], 3);
/// assert_eq!(reply.content_type(), "application/json");
/// # Ok::<(), hotbay::Error>(())
/// ```
pub struct Reply {
    // Dropped first: the next field keeps the library mapped that frees it.
    output: Output,
    held: Held,
    generation: GenerationId,
}

impl Reply {
    /// Creates a reply of the application itself, such as one from a layer's cache. Its generation
    /// is the first.
    pub fn new(output: Output) -> Self {
        Self { output, held: Held(None), generation: GenerationId::FIRST }
    }

    /// Sets the generation.
    pub(crate) fn of_generation(self, generation: GenerationId) -> Self {
        Self { generation, ..self }
    }

    /// Returns the bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.output.as_bytes()
    }

    /// Returns the bytes as text.
    ///
    /// # Errors
    ///
    /// `InvalidOutput` if they are not UTF-8, with the position of the first invalid byte.
    pub fn as_text(&self) -> Result<&str, Error> {
        std::str::from_utf8(self.as_bytes()).map_err(|error| {
            Error::new(ErrorKind::InvalidOutput, "the reply is not valid UTF-8").caused_by(error)
        })
    }

    /// Deserializes the bytes from JSON.
    ///
    /// # Errors
    ///
    /// `InvalidOutput` if they do not match `T`, with line and column.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.json_borrowed()
    }

    /// Deserializes the bytes from JSON, borrowing from the reply.
    ///
    /// # Errors
    ///
    /// The same as [`Reply::json`].
    pub fn json_borrowed<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_slice(self.as_bytes()).map_err(|error| {
            Error::new(ErrorKind::InvalidOutput, "the reply is not JSON of the expected form")
                .caused_by(error)
        })
    }

    /// Returns the media type.
    pub fn content_type(&self) -> &str {
        self.output.content_type()
    }

    /// Copies the bytes and frees the plugin's memory.
    pub fn into_vec(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    /// Returns the generation of the plugin that answered.
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

/// The place where a call writes its reply: moving a reply up through the middleware would cost more
/// than the middleware.
#[derive(Debug)]
pub(crate) struct ReplySlot {
    // Dropped first, as in a reply.
    output: OutputSlot,
    held: Held,
    generation: GenerationId,
}

impl ReplySlot {
    /// Creates an empty slot.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { output: OutputSlot::new(), held: Held(None), generation: GenerationId::FIRST }
    }

    /// Returns the place for the output.
    #[inline(always)]
    pub(crate) fn output_mut(&mut self) -> &mut OutputSlot {
        &mut self.output
    }

    /// Records the generation that wrote the output, and counts the output unless it is inline.
    #[inline(always)]
    pub(crate) fn written_by(
        &mut self,
        generation: GenerationId,
        outputs: &'static ShardedCounter,
    ) {
        self.generation = generation;
        if !self.output.get().is_some_and(Output::is_inline) {
            self.held = Held::count(outputs);
        }
    }

    /// Sets an output in memory of the host.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn made_elsewhere(&mut self, generation: GenerationId, output: Output) {
        self.set(Reply::new(output).of_generation(generation));
    }

    /// Sets a reply that was made before.
    #[inline]
    pub(crate) fn set(&mut self, reply: Reply) {
        let Reply { output, held, generation } = reply;
        self.output.set(output);
        (self.held, self.generation) = (held, generation);
    }

    /// Takes the reply; an empty one if none was written.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Reply {
        let held = Held(self.held.0.take());
        let output = self.output.take().unwrap_or_default();
        Reply { output, held, generation: self.generation }
    }

    /// Returns the bytes.
    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.output.get().map_or(&[], Output::as_bytes)
    }

    /// Returns the media type.
    pub(crate) fn content_type(&self) -> &str {
        self.output.get().map_or(ContentType::BYTES, Output::content_type)
    }

    #[inline]
    pub(crate) fn has_own_content_type(&self) -> bool {
        self.output.get().is_some_and(Output::has_own_content_type)
    }

    /// Returns the generation that wrote the output.
    pub(crate) fn generation(&self) -> GenerationId {
        self.generation
    }
}

/// Counts an output that must be dropped before its plugin's library is unmapped.
#[derive(Debug)]
struct Held(Option<&'static ShardedCounter>);

impl Held {
    #[inline]
    fn count(outputs: &'static ShardedCounter) -> Self {
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

/// The reason a call failed in the plugin.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It returned an error.
    Error(PluginError),
    /// It panicked.
    Panic(Fault),
    /// An argument of a method could not be read.
    BadArguments(PluginError),
    /// The result of a method could not be serialized.
    BadResult(PluginError),
    /// Its task was dropped before it was finished.
    Cancelled,
    /// It returned a code that this version does not know.
    Code(i32),
    /// The call could not be made, or its result could not be received.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    Other(Error),
}

#[cfg(all(unix, feature = "process"))]
impl From<hotbay_process::Failure> for Failure {
    fn from(failure: hotbay_process::Failure) -> Self {
        match failure {
            hotbay_process::Failure::Plugin(error) => Self::Error(error),
            hotbay_process::Failure::Panic(fault) => Self::Panic(fault),
            hotbay_process::Failure::Other(error) => Self::Other(Error::of_process(error)),
        }
    }
}
