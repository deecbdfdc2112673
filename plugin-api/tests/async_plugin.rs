//! Async plugins behind `Plugin::execute`, as a host calls them that does not know tasks, and as a
//! program does.

#![cfg(unix)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use hotbay_plugin::abi::{Bounds, RawContext};
use hotbay_plugin::testing::{FakeHost, Started};
use hotbay_plugin::{
    Async, AsyncContext, AsyncPlugin, CallContext, Config, HostServices, Output, OwnedPayload,
    Payload, Plugin, PluginError,
};

/// Waits for the other calls of a test, or forever.
struct Meets(tokio::sync::Barrier);

impl AsyncPlugin for Meets {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self(tokio::sync::Barrier::new(8)))
    }

    async fn execute(&self, _: AsyncContext, input: OwnedPayload) -> Result<Output, PluginError> {
        match input.as_text()? {
            "meet" => {
                self.0.wait().await;
            }
            "forever" => std::future::pending().await,
            "error" => return Err(PluginError::new(7, "no")),
            "panic" => panic!("meeting failed"),
            _ => tokio::task::yield_now().await,
        }
        Ok(Output::copy_of(input.as_bytes()))
    }
}

fn start() -> Started<Async<Meets>> {
    FakeHost::new().start::<Async<Meets>>(serde_json::json!({})).expect("it starts")
}

#[test]
fn calls_of_many_threads_run_at_the_same_time() {
    let (plugin, start) = (start(), Barrier::new(8));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                assert_eq!(plugin.execute(Payload::text("meet")).unwrap().as_bytes(), b"meet");
            });
        }
    });
    plugin.shutdown().unwrap();
}

#[test]
fn error_and_panic_are_those_of_the_call() {
    let plugin = start();
    let error = plugin.execute(Payload::text("error")).unwrap_err();
    assert_eq!((error.code(), error.message()), (7, "no"));
    let panic = catch_unwind(AssertUnwindSafe(|| plugin.execute(Payload::text("panic"))));
    let payload = panic.expect_err("a panic");
    assert_eq!(payload.downcast_ref::<String>().unwrap(), "meeting failed");
    assert_eq!(plugin.execute(Payload::text("again")).unwrap().as_bytes(), b"again");
}

/// A call that is cancelled from the start.
struct Cancelled;

impl Bounds for Cancelled {
    fn is_cancelled(&self) -> bool {
        true
    }

    fn remaining(&self) -> Option<Duration> {
        None
    }
}

#[test]
fn cancelled_call_returns() {
    let services = FakeHost::new().services();
    let plugin = Async::<Meets>::init(&Config::default(), services).unwrap();
    let context = RawContext::new(1).with_bounds(&Cancelled);
    let error = plugin.execute(&CallContext::new(&context), Payload::text("forever")).unwrap_err();
    assert_eq!((error.code(), error.message()), (499, "cancelled"));
}
