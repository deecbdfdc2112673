//! The route `visits`: counts the visits of each path. The counts are the state of the plugin, which
//! a new build takes over.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use gateway_contract::{HttpRequest, HttpResponse, Route};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;

/// Maximum number of paths that are counted.
const MAX_PATHS: usize = 10_000;
const FORMAT: u32 = 1;

/// The number of visits of each path.
#[derive(Default)]
struct Visits(Mutex<BTreeMap<String, u64>>);

impl Plugin for Visits {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self::default())
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `gateway-route`"))
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = serde_json::to_vec(&*counts);
        let bytes = bytes.map_err(|error| PluginError::new(500, error.to_string()))?;
        Ok(Some(Snapshot::new(FORMAT, bytes)))
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
        let counts = serde_json::from_slice(snapshot.as_bytes());
        let counts = counts.map_err(|error| PluginError::new(500, error.to_string()))?;
        self.0 = Mutex::new(counts);
        Ok(())
    }
}

impl Route for Visits {
    async fn handle(&self, request: HttpRequest) -> Result<HttpResponse, CallError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = request.head.path;
        if counts.len() >= MAX_PATHS && !counts.contains_key(&path) {
            return Err(PluginError::new(507, format!("{MAX_PATHS} paths are counted")).into());
        }
        let count = counts.entry(path).or_default();
        *count += 1;
        Ok(HttpResponse::text(200, format!("{count}\n")))
    }
}

export_plugin!(Visits, contracts = [Route]);
