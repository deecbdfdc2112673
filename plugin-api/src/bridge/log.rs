//! A logger for the crate `log` that forwards records to the host, without their key-values.

use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

use super::forwarding::{BoundedText, Destination, ForwardGuard};
use crate::{Level, services};

/// Forwards records of the crate `log`.
#[derive(Debug)]
pub(crate) struct ForwardingLogger(pub(crate) Destination);

static LOGGER: ForwardingLogger = ForwardingLogger(Destination::LatestStart);

pub(super) fn install() {
    static ONCE: Once = Once::new();
    // A later start only changes the destination of `Destination::LatestStart`.
    ONCE.call_once(|| {
        // Fails only if an initializer of the library has set another logger.
        if log::set_logger(&LOGGER).is_ok() {
            // The level that the host wants may change at any time, so each line checks it.
            log::set_max_level(LevelFilter::Trace);
        }
    });
}

impl Log for ForwardingLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.services().is_some_and(|host| host.enabled(level_of(metadata.level())))
    }

    fn log(&self, record: &Record<'_>) {
        let Some(host) = self.0.services() else { return };
        let level = level_of(record.level());
        if !host.enabled(level) {
            return;
        }
        let Some(_guard) = ForwardGuard::enter() else { return };
        let message = BoundedText::format(*record.args());
        // A line that the host rejects is lost.
        let _ = host.record(&services::Record {
            level,
            target: record.target(),
            message: message.as_str(),
            fields: "",
            file: record.file().unwrap_or_default(),
            line: record.line().unwrap_or_default(),
        });
    }

    fn flush(&self) {}
}

fn level_of(level: log::Level) -> Level {
    match level {
        log::Level::Error => Level::Error,
        log::Level::Warn => Level::Warn,
        log::Level::Info => Level::Info,
        log::Level::Debug => Level::Debug,
        log::Level::Trace => Level::Trace,
    }
}
