//! The client: kept connections to one child, one request at a time on each, and what became of
//! a request that was not answered: whether it surely did not run decides who may send it again.

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

/// What a child is asked.
#[derive(Clone, Debug)]
pub(super) struct HttpRequest {
    pub(super) method: Method,
    /// Without the leading slash.
    pub(super) endpoint: String,
    pub(super) content_type: HeaderValue,
    pub(super) body: Bytes,
    /// Until then the answer is expected; told to the child, and kept to by whoever waits.
    pub(super) deadline: Option<Instant>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) answer_bytes_max: u64,
}

impl HttpRequest {
    /// Bytes of an answer to `/healthz`.
    const HEALTH_BYTES_MAX: u64 = 64 << 10;

    /// Whether the child can work.
    pub(super) fn health() -> Self {
        Self {
            method: Method::GET,
            endpoint: "healthz".to_owned(),
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::new(),
            deadline: None,
            headers: Vec::new(),
            answer_bytes_max: Self::HEALTH_BYTES_MAX,
        }
    }
}

/// Milliseconds that are left, for the child.
const DEADLINE: HeaderName = HeaderName::from_static("hotbay-deadline-ms");
/// What lets the host in.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("hotbay-token");
pub(super) const CALL_ID: HeaderName = HeaderName::from_static("hotbay-call-id");
pub(super) const TRACE: HeaderName = HeaderName::from_static("traceparent");
pub(super) const SNAPSHOT_VERSION: HeaderName = HeaderName::from_static("hotbay-snapshot-version");

/// The client of one child.
pub(super) struct Client {
    location: Location,
    /// None: it is left out.
    token: Option<HeaderValue>,
    blocking: Pool<Blocking>,
    tasks: Pool<Async>,
    sharing: Sharing,
}

impl Client {
    /// A client without connections yet.
    pub(super) fn new(location: Location, token: Option<HeaderValue>) -> Self {
        let (here, tasks) = (Pool::default(), Pool::default());
        Self { location, token, blocking: here, tasks, sharing: Sharing::new() }
    }

    /// Asks, on a kept connection if there is one. A kept one may have been closed meanwhile:
    /// what was not sent on it is sent on a new one.
    pub(super) async fn send<W: Transport>(
        &self,
        ask: &HttpRequest,
    ) -> Result<HttpResponse, RequestError> {
        let pool = W::pool(self);
        while let Some(mut kept) = pool.take() {
            match kept.exchange(self.request(ask)?, ask.answer_bytes_max).await {
                Ok(answer) => {
                    self.put::<W>(kept);
                    return Ok(answer);
                }
                Err(broken) if broken.kind != RequestErrorKind::Disconnected => return Err(broken),
                Err(broken) => {
                    // The others were idle for as long, or will be closed for the same reason.
                    self.close_idle();
                    if broken.delivery != Delivery::NotSent {
                        return Err(broken);
                    }
                }
            }
        }
        self.send_on_new_connection::<W>(ask).await
    }

    /// Opens a connection that is not kept.
    pub(super) async fn connect<W: Transport>(&self) -> Result<Connection<W::Io>, RequestError> {
        W::connect(&self.location, &self.sharing).await
    }

    /// Asks on a new connection.
    pub(super) async fn send_on_new_connection<W: Transport>(
        &self,
        ask: &HttpRequest,
    ) -> Result<HttpResponse, RequestError> {
        if self.sharing.is_full() {
            self.close_idle();
        }
        let request = self.request(ask)?;
        let waiting = self.sharing.wait();
        let mut fresh = self.connect::<W>().await?;
        let exchanged = {
            let exchange = pin!(fresh.exchange(request, ask.answer_bytes_max));
            self.not_starved::<W, _>(exchange).await
        };
        let answer = exchanged?;
        if self.sharing.may_be_more() {
            // The child may have closed those that are idle.
            self.blocking.close_unusable();
            self.tasks.close_unusable();
            self.sharing.prove();
        }
        drop(waiting);
        self.put::<W>(fresh);
        Ok(answer)
    }

    /// Waits for an exchange on a new connection; closes others where they may keep the child from
    /// reading it.
    async fn not_starved<W: Transport, F: Future + Send>(
        &self,
        mut exchange: Pin<&mut F>,
    ) -> F::Output {
        let mut look_at = Instant::now() + SUSPECT_AFTER;
        let mut is_first = true;
        loop {
            if let Some(exchanged) = W::timeout_at(look_at, exchange.as_mut()).await {
                return exchanged;
            }
            if !is_first {
                self.sharing.give_way();
            }
            if self.sharing.suspects() || !is_first {
                self.close_idle();
            }
            is_first = false;
            look_at = Instant::now() + GIVE_WAY_EVERY;
        }
    }

    /// Keeps a connection, unless that is not expected by the child or by a request that waits.
    fn put<W: Transport>(&self, connection: Connection<W::Io>) {
        let until = match connection.keep() {
            Keep::No => return,
            _ if self.sharing.has_to_close() => return,
            Keep::Open => None,
            Keep::Until(until) => Some(until),
        };
        W::pool(self).put(connection, until);
    }

    /// Closes all connections on which no request is under way.
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

    /// What `ask` is on the wire.
    pub(super) fn request(
        &self,
        ask: &HttpRequest,
    ) -> Result<hyper::Request<Full<Bytes>>, RequestError> {
        let uri = uri(&ask.endpoint).map_err(|error| {
            RequestError::unsent(format!("`{}` is not a valid endpoint: {error}", ask.endpoint))
        })?;
        let mut request = hyper::Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.reserve(8);
        headers.insert(HOST, HeaderValue::from_static("unix"));
        // Without a body there is nothing that it could be the type of.
        let is_bodiless = matches!(ask.method, Method::GET | Method::HEAD) && ask.body.is_empty();
        if !is_bodiless {
            headers.insert(CONTENT_TYPE, ask.content_type.clone());
        }
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if let Some(token) = &self.token {
            headers.insert(TOKEN, token.clone());
        }
        if let Some(deadline) = ask.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            headers.insert(DEADLINE, HeaderValue::from(left));
        }
        for (at, (name, value)) in ask.headers.iter().enumerate() {
            // The first takes the place of what is usual, such as `Accept`.
            if ask.headers[..at].iter().any(|(before, _)| before == name) {
                headers.append(name.clone(), value.clone());
            } else {
                headers.insert(name.clone(), value.clone());
            }
        }
        Ok(request)
    }
}

/// Whether a request can be sent to an endpoint of this name.
pub(super) fn is_endpoint(endpoint: &str) -> bool {
    uri(endpoint).is_ok()
}

fn uri(endpoint: &str) -> Result<Uri, InvalidUri> {
    let mut path = String::with_capacity(endpoint.len() + 1);
    path.push('/');
    path.push_str(endpoint.trim_start_matches('/'));
    Uri::try_from(path)
}
