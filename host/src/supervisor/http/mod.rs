//! The HTTP client of one child: kept connections with one request at a time, and errors that state
//! whether an unanswered request may have run, which decides about retries.

mod connection;
mod counted;
mod kept;
mod pool;
mod response;
mod sharing;
mod socket;
mod terms;

use std::pin::{Pin, pin};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::http::uri::InvalidUri;
use hyper::{Method, Uri};

use super::location::Location;
use connection::Connection;
pub(super) use connection::{Async, Blocking, Transport};
pub(super) use counted::Counts;
use kept::Keep;
use pool::Pool;
pub(super) use response::{Delivery, HttpResponse, RequestError, RequestErrorKind};
use sharing::{GIVE_WAY_EVERY, SUSPECT_AFTER, Sharing};
pub(super) use terms::{add_headers, may_run_twice, method};

/// A request to a child.
#[derive(Clone, Debug)]
pub(super) struct HttpRequest {
    pub(super) method: Method,
    /// Without the leading slash.
    pub(super) endpoint: String,
    pub(super) content_type: HeaderValue,
    pub(super) body: Bytes,
    /// Deadline for the response; passed to the child, and enforced by the caller's wait.
    pub(super) deadline: Option<Instant>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) max_response_bytes: u64,
}

impl HttpRequest {
    /// Limit of a response to `/healthz`.
    const MAX_HEALTH_BYTES: u64 = 64 << 10;

    /// Returns a health request.
    pub(super) fn health() -> Self {
        Self {
            method: Method::GET,
            endpoint: "healthz".to_owned(),
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::new(),
            deadline: None,
            headers: Vec::new(),
            max_response_bytes: Self::MAX_HEALTH_BYTES,
        }
    }
}

/// Milliseconds until the deadline.
const DEADLINE: HeaderName = HeaderName::from_static("hotbay-deadline-ms");
/// The token that authenticates the host.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("hotbay-token");
pub(super) const CALL_ID: HeaderName = HeaderName::from_static("hotbay-call-id");
pub(super) const TRACE: HeaderName = HeaderName::from_static("traceparent");
pub(super) const SNAPSHOT_VERSION: HeaderName = HeaderName::from_static("hotbay-snapshot-version");

/// The client of one child.
pub(super) struct Client {
    location: Location,
    /// `None` if no token is sent.
    token: Option<HeaderValue>,
    blocking: Pool<Blocking>,
    tasks: Pool<Async>,
    sharing: Sharing,
}

impl Client {
    /// Creates a client without connections.
    pub(super) fn new(location: Location, token: Option<HeaderValue>) -> Self {
        let (blocking, tasks) = (Pool::default(), Pool::default());
        Self { location, token, blocking, tasks, sharing: Sharing::new() }
    }

    /// Sends a request, on a kept connection if possible. A kept one may have been closed
    /// meanwhile: a request that was not sent on it is sent on a new one.
    pub(super) async fn send<W: Transport>(
        &self,
        http_request: &HttpRequest,
    ) -> Result<HttpResponse, RequestError> {
        let pool = W::pool(self);
        while let Some(mut kept) = pool.take() {
            match kept.exchange(self.request(http_request)?, http_request.max_response_bytes).await
            {
                Ok(response) => {
                    self.put::<W>(kept);
                    return Ok(response);
                }
                Err(error) if error.kind != RequestErrorKind::Disconnected => return Err(error),
                Err(error) => {
                    // The others were idle for at least as long, or will be closed for the same
                    // reason.
                    self.close_idle();
                    if error.delivery != Delivery::NotSent {
                        return Err(error);
                    }
                }
            }
        }
        self.send_on_new_connection::<W>(http_request).await
    }

    /// Opens a connection that is not kept.
    pub(super) async fn connect<W: Transport>(&self) -> Result<Connection<W::Io>, RequestError> {
        W::connect(&self.location, &self.sharing).await
    }

