//! A call as an HTTP request, and its outcome as read from the response: an output, the plugin's own
//! error, or a fault. Several calls are one request: JSON with base64 bodies, so that any language
//! can implement it. Pure; does not send anything.

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hotbay_plugin::{ContentType, Fault, Output, PluginError, TraceContext, text};
use hotbay_protocol::{
    BatchReplies, BatchReply, ErrorBody, batch_request, endpoint, format_traceparent, header,
};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use crate::capabilities::Capabilities;
use crate::error::{Error, ErrorKind, Failure};
use crate::http::{HttpRequest, HttpResponse, is_endpoint};

/// The number of a call.
const CALL_ID: HeaderName = HeaderName::from_static(header::CALL_ID);
/// The signature of a contract's method.
const CONTRACT_HASH: HeaderName = HeaderName::from_static(header::CONTRACT_HASH);
/// The trace of a call.
const TRACEPARENT: HeaderName = HeaderName::from_static(header::TRACEPARENT);

/// Maximum number of headers per request.
const MAX_HEADERS: usize = 64;
/// Maximum total bytes of their names and values.
const MAX_HEADERS_BYTES: usize = 32 << 10;

/// Bytes of an invalid content type that are shown.
const MAX_SHOWN_BYTES: usize = 80;

/// Headers that belong to one connection (RFC 9110, section 7.6.1).
const CONNECTION_HEADERS: [&str; 6] =
    ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// What an endpoint serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointKind {
    /// Calls with any input and output.
    Calls,
    /// A method that the program describes in its capabilities.
    Method,
    /// A method that the manifest maps onto the endpoint.
    MappedMethod,
}

/// A call of a plugin in a process.
#[derive(Clone, Copy)]
pub struct Call<'c> {
    /// Unique in the host's process.
    pub id: u64,
    /// The input.
    pub input: &'c [u8],
    /// The media type of the input.
    pub content_type: &'c str,
    /// The endpoint, if it is not `execute`.
    pub endpoint: Option<&'c str>,
    /// What the endpoint serves.
    pub kind: EndpointKind,
    /// The hash of the signature of that method, if the arguments are postcard.
    pub signature: Option<u64>,
    /// The HTTP method, if it is not `POST`.
    pub method: Option<&'c str>,
    /// Names and values of further headers.
    pub headers: &'c [(Cow<'static, str>, Cow<'static, str>)],
    /// The trace to which it belongs.
    pub trace: Option<&'c TraceContext>,
    /// When its output is no longer needed.
    pub deadline: Option<Instant>,
    /// Whether it may run twice.
    pub is_idempotent: bool,
}

