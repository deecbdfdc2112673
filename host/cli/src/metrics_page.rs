//! The page of `hotbay run --metrics`: a host's metrics in the Prometheus text format. Serves a
//! bounded number of connections on a separate thread, and reads no request bodies.

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
/// Maximum number of open connections. Others wait to be accepted.
const MAX_CONNECTIONS: usize = 16;
/// Time for a request to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a connection in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a request.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// Pause after an error of `accept`, such as too many open files.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// From 100 ns to 10 s: a fast call into a library takes less than 1 µs, a slow call seconds.
const BUCKETS: [f64; 25] = [
    1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3,
    5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A socket that is bound before the host exists.
#[derive(Debug)]
pub(crate) struct BoundPage {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds an address; port 0 selects a free port.
pub(crate) fn bind(address: SocketAddr) -> Result<BoundPage, Failure> {
    let failed = |error: io::Error| {
        let failure = Failure::io(format!("cannot serve metrics on {address}"), &error);
        failure.with_hint("choose another address or port; port 0 selects a free port")
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(BoundPage { listener, address })
}

/// A page that is served until this is dropped.
#[derive(Debug)]
pub(crate) struct MetricsPage {
    stop: CancellationToken,
    /// `None` after it was joined.
    thread: Option<JoinHandle<()>>,
}

impl BoundPage {
    /// Returns the messages that announce the page.
    pub(crate) fn messages(&self) -> Vec<String> {
        let address = self.address;
        let mut messages = vec![format!("metrics: http://{address}{PATH}")];
        if !address.ip().to_canonical().is_loopback() {
            messages.push(format!("note: {address} can be reached from other machines"));
        }
        messages
    }

    /// Serves the metrics of `host`.
    pub(crate) fn serve(self, host: Host) -> Result<MetricsPage, Failure> {
        let failed = |error: io::Error| Failure::io("cannot serve metrics", &error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let source = Arc::new(Source::new(host));
        let stop = CancellationToken::new();
        let until = stop.clone();
        let thread = thread::Builder::new().name("hotbay-metrics".to_owned());
        let thread = thread
            .spawn(move || serve(&runtime, self.listener, &until, &source))
            .map_err(failed)?;
        Ok(MetricsPage { stop, thread: Some(thread) })
    }
}

impl Drop for MetricsPage {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has stopped too.
            let _ = thread.join();
        }
    }
}

/// Renders the page.
struct Source {
    host: Host,
    exporter: Mutex<Exporter>,
    recorder: PrometheusRecorder,
}

impl Source {
    fn new(host: Host) -> Self {
        let durations = Matcher::Full(Exporter::DURATION.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(durations, &BUCKETS)
            .expect("the list of buckets is not empty")
            .build_recorder();
        Self { host, exporter: Mutex::default(), recorder }
    }

    fn text(&self) -> String {
        let mut exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        exporter.export(&self.host.stats(), &self.recorder);
        self.recorder.handle().render()
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let is_get = request.method() == Method::GET;
        let (status, text) = match (request.uri().path(), is_get) {
            (PATH, true) => (StatusCode::OK, self.text()),
            (PATH, false) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method not allowed; expected GET\n".to_owned())
            }
            _ => (StatusCode::NOT_FOUND, format!("not found; the metrics are at {PATH}\n")),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}

/// Serves until `until` is cancelled. Open connections are dropped with the runtime.
fn serve(
    runtime: &Runtime,
    listener: TcpListener,
    until: &CancellationToken,
    source: &Arc<Source>,
) {
    runtime.block_on(async {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(until.run_until_cancelled(accept(&listener, source)).await),
            Err(error) => tracing::error!(%error, "cannot serve metrics"),
        }
    });
}

async fn accept(listener: &tokio::net::TcpListener, source: &Arc<Source>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = Arc::clone(source);
                tokio::spawn(async move {
                    connection(stream, &source).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(RETRY_DELAY).await,
        }
    }
}

/// Serves one request, with time limits.
async fn connection(stream: TcpStream, source: &Source) {
    let service = service_fn(async |request| Ok::<_, Infallible>(source.respond(&request)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_REQUEST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // An error concerns this client only.
    let _ = timeout(CONNECTION_TIMEOUT, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_contain_real_port_and_reachability() {
        let loopback = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let port = loopback.address.port();
        assert_ne!(port, 0);
        assert_eq!(loopback.messages(), [format!("metrics: http://127.0.0.1:{port}/metrics")]);
        let open = bind(SocketAddr::from(([0, 0, 0, 0], 0))).expect("a free port");
        assert!(open.messages()[1].ends_with(" can be reached from other machines"));
        let failure = bind(loopback.address).expect_err("the port is in use");
        let message = format!("error: cannot serve metrics on 127.0.0.1:{port}");
        assert_eq!(failure.lines()[0], message);
    }
}
