//! The method and the headers that a caller gives to a request: what may be sent, and what the
//! host refuses because it is its own or ends at the next hop.

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use crate::call::{Failure, Request};
use crate::error::{Error, ErrorKind};

/// Headers that a caller may give to one request.
const HEADERS_MAX: usize = 64;
/// Bytes of their names and values in all.
const HEADERS_BYTES_MAX: usize = 32 << 10;

/// Headers that belong to one connection (RFC 9110, section 7.6.1).
const OF_THE_CONNECTION: [&str; 6] =
    ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// The method of a request.
pub(in crate::supervisor) fn method(request: &Request<'_>) -> Result<Method, Failure> {
    let Some(name) = request.named_method() else { return Ok(Method::POST) };
    match Method::from_bytes(name.as_bytes()) {
        Ok(Method::CONNECT) => Err(refused("the method `CONNECT` is for proxies".to_owned())),
        Ok(method) => Ok(method),
        Err(_) => {
            let name = name.escape_debug();
            Err(refused(format!("`{name}` is not a valid HTTP method, such as `GET`")))
        }
    }
}

/// Whether a request may be sent twice: it says so, or its method is safe.
pub(in crate::supervisor) fn may_run_twice(request: &Request<'_>) -> bool {
    request.is_idempotent()
        || matches!(request.named_method(), Some("GET" | "HEAD" | "OPTIONS" | "TRACE"))
}

/// Adds the headers of a request.
pub(in crate::supervisor) fn add_headers(
    request: &Request<'_>,
    to: &mut Vec<(HeaderName, HeaderValue)>,
) -> Result<(), Failure> {
    let Some(headers) = request.named_headers() else { return Ok(()) };
    let found = headers.iter().len();
    if found > HEADERS_MAX {
        return Err(refused(format!("it has {found} headers; at most {HEADERS_MAX} are sent")));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > HEADERS_BYTES_MAX {
        let message = format!(
            "its headers have {bytes} bytes; at most {HEADERS_BYTES_MAX} are sent, names included"
        );
        return Err(refused(message));
    }
    for (name, value) in headers.iter() {
        to.push(header(name, value)?);
    }
    Ok(())
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let shown = name.escape_debug();
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(refused(format!("`{shown}` is not a valid header name")));
    };
    if let Some(why) = why_not_sent(parsed.as_str()) {
        return Err(refused(format!("the header `{shown}` {why}")));
    }
    let Ok(mut value) = HeaderValue::from_str(value) else {
        let message = format!(
            "the value of the header `{shown}` is not valid: it has a control character or is \
             not ASCII"
        );
        return Err(refused(message));
    };
    value.set_sensitive(true);
    Ok((parsed, value))
}

/// Why a header of this name, in lower case, is not taken from a caller.
fn why_not_sent(name: &str) -> Option<&'static str> {
    match name {
        "host" | "content-length" => Some("is set by the host"),
        "content-type" => Some("is set by `Request::with_content_type`"),
        "traceparent" => Some("is set by `Request::with_trace`"),
        _ if name.starts_with("hotbay-") => Some("is set by the host"),
        _ if OF_THE_CONNECTION.contains(&name) || name.starts_with("proxy-") => {
            Some("belongs to one connection and is not passed on")
        }
        _ => None,
    }
}

#[cold]
fn refused(why: String) -> Failure {
    Failure::Other(Error::new(ErrorKind::InvalidInput, format!("was not called: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<T>(outcome: Result<T, Failure>) -> String {
        match outcome {
            Ok(_) => String::new(),
            Err(Failure::Other(error)) => format!("{:?} {error}", error.kind()),
            Err(other) => format!("{other:?}"),
        }
    }

    #[track_caller]
    fn check(name: &'static str, value: &'static str, expected: &str) {
        let request = Request::text("").header(name, value);
        let mut headers = Vec::new();
        let found = told(add_headers(&request, &mut headers));
        assert_eq!(headers.is_empty(), !expected.is_empty(), "{name}: {found}");
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{name}: {found}");
        assert!(found.is_empty() || found.starts_with("Input was not called"), "{found}");
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
    fn headers_of_the_host_and_of_the_connection_are_refused() {
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
    fn invalid_names_values_and_methods_are_refused() {
        for name in ["", "a b", "a:b", "a\r\nb", "ä", "a\0"] {
            check(name, "x", "is not a valid header name");
        }
        for value in ["a\r\nX-More: 1", "a\nb", "a\0", "\u{7f}"] {
            check("X-Own", value, "is not valid");
        }
        let method_of = |name: &'static str| told(method(&Request::text("").method(name)));
        for name in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
            assert_eq!(method_of(name), "");
        }
        for name in ["", "GET /x HTTP/1.1\r\n", "G T", "GÄT"] {
            assert!(method_of(name).contains("not a valid HTTP method"), "{}", method_of(name));
        }
        assert!(method_of("CONNECT").contains("proxies"));
    }

    #[test]
    fn too_many_and_too_large_headers_are_refused() {
        let many =
            (0..65).fold(Request::text(""), |request, at| request.header(format!("x-{at}"), ""));
        assert!(told(add_headers(&many, &mut Vec::new())).contains("65 headers; at most 64"));
        let large = Request::text("").header("x", "x".repeat(32 << 10));
        assert!(told(add_headers(&large, &mut Vec::new())).contains("32769 bytes"));
    }
}
