//! A route that panics, waits or shows its request, as its path says.

#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a fixture")]

use gateway_contract::{HttpRequest, HttpResponse, Route};
use hotbay_plugin::contract::{CallError, with_context};
use hotbay_plugin::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

struct Faulty;

impl Plugin for Faulty {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `gateway-route`"))
    }
}

impl Route for Faulty {
    async fn handle(&self, request: HttpRequest) -> Result<HttpResponse, CallError> {
        match request.head.rest() {
            "panic" => panic!("faulty route"),
            "teapot" => Err(PluginError::new(418, "a teapot").into()),
            "error" => Err(PluginError::new(7, "an internal detail").into()),
            "invalid" => Ok(HttpResponse::text(9999, "")),
            // Connects to the address in the query, and waits until the other side closes.
            "wait" => {
                let failed = |error: std::io::Error| PluginError::new(500, error.to_string());
                let mut stream = TcpStream::connect(&request.head.query).await.map_err(failed)?;
                let read = stream.read_to_end(&mut Vec::new()).await.map_err(failed)?;
                Ok(HttpResponse::text(200, format!("read {read} bytes")))
            }
            "forever" => std::future::pending().await,
            "trace" => {
                let trace = with_context(|context| context.and_then(|context| context.trace()));
                Ok(HttpResponse::text(200, format!("{trace:?}")))
            }
            _ => Ok(HttpResponse {
                status: 200,
                headers: vec![],
                body: format!("{:?}", request.head).into_bytes(),
            }),
        }
    }
}

export_plugin!(Faulty, contracts = [Route]);
