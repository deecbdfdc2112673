//! A handwritten alternative: a server in another process, and a client that keeps one connection,
//! without supervision, limits or counters.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};

use crate::process::this_program;

/// A server in another process, which exits when this is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts one on a runtime of this `kind`: `current` or `multi`.
    pub(super) fn start(dir: &Path, kind: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(dir)?;
        let socket = dir.path().join("bare.socket");
        let arguments = ["--child", "bare-server", &socket.display().to_string(), kind];
        let mut command = this_program(&arguments.map(str::to_owned))?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let server = Self { child, socket, _dir: dir };
        BufReader::new(stdout).read_line(&mut String::new())?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs as the server: prints a line when it listens, and exits when its stdin closes.
pub(crate) fn serve(socket: &Path, kind: &OsStr) -> anyhow::Result<()> {
    use tokio::runtime::Builder;
    let mut builder = match kind.to_str() {
        Some("current") => Builder::new_current_thread(),
        Some("multi") => Builder::new_multi_thread(),
        _ => bail!("unknown runtime `{}`", kind.display()),
    };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    builder.enable_io().build()?.block_on(async {
        let listener = UnixListener::bind(socket)?;
        println!("listening");
        loop {
            let (stream, _) = listener.accept().await?;
            let mut http = hyper::server::conn::http1::Builder::new();
            let connection = http
                .auto_date_header(false)
                .serve_connection(TokioIo::new(stream), service_fn(echo));
            tokio::spawn(connection);
        }
    })
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    let mut response = match body {
        Ok(body) => Response::new(Full::new(body.to_bytes())),
        Err(_) => Response::new(Full::default()),
    };
    let bytes = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, bytes);
    Ok(response)
}

/// A client with one connection, which a task of the runtime drives.
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    token: Option<HeaderValue>,
}

impl Client {
    /// Connects; must run inside a runtime.
    pub(super) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let io = TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(Self { sender, token: None })
    }

    pub(super) fn with_token(mut self, token: &str) -> anyhow::Result<Self> {
        self.token = Some(HeaderValue::from_str(token)?);
        Ok(self)
    }

    pub(super) async fn call(&mut self, body: &[u8]) -> anyhow::Result<Bytes> {
        self.send(Method::POST, "/execute", Bytes::copy_from_slice(body)).await
    }

    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> anyhow::Result<Bytes> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("unix"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Some(token) = &self.token {
            headers.insert("hotbay-token", token.clone());
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status() == StatusCode::OK, "unexpected status {}", response.status());
        Ok(response.into_body().collect().await?.to_bytes())
    }
}
