//! Request routing: checks the token, selects the endpoint, calls the plugin.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Instant;

use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::body::{self, NotRead, Reply};
use super::call::{Heard, Limits};
use super::instance::Refused;
use super::life::Server;
use super::line::Line;
use super::presence::{Presence, Stay};
use super::program::Endpoint;
use super::{answers, batch};
use crate::context::{CallContext, RawContext};
use crate::export::panics::{Raised, guard};
use crate::{ContentType, Output, Payload, Plugin, Snapshot};

pub(super) static TOKEN: HeaderName = HeaderName::from_static("hotbay-token");
static SNAPSHOT_VERSION: HeaderName = HeaderName::from_static("hotbay-snapshot-version");

/// Marks a request as running; ended on drop.
struct Visit<'a> {
    line: &'a Line,
    presence: &'a Presence,
    /// Whether the request delays the idle timeout.
    counts: bool,
}

impl<'a> Visit<'a> {
    fn begin(line: &'a Line, presence: &'a Presence, counts: bool) -> Self {
        line.set_busy(true);
        if counts {
            presence.begin();
        }
        Self { line, presence, counts }
    }

    fn end(&mut self) -> Stay {
        self.line.set_busy(false);
        if std::mem::take(&mut self.counts) {
            self.presence.end(Instant::now())
        } else {
            self.presence.stay()
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // `end` is idempotent. Only this call runs it if the host dropped the connection.
        let _ = self.end();
    }
}

/// Handles a request.
pub(super) async fn answer<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    is_trusted: &Cell<bool>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    if let Some(token) = &server.token {
        let shown = request.headers().get(&TOKEN);
        if !shown.is_some_and(|shown| token.is(shown.as_bytes())) {
            let message = "invalid or missing header Hotbay-Token: expected the value of \
                           HOTBAY_TOKEN";
            let mut response = answers::refused(StatusCode::UNAUTHORIZED, message);
            answers::end_connection(response.headers_mut());
            return Ok(response);
        }
        is_trusted.set(true);
    }
    let mut visit = Visit::begin(line, &server.presence, request.uri().path() != "/healthz");
    let mut response = routed(server, line, request).await;
    if visit.end() == Stay::Leaves {
        answers::end_connection(response.headers_mut());
    }
    Ok(response)
}

async fn routed<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    request: Request<Incoming>,
) -> Response<Reply> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path == "/shutdown" {
        return shut_down(server);
    }
    let Some(endpoint) = server.endpoint(path) else {
        let message = format!("endpoint `{path}` not found");
        return answers::refused(StatusCode::NOT_FOUND, &message);
    };
    let wanted = endpoint.method();
    if parts.method != wanted {
        let message =
            format!("wrong method for `{path}`: expected {wanted}, found {}", parts.method);
        return answers::refused(StatusCode::METHOD_NOT_ALLOWED, &message);
    }
    let bytes = match body::read(body).await {
        Ok(bytes) => bytes,
        Err(NotRead::TooLarge) => return too_large(),
        Err(NotRead::CutOff) => {
            return answers::refused(StatusCode::BAD_REQUEST, "incomplete body");
        }
    };
    match endpoint {
        Route::Call(function) => match Heard::of(&parts.headers) {
            Ok(heard) => called(server, line, &heard, parts.headers, bytes, function),
            Err(mistake) => answers::refused(StatusCode::BAD_REQUEST, &mistake),
        },
        Route::Batch => match Heard::of(&parts.headers) {
            Ok(heard) => batch::answer(server, line, &heard, &bytes),
            Err(mistake) => answers::refused(StatusCode::BAD_REQUEST, &mistake),
        },
        Route::Health => health(server),
        Route::Snapshot => snapshot(server),
        Route::Restore => restore(server, &parts.headers, &bytes),
    }
}

/// The target of a path.
#[derive(Clone, Copy)]
pub(super) enum Route<T> {
    Call(Endpoint<T>),
    Batch,
    Health,
    Snapshot,
    Restore,
}

impl<T> Route<T> {
    fn method(&self) -> Method {
        match self {
            Self::Call(_) | Self::Batch | Self::Restore => Method::POST,
            Self::Health | Self::Snapshot => Method::GET,
        }
    }
}

impl<T: Plugin> Server<T> {
    fn endpoint(&self, path: &str) -> Option<Route<T>> {
        let name = path.strip_prefix('/')?;
        match name {
            "execute" => Some(Route::Call(T::execute)),
            "batch" => Some(Route::Batch),
            "healthz" => Some(Route::Health),
            "snapshot" => Some(Route::Snapshot),
            "restore" => Some(Route::Restore),
            _ => {
                let own = self.endpoints.iter().find(|(own, _)| *own == name);
                own.map(|(_, function)| Route::Call(*function))
            }
        }
    }
}

