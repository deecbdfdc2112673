//! The crate `log`: a logger that forwards records to the host. Their key-values stay behind.

use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

use super::text::Text;
use super::{Busy, Way};
use crate::{Level, services};

/// Forwards what is logged with `log`.
#[derive(Debug)]
pub(crate) struct Forward(pub(crate) Way);

static FORWARD: Forward = Forward(Way::Started);

pub(super) fn install() {
    static ONCE: Once = Once::new();
    // Later starts change only whom `Way::Started` finds.
    ONCE.call_once(|| {
        // Another logger can be there only if an initialiser of the library set it.
        if log::set_logger(&FORWARD).is_ok() {
            // The host may want more at any time and cannot tell, so it is asked for each line.
            log::set_max_level(LevelFilter::Trace);
        }
    });
}

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.services().is_some_and(|host| host.enabled(level_of(metadata.level())))
    }

    fn log(&self, record: &Record<'_>) {
        let Some(host) = self.0.services() else { return };
        let level = level_of(record.level());
        if !host.enabled(level) {
            return;
        }
        let Some(_busy) = Busy::enter() else { return };
        let message = Text::of(*record.args());
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
