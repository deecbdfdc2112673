//! The policy `api-key`: admits requests with `authorization: Bearer KEY`, and passes on whose key
//! it is.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use gateway_contract::{HttpResponse, Policy, RequestHead, USER, Verdict};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKey {
    /// The key of each user.
    users: BTreeMap<String, String>,
}

impl Plugin for ApiKey {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        config.parse()
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `gateway-policy`"))
    }
}

impl Policy for ApiKey {
    async fn check(&self, request: &RequestHead) -> Result<Verdict, CallError> {
        let key = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        // Compares with all keys, so that the time does not depend on which one is right.
        let user = self.users.iter().fold(None, |found, (user, known)| {
            if is_equal(known, key.unwrap_or_default()) { Some(user.clone()) } else { found }
        });
        Ok(match user {
            Some(user) => Verdict::AddHeaders(vec![(USER.to_owned(), user)]),
            None => {
                let mut response = HttpResponse::text(401, "unknown key\n");
                let challenge = ("www-authenticate".to_owned(), "Bearer".to_owned());
                response.headers.push(challenge);
                Verdict::Deny(response)
            }
        })
    }
}

/// Compares in a time that depends on the lengths only.
fn is_equal(a: &str, b: &str) -> bool {
    let differences = a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

export_plugin!(ApiKey, contracts = [Policy]);
