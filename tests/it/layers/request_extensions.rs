//! Values that an application attaches to requests for its layers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt as _, stream};
use hotbay::hotbay_plugin::{Config, HostServices};
use hotbay::{
    Call, CallContext, Error, ErrorKind, Host, Layer, Manifest, Next, Output, Payload, Plugin,
    PluginError, Reply, Request, ResponseCache, RunOptions,
};
use hotbay_tests::block_on;

#[derive(Clone)]
struct Tenant(&'static str);

/// Denies calls without a tenant, and passes its name on as the input.
struct OnlyTenants;

impl Layer for OnlyTenants {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        let Some(tenant) = call.request().extension::<Tenant>() else {
            return Err(Error::denied("no tenant"));
        };
        let request = Request::text(tenant.0).with_options_of(call.request());
        next.call(call.with_request(&request))
    }
}

fn echo(_: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
    Ok(Output::copy_of(input.as_bytes()))
}

/// Builds a host of two plugins that echo, behind the layer.
fn only_tenants() -> Host {
    Host::builder()
        .layer(OnlyTenants)
        .register_fn("one", echo)
        .register_fn("two", echo)
        .build()
        .unwrap()
}

#[test]
fn layers_see_extensions_of_calls_tasks_and_pipelines() {
    let host = only_tenants();
    let one = host.plugin("one").unwrap();
    let request = || Request::text("x").with_extension(Tenant("acme"));
    let called = one.call(request()).unwrap();
    let executed = block_on(one.execute(request())).unwrap();
    let piped = block_on(host.pipeline(["one", "two"]).unwrap().run(request())).unwrap();
    for reply in [called, executed, piped] {
        assert_eq!(reply.as_text().unwrap(), "acme");
    }
    let error = one.call(Request::text("x").with_extension(7_u8)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn streams_of_requests_have_their_own_extensions() {
    let host = only_tenants();
    let tenants = ["a", "b", "none"];
    let request = move |number: usize| match tenants[number % 3] {
        "none" => Request::text("x"),
        tenant => Request::text("x").with_extension(Tenant(tenant)),
    };
    let pipeline = host.pipeline(["one", "two"]).unwrap();
    for options in [RunOptions::ordered(), RunOptions::unordered().with_max_chunk(4)] {
        let requests = stream::iter((0..60).map(request));
        let outcomes: Vec<_> = block_on(pipeline.run_many(requests, options).collect());
        assert_eq!(outcomes.len(), 60);
        for done in outcomes {
            let expected = tenants[usize::try_from(done.index).unwrap() % 3];
            match done.outcome {
                Ok(reply) => assert_eq!(reply.as_text().unwrap(), expected),
                Err(error) => {
                    assert_eq!((expected, error.kind()), ("none", ErrorKind::PermissionDenied));
                }
            }
        }
    }
}

struct Busy;

impl Plugin for Busy {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }
    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        match input.as_text()? {
            "acme" => Ok(Output::text("for acme")),
            other => Err(PluginError::new(1, other)),
        }
    }
}

#[test]
fn providers_pass_extensions_on() {
    let manifest =
        |name: &str| Manifest::new(name, "1.0.0").unwrap().with_contract("table", "1.0.0").unwrap();
    let host = Host::builder()
        .layer(OnlyTenants)
        .register::<Busy>(manifest("first"))
        .register::<Busy>(manifest("second"))
        .build()
        .unwrap();
    let providers = host.providers("table").unwrap();
    let request = || Request::text("x").with_extension(Tenant("acme"));
    for reply in [providers.call(request()), block_on(providers.execute(request()))] {
        assert_eq!(reply.unwrap().as_text().unwrap(), "for acme");
    }
}

#[test]
fn cache_is_inside_layers_that_read_extensions() {
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let host = Host::builder()
        .layer(OnlyTenants)
        .register_fn("one", move |ctx, input| {
            count.fetch_add(1, Ordering::Relaxed);
            echo(ctx, input)
        })
        .cache("one", ResponseCache::new())
        .validate("one", |request| match request.extension::<Tenant>() {
            Some(Tenant("blocked")) => Err("blocked".to_owned()),
            _ => Ok(()),
        })
        .build()
        .unwrap();
    let one = host.plugin("one").unwrap();
    let pipeline = host.pipeline(["one"]).unwrap();
    for tenant in ["a", "b", "a", "b"] {
        let request = || Request::text("same").with_extension(Tenant(tenant));
        let replies = [
            one.call(request()),
            block_on(one.execute(request())),
            block_on(pipeline.run(request())),
        ];
        for reply in replies {
            assert_eq!(reply.unwrap().as_text().unwrap(), tenant);
        }
    }
    assert_eq!(reached.load(Ordering::Relaxed), 2);
    let denied = one.call(Request::text("same")).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let blocked = one.call(Request::text("a").with_extension(Tenant("blocked"))).unwrap_err();
    assert_eq!(blocked.kind(), ErrorKind::InvalidInput);
}
