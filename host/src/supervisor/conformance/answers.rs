//! What an answer is by the protocol: an output, an error in its form, or neither. Pure.

use hyper::StatusCode;
use serde_json::Value;

use super::super::http::HttpResponse;

/// Characters of a body that are shown.
const SHOWN_CHARS_MAX: usize = 80;

/// An answer as the protocol has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proper {
    Output,
    Error { status: u16, message: String },
}

impl Proper {
    /// Completes the sentence "it answered …".
    pub(super) fn told(&self) -> String {
        match self {
            Self::Output => "200".to_owned(),
            Self::Error { status, message } => format!("{status}: {message}"),
        }
    }
}

/// Reads an answer; why it is none, where it is neither output nor error.
pub(super) fn proper(answer: &HttpResponse) -> Result<Proper, String> {
    let status = answer.status;
    if status == StatusCode::OK {
        return Ok(Proper::Output);
    }
    let shown = shown(&answer.body);
    if !(status.is_client_error() || status.is_server_error()) {
        return Err(format!(
            "it answered {}; wanted 200 for an output, 4xx or 5xx for an error",
            status.as_u16()
        ));
    }
    let message = serde_json::from_slice(&answer.body).ok().as_ref().and_then(error);
    message.map(|message| Proper::Error { status: status.as_u16(), message }).ok_or_else(|| {
        format!(
            "it answered {} with {shown}; wanted JSON that says why: {{\"code\":…,\"message\":\"…\"}} \
             for an error of the plugin, {{\"message\":\"…\",\"statusCode\":…}} for a request that \
             cannot be answered",
            status.as_u16()
        )
    })
}

/// The message of an error in the protocol's form.
pub(super) fn error(value: &Value) -> Option<String> {
    let has_code = ["code", "statusCode"].iter().any(|name| value[name].is_i64());
    let message = value["message"].as_str().filter(|_| has_code)?;
    Some(match value["fault"]["message"].as_str() {
        Some(fault) => format!("{message}: {fault}"),
        None => message.to_owned(),
    })
}

/// The start of a body, for people.
pub(super) fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARS_MAX)]);
    let text = text.trim();
    if text.is_empty() {
        return "an empty body".to_owned();
    }
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderMap;

    fn check(status: u16, body: &str, expect: Result<Proper, &str>) {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = HttpResponse { status, headers: HeaderMap::new(), body: body.into() };
        match (proper(&answer), expect) {
            (Err(found), Err(wanted)) => assert!(found.contains(wanted), "{found}"),
            (found, wanted) => assert_eq!(found, wanted.map_err(str::to_owned)),
        }
    }

    #[test]
    fn an_answer_is_an_output_or_an_error_with_a_code_and_a_message() {
        let error = |status, message: &str| Proper::Error { status, message: message.to_owned() };
        check(200, "", Ok(Proper::Output));
        check(422, r#"{"code":7,"message":"no"}"#, Ok(error(422, "no")));
        check(413, r#"{"message":"long","statusCode":413}"#, Ok(error(413, "long")));
        let fault = r#"{"code":500,"message":"panicked","fault":{"message":"oh"}}"#;
        check(500, fault, Ok(error(500, "panicked: oh")));
        check(500, "", Err("answered 500 with an empty body; wanted JSON"));
        check(500, "oops", Err("`oops`"));
        check(400, r#"{"error":"no"}"#, Err("wanted JSON"));
        check(400, r#"{"message":"no"}"#, Err("wanted JSON"));
        check(204, "", Err("answered 204; wanted 200"));
    }
}
