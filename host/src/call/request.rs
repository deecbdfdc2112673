//! The input of one call, and its options.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotbay_plugin::abi::{Media, RawPayload};
#[cfg(all(unix, feature = "process"))]
use hotbay_plugin::contract::Format;
use hotbay_plugin::{ContentType, Payload, TraceContext};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::Reply;
use super::chain::Chain;
#[cfg(all(unix, feature = "process"))]
use super::method::MethodMessage;
use super::method::{MethodRequest, StreamSlot};
use crate::error::{Error, ErrorKind};
use crate::sync::deadline_in;

/// The input of one call, borrowed if possible, and its options.
///
/// ```
/// use std::time::Duration;
/// use hotbay::Request;
///
/// let request = Request::text("hello").with_timeout(Duration::from_secs(1)).with_operation("read");
/// assert_eq!(request.as_bytes(), b"hello");
/// assert_eq!(request.content_type(), "text/plain; charset=utf-8");
/// assert_eq!(request.operation(), Some("read"));
/// assert!(request.deadline().is_some());
/// ```
#[derive(Debug)]
pub struct Request<'a> {
    data: Data<'a>,
    media: Media<'a>,
    /// The media type's name if the request owns it; takes precedence over `media`.
    owned_media: Option<Box<str>>,
    deadline: Option<Instant>,
    /// Options that few requests have.
    more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default)]
struct More {
    trace: Option<TraceContext>,
    token: Option<CancellationToken>,
    operation: Option<Cow<'static, str>>,
    endpoint: Option<Cow<'static, str>>,
    /// Options of the HTTP request that the call becomes.
    http: Option<Box<Http>>,
    is_idempotent: bool,
    space_timeout: Option<Duration>,
    /// The plugins that wait for the call.
    chain: Option<Arc<Chain>>,
    extensions: http::Extensions,
}

#[derive(Clone, Debug, Default)]
struct Http {
    method: Option<Cow<'static, str>>,
    headers: Headers,
}

#[derive(Debug)]
enum Data<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
    /// The reply of another plugin, passed on without a copy.
    Reply(Box<Reply>),
    /// A method of a contract.
    Method(Box<MethodRequest<'a>>),
}

impl<'a> Request<'a> {
    /// Creates a request with plain text.
    #[inline]
    pub fn text(text: &'a str) -> Self {
        Self::new(Data::Borrowed(text.as_bytes()), Media::TEXT)
    }

