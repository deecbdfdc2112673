//! Serves one connection on the current thread until it ends.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::connections::Connection;
use super::lifecycle::Server;
use super::routes;
use crate::Plugin;
use crate::wire::block_on;

/// Time in which a connection must send a valid token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

enum Progress {
    Authenticated,
    Ended,
}

/// Serves a connection; returns when it has ended.
pub(super) fn serve<T: Plugin>(server: &Server<T>, connection: &Connection) {
    let is_authenticated = Cell::new(server.token.is_none());
    let service =
        service_fn(|request| routes::handle(server, connection, &is_authenticated, request));
    let mut http = http1::Builder::new();
    // A request that arrived before the other side closed its half is still answered.
    http.auto_date_header(false).half_close(true);
    let mut served = pin!(http.serve_connection(connection.stream(), service));
    let authenticate = poll_fn(|context| match served.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(Progress::Ended),
        Poll::Pending if is_authenticated.get() => Poll::Ready(Progress::Authenticated),
        Poll::Pending => Poll::Pending,
    });
    let progress = block_on(Some(Instant::now() + TOKEN_TIMEOUT), authenticate);
    if let Some(Progress::Authenticated) = progress {
        // Errors of the connection need no handling: the host sees them too.
        let _ = block_on(None, served);
    }
}
