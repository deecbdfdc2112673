//! Tower layers around a plugin: each works as usual, and the plugin is called as without it.

use std::future::{Ready, ready};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use hotbay::{Error, ErrorKind, Host, HostLimits, Output, PluginHandle, Reply, Request};
use hotbay_tests::{Plugins, block_on, host, limits, loaded, until};
use serde_json::{Value, json};
use tower::buffer::Buffer;
use tower::load_shed::error::Overloaded;
use tower::retry::Policy;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt as _};

/// Loads a plugin that follows the script in each input.
fn load_scripted(host: &Host, plugins: &Plugins) -> PluginHandle {
    loaded(host, plugins.add("echo", "faulty").config(json!({ "scripted": true })).write())
}

fn scripted_request(what: &Value) -> Request<'static> {
    Request::json(what).unwrap()
}

fn answers(text: &str) -> Request<'static> {
    scripted_request(&json!({ "answers": text }))
}

/// Returns a call that creates the file `entered` and waits for the file `release`.
fn hangs(entered: &Path, release: &Path) -> Request<'static> {
    scripted_request(&json!({ "hang_in": "execute", "entered": entered, "release": release }))
}

fn text_of(reply: &Reply) -> &str {
    reply.as_text().unwrap()
}

#[test]
fn plugin_and_pipeline_implement_service() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut plugin = load_scripted(&host, &plugins);
    block_on(async {
        let service = plugin.ready().await.unwrap();
        let reply = Service::call(service, answers("once")).await.unwrap();
        assert_eq!(text_of(&reply), "once");
        let json = answers("{ \"answers\": \"twice\" }");
        let pipeline = host.pipeline(["echo", "echo"]).unwrap();
        assert_eq!(text_of(&pipeline.oneshot(json).await.unwrap()), "twice");
        let error =
            plugin.clone().oneshot(scripted_request(&json!({ "panic_in": "execute" }))).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Panicked);
        // Readiness does not reflect the state of the plugin: the call reports it.
        host.unload("echo").await.unwrap();
        let service = plugin.ready().await.unwrap();
        let error = Service::call(service, answers("late")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retired);
    });
}

#[test]
fn full_queue_fails_in_call_not_poll_ready() {
    let plugins = Plugins::new();
    let limits: HostLimits =
        limits(|limits| (limits.max_workers, limits.max_queued_calls) = (1, 1));
    let host = Host::builder().limits(limits).build().unwrap();
    let mut plugin = load_scripted(&host, &plugins);
    let (entered, release) = (plugins.dir().join("entered"), plugins.dir().join("release"));
    let running = plugin.execute(hangs(&entered, &release));
    until("the first call runs", || entered.exists().then_some(()));
    let waiting = plugin.execute(answers("waits"));
    let refused = Service::call(plugin.ready().now_or_never().unwrap().unwrap(), answers("no"));
    let refused = block_on(refused).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    std::fs::write(release, "").unwrap();
    block_on(running).unwrap();
    assert_eq!(text_of(&block_on(waiting).unwrap()), "waits");
}

#[test]
fn concurrency_limit_waits_and_load_shed_refuses() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let plugin = load_scripted(&host, &plugins);
    let (entered, release) = (plugins.dir().join("entered"), plugins.dir().join("release"));
    let mut limited = ServiceBuilder::new().concurrency_limit(1).service(plugin);
    let mut shedding = ServiceBuilder::new().load_shed().service(limited.clone());
    block_on(async {
        let running = limited.ready().await.unwrap().call(hangs(&entered, &release));
        until("the first call runs", || entered.exists().then_some(()));
        // A separate clone, since a service that is pending holds a place in the queue.
        assert!(limited.clone().ready().now_or_never().is_none());
        let shed = shedding.ready().await.unwrap().call(answers("no")).await;
        assert!(shed.unwrap_err().is::<Overloaded>());
        std::fs::write(&release, "").unwrap();
        running.await.unwrap();
        let reply = shedding.ready().await.unwrap().call(answers("yes")).await.unwrap();
        assert_eq!(text_of(&reply), "yes");
    });
    assert_eq!(host.list()[0].stats.calls, 2);
}