impl fmt::Debug for Call<'_> {
    /// Omits the headers, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Call<'_> {
    /// Builds the HTTP request.
    pub(crate) fn http_request(
        &self,
        capabilities: &Capabilities,
        max_response_bytes: u64,
    ) -> Result<HttpRequest, Failure> {
        let content_type = HeaderValue::try_from(self.content_type).map_err(|_| {
            let found = self.content_type;
            let message = format!("was not called: `{found}` is not a valid content type");
            Error::new(ErrorKind::InvalidInput, message)
        })?;
        let endpoint = self.endpoint.unwrap_or(endpoint::EXECUTE);
        check_endpoint(endpoint, capabilities)?;
        let mut headers = vec![(CALL_ID, HeaderValue::from(self.id))];
        if let Some(hash) = self.signature {
            headers.push((CONTRACT_HASH, hexadecimal(hash)));
        }
        if let Some(trace) = self.trace {
            headers.push((TRACEPARENT, traceparent(trace)));
        }
        self.add_headers(&mut headers)?;
        Ok(HttpRequest {
            method: self.http_method()?,
            endpoint: endpoint.to_owned(),
            content_type,
            body: bytes::Bytes::copy_from_slice(self.input),
            deadline: self.deadline,
            headers,
            max_response_bytes,
        })
    }

    /// Returns the outcome of the response.
    pub(crate) fn outcome(&self, response: HttpResponse) -> Result<Output, Failure> {
        match self.kind {
            EndpointKind::Calls => output(response),
            EndpointKind::Method if response.status != StatusCode::OK => {
                Err(method_failure(&response))
            }
            // Programs that know no contracts send an empty body if there is no result.
            EndpointKind::MappedMethod
                if response.status == StatusCode::NO_CONTENT
                    || (response.status == StatusCode::OK && response.body.is_empty()) =>
            {
                Ok(Output::copy_of(b"null").with_content_type(ContentType::JSON))
            }
            EndpointKind::MappedMethod if response.status != StatusCode::OK => {
                Err(failure(&response))
            }
            EndpointKind::Method | EndpointKind::MappedMethod => {
                method_result(response, self.content_type)
            }
        }
    }

    fn http_method(&self) -> Result<Method, Failure> {
        let Some(name) = self.method else { return Ok(Method::POST) };
        match Method::from_bytes(name.as_bytes()) {
            Ok(Method::CONNECT) => Err(rejected("the method `CONNECT` is for proxies".to_owned())),
            Ok(method) => Ok(method),
            Err(_) => {
                let name = name.escape_debug();
                Err(rejected(format!("`{name}` is not a valid HTTP method, such as `GET`")))
            }
        }
    }

    /// Returns whether it may be sent twice: it is marked as idempotent, or its method is safe.
    pub(crate) fn may_run_twice(&self) -> bool {
        self.is_idempotent || matches!(self.method, Some("GET" | "HEAD" | "OPTIONS" | "TRACE"))
    }

    /// Adds the caller's headers.
    fn add_headers(&self, to: &mut Vec<(HeaderName, HeaderValue)>) -> Result<(), Failure> {
        let headers = self.headers;
        let found = headers.len();
        if found > MAX_HEADERS {
            return Err(rejected(format!(
                "the request has {found} headers; at most {MAX_HEADERS} are allowed"
            )));
        }
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_HEADERS_BYTES {
            let message = format!(
                "the names and values of the request's headers have {bytes} bytes; at most \
                 {MAX_HEADERS_BYTES} are allowed"
            );
            return Err(rejected(message));
        }
        for (name, value) in headers {
            to.push(parse_header(name, value)?);
        }
        Ok(())
    }
}

/// Rejects an endpoint that a program of ours does not declare; the older dialects declare none.
pub(crate) fn check_endpoint(endpoint: &str, capabilities: &Capabilities) -> Result<(), Failure> {
    let endpoints = &capabilities.endpoints;
    if endpoints.is_empty() && is_endpoint(endpoint) {
        return Ok(());
    }
    if endpoints.is_empty() {
        let endpoint = endpoint.escape_debug();
        let message = format!("was not called: `{endpoint}` is not a valid endpoint");
        return Err(Error::new(ErrorKind::InvalidInput, message).into());
    }
    if endpoints.contains(endpoint) || is_method(endpoint, capabilities) {
        return Ok(());
    }
    let known: Vec<_> = endpoints.iter().map(String::as_str).collect();
    let known = known.join("`, `");
    let message =
        format!("was not called: endpoint `{endpoint}` not found; the program has `{known}`");
    Err(Error::new(ErrorKind::Unsupported, message).into())
}

/// Returns whether an endpoint is that of a method that the program declares.
fn is_method(endpoint: &str, capabilities: &Capabilities) -> bool {
    let name = endpoint.strip_prefix(endpoint::CONTRACT_PREFIX);
    let Some((contract, method)) = name.and_then(|name| name.split_once('/')) else { return false };
    let mut served = capabilities.contracts.iter().map(|served| &served.text);
    served
        .find(|text| text.name == contract)
        .is_some_and(|text| text.methods.iter().any(|known| known.name == method))
}

fn parse_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Failure> {
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
        _ if name.starts_with(header::PREFIX) => Some("is set by the host"),
        _ if CONNECTION_HEADERS.contains(&name) || name.starts_with("proxy-") => {
            Some("belongs to one connection and is not forwarded")
        }
        _ => None,
    }
}

#[cold]
fn rejected(why: String) -> Failure {
    Error::new(ErrorKind::InvalidInput, format!("was not called: {why}")).into()
}

/// Returns the output of a call.
pub(crate) fn output(response: HttpResponse) -> Result<Output, Failure> {
    let response = success(response)?;
    let content_type = content_type(response.content_type());
    Ok(Output::bytes(response.body).with_content_type(content_type))
}

