//! Steps that send what unauthorized clients, proxies and failing hosts send: no token, two
//! requests on one connection, an unknown endpoint, half a request, bytes that are not HTTP.

use std::time::Duration;

use hotbay_process::Diagnosis;
use hotbay_process::unsupervised::{HttpResponse, RequestError, token as random};
use hotbay_protocol::endpoint;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::kit::{RESPONSE_TIMEOUT, RawRequest, Sample, TestKit, error_body, shown};
use crate::report::{Outcome, StepFailure, failed};

/// The longest response read when its content does not matter.
const MAX_SMALL_BYTES: u64 = 1 << 20;

/// Sends requests without the token, and with a wrong one.
pub(crate) async fn token(kit: &TestKit) -> Outcome {
    let endpoint = kit.ours().map(|_| kit.call_endpoint())?;
    let client = kit.live()?.client();
    let other = HeaderValue::from_static("0123456789abcdef0123456789abcdef");
    for (given, token) in [("without the token", None), ("with a wrong token", Some(other))] {
        let requests =
            [RawRequest::get(endpoint::HEALTH), RawRequest::post(&endpoint, Sample::empty())];
        for request in requests {
            let line = format!("`{} /{}` {given}", request.method, request.endpoint);
            let stranger = client.with_token(token.clone());
            let response = timeout(RESPONSE_TIMEOUT, stranger.request(&request.into_http())).await;
            let found = match response {
                Ok(Ok(response)) if response.status == StatusCode::UNAUTHORIZED => continue,
                Ok(Ok(response)) => format!("returned {}", response.status.as_u16()).into(),
                Ok(Err(error)) => format!("was not answered: {}", error.message).into(),
                Err(_) => timed_out(kit).await,
            };
            return failed(found.map_message(|found| {
                format!(
                    "{line} {found}; expected 401: a program started with HOTBAY_TOKEN compares \
                     the header `Hotbay-Token` with it on every path"
                )
            }));
        }
    }
    Ok("401 without the token and with a wrong one".to_owned())
}

/// Sends two requests on one connection.
pub(crate) async fn keep_alive(kit: &TestKit) -> Outcome {
    let client = kit.live()?.client();
    let exchanges = async {
        let mut http_request = RawRequest::get(endpoint::HEALTH).into_http();
        http_request.max_response_bytes = MAX_SMALL_BYTES;
        let mut connection = client.open().await?;
        let response = connection.request(&http_request).await?;
        Ok((response, connection.request(&http_request).await))
    };
    let expected = "expected HTTP/1.1 with persistent connections: otherwise the host connects for \
                    every call";
    match timeout(RESPONSE_TIMEOUT, exchanges).await {
        Ok(Ok((_, Ok(second)))) if second.status == StatusCode::OK => {
            Ok("two requests were answered on one connection".to_owned())
        }
        Ok(Ok((_, Ok(second)))) => failed(format!(
            "the second request on a connection returned {}; expected 200, as for the first \
             request, which was the same",
            second.status.as_u16()
        )),
        Ok(Ok((_, Err(error)))) => {
            failed(format!("the connection ended after one request: {}; {expected}", error.message))
        }
        Ok(Err::<_, RequestError>(error)) => {
            failed(format!("a new connection was not answered: {}", error.message))
        }
        Err(_) => failed(timed_out(kit).await.map_message(|timed_out| {
            format!("two requests on a new connection {timed_out}; {expected}")
        })),
    }
}

/// Explains why a new connection got no response: the connection kept by the host may still get
/// one.
async fn timed_out(kit: &TestKit) -> Diagnosis {
    let Ok(started) = kit.live() else { return "timed out".into() };
    let http_request = RawRequest::get(endpoint::HEALTH).into_http();
    match timeout(RESPONSE_TIMEOUT, started.client().request(&http_request)).await {
        Ok(Ok(_)) => Diagnosis::new(
            "timed out, although the connection kept by the host is served: the program serves \
             one connection at a time",
            "serve each connection on its own thread or task",
        ),
        _ => "timed out".into(),
    }
}

