//! The host services of a child: a second socket in the launch folder, on which the child sends
//! requests to its host, with the same token.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hotbay_plugin::abi::{MAX_LINE_BYTES, Record};
use hotbay_plugin::{ContentType, Level, ServiceError};
use hotbay_protocol::{ErrorBody, LogRecord, ThreadPanic, header, service};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::contract_calls::{self, ContractCall, MAX_ARGUMENT_BYTES, MAX_CALLS, too_many};
use crate::http::TOKEN;
use crate::output::ObserverRef;

/// Concurrent connections per child: those of calls of contracts, and some for the log.
const MAX_CONNECTIONS: usize = MAX_CALLS + 16;

/// Limit of one request: a message and fields, with the overhead of JSON.
const MAX_BODY_BYTES: usize = 8 * MAX_LINE_BYTES;

/// Timeout for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The lowest recorded log level, sent in each response.
const LOG_LEVEL: HeaderName = HeaderName::from_static(header::LOG_LEVEL);

/// The socket of one launch; closed on drop.
#[derive(Debug)]
pub(crate) struct HostSocket(JoinHandle<()>);

impl Drop for HostSocket {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// EndpointKind the host's services at `path`, in a private folder.
pub(crate) fn serve(path: &Path, token: &str, observer: ObserverRef) -> io::Result<HostSocket> {
    let listener = UnixListener::bind(path)?;
    let token: Arc<str> = token.into();
    Ok(HostSocket(tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let calls = Arc::new(Semaphore::new(MAX_CALLS));
        // All of them are aborted with this task.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // Usually out of file descriptors, which may be released soon.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let (token, observer) = (Arc::clone(&token), Arc::clone(&observer));
            let calls = Arc::clone(&calls);
            connections.spawn(async move {
                let respond = service_fn(|request| {
                    let (token, observer) = (Arc::clone(&token), Arc::clone(&observer));
                    let calls = Arc::clone(&calls);
                    async move {
                        Ok::<_, Infallible>(respond(request, &token, &observer, &calls).await)
                    }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                // An error of the child's connection does not concern the host.
                let _ = server.serve_connection(TokioIo::new(stream), respond).await;
                drop(permit);
            });
        }
    })))
}

async fn respond(
    request: Request<Incoming>,
    token: &str,
    observer: &ObserverRef,
    calls: &Semaphore,
) -> Response<Full<Bytes>> {
    let given = request.headers().get(TOKEN).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_authorized = same(given, token.as_bytes());
    let (parts, body) = request.into_parts();
    // The body is read in any case: a child that is still writing would not read the response.
    let is_call = parts.uri.path().starts_with(service::CONTRACT);
    let max_bytes = if is_call && is_authorized { MAX_ARGUMENT_BYTES } else { MAX_BODY_BYTES };
    let body = Limited::new(body, max_bytes).collect().await.map(|body| body.to_bytes());
    if let (true, Ok(body)) = (is_authorized, &body)
        && let Some(call) = ContractCall::parse(parts.uri.path(), &parts.headers, body)
    {
        let result = match (call, calls.try_acquire()) {
            // A program that closes the connection cancels the call and returns the permit, though the
            // thread of the call may still run. Otherwise, calls that never return would block the
            // program forever. The host counts these threads until they exit, up to a higher limit.
            (Ok(call), Ok(_permit)) => observer.call_contract(call).await,
            (Ok(_), Err(_)) => Err(too_many()),
            (Err(error), _) => Err(error),
        };
        let (status, body) = contract_calls::response(result);
        return response(status, body, observer);
    }
    let (status, message) = match body {
        _ if !is_authorized => (
            StatusCode::UNAUTHORIZED,
            "invalid `Hotbay-Token`: it differs from the token of this launch",
        ),
        Ok(body) => dispatch(parts.uri.path(), &body, observer),
        Err(_) => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or incomplete"),
    };
    let code = status.as_u16();
    let body = serde_json::to_vec(&ErrorBody::rejected(code, message)).unwrap_or_default();
    response(status, body, observer)
}

fn response(status: StatusCode, body: Vec<u8>, observer: &ObserverRef) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(LOG_LEVEL, HeaderValue::from(observer.log_level()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(ContentType::JSON));
    response
}

/// Compares two tokens in constant time.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let differ = given.iter().zip(expected).fold(0, |differ, (one, other)| differ | (one ^ other));
    given.len() == expected.len() && differ == 0
}

fn dispatch(path: &str, body: &[u8], observer: &ObserverRef) -> (StatusCode, &'static str) {
    match path {
        service::LOG => match serde_json::from_slice::<LogRecord<'_>>(body) {
            Ok(line) => log(&line, observer),
            Err(_) => {
                (StatusCode::BAD_REQUEST, "invalid body: expected `level` (1 to 5) and `message`")
            }
        },
        service::THREAD_PANICKED => match serde_json::from_slice::<ThreadPanic<'_>>(body) {
            Ok(panic) => {
                observer.thread_panicked(&panic.message, &panic.location);
                (StatusCode::OK, "recorded")
            }
            Err(_) => (StatusCode::BAD_REQUEST, "invalid body: expected `message`"),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "not found; this socket serves `/log`, `/thread-panicked` and `/contract`",
        ),
    }
}

fn log(line: &LogRecord<'_>, observer: &ObserverRef) -> (StatusCode, &'static str) {
    let fields = match &line.fields {
        serde_json::Value::Object(fields) if !fields.is_empty() => line.fields.to_string(),
        serde_json::Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let logged = observer.log(&Record {
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
            (StatusCode::FORBIDDEN, "permission `log` is missing from the manifest's `permissions`")
        }
        Err(ServiceError::Closed) => (StatusCode::GONE, "the plugin has been stopped"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the plugin exceeds its log rate limit"),
    }
}
