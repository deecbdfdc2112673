//! Calls of contracts that a program makes over the socket of the host's services: requests and
//! responses. Who serves them, the host decides.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hotbay_plugin::TraceContext;
use hotbay_plugin::contract::{CallError, CallErrorKind};
use hotbay_protocol::{ContractCheck, ErrorBody, header, parse_traceparent, service};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde_json::value::RawValue;

/// Maximum number of calls of contracts of one program that run at once.
pub(crate) const MAX_CALLS: usize = 128;

/// Limit of the arguments of a call.
pub(crate) const MAX_ARGUMENT_BYTES: usize = 16 << 20;

/// A request of a program.
#[derive(Debug)]
pub struct ContractCall {
    /// What it requests.
    pub request: ContractRequest,
    /// The plugin that is to serve it, if the program names one.
    pub plugin: Option<String>,
    /// The id of the call that the program serves meanwhile, if it names one.
    pub outer_id: Option<u64>,
    /// When the program no longer needs the result.
    pub deadline: Option<Instant>,
    /// The trace that the call belongs to.
    pub trace: Option<TraceContext>,
}

/// What a program requests.
#[derive(Debug)]
pub enum ContractRequest {
    /// A check that a contract with this text is served.
    Check(String),
    /// A call.
    Method {
        /// The name of the contract.
        contract: String,
        /// The name of the method.
        method: String,
        /// The arguments as JSON.
        arguments: Bytes,
    },
}

/// The result as JSON. Dropping the future cancels the call.
pub type ContractFuture = Pin<Box<dyn Future<Output = Result<Vec<u8>, CallError>> + Send>>;

impl ContractCall {
    /// Parses a request; `None` if its path is not that of contracts.
    pub(crate) fn parse(
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Option<Result<Self, CallError>> {
        let rest = path.strip_prefix(service::CONTRACT)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        Some(Self::parse_rest(rest, headers, body))
    }

    fn parse_rest(rest: &str, headers: &HeaderMap, body: &Bytes) -> Result<Self, CallError> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let number = |name: &'static str, shown: &str| match text(name) {
            None => Ok(None),
            Some(number) => number.parse::<u64>().map(Some).map_err(|_| {
                invalid(format!("invalid {shown}: expected a number, found `{number}`"))
            }),
        };
        let (request, plugin) = match rest.split_once('/') {
            None => {
                let check: ContractCheck<'_> = serde_json::from_slice(body).map_err(|error| {
                    invalid(format!("invalid body: expected `text` and perhaps `plugin`: {error}"))
                })?;
                let plugin = check.plugin.map(|plugin| plugin.into_owned());
                (ContractRequest::Check(check.text.into_owned()), plugin)
            }
            Some((_, name)) => {
                let (contract, method) = name.split_once('/').ok_or_else(|| {
                    invalid("invalid path: expected `/contract/NAME/METHOD`".to_owned())
                })?;
                let (contract, method) = (contract.to_owned(), method.to_owned());
                let arguments = body.clone();
                let plugin = text(header::PLUGIN).map(str::to_owned);
                (ContractRequest::Method { contract, method, arguments }, plugin)
            }
        };
        let outer_id = number(header::CALL_ID, "Hotbay-Call-Id")?;
        let left = number(header::DEADLINE_MS, "Hotbay-Deadline-Ms")?.map(Duration::from_millis);
        let deadline = left.and_then(|left| Instant::now().checked_add(left));
        let trace = text(header::TRACEPARENT).and_then(parse_traceparent);
        let trace =
            trace.map(|(trace_id, span_id, flags)| TraceContext { trace_id, span_id, flags });
        Ok(Self { request, plugin, outer_id, deadline, trace })
    }
}

fn invalid(message: String) -> CallError {
    CallError::new(CallErrorKind::InvalidInput, message)
}

/// Returns the error of a program that makes too many calls at once.
#[cold]
pub(crate) fn too_many() -> CallError {
    let message = format!("the program makes more than {MAX_CALLS} calls at once");
    CallError::new(CallErrorKind::Overloaded, message).with_hint("make fewer calls at once")
}