    /// Creates a request with borrowed bytes.
    #[inline]
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self::new(Data::Borrowed(bytes), Media::BYTES)
    }

    /// Creates a request with text that is already JSON.
    #[inline]
    pub fn json_text(json: &'a str) -> Self {
        Self::new(Data::Borrowed(json.as_bytes()), Media::JSON)
    }

    /// Creates a request with owned bytes.
    #[inline]
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self::new(Data::Owned(bytes), Media::BYTES)
    }

    /// Creates a request with a value serialized as JSON.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `value` cannot be JSON, such as a map whose keys are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            let message = "the request cannot be serialized as JSON";
            Error::new(ErrorKind::InvalidInput, message).caused_by(error)
        })?;
        Ok(Self::new(Data::Owned(bytes), Media::JSON))
    }

    /// Creates the request of a method.
    pub(crate) fn of_method(method: MethodRequest<'a>) -> Self {
        Self::new(Data::Method(Box::new(method)), Media::BYTES)
    }

    #[inline]
    fn new(data: Data<'a>, media: Media<'a>) -> Self {
        Self { data, media, owned_media: None, deadline: None, more: None }
    }

    /// Sets the media type of the bytes.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Cow<'a, str>>) -> Self {
        match content_type.into() {
            Cow::Borrowed(name) => {
                self.media = Media::of(name);
                self.owned_media = None;
            }
            Cow::Owned(name) => self.owned_media = Some(name.into()),
        }
        self
    }

    /// Sets the trace context, which the plugin can read.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.more().trace = Some(trace);
        self
    }

    /// Sets a deadline `timeout` from now.
    ///
    /// A call that has not started by then never starts. [`execute`](crate::PluginHandle::execute)
    /// returns at the deadline, whatever the plugin does. [`call`](crate::PluginHandle::call) runs
    /// on this thread and returns when the plugin does, which can query the deadline. If the
    /// request has a deadline already, the earlier one applies.
    #[inline]
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        self.with_deadline(deadline_in(timeout))
    }

    /// Sets a deadline, as [`with_timeout`](Self::with_timeout).
    #[inline]
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self
    }

    /// Cancels the call when `token` is cancelled. A call that has not started never starts; the
    /// plugin of a running call can query the cancellation.
    #[must_use]
    pub fn with_cancellation_token(mut self, token: CancellationToken) -> Self {
        self.more().token = Some(token);
        self
    }

    /// Names the operation that the plugin is to perform, such as `read`, `write` or `exec`. The
    /// call fails with `PermissionDenied` unless the plugin's manifest lists it in `permissions`.
    #[must_use]
    pub fn with_operation(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        self.more().operation = Some(operation.into());
        self
    }

    /// Sets whether the host may make the call twice. If so, it is retried if the plugin's process
    /// exited or closed the connection before it answered, so that the call may have run. A call
    /// that definitely did not run is retried without this.
    #[must_use]
    pub fn with_idempotent(mut self, is_idempotent: bool) -> Self {
        self.more().is_idempotent = is_idempotent;
        self
    }

    /// Sends the call to another endpoint of the plugin, such as `rows`, instead of `execute`.
    /// Only plugins of kind `process` have endpoints.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<Cow<'static, str>>) -> Self {
        self.more().endpoint = Some(endpoint.into());
        self
    }

    /// Calls the endpoint with this HTTP method, such as `GET`, instead of `POST`. With `GET`,
    /// `HEAD`, `OPTIONS` and `TRACE` the call may run twice, as with
    /// [`with_idempotent`](Self::with_idempotent). An empty input is sent without a body.
    ///
    /// Only plugins of kind `process` are called by HTTP; a call of any other fails with
    /// `Unsupported`, and a call with an invalid method with `InvalidInput`.
    #[must_use]
    pub fn with_method(mut self, method: impl Into<Cow<'static, str>>) -> Self {
        self.more().http.get_or_insert_default().method = Some(method.into());
        self
    }

    /// Adds a header to the HTTP request that the call becomes, such as `Authorization`. A name may
    /// be added more than once.
    ///
    /// Only plugins of kind `process` are called by HTTP; a call of any other fails with
    /// `Unsupported`. All plugins of a pipeline receive the header, and all providers that are
    /// tried. A call fails with `InvalidInput` if it has: invalid names or values; headers of one
    /// connection (`Connection`, `Keep-Alive`, `Proxy-…`, `TE`, `Trailer`, `Transfer-Encoding`,
    /// `Upgrade`); headers that the host sets (`Host`, `Content-Length`, `Content-Type`,
    /// `traceparent`, `Hotbay-…`); more than 64 headers, or 32 KiB in all.
    #[must_use]
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.more().http.get_or_insert_default().headers.push(name.into(), value.into());
        self
    }

    /// Waits up to `timeout` for space in the plugin's queue if it is full, instead of failing at
    /// once. Applies to [`execute`](crate::PluginHandle::execute) only.
    #[must_use]
    pub fn with_space_timeout(mut self, timeout: Duration) -> Self {
        self.more().space_timeout = Some(timeout);
        self
    }

    /// Attaches a value, one of each type, for the layers of the application: a tenant, a user, a
    /// budget. Plugins do not see it. All plugins of a pipeline have it.
    ///
    /// ```
    /// use hotbay::Request;
    ///
    /// #[derive(Clone, Debug, PartialEq)]
    /// struct Tenant(u32);
    ///
    /// let request = Request::text("hello").with_extension(Tenant(7));
    /// assert_eq!(request.extension::<Tenant>(), Some(&Tenant(7)));
    /// assert_eq!(request.extension::<String>(), None);
    /// ```
    #[must_use]
    pub fn with_extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.more().extensions.insert(value);
        self
    }

    /// Returns the attached value of this type, if there is one.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.more.as_ref()?.extensions.get()
    }

    /// Sets the plugins that wait for the call.
    pub(crate) fn set_chain(&mut self, chain: Arc<Chain>) {
        self.more().chain = Some(chain);
    }

    /// Sets the plugins that wait for the call that a service or a compiled-in plugin serves on this
    /// thread, if they are not set.
    pub(crate) fn join_chain(&mut self) {
        if self.chain().is_none()
            && let Some(chain) = Chain::current(None)
        {
            self.set_chain(chain);
        }
    }

    /// Returns the plugins that wait for the call, if a plugin makes it.
    #[inline]
    pub(crate) fn chain(&self) -> Option<&Arc<Chain>> {
        self.more.as_ref()?.chain.as_ref()
    }

    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Sets where the stream goes that the call of a method opens.
    pub(crate) fn set_stream_slot(&mut self, slot: StreamSlot) {
        if let Data::Method(method) = &mut self.data {
            method.stream = Some(slot);
        }
    }

    /// Returns where the stream goes that the call opens, if it opens one.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn stream_slot(&self) -> Option<&StreamSlot> {
        self.method_request()?.stream.as_ref()
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// Returns the deadline.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the operation, if one was set, or if the method of a contract names one.
    #[inline]
    pub fn operation(&self) -> Option<&str> {
        let set = self.more.as_ref().and_then(|more| more.operation.as_deref());
        set.or_else(|| self.method_request()?.method()?.permission.as_deref())
    }

    /// Returns the name of the contract and of its method, if this is a call of one. Its arguments are
    /// not bytes: [`as_bytes`](Self::as_bytes) is empty.
    pub fn contract_method(&self) -> Option<(&str, &str)> {
        let request = self.method_request()?;
        Some((&request.contract.text.name, &request.method()?.name))
    }

    /// Returns the call of a method, if it is one.
    #[inline]
    pub(crate) fn method_request(&self) -> Option<&MethodRequest<'a>> {
        match &self.data {
            Data::Method(method) => Some(method),
            _ => None,
        }
    }

    /// Returns the number of bytes, or of a method's arguments.
    #[inline]
    pub(crate) fn byte_len(&self) -> usize {
        match &self.data {
            Data::Method(method) => method.byte_len(),
            _ => self.as_bytes().len(),
        }
    }

    /// Returns the endpoint, if one was set.
    #[inline]
    pub fn endpoint(&self) -> Option<&str> {
        self.more.as_ref().and_then(|more| more.endpoint.as_deref())
    }

    fn http(&self) -> Option<&Http> {
        self.more.as_ref()?.http.as_deref()
    }

    /// Returns whether it has a method or headers.
    #[inline]
    pub(crate) fn names_http(&self) -> bool {
        self.http().is_some()
    }

    /// Returns the HTTP method, if one was set.
    pub fn method(&self) -> Option<&str> {
        self.http()?.method.as_deref()
    }

    /// Returns the names and values of the headers, in the order in which they were added.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.http().into_iter().flat_map(|http| http.headers.iter())
    }

    /// Returns the headers of an HTTP request.
    pub(crate) fn named_headers(&self) -> Option<&Headers> {
        self.http().map(|http| &http.headers)
    }

    /// Returns the call of a process, which has the given number. The call of a method also needs the
    /// message that it sends.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn to_process_call<'c>(
        &'c self,
        id: u64,
        message: Option<&'c MethodMessage>,
    ) -> hotbay_process::Call<'c> {
        let call = hotbay_process::Call {
            id,
            input: self.as_bytes(),
            content_type: self.content_type(),
            endpoint: self.endpoint(),
            kind: hotbay_process::EndpointKind::Calls,
            signature: None,
            method: self.method(),
            headers: self.named_headers().map_or(&[], Headers::as_slice),
            trace: self.trace(),
            deadline: self.deadline,
            is_idempotent: self.is_idempotent(),
        };
        let Some(message) = message else { return call };
        hotbay_process::Call {
            input: &message.arguments,
            content_type: message.format.content_type(),
            endpoint: Some(&message.endpoint),
            kind: message.kind,
            signature: (message.format == Format::Postcard).then_some(message.signature),
            ..call
        }
    }

    /// Returns whether it is an HTTP request without a body, and thus has no input to check.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.as_bytes().is_empty() && matches!(self.method(), Some("GET" | "HEAD"))
    }

    /// Returns whether the call may run twice.
    #[inline]
    pub fn is_idempotent(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.is_idempotent)
    }

    /// Returns the trace context, if one was set.
    #[inline]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.more.as_ref().and_then(|more| more.trace.as_ref())
    }

    /// Returns the token that cancels the call, if one was set.
    #[inline]
    pub fn cancellation_token(&self) -> Option<&CancellationToken> {
        self.more.as_ref().and_then(|more| more.token.as_ref())
    }

    #[inline]
    pub(crate) fn space_timeout(&self) -> Option<Duration> {
        self.more.as_ref().and_then(|more| more.space_timeout)
    }

    /// Waits for space in the queue until its deadline, unless it has its own limit.
    pub(crate) fn wait_for_space_by_default(self) -> Self {
        match self.space_timeout() {
            Some(_) => self,
            None => self.with_space_timeout(Duration::MAX),
        }
    }

    /// Returns the input if it is borrowed and the request has no options but a deadline.
    #[inline]
    pub(crate) fn brief_input(&self) -> Option<RawPayload<'a>> {
        match self.data {
            Data::Borrowed(bytes) if self.more.is_none() && self.owned_media.is_none() => {
                Some(RawPayload::new(Payload::of_media(bytes, self.media)))
            }
            _ => None,
        }
    }

    /// Returns the request with this input and deadline.
    pub(crate) fn of_brief(input: &RawPayload<'a>, deadline: Option<Instant>) -> Self {
        let input = input.get();
        Self { deadline, ..Self::new(Data::Borrowed(input.as_bytes()), input.media()) }
    }

    /// Returns whether it has no option that a layer checks.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.deadline.is_none() && self.more.is_none() && self.operation().is_none()
    }

    /// Returns whether it has a deadline or a token.
    #[inline]
    pub(crate) fn is_bounded(&self) -> bool {
        self.deadline.is_some() || self.cancellation_token().is_some()
    }

    /// Returns whether the call was cancelled.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancellation_token().is_some_and(CancellationToken::is_cancelled)
    }

    /// Returns a request with the payload of `reply` and the options of this one.
    pub(crate) fn answered_by(self, reply: Reply) -> Request<'static> {
        Request { deadline: self.deadline, more: self.more, ..Request::from(reply) }
    }

    /// Copies all options of `other`, such as deadline, token, trace and operation.
    #[must_use]
    pub fn with_options_of(mut self, other: &Request<'_>) -> Self {
        self.deadline = other.deadline;
        self.more.clone_from(&other.more);
        self
    }

    /// Returns the bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.data {
            Data::Borrowed(bytes) => bytes,
            Data::Owned(bytes) => bytes,
            Data::Reply(reply) => reply.as_bytes(),
            Data::Method(_) => &[],
        }
    }

    /// Returns the media type.
    pub fn content_type(&self) -> &str {
        self.owned_media.as_deref().unwrap_or_else(|| self.media.as_str())
    }

    #[inline]
    pub(crate) fn payload(&self) -> Payload<'_> {
        let media = match &self.owned_media {
            None => self.media,
            Some(name) => Media::of(name),
        };
        Payload::of_media(self.as_bytes(), media)
    }

    /// Returns a request with the same bytes, without a copy.
    pub(crate) fn borrowed(&self) -> Request<'_> {
        let media = match &self.owned_media {
            None => self.media,
            Some(name) => Media::of(name),
        };
        let data = match &self.data {
            Data::Method(method) => Data::Method(method.clone()),
            _ => Data::Borrowed(self.as_bytes()),
        };
        Request { data, media, owned_media: None, deadline: self.deadline, more: self.more.clone() }
    }

    /// Copies what it borrows.
    pub(crate) fn into_owned(self) -> Request<'static> {
        let (media, owned_media) = owned(self.content_type());
        Request {
            data: match self.data {
                Data::Borrowed(bytes) => Data::Owned(bytes.to_vec()),
                Data::Owned(bytes) => Data::Owned(bytes),
                Data::Reply(reply) => Data::Reply(reply),
                Data::Method(method) => Data::Method(Box::new(method.into_owned())),
            },
            media,
            owned_media,
            deadline: self.deadline,
            more: self.more,
        }
    }
}

