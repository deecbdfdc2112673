//! Serves the methods of contracts: each has an endpoint, and arguments and result as JSON, or as
//! postcard if the host names the hash of the signature.

use std::fmt;
use std::sync::Arc;

use hotbay_protocol::{ContractBody, endpoint};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Response, StatusCode};

use super::body::OutgoingBody;
use super::call::{CONTRACT_HASH, CallError, CallHeaders, call};
use super::connections::Connection;
use super::instance::Instance;
use super::{responses, streams};
use crate::Plugin;
use crate::contract::Format;
pub(super) use crate::contract::internal::ServedMethod;
use crate::contract::internal::{Description, Failed, ServedBy, ServedCall};
use crate::export::Failure;

/// The contracts that a program serves.
pub(super) struct Contracts<T: 'static>(Vec<Served<T>>);

struct Served<T: 'static> {
    name: &'static str,
    text: String,
    methods: &'static [ServedMethod<T>],
}

impl<T> Contracts<T> {
    pub(super) fn add<C: ServedBy<T, true> + ?Sized>(&mut self) {
        let Description { name, .. } = C::DESCRIPTION;
        self.add_methods(name, C::DESCRIPTION.text(), C::SERVED);
    }

    /// Adds a contract by its text.
    pub(super) fn add_methods(
        &mut self,
        name: &'static str,
        text: String,
        methods: &'static [ServedMethod<T>],
    ) {
        self.0.push(Served { name, text, methods });
    }

    /// Returns the method with this endpoint.
    pub(super) fn method(&self, endpoint: &str) -> Option<&'static ServedMethod<T>> {
        let name = endpoint.strip_prefix(endpoint::CONTRACT_PREFIX)?;
        let (contract, method) = name.split_once('/')?;
        let served = self.0.iter().find(|served| served.name == contract)?;
        served.methods.iter().find(|served| served.name == method)
    }

    /// Returns the texts of the contracts, for the capabilities.
    ///
    /// # Errors
    ///
    /// A message for people if a contract occurs twice, or has a name that is not ASCII.
    pub(super) fn texts(&self) -> Result<Vec<ContractBody>, String> {
        let mut texts = Vec::new();
        for (at, Served { name, text, methods }) in self.0.iter().enumerate() {
            if self.0[..at].iter().any(|other| other.name == *name) {
                return Err(format!("contract `{name}` of `serve_plugin!` already exists"));
            }
            if let Some(method) = methods.iter().find(|method| !method.name.is_ascii()) {
                return Err(format!(
                    "invalid name of method `{}` of contract `{name}`: programs serve only ASCII \
                     names",
                    method.name
                ));
            }
            texts.push(ContractBody { postcard: true, text: text.clone() });
        }
        Ok(texts)
    }
}

impl<T> Default for Contracts<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> fmt::Debug for Contracts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|served| served.name)).finish()
    }
}

/// Responds to a call of a method. A stream holds what `begin` returns.
pub(super) fn respond<T: Plugin, A: Send + 'static>(
    instance: &Instance<T>,
    begin: impl FnOnce() -> A,
    connection: &Arc<Connection>,
    call_headers: CallHeaders,
    headers: HeaderMap,
    arguments: &[u8],
    method: &ServedMethod<T>,
) -> Response<OutgoingBody> {
    let format = match format_of(&headers, method.hash) {
        Ok(format) => format,
        Err((status, message)) => return responses::rejected(status, &message),
    };
    let mut failed = Failed::Method;
    let mut fail = |(part, error)| {
        failed = part;
        error
    };
    let outcome = match method.call {
        ServedCall::Value(run) => call(instance, connection, &call_headers, |plugin, context| {
            run(plugin, context, format, arguments).map_err(&mut fail)
        })
        .map(|output| responses::output(output.with_content_type(format.content_type()), headers)),
        ServedCall::Stream(_) if format != Format::Json => {
            let message = "wrong Content-Type: a stream has arguments as application/json";
            return responses::rejected(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
        }
        ServedCall::Stream(open) => call(instance, connection, &call_headers, |plugin, context| {
            open(plugin, context, format, arguments).map_err(&mut fail)
        })
        .map(|items| streams::respond(connection, call_headers, items, begin())),
    };
    let failure = match outcome {
        Ok(response) => return response,
        Err(CallError::Rejected(error)) => return responses::not_possible(error),
        Err(CallError::Failed(failure)) => failure,
    };
    let (status, what) = match failed {
        Failed::Method => return responses::failed(&failure),
        Failed::Arguments => (StatusCode::BAD_REQUEST, "invalid arguments"),
        Failed::Result => (StatusCode::INTERNAL_SERVER_ERROR, "the result cannot be serialized"),
    };
    match failure {
        Failure::Error(error) => {
            responses::rejected(status, &format!("{what}: {}", error.message()))
        }
        Failure::Panic(_) => responses::failed(&failure),
    }
}

/// Returns the format of a request's body.
fn format_of(headers: &HeaderMap, hash: u64) -> Result<Format, (StatusCode, String)> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let content_type = text(&CONTENT_TYPE).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let (json, postcard) = (Format::Json.content_type(), Format::Postcard.content_type());
    if media_type.eq_ignore_ascii_case(json) {
        return Ok(Format::Json);
    }
    if !media_type.eq_ignore_ascii_case(postcard) {
        let message =
            format!("wrong Content-Type: expected {json} or {postcard}, found `{content_type}`");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let found = text(&CONTRACT_HASH);
    if found.and_then(|found| u64::from_str_radix(found, 16).ok()) == Some(hash) {
        return Ok(Format::Postcard);
    }
    let found = found.unwrap_or("none");
    let message = format!(
        "wrong Hotbay-Contract-Hash: the signature of this method has {hash:016x}, found {found}; \
         use {json}"
    );
    Err((StatusCode::PRECONDITION_FAILED, message))
}
