//! The HTTP client of one child: kept connections with one request at a time.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{fmt, io};

use hotbay_protocol::frame::RequestHead;
use hyper::header::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;

use crate::connection::{Async, Connection, Keep, Pools, Transport};
use crate::error::{Error, ErrorKind, Failure};
use crate::frames::FrameConnection;
use crate::http::{Delivery, HttpRequest, HttpResponse, RequestError, RequestErrorKind};
use crate::location::Location;
use crate::peer::Peer;
use crate::sharing::{GIVE_WAY_EVERY, SUSPECT_AFTER, Sharing};
use crate::socket::Counts;
use crate::stream::{ItemLines, OpenResponse};

/// The client of one child.
pub struct Client {
    location: Location,
    peer: Peer,
    /// `None` if no token is sent.
    token: Option<HeaderValue>,
    pools: Pools,
    sharing: Sharing,
    /// Whether the child has refused to upgrade a connection to frames.
    refuses_frames: AtomicBool,
    /// The host's runtime.
    timers: Handle,
}

impl Client {
    /// Creates a client without connections that connects only to this peer. Must be called inside the
    /// host's runtime.
    pub(crate) fn of_peer(location: Location, peer: Peer, token: Option<HeaderValue>) -> Self {
        let (pools, sharing) = (Pools::default(), Sharing::new());
        let refuses_frames = AtomicBool::new(false);
        Self { location, peer, token, pools, sharing, refuses_frames, timers: Handle::current() }
    }

    /// Creates a client without connections for the same location and peer, with another token. Must
    /// be called inside the host's runtime.
    pub fn with_token(&self, token: Option<HeaderValue>) -> Self {
        Self::of_peer(self.location.clone(), self.peer.clone(), token)
    }

    /// Opens a socket to the location, for bytes that are not HTTP.
    ///
    /// # Errors
    ///
    /// The error of the system; `PermissionDenied` if a confined program does not listen there itself.
    pub async fn open_socket(
        &self,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let counts = Counts::default();
        let socket = Async::open(&self.location, &self.peer, &counts, &self.timers).await?;
        Ok(socket.into_inner())
    }