#[test]
fn rate_limit_delays_calls() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let plugin = load_scripted(&host, &plugins);
    block_on(async {
        let an_hour = Duration::from_secs(3600);
        let mut limited = ServiceBuilder::new().rate_limit(2, an_hour).service(plugin);
        for text in ["one", "two"] {
            let reply = limited.ready().await.unwrap().call(answers(text)).await.unwrap();
            assert_eq!(text_of(&reply), text);
        }
        assert!(limited.ready().now_or_never().is_none());
    });
}

/// Retries errors that are retryable.
#[derive(Clone)]
struct Again {
    left: u32,
}

impl Policy<Request<'static>, Reply, Error> for Again {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<'static>,
        outcome: &mut Result<Reply, Error>,
    ) -> Option<Ready<()>> {
        let error = outcome.as_ref().err()?;
        let is_retryable = error.plugin_error().is_some_and(hotbay::PluginError::is_retryable);
        if !is_retryable && error.kind() != ErrorKind::Overloaded {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request<'static>) -> Option<Request<'static>> {
        Some(request.clone())
    }
}

#[test]
fn only_retryable_errors_are_retried() {
    let check = |error: Value, left: u32, calls: u64, answers: Result<(), i32>| {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let config = json!({ "error_in": "execute", "error": error, "panics": 2 });
        let plugin = loaded(&host, plugins.add("echo", "faulty").config(config).write());
        let service = ServiceBuilder::new().retry(Again { left }).service(plugin);
        let outcome = block_on(service.oneshot(Request::text("x")));
        let code = |error: Error| error.plugin_error().unwrap().code();
        assert_eq!(outcome.map(drop).map_err(code), answers);
        assert_eq!(host.list()[0].stats.calls, calls);
    };
    let retryable = json!({ "code": 503, "retryable": true });
    check(retryable.clone(), 5, 3, Ok(()));
    check(retryable, 1, 2, Err(503));
    check(json!({ "code": 400 }), 5, 1, Err(400));
}

#[test]
fn buffer_shares_service_without_clone() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let plugin = load_scripted(&host, &plugins);
    block_on(async {
        let one_at_a_time = ServiceBuilder::new().concurrency_limit(1).service(plugin);
        let buffer = Buffer::new(one_at_a_time, 16);
        let calls = (0..32).map(|number| {
            let buffer = buffer.clone();
            async move { buffer.oneshot(answers(&number.to_string())).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        for (number, reply) in replies.into_iter().enumerate() {
            assert_eq!(text_of(&reply.unwrap()), number.to_string());
        }
    });
    assert_eq!(host.list()[0].stats.calls, 32);
}

/// A request with a token.
struct Signed {
    token: &'static str,
    request: Request<'static>,
}

/// An application layer that admits only requests with the right token.
#[derive(Clone)]
struct Authenticated<S>(S);

struct Authenticate;

impl<S> Layer<S> for Authenticate {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated(inner)
    }
}

impl<S> Service<Signed> for Authenticated<S>
where
    S: Service<Request<'static>, Response = Reply, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, signed: Signed) -> Self::Future {
        if signed.token != "open sesame" {
            return Box::pin(ready(Err(Error::denied("invalid token"))));
        }
        Box::pin(self.0.call(signed.request))
    }
}

#[test]
fn full_layer_stack_reaches_plugin() {
    let host = Host::builder()
        .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
        .build()
        .unwrap();
    let plugin = host.plugin("echo").unwrap();
    block_on(async {
        let stack = ServiceBuilder::new()
            .buffer(16)
            .load_shed()
            .concurrency_limit(4)
            .rate_limit(100, Duration::from_secs(3600))
            .layer(Authenticate)
            .retry(Again { left: 3 })
            .service(plugin);
        let send = |token, text| {
            let (stack, request) = (stack.clone(), Request::text(text));
            async move { stack.oneshot(Signed { token, request }).await }
        };
        let reply = send("open sesame", "hello").await.unwrap();
        assert_eq!(text_of(&reply), "hello");
        let error: BoxError = send("open barley", "hello").await.unwrap_err();
        let error = error.downcast::<Error>().expect("the layer's own error");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    });
    assert_eq!(host.list()[0].stats.calls, 1);
}
