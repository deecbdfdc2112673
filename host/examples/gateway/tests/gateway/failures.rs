//! Requests that fail, and what the client receives. The program stays alive.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::Bytes;
use hotbay_tests::{LIMIT, Plugins};
use http_body_util::Full;
use hyper::{Request, StatusCode};

use super::client::{Client, block_on, fetch, get, send};
use super::program::Gateway;

fn faulty(more: &str) -> (Plugins, Gateway) {
    let plugins = Plugins::new();
    plugins.add("faulty", "gateway-faulty").write();
    plugins.add("hello", "hello").write();
    let gateway = Gateway::start(&plugins, "[]", more);
    (plugins, gateway)
}

#[test]
fn unknown_route_is_not_found() {
    let (plugins, gateway) = faulty("");
    for path in ["/", "/nothing", "/hell", "/hello2/x"] {
        assert_eq!(fetch(gateway.address, path).0, StatusCode::NOT_FOUND, "{path}");
    }
    let hello = fetch(gateway.address, "/hello/you?a=b");
    assert_eq!(hello, (StatusCode::OK, "Hello, you!\n".to_owned()));
    drop((plugins, gateway));
}

#[test]
fn panics_are_bad_gateway_until_the_route_is_quarantined() {
    let (_plugins, gateway) = faulty(
        "[quarantine]\nmax_faults = 3\nwindow = '1h'\ninitial_backoff = '1h'\nmax_backoff = '1h'\n",
    );
    for _ in 0..3 {
        let (status, body) = fetch(gateway.address, "/faulty/panic");
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(!body.contains("faulty route"), "{body}");
    }
    let response = send(gateway.address, get("/faulty/echo"));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait}");
    assert_eq!(fetch(gateway.address, "/hello").0, StatusCode::OK);

    let (status, page) = fetch(gateway.address, "/metrics");
    assert_eq!(status, StatusCode::OK);
    let responses = |status| format!("gateway_responses_total{{status=\"{status}\"}}");
    assert!(page.contains(&format!("{} 3", responses(502))), "{page}");
    assert!(page.contains(&format!("{} 1", responses(503))), "{page}");
    assert!(page.contains("plugin=\"faulty\""), "{page}");
}

#[test]
fn errors_of_a_route_are_responses() {
    let (_plugins, gateway) = faulty("");
    let fetch = |path| fetch(gateway.address, path);
    assert_eq!(fetch("/faulty/teapot"), (StatusCode::IM_A_TEAPOT, "a teapot\n".to_owned()));
    let (status, body) = fetch("/faulty/error");
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!body.contains("detail"), "{body}");
    assert_eq!(fetch("/faulty/invalid").0, StatusCode::BAD_GATEWAY);
}

#[test]
fn call_without_answer_times_out() {
    let (_plugins, gateway) = faulty("[plugins.faulty.limits]\ndeadline_ms = 10\n");
    assert_eq!(fetch(gateway.address, "/faulty/forever").0, StatusCode::GATEWAY_TIMEOUT);
}

#[test]
fn call_ends_when_its_client_disconnects() {
    let (_plugins, gateway) = faulty("");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("/faulty/wait?{}", listener.local_addr().unwrap());
    let mut client = TcpStream::connect(gateway.address).unwrap();
    write!(client, "GET {path} HTTP/1.1\r\nhost: gateway\r\n\r\n").unwrap();
    let (mut route, _) = listener.accept().unwrap();
    route.set_read_timeout(Some(LIMIT)).unwrap();
    drop(client);
    // The route has dropped its connection.
    assert_eq!(route.read(&mut [0]).unwrap(), 0);
}

#[test]
fn body_above_the_limit_is_refused() {
    let (_plugins, gateway) = faulty("");
    let post = |bytes: usize| {
        let body = Full::new(Bytes::from(vec![b'a'; bytes]));
        Request::post("/faulty/echo").header("host", "gateway").body(body).unwrap()
    };
    assert_eq!(send(gateway.address, post(1000)).status(), StatusCode::OK);
    assert_eq!(send(gateway.address, post(1001)).status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[test]
fn trace_of_a_request_reaches_the_route() {
    let (_plugins, gateway) = faulty("");
    block_on(async {
        let mut client = Client::connect(gateway.address).await;
        assert_eq!(client.get("/faulty/trace").await.unwrap().body(), "None");
        let mut request = get("/faulty/trace");
        let trace = format!("00-{}-{}-01", "11".repeat(16), "22".repeat(8));
        request.headers_mut().insert("traceparent", trace.parse().unwrap());
        let body = client.send(request).await.unwrap().into_body();
        assert!(body.contains("trace_id: [17, 17, ") && body.contains("span_id: [34, "), "{body}");
    });
}
