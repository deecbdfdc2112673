//! The way back to the host: a second socket in the launch folder, on which a child asks for what
//! its host does for plugins. The same token opens it.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hotbay_plugin::abi::{LINE_BYTES_MAX, Record};
use hotbay_plugin::{Level, ServiceError};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::http::TOKEN;
use super::program::ObserverRef;

/// Connections of one child at once.
const CONNECTIONS_MAX: usize = 16;

/// Bytes of one request: a message and fields, with what JSON adds to them.
const BODY_BYTES_MAX: usize = 8 * LINE_BYTES_MAX;

/// How long the head of a request may take.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// The least level that is expected, in each answer.
const LOG_LEVEL: HeaderName = HeaderName::from_static("hotbay-log-level");

/// The socket of one launch; closed when dropped.
#[derive(Debug)]
pub(super) struct HostSocket(JoinHandle<()>);

impl Drop for HostSocket {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Deserialize)]
struct Line {
    level: u32,
    #[serde(default)]
    target: String,
    message: String,
    #[serde(default)]
    fields: serde_json::Value,
    #[serde(default)]
    file: String,
    #[serde(default)]
    line: u32,
}

#[derive(Deserialize)]
struct ThreadPanic {
    message: String,
    #[serde(default)]
    location: String,
}

/// Serves the host's services at `path`, which lies in a private folder.
pub(super) fn serve(path: &Path, token: &str, overseer: ObserverRef) -> io::Result<HostSocket> {
    let listener = UnixListener::bind(path)?;
    let token: Arc<str> = token.into();
    Ok(HostSocket(tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        // All of them end with this task.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // Out of descriptors, as a rule: others may be given back.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let (token, overseer) = (Arc::clone(&token), Arc::clone(&overseer));
            connections.spawn(async move {
                let answer = service_fn(|request| {
                    let (token, overseer) = (Arc::clone(&token), Arc::clone(&overseer));
                    async move { Ok::<_, Infallible>(answer(request, &token, &overseer).await) }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX);
                // A child that breaks off is none of the host's business.
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                drop(place);
            });
        }
    })))
}

async fn answer(
    request: Request<Incoming>,
    token: &str,
    overseer: &ObserverRef,
) -> Response<Full<Bytes>> {
    let given = request.headers().get(TOKEN).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_known = same(given, token.as_bytes());
    let (parts, body) = request.into_parts();
    // Read in any case: who still writes would not hear the answer.
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let (status, message) = match body {
        _ if !is_known => {
            (StatusCode::UNAUTHORIZED, "the header `Hotbay-Token` is not the one of this launch")
        }
        Ok(body) => served(parts.uri.path(), &body.to_bytes(), overseer),
        Err(_) => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or did not come whole"),
    };
    let code = status.as_u16();
    let body = serde_json::json!({ "message": message, "statusCode": code }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(LOG_LEVEL, HeaderValue::from(overseer.log_level()));
    response
}

/// Compares in a time that does not tell where two tokens differ.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let differ = given.iter().zip(expected).fold(0, |differ, (one, other)| differ | (one ^ other));
    given.len() == expected.len() && differ == 0
}

fn served(path: &str, body: &[u8], overseer: &ObserverRef) -> (StatusCode, &'static str) {
    match path {
        "/log" => match serde_json::from_slice::<Line>(body) {
            Ok(line) => log(&line, overseer),
            Err(_) => (StatusCode::BAD_REQUEST, "expected `level` (1 to 5) and `message`"),
        },
        "/thread-panicked" => match serde_json::from_slice::<ThreadPanic>(body) {
            Ok(panic) => {
                overseer.thread_panicked(&panic.message, &panic.location);
                (StatusCode::OK, "heard")
            }
            Err(_) => (StatusCode::BAD_REQUEST, "expected `message`"),
        },
        _ => (StatusCode::NOT_FOUND, "the host serves `/log` and `/thread-panicked` here"),
    }
}

fn log(line: &Line, overseer: &ObserverRef) -> (StatusCode, &'static str) {
    let fields = match &line.fields {
        serde_json::Value::Object(fields) if !fields.is_empty() => line.fields.to_string(),
        serde_json::Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let logged = overseer.log(&Record {
        level: Level::from_code(line.level),
        target: &line.target,
        message: &line.message,
        fields: &fields,
        file: &line.file,
        line: line.line,
    });
    match logged {
        Ok(()) => (StatusCode::OK, "logged"),
        Err(ServiceError::Denied) => {
            (StatusCode::FORBIDDEN, "the manifest's `permissions` do not name `log`")
        }
        Err(ServiceError::Closed) => (StatusCode::GONE, "the plugin was stopped"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the plugin logs faster than it may"),
    }
}
