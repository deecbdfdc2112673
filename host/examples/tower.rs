//! Tower's layers around a plugin: a buffer, load shed, a limit of the rate, one of concurrency,
//! retries, and a layer of the example's own that asks who calls. Run it with
//! `cargo run -p hotbay --features tower --example tower`.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

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

/// What callers send: a request, and who they say they are.
struct AuthRequest {
    token: &'static str,
    request: Request<'static>,
}

/// Puts [`Auth`] around a service.
struct AuthLayer {
    token: &'static str,
}

/// Lets those through who know the token.
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

    fn call(&mut self, asked: AuthRequest) -> Self::Future {
        if asked.token != self.token {
            return Box::pin(ready(Err(Error::denied("the token is not known here"))));
        }
        Box::pin(self.inner.call(asked.request))
    }
}

/// Tries again what may go better the next time: what the plugin calls retryable, and what came
/// when its queue was full. Nothing else: a call that panicked or was late may have had effects.
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
        println!("  again, after: {}", error.full_message());
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request<'static>) -> Option<Request<'static>> {
        Some(request.clone())
    }
}

/// A plugin that shouts, and has to be asked twice at first. One from a folder would do as well.
fn host() -> Result<Host, Error> {
    let calls = AtomicU32::new(0);
    let shout = move |_: &hotbay::CallContext<'_>, input: hotbay::Payload<'_>| {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(PluginError::new(503, "still waking up").retryable());
        }
        match input.as_text()? {
            "" => Err(PluginError::new(400, "there is nothing to shout")),
            text => Ok(Output::text(text.to_uppercase())),
        }
    };
    Host::builder().register_fn("shout", shout).build()
}

fn told(outcome: Result<Reply, BoxError>) -> String {
    match outcome {
        Ok(reply) => format!("{:?}", String::from_utf8_lossy(reply.as_bytes())),
        Err(error) if error.is::<Overloaded>() => "shed: too many at once".to_owned(),
        Err(error) => match error.downcast_ref::<Error>() {
            Some(error) => format!("{:?}: {}", error.kind(), error.full_message()),
            None => error.to_string(),
        },
    }
}

async fn show(host: Host) -> Result<(), Box<dyn StdError>> {
    // The order is that of a call: the first is outermost.
    let service = ServiceBuilder::new()
        .buffer(64) // so that it can be cloned
        .load_shed() // refuses at once what those below keep back
        .concurrency_limit(2)
        .rate_limit(100, Duration::from_secs(1))
        .layer(AuthLayer { token: "open sesame" })
        .retry(Retry { attempts_left: 2 })
        .service(host.plugin("shout")?);
    let ask = |token, text| {
        let request = Request::text(text).with_timeout(Duration::from_secs(1));
        service.clone().oneshot(AuthRequest { token, request })
    };

    println!("hello, from a friend");
    println!("  {}", told(ask("open sesame", "hello").await));
    println!("hello, from a stranger");
    println!("  {}", told(ask("open barley", "hello").await));
    println!("nothing, which is not worth another try");
    println!("  {}", told(ask("open sesame", "").await));
    println!("three at once, of which two may run");
    let (one, two, three) = tokio::join!(
        ask("open sesame", "one"),
        ask("open sesame", "two"),
        ask("open sesame", "three")
    );
    for outcome in [one, two, three] {
        println!("  {}", told(outcome));
    }
    println!("the plugin was called {} times", host.list()[0].stats.calls);
    Ok(())
}

fn main() -> Result<(), Box<dyn StdError>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(show(host()?))
}
