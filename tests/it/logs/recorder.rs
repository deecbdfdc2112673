//! The process-wide subscriber: records the events of plugins by plugin name. It ignores other
//! events, so tests that run in parallel do not interfere.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError};

use hotbay::{PluginHandle, Request};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// A target that the subscriber filters out.
pub(crate) const FILTERED: &str = "chatty::filtered";

/// A recorded event.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) level: Level,
    pub(crate) target: String,
    pub(crate) file: Option<String>,
    /// Each value with the type it was recorded as, as text.
    pub(crate) fields: BTreeMap<String, String>,
}

impl Line {
    pub(crate) fn message(&self) -> &str {
        self.field("message").strip_prefix("debug ").unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no `{name}`: {self:?}"))
    }
}

/// Recorded lines by plugin.
#[derive(Default)]
pub(crate) struct Recorder {
    lines: Mutex<HashMap<String, Vec<Line>>>,
    /// Plugins to call, with their input, whenever they log.
    calls_back: Mutex<HashMap<String, (PluginHandle, String)>>,
    level: Mutex<Option<LevelFilter>>,
}

/// Installs the subscriber for the whole process.
pub(crate) fn install() -> &'static Recorder {
    static RECORDER: LazyLock<Recorder> = LazyLock::new(Recorder::default);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(RecordingSubscriber(&RECORDER)).unwrap()
    });
    &RECORDER
}

impl Recorder {
    /// Returns the lines logged by this plugin so far.
    pub(crate) fn of(&self, plugin: &str) -> Vec<Line> {
        lock(&self.lines).get(plugin).cloned().unwrap_or_default()
    }

    /// Returns the only line logged by this plugin so far.
    #[track_caller]
    pub(crate) fn only_of(&self, plugin: &str) -> Line {
        let lines = self.of(plugin);
        let [line] = &lines[..] else { panic!("{} lines: {lines:#?}", lines.len()) };
        line.clone()
    }

    /// Calls a plugin whenever it logs.
    pub(crate) fn call_back(&self, handle: &PluginHandle, input: &str) {
        let name = handle.name().to_string();
        lock(&self.calls_back).insert(name, (handle.clone(), input.to_owned()));
    }

    /// Sets another level than `INFO`.
    pub(crate) fn set_level(&self, level: LevelFilter) {
        *lock(&self.level) = Some(level);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Returns a subscriber for the test's own thread.
pub(crate) fn subscriber(recorder: &'static Recorder) -> impl Subscriber + Send + Sync {
    RecordingSubscriber(recorder)
}

struct RecordingSubscriber(&'static Recorder);

impl RecordingSubscriber {
    fn level(&self) -> LevelFilter {
        lock(&self.0.level).unwrap_or(LevelFilter::INFO)
    }
}

impl Subscriber for RecordingSubscriber {
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level())
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.fields().field("plugin") {
            Some(_) if metadata.is_event() => Interest::sometimes(),
            _ => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // As a target filter does.
        *metadata.level() <= self.level() && metadata.target() != FILTERED
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Some(plugin) = fields.0.get("plugin").and_then(|name| name.strip_prefix("debug "))
        else {
            return;
        };
        let plugin = plugin.to_owned();
        let metadata = event.metadata();
        let line = Line {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            file: metadata.file().map(str::to_owned),
            fields: fields.0,
        };
        lock(&self.0.lines).entry(plugin.clone()).or_default().push(line);
        let calls_back = lock(&self.0.calls_back).get(&plugin).cloned();
        if let Some((handle, input)) = calls_back {
            handle.call(Request::json_text(&input)).unwrap();
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Fields {
    fn add(&mut self, field: &Field, of_type: &str, value: impl Debug) {
        self.0.insert(field.name().to_owned(), format!("{of_type} {value:?}"));
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, "f64", value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, "i64", value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, "u64", value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, "bool", value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, "str", value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, "debug", value);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
