//! A client of the host's services over a second socket. One connection is kept open and used by
//! one thread at a time. A request takes at most two seconds; a
//! call of a contract has the deadline of its caller instead.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use hotbay_protocol::location::{TCP_PREFIX, UNIX_PREFIX};
use hotbay_protocol::{LogRecord, ThreadPanic, header, service};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{self, OutgoingBody};
use super::console;
use super::settings::TOKEN;
#[cfg(feature = "contracts")]
use crate::contract::{CallError, CallErrorKind};
use crate::services::{MAX_LINE_BYTES, RawServices, Record, ServiceHost};
use crate::wire::{Stream, block_on};
use crate::{ContentType, HostServices, Level, ServiceError, text};

/// Time limit of a request to the host.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

static LOG_LEVEL_HEADER: HeaderName = HeaderName::from_static(header::LOG_LEVEL);

/// The host, if HOTBAY_HOST is set.
static HOST_CLIENT: OnceLock<HostClient> = OnceLock::new();

/// The most verbose level that the host wants, from its last response.
static WANTED_LEVEL: AtomicU32 = AtomicU32::new(Level::Info as u32);

/// Returns the services of the host at `address`; without an address they are unavailable.
///
/// # Errors
///
/// A message for people if the address is invalid.
pub(super) fn services(address: Option<&str>, token: Option<&str>) -> Result<HostServices, String> {
    if let Some(text) = address {
        let address = Address::parse(text).ok_or_else(|| {
            format!(
                "invalid HOTBAY_HOST: expected http+unix:///… or http://127.0.0.1:PORT, found `{text}`"
            )
        })?;
        let token = token.and_then(|token| HeaderValue::from_str(token).ok());
        let slot = Mutex::new(Slot::Free(None));
        let _ = HOST_CLIENT.set(HostClient { address, token, slot, is_free: Condvar::new() });
    }

    Ok(HostServices::new(RawServices::of::<Services>(0)))
}

/// Reports a panic on a thread that the plugin started: to the host, or else on stderr.
pub(super) fn report_thread_panic(message: &str, location: &str) {
    if Services::thread_panicked(0, message, location).is_err() {
        let fault = json!({ "message": message, "location": location });
        let fields = [("fault".to_owned(), fault)].into_iter().collect();
        console::error("a thread that the plugin started panicked", fields);
    }
}

/// Updates the wanted log level from the headers of a response.
pub(super) fn update_wanted_level(headers: &HeaderMap) {
    let level = headers.get(&LOG_LEVEL_HEADER).and_then(|value| value.to_str().ok());
    if let Some(level) = level.and_then(|level| level.parse().ok()) {
        WANTED_LEVEL.store(level, Ordering::Relaxed);
    }
}

struct Services;

impl ServiceHost for Services {
    fn log(_: u64, record: &Record<'_>) -> Result<(), ServiceError> {
        let host = HOST_CLIENT.get().ok_or(ServiceError::Unavailable)?;
        if record.level as u32 > Self::log_level(0) {
            return Ok(());
        }
        let fields = (!record.fields.is_empty())
            .then(|| serde_json::from_str::<Value>(record.fields).ok())
            .flatten();
        let record = LogRecord {
            fields: fields.unwrap_or_else(|| "".into()),
            file: record.file.into(),
            level: record.level as u32,
            line: record.line,
            message: text::cut(record.message, MAX_LINE_BYTES),
            target: record.target.into(),
        };
        host.post(service::LOG, &record)
    }

    /// Returns at least `Error`: errors are always sent, since their responses carry the level.
    fn log_level(_: u64) -> u32 {
        WANTED_LEVEL.load(Ordering::Relaxed).max(Level::Error as u32)
    }

    fn thread_panicked(_: u64, message: &str, location: &str) -> Result<(), ServiceError> {
        let host = HOST_CLIENT.get().ok_or(ServiceError::Unavailable)?;
        let message = text::cut(message, text::MAX_MESSAGE_BYTES);
        host.post(service::THREAD_PANICKED, &ThreadPanic { location: location.into(), message })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        let address: SocketAddr =
            text.strip_prefix(TCP_PREFIX)?.trim_end_matches('/').parse().ok()?;
        address.ip().is_loopback().then_some(Self::Tcp(address))
    }

    fn connect(&self, deadline: Instant) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => Stream::try_connect_unix(path),
            Self::Tcp(address) => {
                let remaining = deadline.saturating_duration_since(Instant::now());
                let remaining = remaining.max(Duration::from_millis(1));
                Stream::try_from(TcpStream::connect_timeout(address, remaining)?)
            }
        }
    }
}

/// Returns the host, if HOTBAY_HOST is set.
#[cfg(feature = "contracts")]
pub(super) fn client() -> Option<&'static HostClient> {
    HOST_CLIENT.get()
}

pub(super) struct HostClient {
    address: Address,
    token: Option<HeaderValue>,
    slot: Mutex<Slot>,
    is_free: Condvar,
}

