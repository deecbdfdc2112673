//! A line that a plugin logged becomes an event of the host's `tracing`, with the level, the
//! target and the fields that the plugin gave it, and with `plugin` and `generation`. What is
//! too long, too many or malformed is cut or put together, never refused. What would steer a
//! terminal or start a line of its own is escaped. Does not limit.

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

/// Fields of an event: as many as `tracing` has room for in its own.
const EVENT_FIELDS_MAX: usize = 32;
/// Fields that a line has on its own; those that come after them in the alphabet go to `more`.
const FIELDS_MAX: usize = EVENT_FIELDS_MAX - FIRST_NAMES.len() - LAST_NAMES.len() - 1;
/// The field for what has no room, or no right name, as JSON.
const MORE: &str = "more";
/// Bytes of a target, of a file's path, and of the name of a field.
const TARGET_BYTES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;

thread_local! {
    /// Whether this thread hands a line on.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Held while a thread hands a line on. A subscriber that calls a plugin which logs would be
/// handed that line, and call it again; so such lines are left out, as `tracing` itself does
/// with events of a subscriber of one thread.
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

type SiteOf = fn(LineCallsite<'_>) -> Option<&'static LineSite>;

/// A line that somebody wants.
pub(super) struct Line<'r> {
    site: &'static LineSite,
    message: DisplayValue<Cow<'r, str>>,
    /// The values of the site's own fields, in their order.
    values: Vec<FieldValue>,
    _busy: Busy,
}

impl<'r> Line<'r> {
    /// The line, if somebody wants it: asked before anything but names is made of it.
    pub(super) fn wanted(plugin: &PluginName, record: &Record<'r>) -> Option<Self> {
        Self::wanted_at(plugin, record, callsites::site_of)
    }

    fn wanted_at(plugin: &PluginName, record: &Record<'r>, site_of: SiteOf) -> Option<Self> {
        let level = level_of(record.level);
        if !callsites::level_is_wanted(level) {
            return None;
        }
        let busy = Busy::enter()?;
        let target = if record.target.is_empty() { plugin.as_str() } else { record.target };
        let target = &*escaped(start_of(target, TARGET_BYTES_MAX), Lines::One);
        let file = &*escaped(start_of(record.file, TARGET_BYTES_MAX), Lines::One);
        let fields = named_fields(record.fields);
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let place = (!file.is_empty()).then_some((file, record.line));
        let kind = LineCallsite { level, target, place, names: &names };
        let own = site_of(kind);
        let site = own.unwrap_or_else(|| LineSite::shared(level));
        if !site.is_wanted() {
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

    /// Hands it to whoever listens.
    pub(super) fn emit(self, plugin: &PluginName, generation: GenerationId) {
        let metadata = self.site.metadata();
        let plugin = display(plugin);
        let generation = generation.get();
        let values = [&self.message as &dyn Value]
            .into_iter()
            .chain(self.values.iter().map(FieldValue::as_value))
            .chain([&plugin as &dyn Value, &generation]);
        let fields: Vec<Field> = metadata.fields().iter().collect();
        let Some(first) = fields.first() else { return };
        let mut set: [(&Field, Option<&dyn Value>); EVENT_FIELDS_MAX] =
            [(first, None); EVENT_FIELDS_MAX];
        for (place, entry) in set.iter_mut().zip(fields.iter().zip(values.map(Some))) {
            *place = entry;
        }
        Event::dispatch(metadata, &metadata.fields().value_set(&set));
    }
}

fn shown(text: &str, lines: Lines) -> String {
    escaped(text, lines).into_owned()
}

/// A value of a field, of the type that the plugin gave it.
#[derive(Debug)]
enum FieldValue {
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    /// A text that is no string of the plugin's, but what a value of it looks like.
    Shown(DisplayValue<String>),
}

impl FieldValue {
    /// Reads what [`Record::fields`] describes; what else there may be is shown as it is.
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

    /// A value that no field can have, as its JSON.
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
            // Not a number and the infinities have no JSON.
            Self::F64(value) if value.is_finite() => value.into(),
            Self::F64(value) => value.to_string().into(),
            Self::Text(value) => value.into(),
            Self::Shown(value) => value.to_string().into(),
        }
    }
}

/// The fields of a line by name, in alphabetical order, at most one more than [`FIELDS_MAX`].
fn named_fields(text: &str) -> Vec<(String, FieldValue)> {
    if text.is_empty() {
        return Vec::new();
    }
    let object = (text.len() <= MAX_LINE_BYTES).then(|| serde_json::from_str(text).ok()).flatten();
    let Some(object) = object else {
        // No plugin of ours writes that.
        let text = shown(&cut(text, MAX_LINE_BYTES), Lines::Many);
        return vec![("fields".to_owned(), FieldValue::Text(text))];
    };
    let object: Map<String, Json> = object;
    let mut all: Vec<_> =
        object.into_iter().map(|(name, value)| (name, FieldValue::of(value))).collect();
    all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let (mut fields, mut more): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(name, _)| is_right_name(name));
    if fields.len() > FIELDS_MAX {
        more.extend(fields.drain(FIELDS_MAX..));
    }
    if !more.is_empty() {
        fields.push((MORE.to_owned(), FieldValue::document(&object_of(more))));
    }
    fields
}