    /// Sends a request on a new connection.
    pub(super) async fn send_on_new_connection<W: Transport>(
        &self,
        http_request: &HttpRequest,
    ) -> Result<HttpResponse, RequestError> {
        if self.sharing.is_full() {
            self.close_idle();
        }
        let request = self.request(http_request)?;
        let waiting = self.sharing.wait();
        let mut fresh = self.connect::<W>().await?;
        let exchanged = {
            let exchange = pin!(fresh.exchange(request, http_request.max_response_bytes));
            self.exchange_with_priority::<W, _>(exchange).await
        };
        let response = exchanged?;
        if self.sharing.may_be_more() {
            // The child may have closed the idle ones.
            self.blocking.close_unusable();
            self.tasks.close_unusable();
            self.sharing.prove();
        }
        drop(waiting);
        self.put::<W>(fresh);
        Ok(response)
    }

    /// Waits for an exchange on a new connection. Closes other connections if they may prevent the
    /// child from reading it.
    async fn exchange_with_priority<W: Transport, F: Future + Send>(
        &self,
        mut exchange: Pin<&mut F>,
    ) -> F::Output {
        let mut check_at = Instant::now() + SUSPECT_AFTER;
        let mut is_first = true;
        loop {
            if let Some(exchanged) = W::timeout_at(check_at, exchange.as_mut()).await {
                return exchanged;
            }
            if !is_first {
                self.sharing.give_way();
            }
            if self.sharing.suspects() || !is_first {
                self.close_idle();
            }
            is_first = false;
            check_at = Instant::now() + GIVE_WAY_EVERY;
        }
    }

    /// Keeps a connection, unless the child forbids that or a waiting request needs it closed.
    fn put<W: Transport>(&self, connection: Connection<W::Io>) {
        let until = match connection.keep() {
            Keep::No => return,
            _ if self.sharing.has_to_close() => return,
            Keep::Open => None,
            Keep::Until(until) => Some(until),
        };
        W::pool(self).put(connection, until);
    }

    /// Closes all connections without a request in flight.
    fn close_idle(&self) {
        self.blocking.clear();
        self.tasks.clear();
    }

    pub(super) fn location(&self) -> &Location {
        &self.location
    }

    pub(super) fn token(&self) -> Option<&HeaderValue> {
        self.token.as_ref()
    }

    /// Builds the HTTP message of a request.
    pub(super) fn request(
        &self,
        http_request: &HttpRequest,
    ) -> Result<hyper::Request<Full<Bytes>>, RequestError> {
        let uri = uri(&http_request.endpoint).map_err(|error| {
            RequestError::unsent(format!(
                "`{}` is not a valid endpoint: {error}",
                http_request.endpoint
            ))
        })?;
        let mut request = hyper::Request::new(Full::new(http_request.body.clone()));
        *request.method_mut() = http_request.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.reserve(8);
        headers.insert(HOST, HeaderValue::from_static("unix"));
        // Without a body, a content type makes no sense.
        let is_bodiless = matches!(http_request.method, Method::GET | Method::HEAD)
            && http_request.body.is_empty();
        if !is_bodiless {
            headers.insert(CONTENT_TYPE, http_request.content_type.clone());
        }
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if let Some(token) = &self.token {
            headers.insert(TOKEN, token.clone());
        }
        if let Some(deadline) = http_request.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            headers.insert(DEADLINE, HeaderValue::from(left));
        }
        for (at, (name, value)) in http_request.headers.iter().enumerate() {
            // The first one replaces a default, such as `Accept`.
            if http_request.headers[..at].iter().any(|(before, _)| before == name) {
                headers.append(name.clone(), value.clone());
            } else {
                headers.insert(name.clone(), value.clone());
            }
        }
        Ok(request)
    }
}

/// Returns whether a request can be sent to an endpoint of this name.
pub(super) fn is_endpoint(endpoint: &str) -> bool {
    uri(endpoint).is_ok()
}

fn uri(endpoint: &str) -> Result<Uri, InvalidUri> {
    let mut path = String::with_capacity(endpoint.len() + 1);
    path.push('/');
    path.push_str(endpoint.trim_start_matches('/'));
    Uri::try_from(path)
}
