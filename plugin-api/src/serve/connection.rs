//! One connection, served on this thread until it ends.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::life::Server;
use super::line::Line;
use super::routes;
use crate::Plugin;
use crate::wire::block_on;

/// How long a connection may take to show the token.
const TOKEN_WAIT_MAX: Duration = Duration::from_secs(10);

enum Shown {
    Token,
    End,
}

/// Serves a connection; returns when it has ended.
pub(super) fn serve<T: Plugin>(server: &Server<T>, line: &Line) {
    let is_trusted = Cell::new(server.token.is_none());
    let service = service_fn(|request| routes::answer(server, line, &is_trusted, request));
    let mut http = http1::Builder::new();
    // A request that arrived before the connection was cut is answered all the same.
    http.auto_date_header(false).half_close(true);
    let mut connection = pin!(http.serve_connection(line.stream(), service));
    let shows = poll_fn(|context| match connection.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(Shown::End),
        Poll::Pending if is_trusted.get() => Poll::Ready(Shown::Token),
        Poll::Pending => Poll::Pending,
    });
    if let Some(Shown::Token) = block_on(Some(Instant::now() + TOKEN_WAIT_MAX), shows) {
        // How a connection ends is the other side's business.
        let _ = block_on(None, connection);
    }
}
