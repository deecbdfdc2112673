//! The path of a request: policies, the body, the route, the response.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use gateway_contract::{HttpRequest, Policy, RequestHead, Route, USER, Verdict};
use hotbay::{Error, ErrorKind, Host, TraceContext};
use tokio::time::timeout;
use tracing::{Instrument, debug_span};

use crate::metrics_page::MetricsPage;
use crate::response::{plain, response_of_error, response_of_plugin};
use crate::settings::Settings;

/// What all requests share.
pub(crate) struct Gateway {
    host: Host,
    settings: Settings,
    page: Arc<MetricsPage>,
}

impl Gateway {
    pub(crate) fn new(host: Host, settings: Settings, page: Arc<MetricsPage>) -> Self {
        Self { host, settings, page }
    }

    /// Returns the response to a request; an error is a response, too.
    async fn respond(&self, mut head: RequestHead, body: Body) -> Result<Response, Response> {
        let trace = trace_of(&head);
        for policy in &self.settings.policies {
            match self.check(policy, &head, trace).await.map_err(response_of_error)? {
                Verdict::Allow => {}
                Verdict::AddHeaders(headers) => {
                    for (name, value) in headers {
                        head.headers.retain(|(known, _)| *known != name);
                        head.headers.push((name, value));
                    }
                }
                Verdict::Deny(response) => return Err(response_of_plugin(response)),
            }
        }
        // After the policies, so that a request that they deny is not a way to find routes.
        let name = head.route();
        let route = self.host.contract::<dyn Route>(name).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotProvided => plain(StatusCode::NOT_FOUND),
            _ => response_of_error(error),
        })?;
        let body = self.read(body).await.map_err(plain)?;
        // Pooled calls have the default deadline of the host's configuration.
        let mut route = route.pooled();
        if let Some(trace) = trace {
            route = route.with_trace(trace);
        }
        let response = route.handle(HttpRequest { head, body }).await;
        Ok(response_of_plugin(response.map_err(|error| response_of_error(error.into()))?))
    }

    /// Calls a policy. Without it, no request is passed on.
    async fn check(
        &self,
        policy: &str,
        head: &RequestHead,
        trace: Option<TraceContext>,
    ) -> Result<Verdict, Error> {
        let mut policy = self.host.contract::<dyn Policy>(policy)?.pooled();
        if let Some(trace) = trace {
            policy = policy.with_trace(trace);
        }
        Ok(policy.check(head).await?)
    }

    async fn read(&self, body: Body) -> Result<Vec<u8>, StatusCode> {
        let body = to_bytes(body, self.settings.max_body_bytes);
        match timeout(self.settings.body_timeout, body).await {
            Ok(Ok(bytes)) => Ok(bytes.into()),
            Ok(Err(error)) if is_too_large(&error) => Err(StatusCode::PAYLOAD_TOO_LARGE),
            Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
            Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
        }
    }
}

/// Responds to every request but those of metrics.
pub(crate) async fn handle(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let span = debug_span!("request", method = %parts.method, path = parts.uri.path());
    let Some(head) = head_of(&parts, client) else { return plain(StatusCode::BAD_REQUEST) };
    let responded = gateway.respond(head, body).instrument(span).await;
    let response = responded.unwrap_or_else(|refused| refused);
    gateway.page.count(response.status());
    response
}

/// Returns the head as plugins receive it, without the header that only policies set; `None` if a header is not text.
fn head_of(parts: &Parts, client: SocketAddr) -> Option<RequestHead> {
    let is_of_client = |(name, _): &(&HeaderName, &HeaderValue)| *name != USER;
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    Some(RequestHead {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers.iter().filter(is_of_client).map(header).collect::<Option<_>>()?,
        client: client.ip().to_string(),
    })
}

fn trace_of(head: &RequestHead) -> Option<TraceContext> {
    let (trace_id, span_id, flags) =
        hotbay_protocol::parse_traceparent(head.header("traceparent")?)?;
    Some(TraceContext { trace_id, span_id, flags })
}

fn is_too_large(error: &axum::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}
