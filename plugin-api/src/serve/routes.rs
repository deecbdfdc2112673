//! Serves one connection until it ends: checks the token of each request, selects the endpoint,
//! calls the plugin on the thread that polls.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use hotbay_protocol::{endpoint, frame, header};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::rt::Write as _;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};

use super::body::{BodyError, OutgoingBody};
use super::call::{CallHeaders, run_plugin};
use super::connections::{Connection, ConnectionGuard};
use super::endpoints::{Route, RunningRequest, respond_to_call};
use super::executor::Serving;
use super::frames::{self, FrameThread};
use super::server::Server;
use super::settings::TOKEN;
use super::socket::SocketIo;
use super::stop::KeepAlive;
use super::{batch, body, responses};
use crate::{ContentType, Plugin, Snapshot};

static SNAPSHOT_VERSION: HeaderName = HeaderName::from_static(header::SNAPSHOT_VERSION);

/// Returns a future that serves a connection until it has ended, or was upgraded. It blocks while
/// the plugin runs.
pub(super) fn serve<T: Plugin>(
    server: Arc<Server<T>>,
    guard: Arc<ConnectionGuard>,
    io: SocketIo,
) -> Serving {
    Box::pin(async move {
        let upgraded = OnceLock::new();
        let service = service_fn(|request| handle(&server, &guard, &upgraded, request));
        let mut http = http1::Builder::new();
        // A request that arrived before the other side closed its half is still answered.
        http.auto_date_header(false).half_close(true);
        // Errors of the connection need no handling: the host sees them too.
        let Ok(parts) = http.serve_connection(io, service).without_shutdown().await else { return };
        let Parts { mut io, read_buf, .. } = parts;
        match upgraded.into_inner() {
            Some(thread) => FrameThread::begin(thread, io, read_buf),
            None => _ = poll_fn(|context| Pin::new(&mut io).poll_shutdown(context)).await,
        }
    })
}

/// Handles a request.
async fn handle<T: Plugin>(
    server: &Arc<Server<T>>,
    guard: &Arc<ConnectionGuard>,
    upgraded: &OnceLock<FrameThread>,
    request: Request<Incoming>,
) -> Result<Response<OutgoingBody>, Infallible> {
    let connection = &guard.connection;
    if let Some(token) = &server.token {
        let given = request.headers().get(&TOKEN);
        if !given.is_some_and(|given| token.matches(given.as_bytes())) {
            let message = "invalid or missing header Hotbay-Token: expected the value of \
                           HOTBAY_TOKEN";
            let mut response = responses::rejected(StatusCode::UNAUTHORIZED, message);
            responses::close_connection(response.headers_mut());
            return Ok(response);
        }
        connection.set_authenticated();
    }
    let is_health = endpoint_of(request.uri().path()) == Some(endpoint::HEALTH);
    let may_upgrade = is_health && request.method() == Method::GET;
    if may_upgrade && frames::is_requested(request.headers()) {
        return Ok(match FrameThread::spawn(server, guard) {
            Ok(thread) => {
                let _ = upgraded.set(thread);
                responses::upgraded(frame::UPGRADE)
            }
            Err(error) => {
                let message = format!("cannot spawn a thread: {error}");
                responses::rejected(StatusCode::SERVICE_UNAVAILABLE, &message)
            }
        });
    }
    let mut running = RunningRequest::begin(connection, &server.activity, !is_health);
    let mut response = route(server, connection, request).await;
    if running.end() == KeepAlive::Close {
        responses::close_connection(response.headers_mut());
    }
    Ok(response)
}

/// Returns the name of the endpoint at a path.
fn endpoint_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')
}

async fn route<T: Plugin>(
    server: &Arc<Server<T>>,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Response<OutgoingBody> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if endpoint_of(path) == Some(endpoint::SHUTDOWN) {
        return shut_down(server);
    }
    let Some(route) = endpoint_of(path).and_then(|name| server.route(name)) else {
        let message = format!("endpoint `{path}` not found");
        return responses::rejected(StatusCode::NOT_FOUND, &message);
    };
    let expected = route.method();
    if parts.method != expected {
        let message =
            format!("wrong method for `{path}`: expected {expected}, found {}", parts.method);
        return responses::rejected(StatusCode::METHOD_NOT_ALLOWED, &message);
    }
    let bytes = match body::read(body).await {
        Ok(bytes) => bytes,
        Err(BodyError::TooLarge) => return too_large(),
        Err(BodyError::Incomplete) => {
            return responses::rejected(
                StatusCode::BAD_REQUEST,
                "the body could not be read to its end",
            );
        }
    };
    match route {
        Route::Call(_) | Route::Method(_) => match CallHeaders::parse(&parts.headers) {
            Ok(call_headers) => {
                respond_to_call(server, connection, call_headers, parts.headers, &bytes, route)
            }
            Err(message) => responses::rejected(StatusCode::BAD_REQUEST, &message),
        },
        Route::Batch => match CallHeaders::parse(&parts.headers) {
            Ok(call_headers) => batch::respond(server, connection, &call_headers, &bytes),
            Err(message) => responses::rejected(StatusCode::BAD_REQUEST, &message),
        },
        Route::Health => health(server),
        Route::Snapshot => snapshot(server),
        Route::Restore => restore(server, &parts.headers, &bytes),
    }
}

fn health<T: Plugin>(server: &Server<T>) -> Response<OutgoingBody> {
    let plugin = match server.instance.get() {
        Ok(plugin) => plugin,
        Err(error) => return responses::not_possible(error),
    };
    match run_plugin(|| plugin.health()) {
        Ok(()) => responses::empty(),
        Err(failure) => responses::unhealthy(&failure),
    }
}

fn snapshot<T: Plugin>(server: &Server<T>) -> Response<OutgoingBody> {
    let plugin = match server.instance.get() {
        Ok(plugin) => plugin,
        Err(error) => return responses::not_possible(error),
    };
    let snapshot = match run_plugin(|| plugin.snapshot()) {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => return responses::empty(),
        Err(failure) => return responses::failed(&failure),
    };
    let version = HeaderValue::from(snapshot.version());
    let mut response = responses::bytes(snapshot.into_bytes(), ContentType::BYTES);
    response.headers_mut().insert(&SNAPSHOT_VERSION, version);
    response
}

fn restore<T: Plugin>(
    server: &Server<T>,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Response<OutgoingBody> {
    let version = headers.get(&SNAPSHOT_VERSION).and_then(|value| value.to_str().ok());
    let Some(version) = version.and_then(|version| version.parse().ok()) else {
        let message = "invalid or missing header Hotbay-Snapshot-Version: expected a number";
        return responses::rejected(StatusCode::BAD_REQUEST, message);
    };
    let snapshot = Snapshot::new(version, &bytes[..]);
    let restored = server.instance.with_exclusive(|plugin| run_plugin(|| plugin.restore(snapshot)));
    match restored {
        Ok(Ok(())) => responses::empty(),
        Ok(Err(failure)) => responses::failed(&failure),
        Err(error) => responses::not_possible(error),
    }
}

fn shut_down<T>(server: &Server<T>) -> Response<OutgoingBody> {
    server.stop_signal.request_stop();
    let mut response = responses::empty();
    responses::close_connection(response.headers_mut());
    response
}

fn too_large() -> Response<OutgoingBody> {
    let limit = body::MAX_BODY_BYTES >> 20;
    let message = format!("body too large: expected at most {limit} MiB");
    let mut response = responses::rejected(StatusCode::PAYLOAD_TOO_LARGE, &message);
    responses::close_connection(response.headers_mut());
    response
}
