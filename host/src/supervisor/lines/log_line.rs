//! Parses a line of a program's stderr as a log line. Never fails: a line that is not JSON is a
//! message.

use hotbay_plugin::Level;
use serde_json::{Map, Value};

/// Keys of the message and the level; the first one that is present counts.
const MESSAGE_KEYS: [&str; 2] = ["msg", "@message"];
const LEVEL_KEYS: [&str; 2] = ["level", "@level"];

/// A parsed log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogLine {
    pub(crate) level: Level,
    pub(crate) message: String,
    /// The program's name for the source of the line; empty if it has none.
    pub(crate) target: String,
    /// All other fields as a JSON object; empty if there are none.
    pub(crate) fields: String,
}

impl LogLine {
    /// Parses `line`.
    ///
    /// A JSON object with a message is split into parts; an unknown level stays a field. Any other
    /// line is a message at `info`.
    pub(crate) fn read(line: &str) -> Self {
        Self::from_json(line).unwrap_or_else(|| Self {
            level: Level::Info,
            message: line.to_owned(),
            target: String::new(),
            fields: String::new(),
        })
    }

    fn from_json(line: &str) -> Option<Self> {
        if !line.trim_start().starts_with('{') {
            return None;
        }
        let mut fields: Map<String, Value> = serde_json::from_str(line).ok()?;
        let message = take(&mut fields, &MESSAGE_KEYS, |value| value.as_str().map(str::to_owned))?;
        let level = take(&mut fields, &LEVEL_KEYS, level_of).unwrap_or(Level::Info);
        let target = take(&mut fields, &["target"], |value| value.as_str().map(str::to_owned));
        let fields =
            if fields.is_empty() { String::new() } else { Value::Object(fields).to_string() };
        Some(Self { level, message, target: target.unwrap_or_default(), fields })
    }
}

/// Removes the first of `keys` with a valid value.
fn take<T>(
    fields: &mut Map<String, Value>,
    keys: &[&str],
    read: impl Fn(&Value) -> Option<T>,
) -> Option<T> {
    let (key, read) = keys.iter().find_map(|key| Some((key, read(fields.get(*key)?)?)))?;
    fields.remove(*key);
    Some(read)
}

fn level_of(value: &Value) -> Option<Level> {
    match value {
        Value::String(word) => level_of_word(word),
        Value::Number(number) => number.as_f64().and_then(level_of_number),
        _ => None,
    }
}

fn level_of_word(word: &str) -> Option<Level> {
    let word = word.trim().to_ascii_lowercase();
    // Go's `slog` writes levels between its own as `INFO+2`.
    let (word, _) = word.split_once(['+', '-']).unwrap_or((&word, ""));
    Some(match word {
        "trace" => Level::Trace,
        "debug" | "dbg" => Level::Debug,
        "info" | "information" | "notice" => Level::Info,
        "warn" | "warning" => Level::Warn,
        "error" | "err" | "fatal" | "critical" | "crit" | "panic" | "dpanic" | "alert"
        | "emergency" | "emerg" => Level::Error,
        number => return number.parse().ok().and_then(level_of_number),
    })
}

/// Levels of pino and similar loggers: 10 is `trace`, 20 `debug`, up to 60, `fatal`. Lower numbers
/// are ambiguous: 3 is an error in syslog.
fn level_of_number(number: f64) -> Option<Level> {
    Some(match number {
        number if !(10.0..=100.0).contains(&number) => return None,
        number if number < 20.0 => Level::Trace,
        number if number < 30.0 => Level::Debug,
        number if number < 40.0 => Level::Info,
        number if number < 50.0 => Level::Warn,
        _ => Level::Error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(line: &str, level: Level, message: &str, target: &str, fields: Option<Value>) {
        let read = LogLine::read(line);
        let found = (read.level, &*read.message, &*read.target);
        assert_eq!(found, (level, message, target), "{line}");
        let found = (!read.fields.is_empty()).then(|| serde_json::from_str(&read.fields).unwrap());
        assert_eq!(found, fields, "{line}");
    }

    #[test]
    fn json_line_is_parsed() {
        let line = r#"{"level":"warn","msg":"slow","target":"db::pool","ms":12,"q":{"a":[1]}}"#;
        check(line, Level::Warn, "slow", "db::pool", Some(json!({"ms": 12, "q": {"a": [1]}})));
        check(r#"  {"msg":"é\n"} "#, Level::Info, "é\n", "", None);
        check(r#"{"msg":"","level":"ERROR"}"#, Level::Error, "", "", None);
    }

    #[test]
    fn keys_with_at_sign_count_if_plain_ones_are_missing() {
        let line = r#"{"@level":"debug","@message":"hi","@timestamp":"t","@module":"m"}"#;
        check(line, Level::Debug, "hi", "", Some(json!({"@timestamp": "t", "@module": "m"})));
        let both = r#"{"msg":"a","@message":"b","level":"odd","@level":"error"}"#;
        check(both, Level::Error, "a", "", Some(json!({"@message": "b", "level": "odd"})));
        check(r#"{"msg":7,"@message":"b"}"#, Level::Info, "b", "", Some(json!({"msg": 7})));
    }

    #[test]
    fn times_stay_fields() {
        let line = r#"{"msg":"a","time":"t","ts":1.5}"#;
        check(line, Level::Info, "a", "", Some(json!({"time": "t", "ts": 1.5})));
    }

    #[test]
    fn every_usual_word_or_number_is_a_level() {
        let cases = [
            (Level::Trace, vec![json!("trace"), json!("TRACE"), json!(10), json!("10")]),
            (Level::Debug, vec![json!("debug"), json!("Debug"), json!("DEBUG-4"), json!(20)]),
            (Level::Info, vec![json!("info"), json!("INFO+2"), json!("notice"), json!(30)]),
            (Level::Warn, vec![json!("warn"), json!("warning"), json!(40), json!(45)]),
            (Level::Error, vec![json!("error"), json!("err"), json!("fatal"), json!("critical")]),
            (Level::Error, vec![json!("panic"), json!(50), json!(60), json!(60.5)]),
        ];
        for (level, words) in cases {
            for word in words {
                check(&json!({"msg": "a", "level": word}).to_string(), level, "a", "", None);
            }
        }
    }

    #[test]
    fn unknown_level_stays_a_field() {
        for level in
            [json!("loud"), json!(3), json!(1_000), json!(null), json!(["info"]), json!("")]
        {
            let line = json!({"msg": "a", "level": level}).to_string();
            check(&line, Level::Info, "a", "", Some(json!({"level": level})));
        }
        check(r#"{"msg":"a","target":1}"#, Level::Info, "a", "", Some(json!({"target": 1})));
    }

    #[test]
    fn any_other_line_is_a_message_at_info() {
        for line in [
            "",
            "  ",
            "hello",
            "error: no",
            "{",
            "{}",
            "[]",
            "null",
            "\"a\"",
            r#"{"level":"error","text":"a"}"#,
            r#"{"msg":null}"#,
            r#"{"msg":"a"} and more"#,
            r#"{"msg":"a","level":1e999}"#,
            &"{\"a\":".repeat(10_000),
        ] {
            check(line, Level::Info, line, "", None);
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics(line in "\\PC{0,60}|[{}\\[\\]\":,a-z@0-9\\\\.+-]{0,80}") {
            let _ = LogLine::read(&line);
        }

        #[test]
        fn every_message_is_preserved(message in any::<String>(), level in "\\PC{0,9}") {
            let line = json!({"msg": message, "level": level}).to_string();
            prop_assert_eq!(LogLine::read(&line).message, message);
        }
    }
}