/// Sends a request to an endpoint that does not exist.
pub(crate) async fn unknown_endpoint(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let name = random().map_err(|error| StepFailure::Failed(error.to_string().into()))?;
    let endpoint = format!("hotbay-check-{name}");
    let response = kit.send(RawRequest::post(&endpoint, Sample::empty())).await?;
    if is_refusal(&response, StatusCode::NOT_FOUND) {
        return Ok("404".to_owned());
    }
    failed(format!(
        "`POST /{endpoint}` returned {} with {}; expected 404 with \
         {{\"message\":\"…\",\"statusCode\":404}}",
        response.status.as_u16(),
        shown(&response.body)
    ))
}

/// Returns whether a request was rejected with this status, and a body in the documented form.
pub(crate) fn is_refusal(response: &HttpResponse, status: StatusCode) -> bool {
    let body = error_body(&response.body);
    response.status == status
        && body["message"].is_string()
        && body["statusCode"] == status.as_u16()
}

/// Closes a connection in the middle of a request head, and another in the middle of a body.
pub(crate) async fn half_request(kit: &TestKit) -> Outcome {
    let head = format!("POST /{} HTTP/1.1\r\nHost: unix\r\n", kit.call_endpoint());
    let with_token = match kit.token() {
        Some(token) => format!("{head}Hotbay-Token: {token}\r\nContent-Length: 1000\r\n\r\nhalf"),
        None => format!("{head}Content-Length: 1000\r\n\r\nhalf"),
    };
    for (sent, what) in [(head, "half a request head"), (with_token, "half a request body")] {
        send_and_disconnect(kit, sent.as_bytes()).await?;
        still_serves(kit, what).await?;
    }
    Ok("the program survives peers that disconnect in the middle of a request".to_owned())
}

/// Sends bytes that are not HTTP.
pub(crate) async fn malformed(kit: &TestKit) -> Outcome {
    let long = [b"GET /".as_slice(), &[b'x'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    let all: [(&str, &[u8]); 5] = [
        ("a line that is not an HTTP request", b"hello, world?\r\n\r\n"),
        (
            "bytes of another protocol",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\xff\r\n\r\n",
        ),
        (
            "an invalid `Content-Length`",
            b"POST /execute HTTP/1.1\r\nHost: unix\r\nContent-Length: many\r\n\r\n",
        ),
        ("a header without a colon", b"GET /healthz HTTP/1.1\r\nHost: unix\r\nno colon\r\n\r\n"),
        ("a path of 100 kB", &long),
    ];
    for (what, bytes) in all {
        send_and_disconnect(kit, bytes).await?;
        still_serves(kit, what).await?;
    }
    Ok(format!("the program survives {} kinds of invalid HTTP", all.len()))
}

/// Sends bytes, reads a little of the response, and closes the connection.
async fn send_and_disconnect(kit: &TestKit, bytes: &[u8]) -> Result<(), StepFailure> {
    /// Time to wait for a response to invalid bytes.
    const INVALID_RESPONSE_TIMEOUT: Duration = Duration::from_millis(100);
    let client = kit.live()?.client();
    let Ok(Ok(mut socket)) = timeout(RESPONSE_TIMEOUT, client.open_socket()).await else {
        return failed("a new connection was not accepted");
    };
    let exchange = async {
        // The program may close the connection before it has read everything.
        let _ = socket.write_all(bytes).await;
        let _ = socket.read(&mut [0; 4096]).await;
    };
    let _ = timeout(INVALID_RESPONSE_TIMEOUT, exchange).await;
    Ok(())
}

async fn still_serves(kit: &TestKit, after: &str) -> Result<(), StepFailure> {
    if kit.still_serves().await {
        return Ok(());
    }
    failed(format!(
        "after {after} it no longer answers `/healthz` on a new connection; expected only the \
         connection with the invalid bytes to end"
    ))
}
