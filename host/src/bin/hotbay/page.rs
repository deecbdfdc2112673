//! The page of `hotbay run --metrics`: a host's figures in the format of Prometheus.
//! Served on one thread of its own, to few at once; reads no bodies, and keeps nobody waiting
//! for it to end.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hotbay::metrics::Exporter;
use hotbay::{CancellationToken, Host};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::failure::Failure;

const PATH: &str = "/metrics";
/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// How long a request may take to come.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take from its beginning to its end.
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// After the system had no connection to give, as when there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// From 100 ns to 10 s: a call into a plugin takes less than a microsecond, a slow one seconds.
const BUCKETS: [f64; 25] = [
    1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3,
    5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// An address that is taken for a page, before there is a host to tell of.
#[derive(Debug)]
pub(crate) struct Place {
    listener: TcpListener,
    address: SocketAddr,
}

/// Takes an address; port 0 takes any that is free.
pub(crate) fn take(address: SocketAddr) -> Result<Place, Failure> {
    let failed = |error: io::Error| {
        let message = format!("cannot serve metrics on {address}; is the port taken?");
        Failure::io(message, &error)
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Place { listener, address })
}

/// A page that is served until this is dropped.
#[derive(Debug)]
pub(crate) struct Page {
    ended: CancellationToken,
    /// None once it was joined.
    thread: Option<JoinHandle<()>>,
}

impl Place {
    /// What to tell of it.
    pub(crate) fn told(&self) -> Vec<String> {
        let address = self.address;
        let mut told = vec![format!("metrics: http://{address}{PATH}")];
        if !address.ip().to_canonical().is_loopback() {
            told.push(format!("note: {address} can be reached from other machines"));
        }
        told
    }

    /// Serves the figures of `host`.
    pub(crate) fn serve(self, host: Host) -> Result<Page, Failure> {
        let failed = |error: io::Error| Failure::io("cannot serve metrics", &error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let source = Arc::new(Source::new(host));
        let ended = CancellationToken::new();
        let until = ended.clone();
        let thread = thread::Builder::new().name("hotbay-page".to_owned());
        let thread = thread
            .spawn(move || serve(&runtime, self.listener, &until, &source))
            .map_err(failed)?;
        Ok(Page { ended, thread: Some(thread) })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.ended.cancel();
        if let Some(thread) = self.thread.take() {
            // A page that panicked is gone, which is what is wanted.
            let _ = thread.join();
        }
    }
}

/// Where the text of the page comes from.
struct Source {
    host: Host,
    exporter: Mutex<Exporter>,
    recorder: PrometheusRecorder,
}

impl Source {
    fn new(host: Host) -> Self {
        let of_calls = Matcher::Full(Exporter::DURATION.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(of_calls, &BUCKETS)
            .expect("there are buckets")
            .build_recorder();
        Self { host, exporter: Mutex::default(), recorder }
    }

    fn text(&self) -> String {
        let mut exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        exporter.export(&self.host.stats(), &self.recorder);
        self.recorder.handle().render()
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let is_get = request.method() == Method::GET;
        let (status, text) = match (request.uri().path(), is_get) {
            (PATH, true) => (StatusCode::OK, self.text()),
            (PATH, false) => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, format!("the metrics are at {PATH}\n")),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let of_prometheus = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, of_prometheus);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}

/// Serves until it is told to end; connections that are open then end with the runtime.
fn serve(
    runtime: &Runtime,
    listener: TcpListener,
    until: &CancellationToken,
    source: &Arc<Source>,
) {
    runtime.block_on(async {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(until.run_until_cancelled(accept(&listener, source)).await),
            Err(error) => tracing::error!(%error, "the metrics page is not served"),
        }
    });
}

async fn accept(listener: &tokio::net::TcpListener, source: &Arc<Source>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&room).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = Arc::clone(source);
                tokio::spawn(async move {
                    connection(stream, &source).await;
                    drop(place);
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// One request and its answer. Whoever is too slow is cut off.
async fn connection(stream: TcpStream, source: &Source) {
    let answer = service_fn(async |request| Ok::<_, Infallible>(source.answer(&request)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT_MAX)
        .max_buf_size(REQUEST_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    // What goes wrong is the other end's.
    let _ = timeout(CONNECTION_WAIT_MAX, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_with_its_real_port_and_who_can_reach_it() {
        let loopback = take(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let port = loopback.address.port();
        assert_ne!(port, 0);
        assert_eq!(loopback.told(), [format!("metrics: http://127.0.0.1:{port}/metrics")]);
        let open = take(SocketAddr::from(([0, 0, 0, 0], 0))).expect("a free port");
        assert!(open.told()[1].ends_with(" can be reached from other machines"));
        let taken = take(loopback.address).expect_err("it is taken");
        assert!(taken.lines()[0].contains(&format!("127.0.0.1:{port}; is the port taken?")));
    }
}
