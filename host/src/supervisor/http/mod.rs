//! The client: kept connections to one child, one request at a time on each, and what became of
//! a request that was not answered: whether it surely did not run decides who may send it again.

mod answer;
mod connection;
mod counted;
mod pool;

use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Uri};

use super::location::Location;
pub(super) use answer::{Answer, Broken, Ran, Why};
pub(super) use connection::{Here, OnTasks, Way};
use pool::Pool;

/// What a child is asked.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Without the leading slash.
    pub(super) endpoint: String,
    pub(super) content_type: HeaderValue,
    pub(super) body: Bytes,
    /// Until then the answer is wanted; told to the child, and kept to by whoever waits.
    pub(super) deadline: Option<Instant>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) answer_bytes_max: u64,
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
    here: Pool<Here>,
    tasks: Pool<OnTasks>,
}

impl Client {
    /// A client without connections yet.
    pub(super) fn new(location: Location, token: Option<HeaderValue>) -> Self {
        Self { location, token, here: Pool::default(), tasks: Pool::default() }
    }

    /// Asks, on a kept connection if there is one. A kept one may have been closed meanwhile:
    /// what was not sent on it is sent on a new one.
    pub(super) async fn ask<W: Way>(&self, ask: &Ask) -> Result<Answer, Broken> {
        let pool = W::pool(self);
        while let Some(mut kept) = pool.take() {
            match kept.exchange(self.request(ask)?, ask.answer_bytes_max).await {
                Ok(answer) => {
                    pool.put(kept);
                    return Ok(answer);
                }
                Err(Broken { ran: Ran::No, .. }) => {}
                Err(broken) => return Err(broken),
            }
        }
        let mut fresh = W::connect(&self.location).await?;
        let answer = fresh.exchange(self.request(ask)?, ask.answer_bytes_max).await?;
        pool.put(fresh);
        Ok(answer)
    }

    pub(super) fn location(&self) -> &Location {
        &self.location
    }

    pub(super) fn token(&self) -> Option<&HeaderValue> {
        self.token.as_ref()
    }

    /// What `ask` is on the wire.
    pub(super) fn request(&self, ask: &Ask) -> Result<hyper::Request<Full<Bytes>>, Broken> {
        let mut path = String::with_capacity(ask.endpoint.len() + 1);
        path.push('/');
        path.push_str(ask.endpoint.trim_start_matches('/'));
        let uri = Uri::try_from(path).map_err(|error| {
            Broken::unsent(format!("`{}` is no endpoint: {error}", ask.endpoint))
        })?;
        let mut request = hyper::Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.reserve(8);
        headers.insert(HOST, HeaderValue::from_static("unix"));
        headers.insert(CONTENT_TYPE, ask.content_type.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if let Some(token) = &self.token {
            headers.insert(TOKEN, token.clone());
        }
        if let Some(deadline) = ask.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            headers.insert(DEADLINE, HeaderValue::from(left));
        }
        for (name, value) in &ask.headers {
            headers.insert(name.clone(), value.clone());
        }
        Ok(request)
    }
}