fn called<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    heard: &Heard,
    headers: HeaderMap,
    bytes: Bytes,
    function: Endpoint<T>,
) -> Response<Reply> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or(ContentType::BYTES);
    let input = Payload::bytes(&bytes).with_content_type(content_type);
    match call(server, line, heard, input, function) {
        Ok(output) => answers::output(output, headers),
        Err(NotDone::Raised(raised)) => answers::raised(&raised),
        Err(NotDone::Refused(refused)) => not_now(refused),
    }
}

/// Why a call returned no output.
pub(super) enum NotDone {
    Raised(Raised),
    Refused(Refused),
}

/// Runs one call on the current thread.
pub(super) fn call<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    heard: &Heard,
    input: Payload<'_>,
    function: Endpoint<T>,
) -> Result<Output, NotDone> {
    let plugin = server.instance.called().map_err(NotDone::Refused)?;
    let limits = Limits { line, until: heard.until };
    let context = RawContext::new(heard.call_id).with_trace(heard.trace.as_ref());
    let context = context.with_bounds(&limits);
    guarded(|| function(plugin, &CallContext::new(&context), input)).map_err(NotDone::Raised)
}

/// Runs code of the plugin; converts a panic into a failure.
pub(super) fn guarded<A>(
    body: impl FnOnce() -> Result<A, crate::PluginError>,
) -> Result<A, Raised> {
    let mut answer = None;
    guard::<true>(|| {
        answer = Some(body()?);
        Ok(())
    })?;
    Ok(answer.expect("set by the closure, since it did not fail"))
}

fn health<T: Plugin>(server: &Server<T>) -> Response<Reply> {
    let plugin = match server.instance.seen() {
        Ok(plugin) => plugin,
        Err(refused) => return not_now(refused),
    };
    match guarded(|| plugin.health()) {
        Ok(()) => answers::done(),
        Err(raised) => answers::not_healthy(&raised),
    }
}

fn snapshot<T: Plugin>(server: &Server<T>) -> Response<Reply> {
    let plugin = match server.instance.seen() {
        Ok(plugin) => plugin,
        Err(refused) => return not_now(refused),
    };
    let snapshot = match guarded(|| plugin.snapshot()) {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => return answers::done(),
        Err(raised) => return answers::raised(&raised),
    };
    let version = HeaderValue::from(snapshot.version());
    let mut response = answers::bytes(snapshot.into_bytes(), ContentType::BYTES);
    response.headers_mut().insert(&SNAPSHOT_VERSION, version);
    response
}

fn restore<T: Plugin>(server: &Server<T>, headers: &HeaderMap, bytes: &Bytes) -> Response<Reply> {
    let version = headers.get(&SNAPSHOT_VERSION).and_then(|value| value.to_str().ok());
    let Some(version) = version.and_then(|version| version.parse().ok()) else {
        let message = "invalid or missing header Hotbay-Snapshot-Version: expected a number";
        return answers::refused(StatusCode::BAD_REQUEST, message);
    };
    let snapshot = Snapshot::new(version, &bytes[..]);
    let restored = server.instance.alone(|plugin| guarded(|| plugin.restore(snapshot)));
    match restored {
        Ok(Ok(())) => answers::done(),
        Ok(Err(raised)) => answers::raised(&raised),
        Err(refused) => not_now(refused),
    }
}

fn shut_down<T>(server: &Server<T>) -> Response<Reply> {
    server.bell.ask_to_stop();
    let mut response = answers::done();
    answers::end_connection(response.headers_mut());
    response
}

fn too_large() -> Response<Reply> {
    let limit = body::BODY_BYTES_MAX >> 20;
    let message = format!("body too large: expected at most {limit} MiB");
    let mut response = answers::refused(StatusCode::PAYLOAD_TOO_LARGE, &message);
    answers::end_connection(response.headers_mut());
    response
}

pub(super) fn not_now(refused: Refused) -> Response<Reply> {
    answers::refused(StatusCode::CONFLICT, told(refused))
}

pub(super) fn told(refused: Refused) -> &'static str {
    match refused {
        Refused::Restoring => "a state is being restored; try again when it has finished",
        Refused::WasCalled => {
            "cannot restore a state after the first call; restart the program to restore one"
        }
        Refused::InUse => {
            "cannot restore a state while a health check or a snapshot is running; try again later"
        }
    }
}
