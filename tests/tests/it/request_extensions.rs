//! Values that an application attaches to requests for its layers.

use hotbay::{Call, Error, ErrorKind, Host, Layer, Next, Output, Reply, Request};
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

#[test]
fn layers_see_extensions_of_calls_tasks_and_pipelines() {
    let echo = |_: &hotbay::CallContext<'_>, input: hotbay::Payload<'_>| {
        Ok(Output::copy_of(input.as_bytes()))
    };
    let host = Host::builder()
        .layer(OnlyTenants)
        .register_fn("one", echo)
        .register_fn("two", echo)
        .build()
        .unwrap();
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
