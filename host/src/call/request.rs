//! The input of one call, and the terms on which it is made.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use hotbay_plugin::abi::Media;
use hotbay_plugin::{ContentType, Payload, TraceContext};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::Reply;
use super::headers::Headers;
use crate::error::{Error, ErrorKind};
use crate::sync::deadline_in;

/// The input of one call, borrowed where it can be.
#[derive(Debug)]
pub struct Request<'a> {
    data: Data<'a>,
    media: Media<'a>,
    /// The media type's name where the request owns it; then it counts.
    owned_media: Option<Box<str>>,
    deadline: Option<Instant>,
    /// What few requests have.
    more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default)]
struct More {
    trace: Option<TraceContext>,
    token: Option<CancellationToken>,
    operation: Option<Cow<'static, str>>,
    endpoint: Option<Cow<'static, str>>,
    /// What is said of the HTTP request that the call becomes.
    http: Option<Box<Http>>,
    is_idempotent: bool,
    space_timeout: Option<Duration>,
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
    /// What another plugin answered, passed on without a copy.
    Reply(Box<Reply>),
}

impl<'a> Request<'a> {
    /// Plain text.
    pub fn text(text: &'a str) -> Self {
        Self::new(Data::Borrowed(text.as_bytes()), Media::TEXT)
    }

