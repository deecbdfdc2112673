//! Emits lines that plugins log as `tracing` events of the host: with the level, target and fields
//! of the plugin, and with `plugin` and `generation`. Shortens or groups what is too long, too many
//! or malformed, and escapes control characters; rejects nothing. Does not limit rates.

use std::borrow::Cow;
use std::cell::Cell;

use hotbay_plugin::Level;
use hotbay_plugin::abi::{MAX_LINE_BYTES, Record};
use hotbay_plugin::text::{Lines, cut, escaped, escaped_json, is_escaped, start_of};
use serde_json::{Map, Value as Json};
use tracing_core::Event;
use tracing_core::field::{DisplayValue, Field, Value, display};

use super::callsites::{self, FIRST_NAMES, LAST_NAMES, LineCallsite, LineSite};
use crate::id::{GenerationId, PluginName};

/// Maximum number of fields of an event, as in `tracing`.
const MAX_EVENT_FIELDS: usize = 32;
/// Maximum number of a line's own fields; the alphabetically last ones go to `more`.
const MAX_FIELDS: usize = MAX_EVENT_FIELDS - FIRST_NAMES.len() - LAST_NAMES.len() - 1;
/// The field for excess fields and those with invalid names, as JSON.
const MORE: &str = "more";
/// Maximum bytes of a target, of a file's path, and of a field's name.
const MAX_TARGET_BYTES: usize = 256;
const MAX_NAME_BYTES: usize = 64;

thread_local! {
    /// Whether this thread emits a line.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Held while a thread emits a line. A subscriber that calls a plugin which logs would receive
/// that line and call the plugin again. Such lines are skipped, as `tracing` itself does with
/// events of a thread's own subscriber.
struct Busy;

impl Busy {
    fn enter() -> Option<Self> {
        (!BUSY.replace(true)).then_some(Self)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(false);
    }
}

type CallsiteLookup = fn(LineCallsite<'_>) -> Option<&'static LineSite>;

/// A line that a subscriber is interested in.
pub(crate) struct Line<'r> {
    site: &'static LineSite,
    message: DisplayValue<Cow<'r, str>>,
    /// The values of the callsite's own fields, in their order.
    values: Vec<FieldValue>,
    _busy: Busy,
}

impl<'r> Line<'r> {
    /// Returns the line if a subscriber is interested in it. Reads only names before that check.
    pub(crate) fn enabled(plugin: &PluginName, record: &Record<'r>) -> Option<Self> {
        Self::enabled_at(plugin, record, callsites::site_of)
    }

    fn enabled_at(
        plugin: &PluginName,
        record: &Record<'r>,
        site_of: CallsiteLookup,
    ) -> Option<Self> {
        let level = level_of(record.level);
        if !callsites::level_is_enabled(level) {
            return None;
        }
        let busy = Busy::enter()?;
        let target = if record.target.is_empty() { plugin.as_str() } else { record.target };
        let target = &*escaped(start_of(target, MAX_TARGET_BYTES), Lines::One);
        let file = &*escaped(start_of(record.file, MAX_TARGET_BYTES), Lines::One);
        let fields = named_fields(record.fields);
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let location = (!file.is_empty()).then_some((file, record.line));
        let callsite = LineCallsite { level, target, location, names: &names };
        let own = site_of(callsite);
        let site = own.unwrap_or_else(|| LineSite::shared(level));
        if !site.is_enabled() {
            return None;
        }
        let values = match own {
            Some(_) => fields.into_iter().map(|(_, value)| value).collect(),
            None => {
                vec![FieldValue::Text(target.to_owned()), FieldValue::document(&object_of(fields))]
            }
        };
        let message = match escaped(record.message, Lines::One) {
            Cow::Borrowed(message) => cut(message, MAX_LINE_BYTES),
            Cow::Owned(message) => Cow::Owned(cut(&message, MAX_LINE_BYTES).into_owned()),
        };
        Some(Self { site, message: display(message), values, _busy: busy })
    }

    /// Sends the line to the subscribers.
    pub(crate) fn emit(self, plugin: &PluginName, generation: GenerationId) {
        let metadata = self.site.metadata();
        let plugin = display(plugin);
        let generation = generation.get();
        let values = [&self.message as &dyn Value]
            .into_iter()
            .chain(self.values.iter().map(FieldValue::as_value))
            .chain([&plugin as &dyn Value, &generation]);
        let fields: Vec<Field> = metadata.fields().iter().collect();
        let Some(first) = fields.first() else { return };
        let mut set: [(&Field, Option<&dyn Value>); MAX_EVENT_FIELDS] =
            [(first, None); MAX_EVENT_FIELDS];
        for (place, entry) in set.iter_mut().zip(fields.iter().zip(values.map(Some))) {
            *place = entry;
        }
        Event::dispatch(metadata, &metadata.fields().value_set(&set));
    }
}

fn shown(text: &str, lines: Lines) -> String {
    escaped(text, lines).into_owned()
}

/// The value of a field, with the type that the plugin gave it.
#[derive(Debug)]
enum FieldValue {
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    /// The formatted text of a value that is not a string.
    Shown(DisplayValue<String>),
}

impl FieldValue {
    /// Reads a value as [`Record::fields`] describes it; formats any other as JSON.
    fn of(json: Json) -> Self {
        match json {
            Json::Bool(value) => Self::Bool(value),
            Json::String(value) => Self::Text(shown(&value, Lines::Many)),
            Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(value), _, _) => Self::I64(value),
                (_, Some(value), _) => Self::U64(value),
                (_, _, Some(value)) => Self::F64(value),
                _ => Self::Shown(display(number.to_string())),
            },
            other => Self::typed(&other).unwrap_or_else(|| Self::document(&other)),
        }
    }

    fn typed(json: &Json) -> Option<Self> {
        let object = json.as_object().filter(|object| object.len() == 1)?;
        let (name, value) = object.iter().next()?;
        match name.as_str() {
            "u64" => value.as_u64().map(Self::U64),
            "f64" => value.as_str()?.parse().ok().map(Self::F64),
            "debug" => value.as_str().map(|text| Self::Shown(display(shown(text, Lines::One)))),
            _ => None,
        }
    }

    /// Formats a value that no field can have as JSON.
    fn document(json: &Json) -> Self {
        Self::Shown(display(escaped_json(&json.to_string()).into_owned()))
    }

    fn as_value(&self) -> &dyn Value {
        match self {
            Self::Bool(value) => value,
            Self::I64(value) => value,
            Self::U64(value) => value,
            Self::F64(value) => value,
            Self::Text(value) => value,
            Self::Shown(value) => value,
        }
    }

    fn into_json(self) -> Json {
        match self {
            Self::Bool(value) => value.into(),
            Self::I64(value) => value.into(),
            Self::U64(value) => value.into(),
            // JSON has neither NaN nor infinities.
            Self::F64(value) if value.is_finite() => value.into(),
            Self::F64(value) => value.to_string().into(),
            Self::Text(value) => value.into(),
            Self::Shown(value) => value.to_string().into(),
        }
    }
}

