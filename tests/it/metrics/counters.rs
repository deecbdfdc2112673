//! Each call, fault and exit is counted once, in the right counter.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotbay::{ErrorKind, Host, PluginError, Request};
use hotbay_tests::{block_on, quarantine};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Returns a host with a compiled-in plugin that returns its own error once its call is cancelled,
/// right after the deadline.
fn cooperative() -> Host {
    let builder = Host::builder().register_fn("cooperative", |context, _| {
        while !context.is_cancelled() {
            std::hint::spin_loop();
        }
        Err(PluginError::new(499, "cancelled, on request"))
    });
    builder.quarantine(None).build().unwrap()
}

#[test]
fn deadline_wins_against_cancellation_error_of_plugin() {
    let host = cooperative();
    let plugin = host.plugin("cooperative").unwrap();
    let request = || Request::text("x").with_timeout(Duration::from_millis(3));
    for round in 0..100 {
        let called = plugin.call(request()).unwrap_err();
        assert_eq!(called.kind(), ErrorKind::DeadlineExceeded, "call {round}: {called:?}");
        let executed = block_on(plugin.execute(request())).unwrap_err();
        assert_eq!(executed.kind(), ErrorKind::DeadlineExceeded, "execute {round}: {executed:?}");
    }
    block_on(host.shutdown(hotbay_tests::LIMIT));
}

#[test]
fn pooled_call_that_missed_its_deadline_counts_once() {
    let host = cooperative();
    let plugin = host.plugin("cooperative").unwrap();
    for _ in 0..200 {
        // The worker and the timer see the deadline at the same time.
        let request = Request::text("x").with_timeout(Duration::from_millis(2));
        block_on(plugin.execute(request)).unwrap_err();
    }
    hotbay_tests::until("all workers are back", || {
        let info = &host.list()[0];
        (info.stats.running == 0 && info.stats.calls >= 200).then_some(())
    });
    let info = &host.list()[0];
    let counted = (
        info.stats.calls,
        info.stats.abandoned + info.stats.refused,
        info.stats.errors,
        info.stats.faults,
    );
    assert_eq!(counted, (200, 200, 0, 0), "{info:?}");
}

/// Counts how often the field `generation` of each span was recorded.
struct Spans(Arc<Mutex<Vec<u32>>>);

struct Generations(u32);

impl Visit for Generations {
    fn record_u64(&mut self, field: &Field, _: u64) {
        self.0 += u32::from(field.name() == "generation");
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for Spans {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut generations = Generations(0);
        attributes.record(&mut generations);
        let mut spans = self.0.lock().unwrap();
        spans.push(generations.0);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut generations = Generations(0);
        values.record(&mut generations);
        let at = usize::try_from(span.into_u64()).unwrap() - 1;
        self.0.lock().unwrap()[at] += generations.0;
    }

    fn event(&self, _: &Event<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn span_of_a_call_records_its_generation_once() {
    let builder = Host::builder().register_fn("echo", |_, input| {
        if input.as_bytes() == b"fail" {
            return Err(PluginError::new(1, "failed, on request"));
        }
        Ok(hotbay::Output::copy_of(input.as_bytes()))
    });
    let host = builder.quarantine(Some(quarantine(|_| {}))).build().unwrap();
    let plugin = host.plugin("echo").unwrap();
    let pinned = plugin.pin().unwrap();
    // Registers the callsites first: one that is registered while a subscriber is set may miss it.
    plugin.call(Request::text("well")).unwrap();
    pinned.call(Request::text("well")).unwrap();
    let spans = Arc::new(Mutex::new(Vec::new()));
    tracing::subscriber::with_default(Spans(Arc::clone(&spans)), || {
        for input in ["well", "fail"] {
            let _ = plugin.call(Request::text(input));
            let _ = pinned.call(Request::text(input));
        }
    });
    assert_eq!(*spans.lock().unwrap(), [1, 1, 1, 1]);
}
