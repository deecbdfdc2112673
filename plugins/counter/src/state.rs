//! What a total looks like on its way from build to build. Decides nothing about counting.

use hotbay_plugin::{PluginError, Snapshot};
use serde::{Deserialize, Serialize};

/// The shape that is written: JSON.
pub(crate) const VERSION: u32 = 2;

/// The shape before it: the total in eight bytes, the lowest first.
pub(crate) const IN_BYTES: u32 = 1;

#[derive(Serialize, Deserialize)]
struct State {
    total: u64,
}

/// A total as the next build reads it.
pub(crate) fn written(total: u64) -> Result<Snapshot, PluginError> {
    let bytes = serde_json::to_vec(&State { total });
    let bytes = bytes.map_err(|error| PluginError::new(500, format!("the state: {error}")))?;
    Ok(Snapshot::new(VERSION, bytes))
}

/// The total in a state of any shape that was ever written.
pub(crate) fn read(snapshot: &Snapshot) -> Result<u64, PluginError> {
    let bytes = snapshot.as_bytes();
    match snapshot.version() {
        VERSION => match serde_json::from_slice(bytes) {
            Ok(State { total }) => Ok(total),
            Err(error) => Err(broken(&format!("wanted {{\"total\":…}}: {error}"))),
        },
        IN_BYTES => match bytes.try_into() {
            Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
            Err(_) => Err(broken(&format!("{} bytes, wanted 8", bytes.len()))),
        },
        other => {
            let message = format!("a state of version {other}, wanted {IN_BYTES} or {VERSION}");
            Err(PluginError::new(409, message))
        }
    }
}

fn broken(why: &str) -> PluginError {
    PluginError::new(400, format!("the state cannot be read: {why}"))
}