/// Returns the fields of a line by name, in alphabetical order, at most one more than
/// [`MAX_FIELDS`].
fn named_fields(text: &str) -> Vec<(String, FieldValue)> {
    if text.is_empty() {
        return Vec::new();
    }
    let object = (text.len() <= MAX_LINE_BYTES).then(|| serde_json::from_str(text).ok()).flatten();
    let Some(object) = object else {
        // No hotbay SDK writes this.
        let text = shown(&cut(text, MAX_LINE_BYTES), Lines::Many);
        return vec![("fields".to_owned(), FieldValue::Text(text))];
    };
    let object: Map<String, Json> = object;
    let mut all: Vec<_> =
        object.into_iter().map(|(name, value)| (name, FieldValue::of(value))).collect();
    all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let (mut fields, mut more): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(name, _)| is_valid_name(name));
    if fields.len() > MAX_FIELDS {
        more.extend(fields.drain(MAX_FIELDS..));
    }
    if !more.is_empty() {
        fields.push((MORE.to_owned(), FieldValue::document(&object_of(more))));
    }
    fields
}

fn object_of(fields: Vec<(String, FieldValue)>) -> Json {
    Json::Object(fields.into_iter().map(|(name, value)| (name, value.into_json())).collect())
}

/// Returns whether a field can have this name, next to those that the host adds.
fn is_valid_name(name: &str) -> bool {
    let is_reserved = FIRST_NAMES.contains(&name) || LAST_NAMES.contains(&name) || name == MORE;
    let is_plain = !name.chars().any(|char| is_escaped(char, Lines::One));
    !is_reserved && is_plain && (1..=MAX_NAME_BYTES).contains(&name.len())
}

