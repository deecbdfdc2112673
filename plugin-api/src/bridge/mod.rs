//! Forwards lines that a plugin logs with `tracing` or `log` to the host. A library has its own
//! copies of both crates, so each start of a plugin installs a subscriber and a logger there.
//!
//! They use no thread-local with a destructor, which would keep the library mapped. They hold no
//! lock while a value is formatted, which runs the author's code.

#[cfg(feature = "tracing")]
mod fields;
mod forwarding;
#[cfg(feature = "log")]
mod log;
#[cfg(feature = "tracing")]
mod spans;
#[cfg(feature = "tracing")]
mod tracing;

#[cfg(feature = "testing")]
pub(crate) use self::forwarding::Destination;
#[cfg(all(feature = "testing", feature = "log"))]
pub(crate) use self::log::ForwardingLogger;
#[cfg(all(feature = "testing", feature = "tracing"))]
pub(crate) use self::tracing::ForwardingSubscriber;

/// Forwards everything that this library logs to its latest start. Not for plugins that are
/// compiled into a host, which share the host's subscriber and logger.
pub(crate) fn install() {
    #[cfg(feature = "tracing")]
    tracing::install();
    #[cfg(feature = "log")]
    log::install();
}

#[cfg(all(test, feature = "testing", feature = "tracing", feature = "log"))]
mod tests {
    use std::fmt;
    use std::sync::atomic::{AtomicU32, Ordering};

    use log::Log;
    use serde_json::{Value, json};

    use crate::Level;
    use crate::services::MAX_LINE_BYTES;
    use crate::testing::{FakeHost, Logged};
    use crate::text::CUT;

    /// Runs `body` as code of a plugin; returns the lines that the host received.
    fn logged(host: &FakeHost, body: impl FnOnce()) -> Vec<Logged> {
        tracing::subscriber::with_default(host.subscriber(), body);
        host.logged()
    }

    /// Returns the path of the spans of the only line that `body` logs.
    fn spans(body: impl FnOnce()) -> Value {
        let lines = logged(&FakeHost::new(), body);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        line.fields["spans"].clone()
    }

    /// Counts how often it is formatted, and logs a line each time.
    struct LogsWhenFormatted<'a>(&'a AtomicU32);

    impl fmt::Debug for LogsWhenFormatted<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fetch_add(1, Ordering::Relaxed);
            tracing::error!(again = ?self, "from within");
            f.write_str("costly")
        }
    }

    #[test]
    fn event_arrives_with_level_target_message_and_fields() {
        let lines = logged(&FakeHost::new(), || {
            tracing::warn!(target: "mine", b = true, i = -1, u = 1_u64, f = 0.5, s = "s", d = ?[1], "n {}", 1);
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((line.level, &*line.target, &*line.message), (Level::Warn, "mine", "n 1"));
        let fields = json!({ "b": true, "i": -1, "u": 1, "f": 0.5, "s": "s", "d": "[1]" });
        assert_eq!(line.fields, fields);
    }

    #[test]
    fn unwanted_event_is_not_formatted() {
        let (host, count) = (FakeHost::new(), AtomicU32::new(0));
        host.want(Level::Info);
        let lines = logged(&host, || {
            tracing::debug!(costly = ?LogsWhenFormatted(&count));
            tracing::info!("expected");
        });
        assert_eq!(lines.len(), 1);
        host.want(Level::Debug);
        assert_eq!(logged(&host, || tracing::debug!("now it is")).len(), 2);
        assert_eq!(count.into_inner(), 0);
    }

    #[test]
    fn line_logged_while_formatting_is_dropped() {
        let count = AtomicU32::new(0);
        let lines = logged(
            &FakeHost::new(),
            || tracing::info!(costly = ?LogsWhenFormatted(&count), "once"),
        );
        assert_eq!(count.into_inner(), 1);
        let messages: Vec<_> = lines.iter().map(|line| &*line.message).collect();
        assert_eq!(messages, ["once"]);
    }

    #[test]
    fn panic_while_formatting_does_not_affect_later_lines() {
        struct Panics;
        impl fmt::Debug for Panics {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                std::panic::resume_unwind(Box::new(()))
            }
        }
        let host = FakeHost::new();
        let panics = || tracing::info!(panics = ?Panics, "lost");
        let caught = std::panic::catch_unwind(|| drop(logged(&host, panics)));
        assert!(caught.is_err());
        assert_eq!(logged(&host, || tracing::info!("next")).len(), 1);
    }

    #[test]
    fn event_has_the_path_of_its_spans() {
        let text = spans(|| {
            let _outer = tracing::info_span!("outer", a = 1, b = "x").entered();
            let inner = tracing::info_span!("inner", late = tracing::field::Empty);
            inner.record("late", 2);
            inner.in_scope(|| tracing::info!("here"));
        });
        assert_eq!(text, r#"outer{a=1 b="x"}:inner{late=2}"#);
        let text = spans(|| {
            drop(tracing::info_span!("closed").entered());
            tracing::info!("here");
        });
        assert_eq!(text, Value::Null);
        let text = spans(|| {
            let parent = tracing::info_span!("parent");
            let _other = tracing::info_span!("other").entered();
            tracing::info!(parent: &parent, "here");
        });
        assert_eq!(text, "parent");
        let text = spans(|| {
            let (first, second) = (tracing::info_span!("first"), tracing::info_span!("second"));
            let (first, _second) = (first.entered(), second.entered());
            drop(first);
            tracing::info!("here");
        });
        assert_eq!(text, "second");
    }

    #[test]
    fn spans_beyond_maximum_depth_are_exited_correctly() {
        let text = spans(|| {
            let _outer = tracing::info_span!("outer").entered();
            let deep: Vec<_> = (0..100).map(|_| tracing::info_span!("deep").entered()).collect();
            // Innermost first, like nested scopes.
            deep.into_iter().rev().for_each(drop);
            tracing::info!("here");
        });
        assert_eq!(text, "outer");
    }

    #[test]
    fn log_record_arrives() {
        let host = FakeHost::new();
        let logger = host.logger();
        let log = |level, message: &str| {
            let message = format_args!("{message}");
            logger.log(&log::Record::builder().level(level).target("t").args(message).build());
        };
        host.want(Level::Info);
        log(log::Level::Debug, "not expected");
        log(log::Level::Info, &"x".repeat(MAX_LINE_BYTES + 1));
        host.close();
        log(log::Level::Error, "after close");
        let lines = host.logged();
        let [line] = &lines[..] else { panic!("{} lines", lines.len()) };
        assert_eq!((line.level, &*line.target), (Level::Info, "t"));
        assert!(line.message.len() <= MAX_LINE_BYTES && line.message.ends_with(CUT));
    }

    #[test]
    fn services_report_enabled_levels() {
        let host = FakeHost::new();
        let services = host.services();
        host.want(Level::Warn);
        assert!(services.enabled(Level::Warn) && !services.enabled(Level::Info));
        host.close();
        assert!(!services.enabled(Level::Error));
    }
}