/// Returns the status code and the body of a response.
pub(crate) fn response(result: Result<Vec<u8>, CallError>) -> (StatusCode, Vec<u8>) {
    let error = match result {
        Ok(body) => return (StatusCode::OK, body),
        Err(error) => error,
    };
    let status = status_of(error.kind());
    let body = match (error.kind(), error.plugin_error()) {
        (CallErrorKind::Plugin, Some(own)) => ErrorBody {
            code: Some(own.code().into()),
            message: Some(own.message().into()),
            retryable: Some(own.is_retryable()),
            details: own
                .details()
                .and_then(|details| RawValue::from_string(details.to_string()).ok()),
            ..ErrorBody::default()
        },
        (kind, _) => ErrorBody {
            kind: Some(kind.name().into()),
            hint: error.hint().map(Into::into),
            ..ErrorBody::rejected(status.as_u16(), error.to_string())
        },
    };
    (status, serde_json::to_vec(&body).unwrap_or_default())
}

fn status_of(kind: CallErrorKind) -> StatusCode {
    let code = match kind {
        CallErrorKind::Plugin => 422,
        CallErrorKind::InvalidInput => 400,
        CallErrorKind::PermissionDenied => 403,
        CallErrorKind::Overloaded => 429,
        CallErrorKind::Cancelled => 499,
        CallErrorKind::NotProvided => 501,
        CallErrorKind::InvalidOutput | CallErrorKind::Panicked => 502,
        CallErrorKind::Unavailable => 503,
        CallErrorKind::DeadlineExceeded => 504,
        CallErrorKind::Circular => 508,
        _ => 500,
    };
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, headers: &[(&'static str, &'static str)], body: &'static str) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        match ContractCall::parse(path, &headers, &Bytes::from_static(body.as_bytes())) {
            None => "none".to_owned(),
            Some(Err(error)) => error.to_string(),
            Some(Ok(ContractCall { request, plugin, outer_id, deadline, .. })) => match request {
                ContractRequest::Check(text) => format!("check {text} {plugin:?}"),
                ContractRequest::Method { contract, method, .. } => {
                    let has_deadline = deadline.is_some();
                    format!("{contract} {method} {plugin:?} {outer_id:?} {has_deadline}")
                }
            },
        }
    }

    #[test]
    fn requests_are_parsed_and_mistakes_reported() {
        let headers =
            [("hotbay-plugin", "b"), ("hotbay-call-id", "7"), ("hotbay-deadline-ms", "1000")];
        assert_eq!(parse("/contract/kv/get", &headers, "{}"), "kv get Some(\"b\") Some(7) true");
        assert_eq!(parse("/contract/kv/get", &[], "{}"), "kv get None None false");
        assert_eq!(parse("/contract", &[], r#"{"text":"t"}"#), "check t None");
        let named = r#"{"text":"t","plugin":"b"}"#;
        assert_eq!(parse("/contract", &[], named), "check t Some(\"b\")");
        assert_eq!(parse("/contracts", &[], ""), "none");
        assert_eq!(parse("/log", &[], ""), "none");
        let error = parse("/contract/kv", &[], "");
        assert_eq!(error, "invalid path: expected `/contract/NAME/METHOD`");
        assert!(parse("/contract", &[], "{}").starts_with("invalid body: expected `text`"));
        let error = parse("/contract/kv/get", &[("hotbay-call-id", "x")], "{}");
        assert_eq!(error, "invalid Hotbay-Call-Id: expected a number, found `x`");
    }

    #[test]
    fn errors_keep_their_kind_and_those_of_methods_their_code() {
        let error = CallError::new(CallErrorKind::Circular, "no").with_hint("stop");
        let (status, body) = response(Err(error));
        assert_eq!(status.as_u16(), 508);
        let expected = r#"{"hint":"stop","kind":"circular","message":"no","statusCode":508}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        let (status, body) = response(Err(hotbay_plugin::PluginError::new(7, "oh").into()));
        assert_eq!(status.as_u16(), 422);
        assert_eq!(body, br#"{"code":7,"message":"oh","retryable":false}"#);
        assert_eq!(response(Ok(b"2".to_vec())), (StatusCode::OK, b"2".to_vec()));
    }
}
