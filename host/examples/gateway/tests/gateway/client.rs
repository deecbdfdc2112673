//! An HTTP client with one connection.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Runs a future, with I/O, for at most two minutes.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(120), future).await };
    runtime.block_on(limited).expect("finished in time")
}

/// A connection.
pub(crate) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends a request, and returns the response with its whole body.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<String>, hyper::Error> {
        self.0.ready().await?;
        let (parts, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(parts, String::from_utf8(body.into()).unwrap()))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Response<String>, hyper::Error> {
        self.send(get(path)).await
    }
}

/// Returns a request without a body or headers.
pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "gateway").body(Full::default()).unwrap()
}

/// Sends a request on its own connection.
pub(crate) fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<String> {
    block_on(async { Client::connect(address).await.send(request).await.unwrap() })
}

/// Requests a path on its own connection; returns status and body.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> (StatusCode, String) {
    let response = send(address, get(path));
    (response.status(), response.into_body())
}
