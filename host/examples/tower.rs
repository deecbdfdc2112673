//! Tower layers around a plugin: buffer, load shedding, rate limit, concurrency limit, retries, and
//! a custom layer that authenticates callers.
//!
//! Run it with `cargo run -p hotbay --features tower --example tower`.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error as StdError;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hotbay::{Error, ErrorKind, Host, Output, PluginError, Reply, Request};
use tower::load_shed::error::Overloaded;
use tower::retry::Policy;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};

/// A request with the caller's token.
struct AuthRequest {
    token: &'static str,
    request: Request<'static>,
}

/// Wraps a service in [`Auth`].
struct AuthLayer {
    token: &'static str,
}

/// Passes on requests with the right token.
struct Auth<S> {
    token: &'static str,
    inner: S,
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { token: self.token, inner }
    }
}

impl<S> Service<AuthRequest> for Auth<S>
where
    S: Service<Request<'static>, Response = Reply, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: AuthRequest) -> Self::Future {
        if request.token != self.token {
            return Box::pin(ready(Err(Error::denied("invalid token"))));
        }
        Box::pin(self.inner.call(request.request))
    }
}

/// Retries calls whose error the plugin marked as retryable, and calls rejected because its queue
/// was full. It does not retry others: a call that panicked or timed out may have had effects.
#[derive(Clone)]
struct Retry {
    attempts_left: u32,
}

impl Policy<Request<'static>, Reply, Error> for Retry {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<'static>,
        outcome: &mut Result<Reply, Error>,
    ) -> Option<Ready<()>> {
        let error = outcome.as_ref().err()?;
        let is_retryable = error.plugin_error().is_some_and(PluginError::is_retryable);
        if !is_retryable && error.kind() != ErrorKind::Overloaded {
            return None;
        }
        self.attempts_left = self.attempts_left.checked_sub(1)?;
        println!("  retrying after: {}", error.full_message());
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request<'static>) -> Option<Request<'static>> {
        Some(request.clone())
    }
}

/// Creates a host with a plugin that converts text to upper case. Its first call fails with a
/// retryable error.
fn host() -> Result<Host, Error> {
    let calls = AtomicU32::new(0);
    let shout = move |_: &hotbay::CallContext<'_>, input: hotbay::Payload<'_>| {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(PluginError::new(503, "not ready yet").retryable());
        }
        match input.as_text()? {
            "" => Err(PluginError::new(400, "the input is empty")),
            text => Ok(Output::text(text.to_uppercase())),
        }
    };
    Host::builder().register_fn("shout", shout).build()
}

fn describe(outcome: Result<Reply, BoxError>) -> String {
    match outcome {
        Ok(reply) => format!("{:?}", String::from_utf8_lossy(reply.as_bytes())),
        Err(error) if error.is::<Overloaded>() => "shed: too many concurrent calls".to_owned(),
        Err(error) => match error.downcast_ref::<Error>() {
            Some(error) => format!("{:?}: {}", error.kind(), error.full_message()),
            None => error.to_string(),
        },
    }
}

async fn show(host: Host) -> Result<(), Box<dyn StdError>> {
    // The first layer is the outermost.
    let service = ServiceBuilder::new()
        .buffer(64) // makes the service cloneable
        .load_shed() // refuses calls at once while the layers below are busy
        .concurrency_limit(2)
        .rate_limit(100, Duration::from_secs(1))
        .layer(AuthLayer { token: "open sesame" })
        .retry(Retry { attempts_left: 2 })
        .service(host.plugin("shout")?);
    let call = |token, text| {
        let request = Request::text(text).with_timeout(Duration::from_secs(1));
        service.clone().oneshot(AuthRequest { token, request })
    };

    println!("a call with the right token");
    println!("  {}", describe(call("open sesame", "hello").await));
    println!("a call with a wrong token");
    println!("  {}", describe(call("open barley", "hello").await));
    println!("empty input, an error that is not retried");
    println!("  {}", describe(call("open sesame", "").await));
    println!("three concurrent calls, of which two may run");
    let (one, two, three) = tokio::join!(
        call("open sesame", "one"),
        call("open sesame", "two"),
        call("open sesame", "three")
    );
    for outcome in [one, two, three] {
        println!("  {}", describe(outcome));
    }
    println!("the plugin was called {} times", host.list()[0].stats.calls);
    Ok(())
}

fn main() -> Result<(), Box<dyn StdError>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(show(host()?))
}
