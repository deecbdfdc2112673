//! Classifies a response by the protocol: an output, a well-formed error, or neither. Pure.

use hyper::StatusCode;
use serde_json::Value;

use super::super::http::HttpResponse;

/// Characters of a body shown in messages.
const MAX_SHOWN_CHARS: usize = 80;

/// A response that the protocol allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParsedReply {
    Output,
    Error { status: u16, message: String },
}

impl ParsedReply {
    /// Describes the response, to complete the sentence "it returned …".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Output => "200".to_owned(),
            Self::Error { status, message } => format!("{status}: {message}"),
        }
    }
}

/// Classifies a response.
///
/// # Errors
///
/// Describes a response that is neither an output nor a well-formed error.
pub(super) fn parse_reply(response: &HttpResponse) -> Result<ParsedReply, String> {
    let status = response.status;
    if status == StatusCode::OK {
        return Ok(ParsedReply::Output);
    }
    let shown = shown(&response.body);
    if !(status.is_client_error() || status.is_server_error()) {
        return Err(format!(
            "it returned {}; expected 200 for an output, or 4xx or 5xx for an error",
            status.as_u16()
        ));
    }
    let message = serde_json::from_slice(&response.body).ok().as_ref().and_then(error);
    message.map(|message| ParsedReply::Error { status: status.as_u16(), message }).ok_or_else(
        || {
            format!(
                "it returned {} with {shown}; expected JSON with the reason: \
             {{\"code\":…,\"message\":\"…\"}} for an error of the plugin, \
             {{\"message\":\"…\",\"statusCode\":…}} for a request that cannot be served",
                status.as_u16()
            )
        },
    )
}

/// Returns the message of an error in the protocol's form.
pub(super) fn error(value: &Value) -> Option<String> {
    let has_code = ["code", "statusCode"].iter().any(|name| value[name].is_i64());
    let message = value["message"].as_str().filter(|_| has_code)?;
    Some(match value["fault"]["message"].as_str() {
        Some(fault) => format!("{message}: {fault}"),
        None => message.to_owned(),
    })
}

/// Returns the start of a body, for messages.
pub(super) fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_SHOWN_CHARS)]);
    let text = text.trim();
    if text.is_empty() {
        return "an empty body".to_owned();
    }
    let mut shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderMap;

    fn check(status: u16, body: &str, expect: Result<ParsedReply, &str>) {
        let status = StatusCode::from_u16(status).unwrap();
        let response = HttpResponse { status, headers: HeaderMap::new(), body: body.into() };
        match (parse_reply(&response), expect) {
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => assert_eq!(found, expected.map_err(str::to_owned)),
        }
    }

    #[test]
    fn response_is_an_output_or_an_error_with_code_and_message() {
        let error =
            |status, message: &str| ParsedReply::Error { status, message: message.to_owned() };
        check(200, "", Ok(ParsedReply::Output));
        check(422, r#"{"code":7,"message":"no"}"#, Ok(error(422, "no")));
        check(413, r#"{"message":"long","statusCode":413}"#, Ok(error(413, "long")));
        let fault = r#"{"code":500,"message":"panicked","fault":{"message":"oh"}}"#;
        check(500, fault, Ok(error(500, "panicked: oh")));
        check(500, "", Err("returned 500 with an empty body; expected JSON"));
        check(500, "oops", Err("`oops`"));
        check(400, r#"{"error":"no"}"#, Err("expected JSON"));
        check(400, r#"{"message":"no"}"#, Err("expected JSON"));
        check(204, "", Err("returned 204; expected 200"));
    }
}
