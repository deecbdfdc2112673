//! What the endpoints serve, and how a call of one is answered, whatever carries it.

use std::sync::Arc;
use std::time::Instant;

use hotbay_protocol::endpoint;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, Response, StatusCode};

use super::body::OutgoingBody;
use super::call::{CallError, CallHeaders, Endpoint, call};
use super::connections::Connection;
use super::contracts::{self, ServedMethod};
use super::responses;
use super::server::Server;
use super::stop::{ActivityTracker, KeepAlive};
use crate::context::RawContext;
use crate::{CallContext, ContentType, Payload, Plugin};

/// Marks a request as running until it is dropped.
pub(super) struct RunningRequest<'a> {
    connection: &'a Connection,
    activity: &'a ActivityTracker,
    /// Whether the request delays the idle timeout.
    counts_as_activity: bool,
}

impl<'a> RunningRequest<'a> {
    pub(super) fn begin(
        connection: &'a Connection,
        activity: &'a ActivityTracker,
        counts_as_activity: bool,
    ) -> Self {
        connection.set_busy(true);
        if counts_as_activity {
            activity.begin_call();
        }
        Self { connection, activity, counts_as_activity }
    }

    pub(super) fn end(&mut self) -> KeepAlive {
        self.connection.set_busy(false);
        if std::mem::take(&mut self.counts_as_activity) {
            self.activity.end_call(Instant::now())
        } else {
            self.activity.keep_alive()
        }
    }
}

impl Drop for RunningRequest<'_> {
    fn drop(&mut self) {
        // `end` is idempotent. Only this call runs it if the host dropped the connection.
        let _ = self.end();
    }
}

/// An open stream, which delays the idle timeout until it is dropped.
struct StreamActivity<T: 'static>(Arc<Server<T>>);

impl<T> StreamActivity<T> {
    fn begin(server: &Arc<Server<T>>) -> Self {
        server.activity.begin_call();
        Self(Arc::clone(server))
    }
}

impl<T> Drop for StreamActivity<T> {
    fn drop(&mut self) {
        let _ = self.0.activity.end_call(Instant::now());
    }
}

/// The target of an endpoint.
pub(super) enum Route<T: 'static> {
    Call(Endpoint<T>),
    /// A method of a contract.
    Method(&'static ServedMethod<T>),
    Batch,
    Health,
    Snapshot,
    Restore,
}

impl<T> Route<T> {
    pub(super) fn method(&self) -> Method {
        match self {
            Self::Call(_) | Self::Method(_) | Self::Batch | Self::Restore => Method::POST,
            Self::Health | Self::Snapshot => Method::GET,
        }
    }
}

impl<T: Plugin> Server<T> {
    /// Returns what an endpoint of this name serves.
    pub(super) fn route(&self, name: &str) -> Option<Route<T>> {
        match name {
            endpoint::EXECUTE => Some(Route::Call(T::execute)),
            endpoint::BATCH => Some(Route::Batch),
            endpoint::HEALTH => Some(Route::Health),
            endpoint::SNAPSHOT => Some(Route::Snapshot),
            endpoint::RESTORE => Some(Route::Restore),
            _ => {
                let own = self.functions.endpoints.iter().find(|(own, _)| *own == name);
                own.map(|(_, function)| Route::Call(*function))
                    .or_else(|| self.functions.contracts.method(name).map(Route::Method))
            }
        }
    }
}

/// Responds to a call of the plugin or of a method.
pub(super) fn respond_to_call<T: Plugin>(
    server: &Arc<Server<T>>,
    connection: &Arc<Connection>,
    call_headers: CallHeaders,
    headers: HeaderMap,
    bytes: &[u8],
    route: Route<T>,
) -> Response<OutgoingBody> {
    let function = match route {
        Route::Call(function) => function,
        Route::Method(method) => {
            let begin = || StreamActivity::begin(server);
            let instance = &server.instance;
            return contracts::respond(
                instance,
                begin,
                connection,
                call_headers,
                headers,
                bytes,
                method,
            );
        }
        Route::Batch | Route::Health | Route::Snapshot | Route::Restore => {
            return responses::rejected(StatusCode::NOT_FOUND, "not an endpoint for calls");
        }
    };
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or(ContentType::BYTES);
    let input = Payload::bytes(bytes).with_content_type(content_type);
    let run =
        |plugin: &T, context: &RawContext<'_>| function(plugin, &CallContext::new(context), input);
    match call(&server.instance, connection, &call_headers, run) {
        Ok(output) => responses::output(output, headers),
        Err(CallError::Failed(failure)) => responses::failed(&failure),
        Err(CallError::Rejected(error)) => responses::not_possible(error),
    }
}
