//! Versioned bytes that live through a reload: what an old build hands to a new one.
//! The host carries them and never looks inside.

/// State of a plugin, with the version of its shape.
///
/// The plugin names the version and decides in `restore` which ones it still understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    version: u32,
    bytes: Vec<u8>,
}

impl Snapshot {
    /// Makes a snapshot of `bytes` whose shape is `version`.
    pub fn new(version: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { version, bytes: bytes.into() }
    }

    /// The version of the shape, as the plugin named it.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The bytes, as the plugin wrote them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, given away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
