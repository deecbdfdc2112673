//! The gateway's own settings: the table `x-gateway` of its `hotbay.toml`, which the host ignores.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where to listen; port 0 selects a free port.
    pub(crate) listen: SocketAddr,
    /// The plugins that check each request, in this order.
    pub(crate) policies: Vec<String>,
    /// Maximum size of the body of a request.
    pub(crate) max_body_bytes: usize,
    /// Time for the body of a request to arrive.
    #[serde(rename = "body_timeout_s", deserialize_with = "seconds")]
    pub(crate) body_timeout: Duration,
    /// Time for running requests to finish.
    #[serde(rename = "shutdown_grace_s", deserialize_with = "seconds")]
    pub(crate) shutdown_grace: Duration,
}

impl Settings {
    /// Reads the table of a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or the table is missing or invalid.
    pub(crate) fn read(file: &Path) -> Result<Self, Box<dyn Error>> {
        #[derive(Deserialize)]
        struct File {
            #[serde(rename = "x-gateway")]
            gateway: Settings,
        }
        let at_file = |error: String| format!("`{}`: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| at_file(error.to_string()))?;
        let parsed: File = toml::from_str(&text).map_err(|error| at_file(error.to_string()))?;
        Ok(parsed.gateway)
    }
}

fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u32::deserialize(value).map(|seconds| Duration::from_secs(seconds.into()))
}
