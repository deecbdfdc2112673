//! The method and headers that a caller sets on a request. Rejects those that the host sets itself,
//! and those that belong to one connection.

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use crate::call::{Failure, Request};
use crate::error::{Error, ErrorKind};

/// Maximum number of headers per request.
const MAX_HEADERS: usize = 64;
/// Maximum total bytes of their names and values.
const MAX_HEADERS_BYTES: usize = 32 << 10;

/// Headers that belong to one connection (RFC 9110, section 7.6.1).
const CONNECTION_HEADERS: [&str; 6] =
    ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// Returns the method of a request.
pub(in crate::supervisor) fn method(request: &Request<'_>) -> Result<Method, Failure> {
    let Some(name) = request.method() else { return Ok(Method::POST) };
    match Method::from_bytes(name.as_bytes()) {
        Ok(Method::CONNECT) => Err(rejected("the method `CONNECT` is for proxies".to_owned())),
        Ok(method) => Ok(method),
        Err(_) => {
            let name = name.escape_debug();
            Err(rejected(format!("`{name}` is not a valid HTTP method, such as `GET`")))
        }
    }
}

/// Returns whether a request may be sent twice: it is marked as idempotent, or its method is safe.
pub(in crate::supervisor) fn may_run_twice(request: &Request<'_>) -> bool {
    request.is_idempotent()
        || matches!(request.method(), Some("GET" | "HEAD" | "OPTIONS" | "TRACE"))
}

/// Adds the caller's headers.
pub(in crate::supervisor) fn add_headers(
    request: &Request<'_>,
    to: &mut Vec<(HeaderName, HeaderValue)>,
) -> Result<(), Failure> {
    let Some(headers) = request.named_headers() else { return Ok(()) };
    let found = headers.iter().len();
    if found > MAX_HEADERS {
        let message = format!("the request has {found} headers; at most {MAX_HEADERS} are allowed");
        return Err(rejected(message));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADERS_BYTES {
        let message = format!(
            "the names and values of the request's headers have {bytes} bytes; at most \
             {MAX_HEADERS_BYTES} are allowed"
        );
        return Err(rejected(message));
    }
    for (name, value) in headers.iter() {
        to.push(header(name, value)?);
    }
    Ok(())
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let shown = name.escape_debug();
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(rejected(format!("`{shown}` is not a valid header name")));
    };
    if let Some(why) = why_rejected(parsed.as_str()) {
        return Err(rejected(format!("the header `{shown}` {why}")));
    }
    let Ok(mut value) = HeaderValue::from_str(value) else {
        let message = format!(
            "the value of the header `{shown}` is invalid: it contains a control character or is \
             not ASCII"
        );
        return Err(rejected(message));
    };
    value.set_sensitive(true);
    Ok((parsed, value))
}

/// Returns why a header, in lower case, is not accepted from a caller.
fn why_rejected(name: &str) -> Option<&'static str> {
    match name {
        "host" | "content-length" => Some("is set by the host"),
        "content-type" => Some("is set by `Request::with_content_type`"),
        "traceparent" => Some("is set by `Request::with_trace`"),
        _ if name.starts_with("hotbay-") => Some("is set by the host"),
        _ if CONNECTION_HEADERS.contains(&name) || name.starts_with("proxy-") => {
            Some("belongs to one connection and is not forwarded")
        }
        _ => None,
    }
}

#[cold]
fn rejected(why: String) -> Failure {
    Failure::Other(Error::new(ErrorKind::InvalidInput, format!("was not called: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_text<T>(outcome: Result<T, Failure>) -> String {
        match outcome {
            Ok(_) => String::new(),
            Err(Failure::Other(error)) => format!("{:?} {error}", error.kind()),
            Err(other) => format!("{other:?}"),
        }
    }

    #[track_caller]
    fn check(name: &'static str, value: &'static str, expected: &str) {
        let request = Request::text("").with_header(name, value);
        let mut headers = Vec::new();
        let found = error_text(add_headers(&request, &mut headers));
        assert_eq!(headers.is_empty(), !expected.is_empty(), "{name}: {found}");
        assert!(
            found.contains(expected) && found.is_empty() == expected.is_empty(),
            "{name}: {found}"
        );
        assert!(found.is_empty() || found.starts_with("InvalidInput was not called"), "{found}");
    }

    #[test]
    fn headers_of_the_caller_are_sent() {
        for (name, value) in [
            ("Authorization", "Bearer x"),
            ("X-Own", ""),
            ("accept", "text/csv"),
            ("Cookie", "a=b"),
            ("hotbay", "not the host's"),
            ("te-x", "1"),
        ] {
            check(name, value, "");
        }
    }

    #[test]
    fn headers_of_the_host_and_connection_are_rejected() {
        for name in ["Host", "CONTENT-LENGTH", "Hotbay-Token", "hotbay-deadline-ms"] {
            check(name, "x", "is set by the host");
        }
        for name in ["Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade"] {
            check(name, "x", "belongs to one connection");
        }
        check("Proxy-Authorization", "x", "belongs to one connection");
        check("Proxy-Connection", "x", "belongs to one connection");
        check("Content-Type", "x", "`Request::with_content_type`");
        check("traceparent", "x", "`Request::with_trace`");
    }

    #[test]
    fn invalid_names_values_and_methods_are_rejected() {
        for name in ["", "a b", "a:b", "a\r\nb", "ä", "a\0"] {
            check(name, "x", "is not a valid header name");
        }
        for value in ["a\r\nX-More: 1", "a\nb", "a\0", "\u{7f}"] {
            check("X-Own", value, "is invalid");
        }
        let method_of =
            |name: &'static str| error_text(method(&Request::text("").with_method(name)));
        for name in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
            assert_eq!(method_of(name), "");
        }
        for name in ["", "GET /x HTTP/1.1\r\n", "G T", "GÄT"] {
            assert!(method_of(name).contains("not a valid HTTP method"), "{}", method_of(name));
        }
        assert!(method_of("CONNECT").contains("proxies"));
    }

    #[test]
    fn too_many_or_too_large_headers_are_rejected() {
        let many = (0..65)
            .fold(Request::text(""), |request, at| request.with_header(format!("x-{at}"), ""));
        assert!(error_text(add_headers(&many, &mut Vec::new())).contains("65 headers; at most 64"));
        let large = Request::text("").with_header("x", "x".repeat(32 << 10));
        assert!(error_text(add_headers(&large, &mut Vec::new())).contains("32769 bytes"));
    }
}