/// Returns the result of a contract's method, which was called with this content type.
fn method_result(response: HttpResponse, expected: &str) -> Result<Output, Failure> {
    let found = response.content_type();
    let media_type = found.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(expected) {
        let found = text::cut(found, MAX_SHOWN_BYTES);
        let found = found.escape_debug();
        let message = format!("returned a result of the type `{found}`; expected `{expected}`");
        return Err(Error::new(ErrorKind::InvalidOutput, message).into());
    }
    Ok(Output::bytes(response.body).with_content_type(content_type(expected)))
}

/// Returns the failure of a method whose response has another status than 200.
#[cold]
pub(crate) fn method_failure(response: &HttpResponse) -> Failure {
    rejected_method(response).unwrap_or_else(|| failure(response))
}

/// Returns the failure that ends a stream.
#[cold]
pub(crate) fn failure_of_stream(body: ErrorBody<'_>) -> Failure {
    if body.code.is_some() || body.fault.is_some() {
        return failure_of(body, 500);
    }
    let message =
        text::cut(&body.message.unwrap_or_default(), text::MAX_MESSAGE_BYTES).into_owned();
    let error = Error::new(ErrorKind::InvalidOutput, "could not return an item of a stream");
    if message.is_empty() { error.into() } else { error.caused_by(message).into() }
}

/// Returns why a call did not reach the method, or its result was not sent; `None` if the response
/// is that of the method itself, or of a program that cannot serve now.
#[cold]
fn rejected_method(response: &HttpResponse) -> Option<Failure> {
    let body: ErrorBody<'_> = serde_json::from_slice(&response.body).ok()?;
    if body.code.is_some() || body.fault.is_some() {
        return None;
    }
    let status = response.status;
    let (kind, what) = match status {
        StatusCode::BAD_REQUEST => {
            (ErrorKind::InvalidInput, "was not called: it rejected the arguments")
        }
        StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PRECONDITION_FAILED
        | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            (ErrorKind::Protocol, "rejected a call of a method that its capabilities describe")
        }
        StatusCode::INTERNAL_SERVER_ERROR => {
            (ErrorKind::InvalidOutput, "returned no result of a method")
        }
        _ => return None,
    };
    let message =
        text::cut(&body.message.unwrap_or_default(), text::MAX_MESSAGE_BYTES).into_owned();
    let cause = if message.is_empty() { status.to_string() } else { message };
    Some(Error::new(kind, what).caused_by(cause).into())
}

/// Returns a media type, without an allocation if it is a usual one or missing (any bytes).
pub(crate) fn content_type(name: &str) -> ContentType {
    let usual = [ContentType::BYTES, ContentType::TEXT, ContentType::JSON, ContentType::HTML];
    match usual.into_iter().find(|usual| *usual == name) {
        Some(usual) => usual.into(),
        None if name.is_empty() => ContentType::BYTES.into(),
        None => ContentType::new(name.to_owned()),
    }
}

/// Returns the response if its status is 200, and else its failure.
pub(crate) fn success(response: HttpResponse) -> Result<HttpResponse, Failure> {
    if response.status == StatusCode::OK { Ok(response) } else { Err(failure(&response)) }
}

#[cold]
fn failure(response: &HttpResponse) -> Failure {
    let status = response.status;
    if !(status.is_client_error() || status.is_server_error()) {
        let message = format!("returned the status {status}; expected 200");
        return Error::new(ErrorKind::Protocol, message).into();
    }
    match serde_json::from_slice::<ErrorBody<'_>>(&response.body) {
        Ok(body) => failure_of(body, status.as_u16().into()),
        Err(_) => {
            let text = String::from_utf8_lossy(&response.body);
            let text = text.trim();
            let text = text::cut(text, text::MAX_MESSAGE_BYTES);
            let message = if text.is_empty() { status.to_string() } else { text.into_owned() };
            Failure::Plugin(PluginError::new(status.as_u16().into(), message))
        }
    }
}

