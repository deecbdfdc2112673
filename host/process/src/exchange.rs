//! Exchanges with a process: a request over HTTP, or a call in a frame if the program serves frames,
//! and its response.

use std::time::Instant;

use hotbay_protocol::frame::RequestHead;
use hotbay_protocol::{endpoint, millis_rounded_up};

use crate::call::{Call, check_endpoint};
use crate::capabilities::Capabilities;
use crate::client::Client;
use crate::connection::{Async, Transport};
use crate::error::Failure;
use crate::frames;
use crate::http::{HttpRequest, HttpResponse, RequestError};
use crate::stream::OpenResponse;

/// A message to a process.
pub(crate) trait Exchange<W: Transport>: Send + Sync {
    type Response: Send;

    /// Whether it calls a function of the plugin, to which the limits of calls apply.
    const IS_CALL: bool;

    /// When its response is no longer needed.
    fn deadline(&self) -> Option<Instant>;

    /// Sends it and waits for its response. May be repeated.
    fn exchange(
        &self,
        client: &Client,
    ) -> impl Future<Output = Result<Self::Response, RequestError>> + Send;
}

/// A request of the host, or a batch of calls, whose whole response is received.
impl<W: Transport> Exchange<W> for HttpRequest {
    type Response = HttpResponse;

    const IS_CALL: bool = false;

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    async fn exchange(&self, client: &Client) -> Result<HttpResponse, RequestError> {
        client.send::<W>(self).await
    }
}

/// A request of whose response the head is received; the body is read later.
pub(crate) struct Opening(pub(crate) HttpRequest);

impl Exchange<Async> for Opening {
    type Response = OpenResponse;

    const IS_CALL: bool = true;

    fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    async fn exchange(&self, client: &Client) -> Result<OpenResponse, RequestError> {
        client.open_response(&self.0).await
    }
}

/// A call whose whole response is received.
pub(crate) enum CallExchange<'c> {
    Http(HttpRequest),
    Frame(FrameCall<'c>),
}

/// A call in a frame, and what is needed to send it over HTTP after all.
pub(crate) struct FrameCall<'c> {
    call: &'c Call<'c>,
    head: RequestHead<'c>,
    capabilities: &'c Capabilities,
    max_response_bytes: u64,
}

impl<'c> CallExchange<'c> {
    /// Prepares a call.
    ///
    /// # Errors
    ///
    /// The failure of a call that cannot be sent.
    pub(crate) fn new(
        call: &'c Call<'c>,
        capabilities: &'c Capabilities,
        max_response_bytes: u64,
    ) -> Result<Self, Failure> {
        let head = RequestHead {
            call_id: call.id,
            deadline_ms: None,
            trace: call.trace.map(|trace| (trace.trace_id, trace.span_id, trace.flags)),
            contract_hash: call.signature,
            endpoint: call.endpoint.unwrap_or(endpoint::EXECUTE),
            content_type: call.content_type,
        };
        // Any other call is rare, or invalid, and then rejected with a reason below.
        let is_usual = call.method.is_none()
            && call.headers.is_empty()
            && check_endpoint(head.endpoint, capabilities).is_ok()
            && head.content_type.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if capabilities.has_frames && is_usual && frames::fits(&head, call.input) {
            return Ok(Self::Frame(FrameCall { call, head, capabilities, max_response_bytes }));
        }
        call.http_request(capabilities, max_response_bytes).map(Self::Http)
    }
}

impl<W: Transport> Exchange<W> for CallExchange<'_> {
    type Response = HttpResponse;

    const IS_CALL: bool = true;

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Http(request) => request.deadline,
            Self::Frame(frame) => frame.call.deadline,
        }
    }

    async fn exchange(&self, client: &Client) -> Result<HttpResponse, RequestError> {
        let FrameCall { call, head, capabilities, max_response_bytes } = match self {
            Self::Http(request) => return client.send::<W>(request).await,
            Self::Frame(frame) => frame,
        };
        let left = call.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let head = RequestHead { deadline_ms: left.map(millis_rounded_up), ..*head };
        if let Some(response) =
            client.send_frame::<W>(&head, call.input, *max_response_bytes).await?
        {
            return Ok(response);
        }
        let request = call.http_request(capabilities, *max_response_bytes);
        let request = request.map_err(|failure| RequestError::unsent(format!("{failure:?}")))?;
        client.send::<W>(&request).await
    }
}
