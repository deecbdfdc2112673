//! A subscriber for the crate `tracing` that forwards events to the host. The enclosing spans of an
//! event are forwarded as one text; spans themselves are not.

use std::fmt;
use std::sync::Once;

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Current, Id};
use tracing_core::subscriber::Interest;
use tracing_core::{Dispatch, Event, Metadata, Subscriber, dispatcher, span};

use super::fields::Fields;
use super::forwarding::{BoundedText, Destination, ForwardGuard};
use super::spans;
use crate::{Level, services};

/// Forwards events of the crate `tracing`.
#[derive(Debug)]
pub(crate) struct ForwardingSubscriber(pub(crate) Destination);

pub(super) fn install() {
    static ONCE: Once = Once::new();
    // A later start only changes the destination of `Destination::LatestStart`. Set as the global
    // default, because tracing keeps a thread's default in a thread-local with a destructor.
    ONCE.call_once(|| {
        // Fails only if an initializer of the library has set another subscriber.
        let _ = dispatcher::set_global_default(Dispatch::new(ForwardingSubscriber(
            Destination::LatestStart,
        )));
    });
}

impl Subscriber for ForwardingSubscriber {
    /// Requests a check for each event, since the level that the host wants may change.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.services().is_some_and(|host| host.enabled(level_of(*metadata.level())))
    }

    fn event(&self, event: &Event<'_>) {
        let Some(host) = self.0.services() else { return };
        let Some(_guard) = ForwardGuard::enter() else { return };
        let mut visitor = EventVisitor::default();
        if let Some(spans) = spans::path_of_event(event) {
            visitor.fields.str("spans", &spans);
        }
        event.record(&mut visitor);
        let metadata = event.metadata();
        // A line that the host rejects is lost.
        let _ = host.record(&services::Record {
            level: level_of(*metadata.level()),
            target: metadata.target(),
            message: visitor.message.as_str(),
            fields: &visitor.fields.finish(),
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
        });
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let Some(_guard) = ForwardGuard::enter() else { return spans::new_id() };
        spans::open(span)
    }

    fn record(&self, span: &Id, values: &span::Record<'_>) {
        let Some(_guard) = ForwardGuard::enter() else { return };
        spans::record(span, values);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, span: &Id) {
        spans::enter(span);
    }

    fn exit(&self, span: &Id) {
        spans::exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        spans::add_ref(span);
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        spans::drop_ref(&span)
    }

    fn current_span(&self) -> Current {
        spans::current()
    }
}

/// Collects the message and the fields of an event.
#[derive(Default)]
struct EventVisitor {
    message: BoundedText,
    fields: Fields,
}

impl Visit for EventVisitor {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.f64(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.i64(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.u64(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.bool(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = BoundedText::format(format_args!("{value}"));
        } else {
            self.fields.str(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = BoundedText::format(format_args!("{value:?}"));
        } else {
            self.fields.debug(field.name(), format_args!("{value:?}"));
        }
    }
}

fn level_of(level: tracing_core::Level) -> Level {
    match level {
        tracing_core::Level::ERROR => Level::Error,
        tracing_core::Level::WARN => Level::Warn,
        tracing_core::Level::INFO => Level::Info,
        tracing_core::Level::DEBUG => Level::Debug,
        tracing_core::Level::TRACE => Level::Trace,
    }
}
