//! Converts an HTTP response to the outcome of a call: an output, the plugin's own error, or a
//! fault.

use hotbay_plugin::{ContentType, Fault, Output, PluginError, TraceContext, text};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Deserialize;

use super::http::HttpResponse;
use crate::call::Failure;
use crate::error::{Error, ErrorKind, Hex};

/// An error body of our protocol or of the older dialects.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    message: Option<String>,
    code: Option<i64>,
    #[serde(rename = "statusCode")]
    status_code: Option<i64>,
    #[serde(default)]
    retryable: bool,
    details: Option<serde_json::Value>,
    fault: Option<FaultBody>,
}

#[derive(Debug, Deserialize)]
struct FaultBody {
    message: String,
    location: Option<String>,
}

/// Returns the output of a call.
pub(super) fn output(response: HttpResponse) -> Result<Output, Failure> {
    let response = success(response)?;
    let content_type = content_type(response.content_type());
    Ok(Output::bytes(response.body).with_content_type(content_type))
}

/// Returns a media type, without an allocation if it is a usual one or missing (any bytes).
pub(super) fn content_type(name: &str) -> ContentType {
    let usual = [ContentType::BYTES, ContentType::TEXT, ContentType::JSON, ContentType::HTML];
    match usual.into_iter().find(|usual| *usual == name) {
        Some(usual) => usual.into(),
        None if name.is_empty() => ContentType::BYTES.into(),
        None => ContentType::new(name.to_owned()),
    }
}

/// Returns the response if its status is 200, and else its failure.
pub(super) fn success(response: HttpResponse) -> Result<HttpResponse, Failure> {
    if response.status == StatusCode::OK { Ok(response) } else { Err(failure(&response)) }
}

#[cold]
fn failure(response: &HttpResponse) -> Failure {
    let status = response.status;
    if !(status.is_client_error() || status.is_server_error()) {
        let message = format!("returned the status {status}; expected 200");
        return Failure::Other(Error::new(ErrorKind::Protocol, message));
    }
    match serde_json::from_slice::<ErrorBody>(&response.body) {
        Ok(body) => body.into_failure(status.as_u16().into()),
        Err(_) => {
            let text = String::from_utf8_lossy(&response.body);
            let text = text.trim();
            let text = text::cut(text, text::MAX_MESSAGE_BYTES);
            let message = if text.is_empty() { status.to_string() } else { text.into_owned() };
            Failure::Error(PluginError::new(status.as_u16().into(), message))
        }
    }
}

impl ErrorBody {
    /// Converts the error; `status` is its code if it names none.
    pub(super) fn into_failure(self, status: i32) -> Failure {
        if let Some(fault) = self.fault {
            let message = text::cut(&fault.message, text::MAX_MESSAGE_BYTES).into_owned();
            let location = fault.location.as_deref();
            let location = location.map(|at| text::cut(at, text::MAX_LOCATION_BYTES).into_owned());
            return Failure::Panic(Fault::new(message, location, Vec::new()));
        }
        let code = self.code.or(self.status_code).and_then(|code| i32::try_from(code).ok());
        let code = code.unwrap_or(status);
        let message = self.message.unwrap_or_else(|| format!("returned the code {code}"));
        let message = text::cut(&message, text::MAX_MESSAGE_BYTES).into_owned();
        let mut error = PluginError::new(code, message);
        if self.retryable {
            error = error.retryable();
        }
        if let Some(details) = self.details.filter(|details| !details.is_null()) {
            let json = details.to_string();
            error = error.with_details(match json.len() {
                0..=text::MAX_DETAILS_BYTES => details,
                _ => text::cut(&json, text::MAX_DETAILS_BYTES).into(),
            });
        }
        Failure::Error(error)
    }
}

/// Formats a trace as a W3C `traceparent`.
pub(super) fn traceparent(trace: &TraceContext) -> HeaderValue {
    let text = format!("00-{}-{}-{:02x}", Hex(&trace.trace_id), Hex(&trace.span_id), trace.flags);
    HeaderValue::try_from(text).expect("hexadecimal digits are a valid header value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderMap;

    fn describe(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).expect("a status");
        let response = HttpResponse { status, headers: HeaderMap::new(), body: body.into() };
        match output(response) {
            Ok(output) => format!("output {}", String::from_utf8_lossy(output.as_bytes())),
            Err(Failure::Error(error)) => {
                format!("error {error} {} {:?}", error.is_retryable(), error.details())
            }
            Err(Failure::Panic(fault)) => format!("panic {fault}"),
            Err(Failure::Code(code)) => format!("code {code}"),
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
}
