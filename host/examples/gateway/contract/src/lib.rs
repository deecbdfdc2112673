//! The contracts of the gateway: what a route and what a policy is.
//!
//! Their methods are async, so that a plugin that waits blocks no thread of the gateway. A request
//! whose client disconnects is dropped in the plugin, too.

#![forbid(unsafe_code)]

mod head;

pub use head::RequestHead;
use hotbay_plugin::contract::CallError;

/// The header by which a policy identifies the caller of a request. The gateway removes it from what
/// clients send.
pub const USER: &str = "x-user";

/// Responds to requests whose path starts with the name of the plugin: `/hello/…` for `hello`.
#[hotbay_plugin::contract(name = "gateway-route", version = "1.0")]
pub trait Route {
    /// Returns the response to a request.
    ///
    /// # Errors
    ///
    /// An error of the plugin whose code is that of an HTTP error (400 to 599) becomes a response with
    /// this status, and the message is its body. Any other becomes a response with status 500.
    async fn handle(&self, request: HttpRequest) -> Result<HttpResponse, CallError>;
}

/// Decides whether a request may reach its route.
#[hotbay_plugin::contract(name = "gateway-policy", version = "1.0")]
pub trait Policy {
    /// Checks a request. Its body has not been read.
    ///
    /// # Errors
    ///
    /// With any error, the request is not passed on.
    async fn check(&self, request: &RequestHead) -> Result<Verdict, CallError>;
}

/// A request.
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRequest {
    /// All but the body.
    pub head: RequestHead,
    /// The body.
    pub body: Vec<u8>,
}

/// A response.
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub struct HttpResponse {
    /// The status, from 200 to 599.
    pub status: u16,
    /// Names and values of the headers, without those of the connection, such as `content-length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// Returns a response with a text.
    ///
    /// ```
    /// let response = gateway_contract::HttpResponse::text(200, "hello");
    /// assert_eq!(response.headers[0].0, "content-type");
    /// assert_eq!(response.body, b"hello");
    /// ```
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        let content_type = ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned());
        Self { status, headers: vec![content_type], body: text.into().into_bytes() }
    }
}

/// The decision of a policy.
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Passes the request on.
    Allow,
    /// Passes the request on with these headers (names in lower case), which replace those of the same
    /// name.
    AddHeaders(Vec<(String, String)>),
    /// Sends this response instead.
    Deny(HttpResponse),
}

#[cfg(test)]
mod tests {
    use hotbay_plugin::contract::check_golden;

    use super::{Policy, Route};

    #[test]
    fn contracts_have_no_breaking_changes() {
        check_golden::<dyn Route>("contracts/gateway-route.txt");
        check_golden::<dyn Policy>("contracts/gateway-policy.txt");
    }
}
