//! The policy `rate-limit`: limits the requests of each caller, by the name that an earlier policy
//! has set, or else by address.

#![forbid(unsafe_code)]

mod buckets;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use buckets::Buckets;
use gateway_contract::{HttpResponse, Policy, RequestHead, USER, Verdict};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    requests: u32,
    seconds: u32,
}

struct RateLimit(Mutex<Buckets>);

impl Plugin for RateLimit {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        let Settings { requests, seconds } = config.parse()?;
        let refill = Duration::from_secs(seconds.into());
        Ok(Self(Mutex::new(Buckets::new(requests, refill))))
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `gateway-policy`"))
    }
}

impl Policy for RateLimit {
    async fn check(&self, request: &RequestHead) -> Result<Verdict, CallError> {
        let caller = request.header(USER).unwrap_or(&request.client);
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match buckets.take(caller, Instant::now()) {
            Ok(()) => Verdict::Allow,
            Err(wait) => {
                let mut response = HttpResponse::text(429, "too many requests\n");
                let seconds = wait.as_secs_f64().ceil().max(1.0);
                response.headers.push(("retry-after".to_owned(), seconds.to_string()));
                Verdict::Deny(response)
            }
        })
    }
}

export_plugin!(RateLimit, contracts = [Policy]);