/// The kept connection to the host, if one is open. `InUse` while a thread uses it.
enum Slot {
    Free(Option<HostConnection>),
    InUse,
}

pub(super) struct HostConnection {
    sender: SendRequest<OutgoingBody>,
    connection: DrivenConnection,
}

impl HostClient {
    fn post(&self, path: &'static str, body: &impl Serialize) -> Result<(), ServiceError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut lease = self.acquire(deadline).ok_or(ServiceError::Unavailable)?;
        let body = serde_json::to_vec(body).expect("its only maps are those of `Value`");
        let mut status = None;
        // A second attempt if the host had closed a connection that was kept open.
        for _ in 0..2 {
            let was_open = lease.connection.is_some();
            if lease.connection.is_none() {
                lease.connection = self.connect(deadline);
            }
            let Some(connection) = &mut lease.connection else { break };
            status =
                connection.send(self.request_to(Uri::from_static(path), body.clone()), deadline);
            if status.is_some() {
                break;
            }
            lease.connection = None;
            if !was_open {
                break;
            }
        }
        match status {
            Some(StatusCode::OK) => Ok(()),
            Some(StatusCode::FORBIDDEN) => Err(ServiceError::Denied),
            Some(StatusCode::GONE) => Err(ServiceError::Closed),
            _ => Err(ServiceError::Unavailable),
        }
    }

    fn acquire(&self, deadline: Instant) -> Option<ConnectionLease<'_>> {
        let mut slot = self.lock();
        loop {
            if let Slot::Free(connection) = std::mem::replace(&mut *slot, Slot::InUse) {
                return Some(ConnectionLease { client: self, connection });
            }
            let remaining = deadline.checked_duration_since(Instant::now())?;
            let waited = self.is_free.wait_timeout(slot, remaining);
            slot = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn connect(&self, deadline: Instant) -> Option<HostConnection> {
        let stream = self.address.connect(deadline).ok()?;
        let (sender, connection) = block_on(Some(deadline), handshake(stream))?.ok()?;
        Some(HostConnection { sender, connection: Box::pin(connection) })
    }

    /// Returns a request with a JSON body.
    #[cfg(feature = "contracts")]
    pub(super) fn request(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Request<OutgoingBody>, CallError> {
        let uri = path.parse().map_err(|_| {
            let message = format!("invalid path of a method: `{path}`");
            CallError::new(CallErrorKind::InvalidInput, message)
        })?;
        Ok(self.request_to(uri, body))
    }

    fn request_to(&self, uri: Uri, body: Vec<u8>) -> Request<OutgoingBody> {
        let mut request = Request::new(OutgoingBody::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("host"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(ContentType::JSON));
        if let Some(token) = &self.token {
            headers.insert(&TOKEN, token.clone());
        }
        request
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exclusive use of the connection, which is returned to its slot on drop.
struct ConnectionLease<'a> {
    client: &'a HostClient,
    connection: Option<HostConnection>,
}

impl Drop for ConnectionLease<'_> {
    fn drop(&mut self) {
        *self.client.lock() = Slot::Free(self.connection.take());
        self.client.is_free.notify_one();
    }
}

type DrivenConnection = Pin<Box<Connection<Stream, OutgoingBody>>>;

impl HostConnection {
    #[cfg(feature = "contracts")]
    pub(super) fn into_parts(self) -> (SendRequest<OutgoingBody>, DrivenConnection) {
        (self.sender, self.connection)
    }

    /// Sends one request. Returns `None` if no response arrived: the connection is then unusable.
    fn send(&mut self, request: Request<OutgoingBody>, deadline: Instant) -> Option<StatusCode> {
        let Self { sender, connection } = self;
        let mut response = std::pin::pin!(async {
            sender.ready().await.ok()?;
            let response = sender.send_request(request).await.ok()?;
            let (parts, mut body) = response.into_parts();
            while body::next_part(&mut body).await.ok()?.is_some() {}
            update_wanted_level(&parts.headers);
            Some(parts.status)
        });
        let mut has_ended = false;
        let exchange = poll_fn(|context| {
            if !has_ended {
                has_ended = connection.as_mut().poll(context).is_ready();
            }
            match response.as_mut().poll(context) {
                Poll::Ready(status) => Poll::Ready(status),
                Poll::Pending if has_ended => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        block_on(Some(deadline), exchange)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_address_is_a_socket_or_a_loopback_port() {
        assert_eq!(Address::parse("http+unix:///a/b"), Some(Address::Unix("/a/b".into())));
        let tcp = Address::parse("http://127.0.0.1:7");
        assert_eq!(tcp, Some(Address::Tcp(([127, 0, 0, 1], 7).into())));
        for invalid in ["", "/a/b", "http+unix://a", "http://10.0.0.1:7", "https://127.0.0.1:7"] {
            assert_eq!(Address::parse(invalid), None, "{invalid}");
        }
    }
}