/// Converts the error; `status` is its code if it names none.
fn failure_of(body: ErrorBody<'_>, status: i32) -> Failure {
    if let Some(fault) = body.fault {
        let message = text::cut(&fault.message, text::MAX_MESSAGE_BYTES).into_owned();
        let location = fault.location.as_deref();
        let location = location.map(|at| text::cut(at, text::MAX_LOCATION_BYTES).into_owned());
        return Failure::Panic(Fault::new(message, location, Vec::new()));
    }
    let code = body.code.or(body.status_code).and_then(|code| i32::try_from(code).ok());
    let code = code.unwrap_or(status);
    let message = body.message.unwrap_or_else(|| format!("returned the code {code}").into());
    let message = text::cut(&message, text::MAX_MESSAGE_BYTES).into_owned();
    let mut error = PluginError::new(code, message);
    if body.retryable == Some(true) {
        error = error.retryable();
    }
    if let Some(details) = body.details {
        let json = details.get();
        let details = match json.len() {
            0..=text::MAX_DETAILS_BYTES => serde_json::from_str(json).ok(),
            _ => None,
        };
        error = error.with_details(
            details.unwrap_or_else(|| text::cut(json, text::MAX_DETAILS_BYTES).into()),
        );
    }
    Failure::Plugin(error)
}

fn hexadecimal(hash: u64) -> HeaderValue {
    HeaderValue::try_from(format!("{hash:016x}"))
        .expect("hexadecimal digits are a valid header value")
}

/// Formats a trace as a W3C `traceparent`.
pub(crate) fn traceparent(trace: &TraceContext) -> HeaderValue {
    let text = format_traceparent(trace.trace_id, trace.span_id, trace.flags);
    HeaderValue::try_from(text).expect("hexadecimal digits are a valid header value")
}

