//! A client of the host's services over a second socket. One connection is kept open and used by
//! one thread at a time. A request takes at most two seconds.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::{Value, json};

use super::body::{self, Reply};
use super::{routes, stderr};
use crate::services::{LINE_BYTES_MAX, RawServices, Record, ServiceHost};
use crate::text;
use crate::wire::{Stream, block_on};
use crate::{ContentType, HostServices, Level, ServiceError};

/// Time limit of a request to the host.
const LINE_WAIT_MAX: Duration = Duration::from_secs(2);

static LOG_LEVEL: HeaderName = HeaderName::from_static("hotbay-log-level");

/// The host, if HOTBAY_HOST is set.
static HOST_OF_THIS: OnceLock<Host> = OnceLock::new();

/// The most verbose level that the host wants, from its last response.
static WANTED: AtomicU32 = AtomicU32::new(Level::Info as u32);

/// Returns the services of the host at `address`; without an address they are unavailable.
///
/// # Errors
///
/// A message for people if the address is invalid.
pub(super) fn services(address: Option<&str>, token: Option<&str>) -> Result<HostServices, String> {
    if let Some(text) = address {
        let address = Address::read(text).ok_or_else(|| {
            format!(
                "invalid HOTBAY_HOST: expected http+unix:///… or http://127.0.0.1:PORT, found `{text}`"
            )
        })?;
        let token = token.and_then(|token| HeaderValue::from_str(token).ok());
        let way = Mutex::new(Way::Free(None));
        let _ = HOST_OF_THIS.set(Host { address, token, way, is_free: Condvar::new() });
    }
    Ok(HostServices::new(RawServices::of::<Services>(0)))
}

/// Reports a panic on a thread that the plugin started: to the host, or else on stderr.
pub(super) fn thread_panicked(message: &str, location: &str) {
    if Services::thread_panicked(0, message, location).is_err() {
        let fault = json!({ "message": message, "location": location });
        let fields = [("fault".to_owned(), fault)].into_iter().collect();
        stderr::error("a thread that the plugin started panicked", fields);
    }
}

/// Updates the wanted log level from the headers of a response.
pub(super) fn hear(headers: &HeaderMap) {
    let level = headers.get(&LOG_LEVEL).and_then(|value| value.to_str().ok());
    if let Some(level) = level.and_then(|level| level.parse().ok()) {
        WANTED.store(level, Ordering::Relaxed);
    }
}

struct Services;

impl ServiceHost for Services {
    fn log(_: u64, record: &Record<'_>) -> Result<(), ServiceError> {
        let host = HOST_OF_THIS.get().ok_or(ServiceError::Unavailable)?;
        if record.level as u32 > Self::log_level(0) {
            return Ok(());
        }
        let fields = (!record.fields.is_empty())
            .then(|| serde_json::from_str::<Value>(record.fields).ok())
            .flatten();
        let line = json!({
            "level": record.level as u32,
            "target": record.target,
            "message": text::cut(record.message, LINE_BYTES_MAX),
            "fields": fields.unwrap_or_else(|| "".into()),
            "file": record.file,
            "line": record.line,
        });
        host.tell("/log", &line)
    }

    /// At least `Error`: errors are always sent, since their responses carry the wanted level.
    fn log_level(_: u64) -> u32 {
        WANTED.load(Ordering::Relaxed).max(Level::Error as u32)
    }

    fn thread_panicked(_: u64, message: &str, location: &str) -> Result<(), ServiceError> {
        let host = HOST_OF_THIS.get().ok_or(ServiceError::Unavailable)?;
        let message = text::cut(message, text::MESSAGE_BYTES_MAX);
        let body = json!({ "message": message, "location": location });
        host.tell("/thread-panicked", &body)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    fn read(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("http+unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        let address: SocketAddr =
            text.strip_prefix("http://")?.trim_end_matches('/').parse().ok()?;
        address.ip().is_loopback().then_some(Self::Tcp(address))
    }

    fn connect(&self, until: Instant) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => connect_unix(path),
            Self::Tcp(address) => {
                let left = until.saturating_duration_since(Instant::now());
                let left = left.max(Duration::from_millis(1));
                Stream::try_from(TcpStream::connect_timeout(address, left)?)
            }
        }
    }
}

