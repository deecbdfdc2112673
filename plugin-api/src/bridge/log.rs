//! The crate `log`: a logger that forwards records to the host. Their key-values stay behind.

use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

use super::bounded_text::BoundedText;
use super::{Destination, ForwardGuard};
use crate::{Level, services};

/// Forwards what is logged with `log`.
#[derive(Debug)]
pub(crate) struct ForwardingLogger(pub(crate) Destination);

static LOGGER: ForwardingLogger = ForwardingLogger(Destination::LatestStart);

pub(super) fn install() {
    static ONCE: Once = Once::new();
    // Later starts change only whom `Destination::LatestStart` finds.
    ONCE.call_once(|| {
        // Another logger can be there only if an initialiser of the library set it.
        if log::set_logger(&LOGGER).is_ok() {
            // The host may want more at any time and cannot tell, so it is asked for each line.
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
        // A line that the host does not take is lost.
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