/// Encodes the body of a request for `calls`.
pub(crate) fn encode_batch(calls: &[Call<'_>]) -> Vec<u8> {
    batch_request(calls.iter().map(|call| (call.content_type, call.input))).into_bytes()
}

/// Parses the outcomes of `count` calls, in order.
pub(crate) fn decode_batch(
    response: HttpResponse,
    count: usize,
) -> Result<Vec<Result<Output, Failure>>, Failure> {
    let response = success(response)?;
    let replies: BatchReplies<'_> = serde_json::from_slice(&response.body)
        .map_err(|error| protocol_failure(format!("an invalid response to `/batch`: {error}")))?;
    let found = replies.replies.len();
    if found != count {
        return Err(protocol_failure(format!("{found} replies to `/batch`; expected {count}")));
    }
    let mut buffer = Vec::new();
    Ok(replies.replies.into_iter().map(|reply| outcome(reply, &mut buffer)).collect())
}

/// Returns the outcome of one call. Decodes into `buffer`, since short outputs need no allocation.
fn outcome(mut reply: BatchReply<'_>, buffer: &mut Vec<u8>) -> Result<Output, Failure> {
    if let Some(error) = reply.error.take() {
        return Err(failure_of(error, 500));
    }
    let Some(body) = reply.body() else {
        return Err(protocol_failure(
            "a reply to `/batch` with neither `body` nor `error`".to_owned(),
        ));
    };
    buffer.clear();
    STANDARD.decode_vec(body, buffer).map_err(|error| {
        protocol_failure(format!("a reply to `/batch` whose `body` is not valid base64: {error}"))
    })?;
    Ok(Output::copy_of(buffer).with_content_type(content_type(&reply.content_type)))
}

#[cold]
fn protocol_failure(message: String) -> Failure {
    Error::new(ErrorKind::Protocol, format!("returned {message}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderMap;
    use std::error::Error as _;

    type Headers = [(Cow<'static, str>, Cow<'static, str>)];

    fn call<'c>(input: &'c [u8], headers: &'c Headers) -> Call<'c> {
        Call {
            id: 1,
            input,
            content_type: ContentType::BYTES,
            endpoint: None,
            kind: EndpointKind::Calls,
            signature: None,
            method: None,
            headers,
            trace: None,
            deadline: None,
            is_idempotent: false,
        }
    }

    fn add_headers(all: &Headers, to: &mut Vec<(HeaderName, HeaderValue)>) -> Result<(), Failure> {
        call(b"", all).add_headers(to)
    }

    fn error_text<T>(outcome: Result<T, Failure>) -> String {
        match outcome {
            Ok(_) => String::new(),
            Err(Failure::Other(error)) => format!("{:?} {error}", error.kind()),
            Err(other) => format!("{other:?}"),
        }
    }

    #[track_caller]
    fn check(name: &'static str, value: &'static str, expected: &str) {
        let mut headers = Vec::new();
        let found = error_text(add_headers(&[(name.into(), value.into())], &mut headers));
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
        let method_of = |name: &'static str| {
            error_text(Call { method: Some(name), ..call(b"", &[]) }.http_method())
        };
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
        let many: Vec<_> = (0..65).map(|at| (format!("x-{at}").into(), "".into())).collect();
        assert!(error_text(add_headers(&many, &mut Vec::new())).contains("65 headers; at most 64"));
        let large = [("x".into(), "x".repeat(32 << 10).into())];
        assert!(error_text(add_headers(&large, &mut Vec::new())).contains("32769 bytes"));
    }

    fn describe(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).expect("a status");
        let response = HttpResponse { status, headers: HeaderMap::new(), body: body.into() };
        match output(response) {
            Ok(output) => format!("output {}", String::from_utf8_lossy(output.as_bytes())),
            Err(Failure::Plugin(error)) => {
                format!("error {error} {} {:?}", error.is_retryable(), error.details())
            }
            Err(Failure::Panic(fault)) => format!("panic {fault}"),
            Err(Failure::Other(error)) => format!("{:?} {error}", error.kind()),
        }
    }

    #[test]
    fn only_200_is_an_output_and_errors_are_passed_on() {
        let check = |status, body, expected: &str| assert_eq!(describe(status, body), expected);
        check(200, "fine", "output fine");
        check(204, "", "Protocol returned the status 204 No Content; expected 200");
        check(302, "", "Protocol returned the status 302 Found; expected 200");
        check(500, "it broke\n", "error it broke (code 500) false None");
        check(503, "", "error 503 Service Unavailable (code 503) false None");
        check(404, r#"{"message":"no","statusCode":404}"#, "error no (code 404) false None");
        let ours = r#"{"code":-7,"message":"no","retryable":true,"details":[1]}"#;
        check(422, ours, "error no (code -7) true Some(Array [Number(1)])");
        let fault = r#"{"code":500,"message":"panicked","fault":{"message":"oh"}}"#;
        assert!(describe(500, fault).starts_with("panic"), "{}", describe(500, fault));
    }

    #[test]
    fn trace_is_formatted_as_traceparent() {
        let trace = TraceContext { trace_id: [0xab; 16], span_id: [1; 8], flags: 1 };
        let expected = "00-abababababababababababababababab-0101010101010101-01";
        assert_eq!(traceparent(&trace), expected);
    }

    #[test]
    fn requests_are_encoded_in_order() {
        let first = Call { content_type: ContentType::TEXT, ..call(b"hi", &[]) };
        let second = Call { content_type: "a/\"b\"", ..call(&[0xff], &[]) };
        let expected = r#"{"requests":[{"contentType":"text/plain; charset=utf-8","body":"aGk="},{"contentType":"a/\"b\"","body":"/w=="}]}"#;
        let encoded = encode_batch(&[first, second]);
        assert_eq!(String::from_utf8(encoded).expect("text"), expected);
    }

    fn outcomes(body: &str, count: usize) -> Vec<String> {
        let headers = HeaderMap::new();
        let response = HttpResponse { status: StatusCode::OK, headers, body: body.into() };
        let one = |outcome: Result<Output, Failure>| match outcome {
            Ok(output) => format!("{}: {:?}", output.content_type(), output.as_text()),
            Err(Failure::Plugin(error)) => error.to_string(),
            Err(Failure::Other(error)) => format!("{error}: {:?}", error.source()),
            Err(other) => format!("{other:?}"),
        };
        match decode_batch(response, count) {
            Ok(outcomes) => outcomes.into_iter().map(one).collect(),
            Err(failure) => vec![one(Err(failure))],
        }
    }

    #[test]
    fn replies_are_parsed_in_order_and_errors_are_reported() {
        let body = r#"{"replies":[{"contentType":"text/plain","body":"aGk="},{"error":{"code":7,"message":"no"}},{"body":"?"},{}]}"#;
        let all = outcomes(body, 4);
        assert_eq!(all[0], r#"text/plain: Ok("hi")"#);
        assert!(all[1].contains("no (code 7)"), "{all:?}");
        assert!(all[2].contains("not valid base64"), "{all:?}");
        assert!(all[3].contains("neither"), "{all:?}");
        assert!(
            outcomes(r#"{"replies":[]}"#, 1)[0]
                .contains("returned 0 replies to `/batch`; expected 1")
        );
        assert!(outcomes("[]", 1)[0].contains("an invalid response to `/batch`"));
    }
}