/// Connects without blocking, even if the queue of the listener is full.
fn connect_unix(path: &Path) -> io::Result<Stream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Stream::try_from(std::os::unix::net::UnixStream::from(socket))
}

struct Host {
    address: Address,
    token: Option<HeaderValue>,
    way: Mutex<Way>,
    is_free: Condvar,
}

/// The connection to the host, if one is open; `InUse` while a thread has it.
enum Way {
    Free(Option<Link>),
    Away,
}

struct Link {
    sender: SendRequest<Reply>,
    connection: Pin<Box<Connection<Stream, Reply>>>,
}

impl Host {
    fn tell(&self, path: &'static str, body: &Value) -> Result<(), ServiceError> {
        let until = Instant::now() + LINE_WAIT_MAX;
        let mut held = self.take(until).ok_or(ServiceError::Unavailable)?;
        let body = body.to_string();
        let mut status = None;
        // A second attempt if the host had closed a connection that was kept open.
        for _ in 0..2 {
            let was_kept = held.link.is_some();
            if held.link.is_none() {
                held.link = self.connect(until);
            }
            let Some(link) = &mut held.link else { break };
            status = link.ask(self.request(path, &body), until);
            if status.is_some() {
                break;
            }
            held.link = None;
            if !was_kept {
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

    fn take(&self, until: Instant) -> Option<Held<'_>> {
        let mut way = self.lock();
        loop {
            if let Way::Free(link) = std::mem::replace(&mut *way, Way::Away) {
                return Some(Held { host: self, link });
            }
            let left = until.checked_duration_since(Instant::now())?;
            let waited = self.is_free.wait_timeout(way, left);
            way = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn connect(&self, until: Instant) -> Option<Link> {
        let stream = self.address.connect(until).ok()?;
        let (sender, connection) = block_on(Some(until), handshake(stream))?.ok()?;
        Some(Link { sender, connection: Box::pin(connection) })
    }

    fn request(&self, path: &'static str, body: &str) -> Request<Reply> {
        let mut request = Request::new(Reply::from(body.as_bytes().to_vec()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = hyper::Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("host"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(ContentType::JSON));
        if let Some(token) = &self.token {
            headers.insert(&routes::TOKEN, token.clone());
        }
        request
    }

    fn lock(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exclusive use of the connection, which is returned to its slot on drop.
struct Held<'a> {
    host: &'a Host,
    link: Option<Link>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.host.lock() = Way::Free(self.link.take());
        self.host.is_free.notify_one();
    }
}

impl Link {
    /// Sends one request; returns `None` if no response came, after which the connection is unusable.
    fn ask(&mut self, request: Request<Reply>, until: Instant) -> Option<StatusCode> {
        let Self { sender, connection } = self;
        let mut answer = std::pin::pin!(async {
            sender.ready().await.ok()?;
            let response = sender.send_request(request).await.ok()?;
            let (parts, mut body) = response.into_parts();
            while body::next(&mut body).await.ok()?.is_some() {}
            hear(&parts.headers);
            Some(parts.status)
        });
        let mut has_ended = false;
        let both = poll_fn(|context| {
            if !has_ended {
                has_ended = connection.as_mut().poll(context).is_ready();
            }
            match answer.as_mut().poll(context) {
                Poll::Ready(status) => Poll::Ready(status),
                Poll::Pending if has_ended => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        block_on(Some(until), both)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_address_is_a_socket_or_a_loopback_port() {
        assert_eq!(Address::read("http+unix:///a/b"), Some(Address::Unix("/a/b".into())));
        let tcp = Address::read("http://127.0.0.1:7");
        assert_eq!(tcp, Some(Address::Tcp(([127, 0, 0, 1], 7).into())));
        for wrong in ["", "/a/b", "http+unix://a", "http://10.0.0.1:7", "https://127.0.0.1:7"] {
            assert_eq!(Address::read(wrong), None, "{wrong}");
        }
    }
}