fn object_of(fields: Vec<(String, FieldValue)>) -> Json {
    Json::Object(fields.into_iter().map(|(name, value)| (name, value.into_json())).collect())
}

/// Whether a field can have this name, next to those that the host adds.
fn is_right_name(name: &str) -> bool {
    let is_taken = FIRST_NAMES.contains(&name) || LAST_NAMES.contains(&name) || name == MORE;
    let is_plain = !name.chars().any(|char| is_escaped(char, Lines::One));
    !is_taken && is_plain && (1..=NAME_BYTES_MAX).contains(&name.len())
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
    fn values_have_the_types_that_are_stated() {
        let fields = r#"{"b":true,"a":1,"c":18446744073709551615,"d":{"u64":1},"e":{"f64":"-inf"},
            "f":{"debug":"x"},"g":1.5,"h":"t","i":[1],"j":null,"k":{"x":"1"},"l":{"f64":1}}"#;
        let wanted = [
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
        assert_eq!(shown(fields), wanted);
    }

    #[test]
    fn names_that_are_taken_or_odd_go_to_more() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let fields = format!(r#"{{"plugin":{{"u64":1}},"ok":1,"":2,"more":3,"{long}":4}}"#);
        let more = format!(r#"more: Shown({{"":2,"more":3,"plugin":1,"{long}":4}})"#);
        assert_eq!(shown(&fields), ["ok: I64(1)", &more]);
    }

    #[test]
    fn fields_that_are_too_many_go_to_more() {
        let all: Map<_, _> = (0..40).map(|n| (format!("f{n:02}"), Json::from(n))).collect();
        let fields = named_fields(&Json::Object(all).to_string());
        assert_eq!(fields.len(), FIELDS_MAX + 1);
        let (name, more) = &fields[FIELDS_MAX];
        assert_eq!(name, MORE);
        let more: Json = serde_json::from_str(&format!("{:?}", more.as_shown())).unwrap();
        assert_eq!(more.as_object().map(Map::len), Some(40 - FIELDS_MAX));
    }

    #[test]
    fn what_is_no_object_is_kept_as_text() {
        assert_eq!(shown(""), [""; 0]);
        assert_eq!(shown("[1]"), ["fields: Text(\"[1]\")"]);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_LINE_BYTES));
        let [(name, FieldValue::Text(text))] = &named_fields(&long)[..] else { panic!() };
        assert!(name == "fields" && text.len() <= MAX_LINE_BYTES && text.ends_with(CUT));
    }

    /// Notes each event as text: its target, and its fields in their order.
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Notes {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn event(&self, event: &Event<'_>) {
            let mut note = event.metadata().target().to_owned();
            event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
                note.push_str(&format!(" {field}={value:?}"));
            });
            self.0.lock().unwrap().push(note);
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn emitted(record: &Record<'_>, site_of: SiteOf) -> Vec<String> {
        let notes = Arc::new(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(Notes(Arc::clone(&notes)), || {
            let plugin = PluginName::new("echo").unwrap();
            let line = Line::wanted_at(&plugin, record, site_of).unwrap();
            // While it is on its way, this thread has no other.
            assert!(Line::wanted_at(&plugin, record, site_of).is_none());
            line.emit(&plugin, GenerationId::FIRST);
        });
        std::mem::take(&mut *notes.lock().unwrap())
    }

    #[test]
    fn a_line_is_an_event_of_its_own_kind_or_of_one_that_all_share() {
        let fields = r#"{"b":{"debug":"x"},"a":1}"#;
        let mut record =
            Record { level: Level::Info, target: "t", message: "m", fields, file: "f", line: 1 };
        let own: SiteOf = callsites::site_of;
        let wanted = "message=m a=1 b=x plugin=echo generation=1";
        assert_eq!(emitted(&record, own), [format!("t {wanted}")]);
        let wanted = r#"message=m target="t" fields={"a":1,"b":"x"} plugin=echo generation=1"#;
        assert_eq!(emitted(&record, |_| None), [format!("hotbay::plugin {wanted}")]);
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