    /// Any bytes.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self::new(Data::Borrowed(bytes), Media::BYTES)
    }

    /// Text that is already JSON.
    pub fn json_text(json: &'a str) -> Self {
        Self::new(Data::Borrowed(json.as_bytes()), Media::JSON)
    }

    /// Any bytes, given away.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self::new(Data::Owned(bytes), Media::BYTES)
    }

    /// A value written as JSON.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when `value` cannot be JSON, such as a map whose keys are no text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "the request cannot be JSON").caused_by(error)
        })?;
        Ok(Self::new(Data::Owned(bytes), Media::JSON))
    }

    #[inline]
    fn new(data: Data<'a>, media: Media<'a>) -> Self {
        Self { data, media, owned_media: None, deadline: None, more: None }
    }

    /// The same bytes under another media type.
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

    /// Says where in a distributed trace the call stands; the plugin can read it.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.more().trace = Some(trace);
        self
    }

    /// Says how long the answer is wanted, from now on.
    ///
    /// A call that has not begun by then never does. [`execute`](crate::PluginHandle::execute)
    /// answers at that moment whatever the plugin does;
    /// [`call`](crate::PluginHandle::call) runs in this thread and comes back when the plugin
    /// does, which can see the deadline. The earlier one counts if there is one already.
    #[must_use]
    pub fn deadline_in(self, timeout: Duration) -> Self {
        self.deadline_at(deadline_in(timeout))
    }

    /// As [`deadline_in`](Self::deadline_in), for a moment.
    #[must_use]
    pub fn deadline_at(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self
    }

    /// Takes the call back when `token` is cancelled: one that has not begun never does, and
    /// the plugin of one that runs can see it.
    #[must_use]
    pub fn cancelled_by(mut self, token: CancellationToken) -> Self {
        self.more().token = Some(token);
        self
    }

    /// Names what the plugin is asked to do, such as `read`, `write` or `exec`. A plugin whose
    /// manifest does not name it among its `permissions` is not called: `PermissionDenied`.
    #[must_use]
    pub fn operation(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        self.more().operation = Some(operation.into());
        self
    }

    /// Says that the call may run twice, so that it is made again where it is not known whether
    /// it ran: the plugin's process ended, or closed the connection, before it had answered.
    /// A call that surely did not run is made again without this.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.more().is_idempotent = true;
        self
    }

    /// Sends the call to an endpoint of the plugin's own, such as `rows`, instead of `execute`.
    /// Only plugins of the kind `process` have any.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<Cow<'static, str>>) -> Self {
        self.more().endpoint = Some(endpoint.into());
        self
    }

    /// Calls the endpoint with this HTTP method, such as `GET`, instead of `POST`. With `GET`,
    /// `HEAD`, `OPTIONS` and `TRACE` the call may run twice, as with
    /// [`idempotent`](Self::idempotent); without input nothing is sent as the body.
    ///
    /// Only plugins of the kind `process` are called by HTTP: any other refuses the call,
    /// `Unsupported`. What is not a method is refused when the call is made, `InvalidInput`.
    #[must_use]
    pub fn method(mut self, method: impl Into<Cow<'static, str>>) -> Self {
        self.more().http.get_or_insert_default().method = Some(method.into());
        self
    }

    /// Adds a header to the HTTP request that the call becomes, such as `Authorization`. The same
    /// name may be given more than once.
    ///
    /// Only plugins of the kind `process` are called by HTTP: any other refuses the call,
    /// `Unsupported`. In a pipeline, and where several plugins are tried, each of them is sent
    /// it. Refused with `InvalidInput` when the call is made are: names and values that HTTP does not
    /// allow; headers of one connection (`Connection`, `Keep-Alive`, `Proxy-…`, `TE`, `Trailer`,
    /// `Transfer-Encoding`, `Upgrade`); those that the host sets (`Host`, `Content-Length`,
    /// `Content-Type`, `traceparent`, `Hotbay-…`); more than 64, or 32 KiB in all.
    #[must_use]
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.more().http.get_or_insert_default().headers.push(name.into(), value.into());
        self
    }

    /// Waits that long for a place in the plugin's queue if it is full, instead of being
    /// refused at once. Counts for [`execute`](crate::PluginHandle::execute) only.
    #[must_use]
    pub fn wait_for_place(mut self, timeout: Duration) -> Self {
        self.more().space_timeout = Some(timeout);
        self
    }

    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// Until when the answer is wanted.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What the plugin is asked to do, if it was named.
    #[inline]
    pub fn named_operation(&self) -> Option<&str> {
        self.more.as_ref().and_then(|more| more.operation.as_deref())
    }

    /// The endpoint that the call goes to, if it is not the usual one.
    #[inline]
    pub fn named_endpoint(&self) -> Option<&str> {
        self.more.as_ref().and_then(|more| more.endpoint.as_deref())
    }

    fn http(&self) -> Option<&Http> {
        self.more.as_ref()?.http.as_deref()
    }

    /// Whether it says anything of the HTTP request that the call becomes, besides the endpoint.
    #[inline]
    pub(crate) fn names_http(&self) -> bool {
        self.http().is_some()
    }

    /// The HTTP method that it names.
    pub(crate) fn named_method(&self) -> Option<&str> {
        self.http()?.method.as_deref()
    }

    /// The headers that it names.
    pub(crate) fn named_headers(&self) -> Option<&Headers> {
        self.http().map(|http| &http.headers)
    }

    /// Whether it is an HTTP request without a body, so that there is no input to check.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.as_bytes().is_empty() && matches!(self.named_method(), Some("GET" | "HEAD"))
    }

    /// Whether the call may run twice.
    #[inline]
    pub fn is_idempotent(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.is_idempotent)
    }

    /// The trace that the call belongs to, if it was named.
    #[inline]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.more.as_ref().and_then(|more| more.trace.as_ref())
    }

    /// What takes the call back, if anything does.
    #[inline]
    pub fn cancellation_token(&self) -> Option<&CancellationToken> {
        self.more.as_ref().and_then(|more| more.token.as_ref())
    }

    #[inline]
    pub(crate) fn space_timeout(&self) -> Option<Duration> {
        self.more.as_ref().and_then(|more| more.space_timeout)
    }

    /// Waits for a place for as long as its terms allow, unless it says for how long.
    pub(crate) fn wait_for_place_if_need_be(self) -> Self {
        match self.space_timeout() {
            Some(_) => self,
            None => self.wait_for_place(Duration::MAX),
        }
    }

    /// Whether it names nothing but its payload, which layers would look at.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.deadline.is_none() && self.more.is_none()
    }

    /// Whether anything bounds the call in time.
    #[inline]
    pub(crate) fn is_bounded(&self) -> bool {
        self.deadline.is_some() || self.cancellation_token().is_some()
    }

    /// Whether the call was taken back.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancellation_token().is_some_and(CancellationToken::is_cancelled)
    }

    /// The request that goes on with `reply`: its payload, and the terms of this one.
    pub(crate) fn answered_by(self, reply: Reply) -> Request<'static> {
        Request { deadline: self.deadline, more: self.more, ..Request::from(reply) }
    }

    /// Takes over the deadline, the token, the trace and the operation of `other`.
    #[must_use]
    pub fn with_terms_of(mut self, other: &Request<'_>) -> Self {
        self.deadline = other.deadline;
        self.more.clone_from(&other.more);
        self
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.data {
            Data::Borrowed(bytes) => bytes,
            Data::Owned(bytes) => bytes,
            Data::Reply(reply) => reply.as_bytes(),
        }
    }

    /// The media type.
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

    /// The same request once more, without a copy of its bytes.
    pub(crate) fn borrowed(&self) -> Request<'_> {
        let media = match &self.owned_media {
            None => self.media,
            Some(name) => Media::of(name),
        };
        Request {
            data: Data::Borrowed(self.as_bytes()),
            media,
            owned_media: None,
            deadline: self.deadline,
            more: self.more.clone(),
        }
    }

    /// The same request, owning what it borrowed.
    pub(crate) fn into_owned(self) -> Request<'static> {
        let (media, owned_media) = owned(self.content_type());
        Request {
            data: match self.data {
                Data::Borrowed(bytes) => Data::Owned(bytes.to_vec()),
                Data::Owned(bytes) => Data::Owned(bytes),
                Data::Reply(reply) => Data::Reply(reply),
            },
            media,
            owned_media,
            deadline: self.deadline,
            more: self.more,
        }
    }
}

impl Default for Request<'_> {
    /// No bytes at all.
    fn default() -> Self {
        Self::bytes(&[])
    }
}

impl Clone for Request<'_> {
    /// Copies the bytes that the request owns.
    fn clone(&self) -> Self {
        let data = match &self.data {
            Data::Borrowed(bytes) => Data::Borrowed(bytes),
            Data::Owned(bytes) => Data::Owned(bytes.clone()),
            Data::Reply(reply) => Data::Owned(reply.as_bytes().to_vec()),
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

/// A media type without an allocation if it is one of the usual.
fn owned(name: &str) -> (Media<'static>, Option<Box<str>>) {
    let usual = [ContentType::TEXT, ContentType::JSON, ContentType::BYTES, ContentType::HTML];
    match usual.into_iter().find(|usual| *usual == name) {
        Some(usual) => (Media::of(usual), None),
        None => (Media::BYTES, Some(name.into())),
    }
}

impl From<Reply> for Request<'static> {
    /// Passes a reply on to the next plugin, without a copy.
    fn from(reply: Reply) -> Self {
        let (media, owned_media) = owned(reply.content_type());
        let data = Data::Reply(Box::new(reply));
        Self { data, media, owned_media, deadline: None, more: None }
    }
}
