//! How a program takes what strangers, proxies and unlucky hosts send: without the token, on one
//! connection, to nowhere, half, and as no HTTP at all.

use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::super::http::{Async, Client, Counts, HttpResponse, RequestError, Transport as _};
use super::super::random;
use super::answers::shown;
use super::kit::{RawRequest, TestKit};
use super::{ANSWER_WAIT_MAX, Outcome, Sample, StepFailure, failed};

/// Bytes of an answer that is not wanted for what it says.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// A request without the token, and with another.
pub(super) async fn token(kit: &TestKit) -> Outcome {
    let endpoint = kit.ours().map(|_| kit.call_endpoint())?;
    let location = kit.live()?.live.client.location();
    let other = HeaderValue::from_static("0123456789abcdef0123456789abcdef");
    for (given, token) in [("without the token", None), ("with a wrong token", Some(other))] {
        let knocks = [RawRequest::get("healthz"), RawRequest::post(&endpoint, Sample::empty())];
        for knock in knocks {
            let asked = format!("`{} /{}` {given}", knock.method, knock.endpoint);
            let stranger = Client::new(location.clone(), token.clone());
            let answer = timeout(ANSWER_WAIT_MAX, stranger.send::<Async>(&knock.ask())).await;
            let found = match answer {
                Ok(Ok(answer)) if answer.status == StatusCode::UNAUTHORIZED => continue,
                Ok(Ok(answer)) => format!("was answered {}", answer.status.as_u16()),
                Ok(Err(broken)) => format!("was not answered: {}", broken.message),
                Err(_) => format!("was not answered in time{}", one_connection(kit).await),
            };
            return failed(format!(
                "{asked} {found}; wanted 401: a program that was given HOTBAY_TOKEN compares the \
                 header `Hotbay-Token` with it on every path"
            ));
        }
    }
    Ok("401 without it and with a wrong one".to_owned())
}

/// Two requests on one connection.
pub(super) async fn keep_alive(kit: &TestKit) -> Outcome {
    let client = &kit.live()?.live.client;
    let asks = async {
        let ask = RawRequest::get("healthz").ask();
        let (first, second) = (client.request(&ask)?, client.request(&ask)?);
        let mut connection = client.connect::<Async>().await?;
        let answer = connection.exchange(first, SMALL_BYTES_MAX).await?;
        Ok((answer, connection.exchange(second, SMALL_BYTES_MAX).await))
    };
    let wanted = "wanted HTTP/1.1 with connections that stay open: a host keeps them, and \
                  otherwise connects for each call";
    match timeout(ANSWER_WAIT_MAX, asks).await {
        Ok(Ok((_, Ok(second)))) if second.status == StatusCode::OK => {
            Ok("two requests on one connection".to_owned())
        }
        Ok(Ok((_, Ok(second)))) => failed(format!(
            "the second request on a connection was answered {}; the first, which was the same, \
             200",
            second.status.as_u16()
        )),
        Ok(Ok((_, Err(broken)))) => {
            failed(format!("the connection ended after one request: {}; {wanted}", broken.message))
        }
        Ok(Err::<_, RequestError>(broken)) => {
            failed(format!("a new connection was not answered: {}", broken.message))
        }
        Err(_) => failed(format!(
            "a second request on a connection is not answered{}; {wanted}",
            one_connection(kit).await
        )),
    }
}

/// The cause, where a new connection is not answered and the one that the host keeps is.
async fn one_connection(kit: &TestKit) -> &'static str {
    let Ok(started) = kit.live() else { return "" };
    let ask = RawRequest::get("healthz").ask();
    match timeout(ANSWER_WAIT_MAX, started.live.client.send::<Async>(&ask)).await {
        Ok(Ok(_)) => {
            ", although the connection that the host keeps is: it serves one connection at a time, \
             so serve each on a thread or task of its own"
        }
        _ => "",
    }
}

/// An endpoint that nobody has.
pub(super) async fn unknown_endpoint(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let name = random::token().map_err(|error| StepFailure::Failed(error.to_string()))?;
    let endpoint = format!("hotbay-check-{name}");
    let answer = kit.ask(RawRequest::post(&endpoint, Sample::empty())).await?;
    if is_refusal(&answer, StatusCode::NOT_FOUND) {
        return Ok("404".to_owned());
    }
    failed(format!(
        "`POST /{endpoint}` was answered {} with {}; wanted 404 with \
         {{\"message\":\"…\",\"statusCode\":404}}",
        answer.status.as_u16(),
        shown(&answer.body)
    ))
}

fn is_refusal(answer: &HttpResponse, status: StatusCode) -> bool {
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    answer.status == status && said["message"].is_string() && said["statusCode"] == status.as_u16()
}

/// A connection that is closed in the middle of a head, and one in the middle of a body.
pub(super) async fn half_request(kit: &TestKit) -> Outcome {
    let head = format!("POST /{} HTTP/1.1\r\nHost: unix\r\n", kit.call_endpoint());
    let with_token = match kit.token() {
        Some(token) => format!("{head}Hotbay-Token: {token}\r\nContent-Length: 1000\r\n\r\nhalf"),
        None => format!("{head}Content-Length: 1000\r\n\r\nhalf"),
    };
    for (sent, what) in [(head, "half of a head"), (with_token, "half of a body")] {
        send_and_leave(kit, sent.as_bytes()).await?;
        still_serves(kit, what).await?;
    }
    Ok("a peer that leaves in the middle of a request does no harm".to_owned())
}

/// Bytes that are no HTTP.
pub(super) async fn malformed(kit: &TestKit) -> Outcome {
    let long = [b"GET /".as_slice(), &[b'x'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    let all: [(&str, &[u8]); 5] = [
        ("a line that is no request", b"hello, is anybody there?\r\n\r\n"),
        (
            "bytes of another protocol",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\xff\r\n\r\n",
        ),
        (
            "a `Content-Length` that is no number",
            b"POST /execute HTTP/1.1\r\nHost: unix\r\nContent-Length: many\r\n\r\n",
        ),
        ("a header without a colon", b"GET /healthz HTTP/1.1\r\nHost: unix\r\nno colon\r\n\r\n"),
        ("a path of 100 kB", &long),
    ];
    for (what, bytes) in all {
        send_and_leave(kit, bytes).await?;
        still_serves(kit, what).await?;
    }
    Ok(format!("{} kinds of bytes that are no HTTP do no harm", all.len()))
}

/// Sends bytes, reads a little of what comes, and closes the connection.
async fn send_and_leave(kit: &TestKit, bytes: &[u8]) -> Result<(), StepFailure> {
    /// How long an answer to nonsense is waited for.
    const LOOK_WAIT_MAX: std::time::Duration = std::time::Duration::from_millis(100);
    let location = kit.live()?.live.client.location();
    let opened = timeout(ANSWER_WAIT_MAX, Async::open(location, &Counts::default())).await;
    let Ok(Ok(io)) = opened else {
        return failed("a new connection is not accepted");
    };
    let mut socket = io.into_inner();
    let talks = async {
        // It may hang up before it has read everything, which is its right.
        let _ = socket.write_all(bytes).await;
        let _ = socket.read(&mut [0; 4096]).await;
    };
    let _ = timeout(LOOK_WAIT_MAX, talks).await;
    Ok(())
}

async fn still_serves(kit: &TestKit, after: &str) -> Result<(), StepFailure> {
    if kit.still_serves().await {
        return Ok(());
    }
    failed(format!(
        "after {after} it no longer answers `/healthz` on a new connection; wanted that only the \
         connection ends on which that came"
    ))
}
