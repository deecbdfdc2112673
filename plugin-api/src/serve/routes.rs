//! From a request to its answer: the token, the endpoint, the plugin.

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

/// A request that is on its way through.
struct Visit<'a> {
    line: &'a Line,
    presence: &'a Presence,
    /// Whether it keeps the program from being idle.
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
        // Again after `end`, which changes nothing; alone where the other side went away.
        let _ = self.end();
    }
}

/// Answers a request.
pub(super) async fn answer<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    is_trusted: &Cell<bool>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    if let Some(token) = &server.token {
        let shown = request.headers().get(&TOKEN);
        if !shown.is_some_and(|shown| token.is(shown.as_bytes())) {
            let message = "the header Hotbay-Token is missing or wrong; it has to be what this \
                           program got as HOTBAY_TOKEN";
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
        let message = format!("there is no endpoint `{path}`");
        return answers::refused(StatusCode::NOT_FOUND, &message);
    };
    let wanted = endpoint.method();
    if parts.method != wanted {
        let message = format!("`{path}` wants {wanted}, not {}", parts.method);
        return answers::refused(StatusCode::METHOD_NOT_ALLOWED, &message);
    }
    let bytes = match body::read(body).await {
        Ok(bytes) => bytes,
        Err(NotRead::TooLarge) => return too_large(),
        Err(NotRead::CutOff) => {
            return answers::refused(StatusCode::BAD_REQUEST, "the body was cut off");
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

/// Where a path leads.
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

/// Why a call has no output.
pub(super) enum NotDone {
    Raised(Raised),
    Refused(Refused),
}

/// Runs one call on this thread.
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

/// Runs code of the author's; what unwinds ends here.
pub(super) fn guarded<A>(
    body: impl FnOnce() -> Result<A, crate::PluginError>,
) -> Result<A, Raised> {
    let mut answer = None;
    guard::<true>(|| {
        answer = Some(body()?);
        Ok(())
    })?;
    Ok(answer.expect("the body has answered, since nothing was raised"))
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
        let message = "the header Hotbay-Snapshot-Version is missing or no number; it says which \
                       shape the state has";
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
    let message = format!("the body is longer than {limit} MiB; send less at once");
    let mut response = answers::refused(StatusCode::PAYLOAD_TOO_LARGE, &message);
    answers::end_connection(response.headers_mut());
    response
}

pub(super) fn not_now(refused: Refused) -> Response<Reply> {
    answers::refused(StatusCode::CONFLICT, told(refused))
}

pub(super) fn told(refused: Refused) -> &'static str {
    match refused {
        Refused::Restoring => "a state is just being restored; ask again when that has ended",
        Refused::WasCalled => {
            "a state is restored before the first call; start the program again to restore one"
        }
        Refused::InUse => "the plugin is just being looked at; restore when that has ended",
    }
}
