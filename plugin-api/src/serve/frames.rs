//! Serves connections that were upgraded to frames: a thread for each reads a call, runs it, and
//! writes its reply, with one call of the system each.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hotbay_protocol::frame::{self, FrameBuffer, MAX_REQUEST_BYTES, ReplyHead, RequestHead};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};

use super::body::OutgoingBody;
use super::call::{CONTRACT_HASH, CallHeaders};
use super::connections::{Connection, ConnectionGuard};
use super::endpoints::{RunningRequest, respond_to_call};
use super::responses;
use super::server::Server;
use super::socket::{Socket, SocketIo};
use super::stop::KeepAlive;
use crate::wire::Spin;
use crate::{Plugin, TraceContext};

/// Time without a call after which a connection is closed, so that its thread exits.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns whether a request for the health asks for frames. Any other upgrade is ignored, as HTTP
/// requires.
pub(super) fn is_requested(headers: &HeaderMap) -> bool {
    let options = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let is_upgrade = |option: &str| option.trim().eq_ignore_ascii_case("upgrade");
    options.flat_map(|value| value.split(',')).any(is_upgrade)
        && headers.get(UPGRADE).is_some_and(|upgrade| upgrade == frame::UPGRADE)
}

/// A thread that waits for a connection.
#[derive(Debug)]
pub(super) struct FrameThread(Sender<Bytes>);

impl FrameThread {
    /// Spawns a thread for a connection, before the upgrade is accepted.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn spawn<T: Plugin>(
        server: &Arc<Server<T>>,
        guard: &Arc<ConnectionGuard>,
    ) -> io::Result<Self> {
        let (sender, received) = channel();
        let (server, guard) = (Arc::clone(server), Arc::clone(guard));
        let thread = thread::Builder::new().name("hotbay-frames".to_owned());
        thread.spawn(move || {
            if let Ok(received) = received.recv() {
                // The host sees errors of the connection, too.
                let _ = serve(&server, &guard.connection, received);
                guard.connection.socket().shut_down(Shutdown::Both);
            }
            // Before the guard: when that is gone, nothing of this connection refers to the server.
            drop(server);
            drop(guard);
        })?;
        Ok(Self(sender))
    }

    /// Lets the thread serve the connection, of which these bytes were already read.
    pub(super) fn begin(self, io: SocketIo, received: Bytes) {
        // Deregisters the socket.
        drop(io);
        let _ = self.0.send(received);
    }
}

/// Serves calls until the host closes the connection or this program stops.
fn serve<T: Plugin>(
    server: &Arc<Server<T>>,
    connection: &Arc<Connection>,
    received: Bytes,
) -> io::Result<()> {
    let socket = connection.socket();
    socket.set_blocking(IDLE_TIMEOUT)?;
    let mut buffer = FrameBuffer::new(&received);
    let (mut head, mut spin) = (Vec::new(), Spin::default());
    while let Some(request) = next_request(socket, &mut buffer, &mut spin)? {
        let mut running = RunningRequest::begin(connection, &server.activity, true);
        let (call_id, response) = respond(server, connection, request);
        buffer.release();
        let keep_alive = running.end();
        if keep_alive == KeepAlive::Close {
            // Before the reply, so that the host cannot send another call that is never read.
            socket.shut_down(Shutdown::Read);
        }
        write_reply(socket, &mut head, call_id, &response)?;
        if keep_alive == KeepAlive::Close {
            break;
        }
    }
    Ok(())
}

/// Runs the call of a frame. Returns its number, 0 if that is unknown.
fn respond<T: Plugin>(
    server: &Arc<Server<T>>,
    connection: &Arc<Connection>,
    request: &[u8],
) -> (u64, Response<OutgoingBody>) {
    match frame::split::<RequestHead<'_>>(request) {
        Some((head, body)) => (head.call_id, respond_to(server, connection, &head, body)),
        None => (0, responses::rejected(StatusCode::BAD_REQUEST, "invalid head of a frame")),
    }
}

fn respond_to<T: Plugin>(
    server: &Arc<Server<T>>,
    connection: &Arc<Connection>,
    head: &RequestHead<'_>,
    body: &[u8],
) -> Response<OutgoingBody> {
    let Some(route) = server.route(head.endpoint) else {
        let message = format!("endpoint `{}` not found", head.endpoint);
        return responses::rejected(StatusCode::NOT_FOUND, &message);
    };
    let Ok(content_type) = HeaderValue::from_str(head.content_type) else {
        return responses::rejected(StatusCode::BAD_REQUEST, "invalid content type");
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, content_type);
    if let Some(hash) = head.contract_hash {
        let hash = HeaderValue::try_from(format!("{hash:016x}")).expect("hexadecimal digits");
        headers.insert(&CONTRACT_HASH, hash);
    }
    let trace = head.trace;
    let call_headers = CallHeaders {
        call_id: head.call_id,
        trace: trace.map(|(trace_id, span_id, flags)| TraceContext { trace_id, span_id, flags }),
        deadline: head
            .deadline_ms
            .and_then(|left| Instant::now().checked_add(Duration::from_millis(left))),
    };
    respond_to_call(server, connection, call_headers, headers, body, route)
}

/// Writes a response as a frame.
fn write_reply(
    socket: &Socket,
    buffer: &mut Vec<u8>,
    call_id: u64,
    response: &Response<OutgoingBody>,
) -> io::Result<()> {
    let not_whole;
    let (response, body) = match response.body().whole() {
        Some(body) => (response, body),
        None => {
            let message = "a stream cannot be sent in frames";
            not_whole = responses::rejected(StatusCode::BAD_REQUEST, message);
            (&not_whole, not_whole.body().whole().unwrap_or_default())
        }
    };
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let head = ReplyHead {
        call_id,
        status: response.status().as_u16(),
        content_type: content_type.unwrap_or_default(),
    };
    buffer.clear();
    if frame::write_head(buffer, &head, body.len()).is_err() {
        return Err(io::Error::other("the output is longer than a frame can be"));
    }
    let mut parts = &mut [IoSlice::new(buffer), IoSlice::new(body)][..];
    while parts.iter().any(|part| !part.is_empty()) {
        match socket.write(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut parts, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the next request without its length; `None` at the end of the connection.
fn next_request<'b>(
    socket: &Socket,
    buffer: &'b mut FrameBuffer,
    spin: &mut Spin,
) -> io::Result<Option<&'b [u8]>> {
    while !buffer.has_frame(MAX_REQUEST_BYTES).map_err(|_| io::ErrorKind::InvalidData)? {
        let space = buffer.spare();
        let soon = spin.wait(|| match socket.try_read(space) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            read => Some(read),
        });
        match soon.unwrap_or_else(|| socket.read(space)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // From now on, the host cannot send. What it has sent before is still read.
                socket.shut_down(Shutdown::Read);
            }
            Ok(0) => return Ok(None),
            Ok(count) => buffer.fill(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(buffer.take_frame()))
}
