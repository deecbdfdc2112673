//! The route `hello`: greets the rest of the path, or the caller that a policy has identified.

#![forbid(unsafe_code)]

use gateway_contract::{HttpRequest, HttpResponse, Route, USER};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;

/// Change it and build the plugin again: the next response contains the new text.
const GREETING: &str = "Hello, ";

struct Hello;

impl Plugin for Hello {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `gateway-route`"))
    }
}

impl Route for Hello {
    async fn handle(&self, request: HttpRequest) -> Result<HttpResponse, CallError> {
        let name = match request.head.rest() {
            "" => request.head.header(USER).unwrap_or("world"),
            name => name,
        };
        Ok(HttpResponse::text(200, format!("{GREETING}{name}!\n")))
    }
}

export_plugin!(Hello, contracts = [Route]);
