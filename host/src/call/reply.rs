//! The output of one call, which holds the plugin's library as long as it holds its memory.

use std::fmt;

use hotbay_plugin::Output;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::id::GenerationId;
use crate::sync::ShardedCounter;

/// The output of one call.
///
/// A reply may hold memory of the plugin that made it; as long as it lives, the plugin's
/// library stays mapped, even after an unload. [`Reply::into_vec`] holds nothing, nor does a
/// reply of up to 24 bytes that the plugin made by `Output::copy_of`.
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

    /// A reply that the application makes itself, such as a layer from its cache. It is of no
    /// generation in particular: the first.
    pub fn new(output: Output) -> Self {
        Self { output, ..Self::vacant() }
    }

    /// The same reply, as one that this generation gave.
    pub(crate) fn of_generation(self, generation: GenerationId) -> Self {
        Self { generation, ..self }
    }

    /// Where the plugin writes.
    #[inline]
    pub(crate) fn output_mut(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Says who wrote the output, and counts it unless it lies in place.
    #[inline]
    pub(crate) fn written_by(
        &mut self,
        generation: GenerationId,
        outputs: &'static ShardedCounter,
    ) {
        self.generation = generation;
        if !self.output.is_inline() {
            self.held = Held::count(outputs);
        }
    }

    /// Takes over an output whose memory is the host's own.
    #[cfg(unix)]
    pub(crate) fn made_elsewhere(&mut self, generation: GenerationId, output: Output) {
        (self.generation, self.output) = (generation, output);
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
    /// `InvalidOutput` when they are not UTF-8, naming the first byte that is not.
    pub fn as_text(&self) -> Result<&str, Error> {
        std::str::from_utf8(self.as_bytes()).map_err(|error| {
            Error::new(ErrorKind::InvalidOutput, "the reply is no text").caused_by(error)
        })
    }

    /// The bytes read as JSON.
    ///
    /// # Errors
    ///
    /// `InvalidOutput` when they do not fit `T`, with line and column.
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
            Error::new(ErrorKind::InvalidOutput, "the reply is not the JSON wanted")
                .caused_by(error)
        })
    }

    /// The media type.
    pub fn content_type(&self) -> &str {
        self.output.content_type()
    }

    #[inline]
    pub(crate) fn has_own_content_type(&self) -> bool {
        self.output.has_own_content_type()
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
