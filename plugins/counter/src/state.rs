//! The format of the state that survives a reload.

use hotbay_plugin::{PluginError, Snapshot};
use serde::{Deserialize, Serialize};

/// Current format: JSON.
pub(crate) const VERSION: u32 = 2;

/// Previous format: the total in eight bytes, little-endian.
pub(crate) const VERSION_BYTES: u32 = 1;

#[derive(Serialize, Deserialize)]
struct State {
    total: u64,
}

/// Returns the snapshot of a total.
pub(crate) fn write(total: u64) -> Result<Snapshot, PluginError> {
    let bytes = serde_json::to_vec(&State { total });
    let bytes = bytes
        .map_err(|error| PluginError::new(500, format!("cannot serialize the state: {error}")))?;
    Ok(Snapshot::new(VERSION, bytes))
}

/// Returns the total of a snapshot in any format.
pub(crate) fn read(snapshot: &Snapshot) -> Result<u64, PluginError> {
    let bytes = snapshot.as_bytes();
    match snapshot.version() {
        VERSION => match serde_json::from_slice(bytes) {
            Ok(State { total }) => Ok(total),
            Err(error) => Err(invalid(&format!("expected {{\"total\":…}}: {error}"))),
        },
        VERSION_BYTES => match bytes.try_into() {
            Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
            Err(_) => Err(invalid(&format!("expected 8 bytes, found {}", bytes.len()))),
        },
        other => {
            let message =
                format!("unknown state version {other}: expected {VERSION_BYTES} or {VERSION}");
            Err(PluginError::new(409, message))
        }
    }
}

fn invalid(reason: &str) -> PluginError {
    PluginError::new(400, format!("invalid state: {reason}"))
}