fn level_of(level: Level) -> tracing::Level {
    match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::{Arc, Mutex};

    use tracing_core::span::{self, Attributes, Id};
    use tracing_core::{Metadata, Subscriber};

    use hotbay_plugin::text::CUT;

    use super::*;

    fn shown(fields: &str) -> Vec<String> {
        let shown = |(name, value)| format!("{name}: {value:?}");
        named_fields(fields).into_iter().map(shown).collect()
    }

    #[test]
    fn values_have_their_stated_types() {
        let fields = r#"{"b":true,"a":1,"c":18446744073709551615,"d":{"u64":1},"e":{"f64":"-inf"},
            "f":{"debug":"x"},"g":1.5,"h":"t","i":[1],"j":null,"k":{"x":"1"},"l":{"f64":1}}"#;
        let expected = [
            "a: I64(1)",
            "b: Bool(true)",
            "c: U64(18446744073709551615)",
            "d: U64(1)",
            "e: F64(-inf)",
            "f: Shown(x)",
            "g: F64(1.5)",
            "h: Text(\"t\")",
            "i: Shown([1])",
            "j: Shown(null)",
            "k: Shown({\"x\":\"1\"})",
            "l: Shown({\"f64\":1})",
        ];
        assert_eq!(shown(fields), expected);
    }

    #[test]
    fn reserved_and_invalid_names_go_to_more() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let fields = format!(r#"{{"plugin":{{"u64":1}},"ok":1,"":2,"more":3,"{long}":4}}"#);
        let more = format!(r#"more: Shown({{"":2,"more":3,"plugin":1,"{long}":4}})"#);
        assert_eq!(shown(&fields), ["ok: I64(1)", &more]);
    }

    #[test]
    fn excess_fields_go_to_more() {
        let all: Map<_, _> = (0..40).map(|n| (format!("f{n:02}"), Json::from(n))).collect();
        let fields = named_fields(&Json::Object(all).to_string());
        assert_eq!(fields.len(), MAX_FIELDS + 1);
        let (name, more) = &fields[MAX_FIELDS];
        assert_eq!(name, MORE);
        let more: Json = serde_json::from_str(&format!("{:?}", more.as_shown())).unwrap();
        assert_eq!(more.as_object().map(Map::len), Some(40 - MAX_FIELDS));
    }

    #[test]
    fn fields_that_are_not_an_object_stay_text() {
        assert_eq!(shown(""), [""; 0]);
        assert_eq!(shown("[1]"), ["fields: Text(\"[1]\")"]);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_LINE_BYTES));
        let [(name, FieldValue::Text(text))] = &named_fields(&long)[..] else { panic!() };
        assert!(name == "fields" && text.len() <= MAX_LINE_BYTES && text.ends_with(CUT));
    }

    /// Records each event as text: its target, and its fields in their order.
    struct Events(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Events {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn event(&self, event: &Event<'_>) {
            let mut event_text = event.metadata().target().to_owned();
            event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
                event_text.push_str(&format!(" {field}={value:?}"));
            });
            self.0.lock().unwrap().push(event_text);
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn emitted(record: &Record<'_>, site_of: CallsiteLookup) -> Vec<String> {
        let events = Arc::new(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(Events(Arc::clone(&events)), || {
            let plugin = PluginName::new("echo").unwrap();
            let line = Line::enabled_at(&plugin, record, site_of).unwrap();
            // While the thread emits a line, it has no other.
            assert!(Line::enabled_at(&plugin, record, site_of).is_none());
            line.emit(&plugin, GenerationId::FIRST);
        });
        std::mem::take(&mut *events.lock().unwrap())
    }

    #[test]
    fn line_uses_its_own_callsite_or_the_shared_one() {
        let fields = r#"{"b":{"debug":"x"},"a":1}"#;
        let mut record =
            Record { level: Level::Info, target: "t", message: "m", fields, file: "f", line: 1 };
        let own: CallsiteLookup = callsites::site_of;
        let expected = "message=m a=1 b=x plugin=echo generation=1";
        assert_eq!(emitted(&record, own), [format!("t {expected}")]);
        let expected = r#"message=m target="t" fields={"a":1,"b":"x"} plugin=echo generation=1"#;
        assert_eq!(emitted(&record, |_| None), [format!("hotbay::plugin {expected}")]);
        (record.target, record.fields, record.file) = ("", "", "");
        assert_eq!(emitted(&record, own), ["echo message=m plugin=echo generation=1"]);
    }

    impl FieldValue {
        fn as_shown(&self) -> &DisplayValue<String> {
            match self {
                Self::Shown(value) => value,
                other => panic!("{other:?}"),
            }
        }
    }
}