impl Default for Request<'_> {
    /// Creates an empty request.
    fn default() -> Self {
        Self::bytes(&[])
    }
}

impl Clone for Request<'_> {
    /// Copies the bytes if the request owns them.
    fn clone(&self) -> Self {
        let data = match &self.data {
            Data::Borrowed(bytes) => Data::Borrowed(bytes),
            Data::Owned(bytes) => Data::Owned(bytes.clone()),
            Data::Reply(reply) => Data::Owned(reply.as_bytes().to_vec()),
            Data::Method(method) => Data::Method(method.clone()),
        };
        Self {
            data,
            media: self.media,
            owned_media: self.owned_media.clone(),
            deadline: self.deadline,
            more: self.more.clone(),
        }
    }
}

/// Returns a media type, without an allocation for common ones.
fn owned(name: &str) -> (Media<'static>, Option<Box<str>>) {
    let usual = [ContentType::TEXT, ContentType::JSON, ContentType::BYTES, ContentType::HTML];
    match usual.into_iter().find(|usual| *usual == name) {
        Some(usual) => (Media::of(usual), None),
        None => (Media::BYTES, Some(name.into())),
    }
}

impl From<Reply> for Request<'static> {
    /// Passes a reply on to another plugin without a copy.
    fn from(reply: Reply) -> Self {
        let (media, owned_media) = owned(reply.content_type());
        let data = Data::Reply(Box::new(reply));
        Self { data, media, owned_media, deadline: None, more: None }
    }
}

/// Headers in the order in which they were added.
#[derive(Clone, Default)]
pub(crate) struct Headers(Vec<(Cow<'static, str>, Cow<'static, str>)>);

impl Headers {
    pub(super) fn push(&mut self, name: Cow<'static, str>, value: Cow<'static, str>) {
        self.0.push((name, value));
    }

    /// Returns the names and values.
    #[cfg(all(unix, feature = "process"))]
    fn as_slice(&self) -> &[(Cow<'static, str>, Cow<'static, str>)] {
        &self.0
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// Prints only the names: a value may be a password.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
