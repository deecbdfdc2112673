//! Policies: denied and limited requests, headers that policies add, and policies that fail.

use bytes::Bytes;
use hotbay_tests::{Plugins, until};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::json;

use super::client::{fetch, get, send};
use super::program::Gateway;

const KEY: &str = "a-key-for-tests-only";

fn with_key(path: &str, key: &str) -> Request<Full<Bytes>> {
    let mut request = get(path);
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request.headers_mut().insert("x-user", "mallory".parse().unwrap());
    request
}

#[test]
fn request_without_key_is_denied() {
    let plugins = Plugins::new();
    plugins.add("hello", "hello").write();
    plugins.add("api-key", "api-key").config(json!({ "users": { "alice": KEY } })).write();
    let gateway = Gateway::start(&plugins, "['api-key']", "");

    let response = send(gateway.address, get("/hello"));
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let response = send(gateway.address, with_key("/hello", "another-key-for-tests"));
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    // Even unknown routes are not visible.
    assert_eq!(fetch(gateway.address, "/nothing").0, StatusCode::UNAUTHORIZED);

    let response = send(gateway.address, with_key("/hello", KEY));
    assert_eq!((response.status(), &**response.body()), (StatusCode::OK, "Hello, alice!\n"));
}

#[test]
fn header_of_policies_is_not_accepted_from_clients() {
    let plugins = Plugins::new();
    plugins.add("hello", "hello").write();
    let gateway = Gateway::start(&plugins, "[]", "");
    let response = send(gateway.address, with_key("/hello", KEY));
    assert_eq!(response.body(), "Hello, world!\n");
}

#[test]
fn caller_with_too_many_requests_is_denied_for_a_while() {
    let plugins = Plugins::new();
    plugins.add("hello", "hello").write();
    let limit = json!({ "requests": 2, "seconds": 86400 });
    plugins.add("rate-limit", "rate-limit").config(limit).write();
    let users = json!({ "users": { "alice": KEY, "bob": "another-key-for-tests" } });
    plugins.add("api-key", "api-key").config(users).write();
    let gateway = Gateway::start(&plugins, "['api-key', 'rate-limit']", "");

    for _ in 0..2 {
        assert_eq!(send(gateway.address, with_key("/hello", KEY)).status(), StatusCode::OK);
    }
    let response = send(gateway.address, with_key("/hello", KEY));
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((40_000..=43_200).contains(&wait), "{wait}");
    let bob = send(gateway.address, with_key("/hello", "another-key-for-tests"));
    assert_eq!(bob.status(), StatusCode::OK);
}

#[test]
fn missing_policy_lets_no_request_pass() {
    let plugins = Plugins::new();
    plugins.add("hello", "hello").write();
    let gateway = Gateway::start(&plugins, "['api-key']", "");
    assert_eq!(fetch(gateway.address, "/hello").0, StatusCode::SERVICE_UNAVAILABLE);

    // It is loaded as soon as its files exist.
    plugins.add("api-key", "api-key").config(json!({ "users": { "alice": KEY } })).write();
    until("the policy is loaded", || {
        let response = send(gateway.address, with_key("/hello", KEY));
        (response.status() == StatusCode::OK).then_some(())
    });
}
