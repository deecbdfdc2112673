//! State that survives a reload: versioned bytes that the host passes from the old build to the new
//! one without interpreting them.

/// The state of a plugin, with the version of its format.
///
/// The plugin chooses the version, and decides in [`Plugin::restore`](crate::Plugin::restore) which
/// versions it accepts.
///
/// ```
/// use hotbay_plugin::Snapshot;
///
/// let snapshot = Snapshot::new(2, 7_u64.to_le_bytes());
/// assert_eq!(snapshot.version(), 2);
/// assert_eq!(snapshot.as_bytes(), 7_u64.to_le_bytes());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    version: u32,
    bytes: Vec<u8>,
}

impl Snapshot {
    /// Creates a snapshot of `bytes` in the format `version`.
    pub fn new(version: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { version, bytes: bytes.into() }
    }

    /// Returns the version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Converts the snapshot into its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