    /// Sends a call in a frame, on a kept connection if possible. Returns `None`, without having sent
    /// it, if the child refuses frames, or too many such connections are in use.
    pub(crate) async fn send_frame<W: Transport>(
        &self,
        head: &RequestHead<'_>,
        body: &[u8],
        max_response_bytes: u64,
    ) -> Result<Option<HttpResponse>, RequestError> {
        let pool = W::frame_pool(&self.pools);
        loop {
            let (mut connection, is_kept) = match pool.take() {
                Some(kept) => (kept, true),
                None => match self.open_frames::<W>().await? {
                    Some(fresh) => (fresh, false),
                    None => return Ok(None),
                },
            };
            match connection.exchange(head, body, max_response_bytes, W::expect_reply).await {
                Ok(response) => {
                    if !self.sharing.has_to_close() {
                        pool.put(connection);
                    }
                    return Ok(Some(response));
                }
                // The others were closed for the same reason.
                Err(error) if is_kept && error.delivery == Delivery::NotSent => pool.clear(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a connection and upgrades it to frames; `None` if that is not possible.
    async fn open_frames<W: Transport>(
        &self,
    ) -> Result<Option<FrameConnection<W::Io>>, RequestError> {
        // A TCP socket accepts a call after the child has stopped reading, which would be lost.
        let is_unix = matches!(self.location, Location::Unix(_));
        if !is_unix || self.refuses_frames.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(permit) = W::frame_pool(&self.pools).permit(W::MAX_FRAME_CONNECTIONS) else {
            return Ok(None);
        };
        if self.sharing.is_full() {
            self.close_idle();
        }
        let request = HttpRequest::upgrade_to_frames(self.token.as_ref())?;
        let waiting = self.sharing.wait();
        let connection = self.connect::<W>().await?;
        let upgraded = {
            let upgrade = pin!(connection.upgrade(request));
            self.exchange_with_priority::<W, _>(upgrade).await
        };
        drop(waiting);
        let upgraded = upgraded.map_err(RequestError::of_upgrade)?;
        let Some((mut io, received, open)) = upgraded else {
            self.refuses_frames.store(true, Ordering::Relaxed);
            return Ok(None);
        };
        if !received.is_empty() {
            let early = RequestError::invalid_frame("a reply before the first request");
            return Err(RequestError::of_upgrade(early));
        }
        W::expect_replies(&mut io).map_err(RequestError::unsent)?;
        Ok(Some(FrameConnection::new(io, open, permit)))
    }

    /// Sends a request, on a kept connection if possible. A kept one may have been closed
    /// meanwhile: a request that was not sent on it is sent on a new one.
    pub(crate) async fn send<W: Transport>(
        &self,
        http_request: &HttpRequest,
    ) -> Result<HttpResponse, RequestError> {
        let pool = W::pool(&self.pools);
        while let Some(mut kept) = pool.take() {
            let request = http_request.to_message(self.token.as_ref())?;
            match kept.exchange(request, http_request.max_response_bytes).await {
                Ok(response) => {
                    self.put::<W>(kept);
                    return Ok(response);
                }
                Err(error) if error.kind != RequestErrorKind::Disconnected => return Err(error),
                Err(error) => {
                    // The others were idle for about as long, or will be closed for the same reason.
                    self.close_idle();
                    if error.delivery != Delivery::NotSent {
                        return Err(error);
                    }
                }
            }
        }
        self.send_on_new_connection::<W>(http_request).await
    }

    /// Sends a request in a task of a runtime.
    ///
    /// # Errors
    ///
    /// States whether the request may have run.
    pub async fn request(&self, http_request: &HttpRequest) -> Result<HttpResponse, RequestError> {
        self.send::<Async>(http_request).await
    }

    /// Sends a request for a stream of items, of which each has at most `max_response_bytes`. Must be
    /// polled in the host's runtime.
    ///
    /// # Errors
    ///
    /// The failure of the program that answers with another response, or of the connection.
    pub async fn open_stream(&self, http_request: &HttpRequest) -> Result<ItemLines, Failure> {
        let response = self.open_response(http_request).await;
        let response =
            response.map_err(|error| Error::new(ErrorKind::Disconnected, error.message))?;
        response.into_items(http_request.max_response_bytes, self.timers.clone()).await
    }

    /// Opens a connection that is not kept.
    ///
    /// # Errors
    ///
    /// Fails if the child does not accept it.
    pub async fn open(&self) -> Result<OpenConnection, RequestError> {
        let connection = self.connect::<Async>().await?;
        Ok(OpenConnection { connection, token: self.token.clone() })
    }

    async fn connect<W: Transport>(&self) -> Result<Connection<W::Io>, RequestError> {
        W::connect(&self.location, &self.peer, &self.sharing, &self.timers).await
    }

    /// Sends a request on a new connection.
    pub(crate) async fn send_on_new_connection<W: Transport>(
        &self,
        http_request: &HttpRequest,
    ) -> Result<HttpResponse, RequestError> {
        if self.sharing.is_full() {
            self.close_idle();
        }
        let request = http_request.to_message(self.token.as_ref())?;
        let waiting = self.sharing.wait();
        let mut fresh = self.connect::<W>().await?;
        let exchanged = {
            let exchange = pin!(fresh.exchange(request, http_request.max_response_bytes));
            self.exchange_with_priority::<W, _>(exchange).await
        };
        let response = exchanged?;
        if self.sharing.may_be_more() {
            // The child may have closed the idle ones.
            self.pools.close_unusable();
            self.sharing.prove();
        }
        drop(waiting);
        self.put::<W>(fresh);
        Ok(response)
    }

    /// Sends a request on a new connection, and returns its response before its body.
    pub(crate) async fn open_response(
        &self,
        http_request: &HttpRequest,
    ) -> Result<OpenResponse, RequestError> {
        if self.sharing.is_full() {
            self.close_idle();
        }
        let request = http_request.to_message(self.token.as_ref())?;
        let waiting = self.sharing.wait();
        let mut fresh = self.connect::<Async>().await?;
        let response = {
            let sending = pin!(fresh.send(request));
            self.exchange_with_priority::<Async, _>(sending).await?
        };
        drop(waiting);
        let (parts, body) = response.into_parts();
        let body = fresh.into_body(body);
        Ok(OpenResponse { status: parts.status, headers: parts.headers, body })
    }

    /// Waits for an exchange on a new connection. Closes other connections if they may prevent the
    /// child from reading it.
    async fn exchange_with_priority<W: Transport, F: Future + Send>(
        &self,
        mut exchange: Pin<&mut F>,
    ) -> F::Output {
        let mut check_at = Instant::now() + SUSPECT_AFTER;
        let mut is_first = true;
        loop {
            if let Some(exchanged) = W::timeout_at(&self.timers, check_at, exchange.as_mut()).await
            {
                return exchanged;
            }
            if !is_first {
                self.sharing.give_way();
            }
            if self.sharing.suspects() || !is_first {
                self.close_idle();
            }
            is_first = false;
            check_at = Instant::now() + GIVE_WAY_EVERY;
        }
    }

    /// Keeps a connection, unless the child forbids that or a waiting request needs it closed.
    fn put<W: Transport>(&self, connection: Connection<W::Io>) {
        let until = match connection.keep() {
            Keep::No => return,
            _ if self.sharing.has_to_close() => return,
            Keep::Open => None,
            Keep::Until(until) => Some(until),
        };
        W::pool(&self.pools).put(connection, until);
    }

    /// Closes all connections without a request in flight.
    fn close_idle(&self) {
        self.pools.clear();
    }

    /// Returns where the child listens.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Returns the token that is sent.
    pub fn token(&self) -> Option<&HeaderValue> {
        self.token.as_ref()
    }
}

impl fmt::Debug for Client {
    /// Omits the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("location", &self.location).finish_non_exhaustive()
    }
}

/// A connection that is used by one caller.
pub struct OpenConnection {
    connection: Connection<<Async as Transport>::Io>,
    token: Option<HeaderValue>,
}

impl OpenConnection {
    /// Sends a request and waits for the whole response.
    ///
    /// # Errors
    ///
    /// States whether the request may have run.
    pub async fn request(
        &mut self,
        http_request: &HttpRequest,
    ) -> Result<HttpResponse, RequestError> {
        let request = http_request.to_message(self.token.as_ref())?;
        self.connection.exchange(request, http_request.max_response_bytes).await
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConnection").finish_non_exhaustive()
    }
}
