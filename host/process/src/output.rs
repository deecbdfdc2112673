//! The output of a process: read for as long as it runs, split into lines of limited length, parsed
//! as log lines, with the last lines kept for reports of its exit. A pipe that is not read blocks
//! the process. Reading ends soon after its exit, even if another process still holds the pipe.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotbay_plugin::abi::Record;
use hotbay_plugin::text::{Lines, escaped};
use hotbay_plugin::{Level, ServiceError};
use hotbay_protocol::MAX_LOG_LINE_BYTES;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::contract_calls::{ContractCall, ContractFuture};
use crate::error::Diagnosis;
use crate::sync::lock;

/// Receives the events of a process, and serves its requests to the host.
pub trait ProcessObserver: Send + Sync {
    /// Handles a line that the process wrote to one of its pipes.
    fn wrote(&self, record: &Record<'_>);
    /// Handles a line that the process logs through the host's services.
    ///
    /// # Errors
    ///
    /// Fails if the line is not recorded; the process receives the error.
    fn log(&self, record: &Record<'_>) -> Result<(), ServiceError>;
    /// Returns the lowest log level that is recorded; 0 if it may not log.
    fn log_level(&self) -> u32;
    /// Handles a panic on a thread of the program.
    fn thread_panicked(&self, message: &str, location: &str);
    /// EndpointKind a call of a contract that the program makes. Must not block.
    fn call_contract(&self, call: ContractCall) -> ContractFuture;
    /// Handles an unexpected exit of the process.
    fn exited(&self, pid: u32, reason: Diagnosis);
    /// Handles a listener on an address that other machines may reach.
    fn listens_beyond_loopback(&self, pid: u32, address: SocketAddr);
    /// Handles a restart of the process.
    fn restarted(&self, pid: u32, after: Duration);
    /// Handles a failed restart of the process.
    fn not_restarted(&self, reason: &Diagnosis);
}

/// An observer that the tasks of a process share.
pub type ObserverRef = Arc<dyn ProcessObserver>;

/// Time for which a process's output is read after it was reaped, in case another process still
/// holds its pipes.
pub(crate) const PIPE_DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// Bytes per read.
const BUFFER_BYTES: usize = 64 << 10;

/// Lines between two yields to the other tasks of the thread.
const LINES_PER_YIELD: usize = 16;

/// The last lines of a child's output, for reports of its exit.
pub(crate) type SharedTail = Arc<Mutex<Tail>>;

/// A task that reads one pipe.
#[derive(Debug)]
pub(crate) struct Reader(JoinHandle<()>);

impl Reader {
    /// Reads to the end of the pipe, but only for a short time after the child has exited.
    pub(crate) async fn finish(mut self) {
        let _ = tokio::time::timeout(PIPE_DRAIN_TIMEOUT, &mut self.0).await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Receives the lines of stdout that may contain the location.
pub(crate) type LocationSender = mpsc::Sender<String>;

/// Reads `pipe`. Each line goes to `location_sender` until the receiver is closed, and then to the
/// log.
pub(crate) fn read(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    observer: ObserverRef,
    tail: SharedTail,
    mut location_sender: Option<LocationSender>,
) -> Reader {
    Reader(tokio::spawn(async move {
        let mut pipe = pipe;
        let mut splitter = Splitter::default();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut lines = Vec::new();
        loop {
            let count = pipe.read(&mut buffer).await.unwrap_or(0);
            match count {
                0 => std::mem::take(&mut splitter).finish(|line| lines.push(line.to_owned())),
                _ => splitter.feed(&buffer[..count], |line| lines.push(line.to_owned())),
            }
            for (at, line) in lines.drain(..).enumerate() {
                if at % LINES_PER_YIELD == LINES_PER_YIELD - 1 {
                    // A child that floods its log must not block the other tasks of the thread.
                    tokio::task::yield_now().await;
                }
                // Once the receiver is closed, every line is logged.
                let unsent = match &location_sender {
                    Some(sender) => sender.send(line).await.err().map(|unsent| unsent.0),
                    None => Some(line),
                };
                if let Some(line) = unsent {
                    location_sender = None;
                    log(&observer, &tail, &line);
                }
            }
            if count == 0 {
                return;
            }
        }
    }))
}

/// Writes a line of a child's output to the host's log.
pub(crate) fn log(observer: &ObserverRef, tail: &SharedTail, line: &str) {
    lock(tail).push(line);
    let read = LogLine::read(line);
    observer.wrote(&Record {
        level: read.level,
        target: &read.target,
        message: &read.message,
        fields: &read.fields,
        file: "",
        line: 0,
    });
}

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

/// Replaces the rest of a line that is too long.
const CUT: &str = "… (cut)";

/// Turns chunks into lines.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The start of the current line, with one byte more than a line may have, for its `\r`.
    line: Vec<u8>,
    /// Whether the current line was already passed on; the rest of it is dropped.
    skips: bool,
}

impl Splitter {
    /// Adds bytes, and calls `each` with every completed line.
    ///
    /// A line ends with `\n` or `\r\n`. A line over [`MAX_LOG_LINE_BYTES`] is passed on as soon as it
    /// is too long, with `… (cut)` at its end. Invalid UTF-8 is replaced.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
            self.take(&rest[..at], &mut each);
            self.end(&mut each);
            rest = &rest[at + 1..];
        }
        self.take(rest, &mut each);
    }

    /// Calls `each` with the last line, if the stream ended without a line end.
    pub(crate) fn finish(mut self, each: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.end(each);
        }
    }

    /// Adds bytes to the current line.
    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        if self.skips {
            return;
        }
        let capacity = MAX_LOG_LINE_BYTES + 1 - self.line.len();
        let fits = &bytes[..bytes.len().min(capacity)];
        self.line.extend_from_slice(fits);
        let too_long = bytes.len() > capacity
            || self.line.len() > MAX_LOG_LINE_BYTES && !self.line.ends_with(b"\r");
        if too_long {
            self.line.truncate(MAX_LOG_LINE_BYTES);
            let whole = self.line.len() - incomplete_character_bytes(&self.line);
            each(&format!("{}{CUT}", String::from_utf8_lossy(&self.line[..whole])));
            self.line.clear();
            self.skips = true;
        }
    }

    /// Completes the current line.
    fn end(&mut self, mut each: impl FnMut(&str)) {
        if !self.skips {
            let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
            each(&String::from_utf8_lossy(line));
        }
        self.line.clear();
        self.skips = false;
    }
}

/// Returns the number of bytes at the end of `bytes` that are an incomplete character.
fn incomplete_character_bytes(bytes: &[u8]) -> usize {
    let is_half = |count: &usize| {
        let end = &bytes[bytes.len().saturating_sub(*count)..];
        let goes_on =
            |error: std::str::Utf8Error| error.valid_up_to() == 0 && error.error_len().is_none();
        std::str::from_utf8(end).is_err_and(goes_on)
    };
    (1..=3).find(is_half).unwrap_or(0)
}

const MAX_LINES: usize = 20;
const MAX_FIRST_LINES: usize = 10;
const MAX_LINE_CHARS: usize = 400;
const MAX_BYTES: usize = 8 * 1024;

/// The last 20 lines of a program, and its first 10 until they are discarded, with long lines cut.
///
/// `Display` joins them with line ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    /// Total bytes of all lines and the line ends between them.
    bytes: usize,
    first: Vec<String>,
    /// Number of all lines ever added.
    count: usize,
    /// Whether the first lines were discarded.
    is_started: bool,
}

impl Tail {
    /// Adds a line and drops the oldest ones beyond the limits.
    ///
    /// Blank lines are skipped, and terminal control characters are escaped.
    pub(crate) fn push(&mut self, line: &str) {
        let line = shown(line.trim_end());
        if line.is_empty() {
            return;
        }
        if !self.is_started && self.first.len() < MAX_FIRST_LINES {
            self.first.push(line.clone());
        }
        self.count += 1;
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len() + 1;
        }
    }

    /// Returns the lines, oldest first.
    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.lines.iter().map(String::as_str)
    }

    /// Returns the first lines, oldest first; empty once they are discarded.
    pub(crate) fn first(&self) -> impl ExactSizeIterator<Item = &str> {
        self.first.iter().map(String::as_str)
    }

    /// Discards the first lines: the program has started, so they do not explain its exit.
    pub(crate) fn discard_first(&mut self) {
        self.first = Vec::new();
        self.is_started = true;
    }

    /// Returns the number of lines ever added, without blank ones.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns whether no line was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.lines().enumerate() {
            f.write_str(if at == 0 { "" } else { "\n" })?;
            f.write_str(line)?;
        }
        Ok(())
    }
}

/// Returns at most [`MAX_LINE_CHARS`] characters of `line`, with terminal control characters
/// escaped.
fn shown(line: &str) -> String {
    let line = escaped(line, Lines::Many);
    let mut left = line.chars();
    let mut shown: String = left.by_ref().take(MAX_LINE_CHARS).collect();
    if left.next().is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
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

    fn lines_of<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    fn check_splitter(text: &[u8], expect: &[&str]) {
        assert_eq!(lines_of([text]), expect, "in one piece");
        assert_eq!(lines_of(text.chunks(1)), expect, "byte by byte");
    }

    #[test]
    fn lines_are_passed_on_without_their_ends() {
        check_splitter(b"", &[]);
        check_splitter(b"\n", &[""]);
        check_splitter(b"a\nb\n", &["a", "b"]);
        check_splitter(b"a\r\nb\r\n\r\n", &["a", "b", ""]);
        check_splitter(b"a\rb\r\r\n", &["a\rb\r"]);
    }

    #[test]
    fn last_line_needs_no_end() {
        check_splitter(b"a\nb", &["a", "b"]);
        check_splitter(b"a\nb\r", &["a", "b"]);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        check_splitter("é ✓\n".as_bytes(), &["é ✓"]);
        check_splitter(b"a\xff\xe2\x9cb\n", &["a\u{fffd}\u{fffd}b"]);
    }

    #[test]
    fn line_that_is_too_long_is_cut_and_reading_continues() {
        let (full, cut) = ("x".repeat(MAX_LOG_LINE_BYTES), "x".repeat(MAX_LOG_LINE_BYTES) + CUT);
        for end in ["\n", "\r\n"] {
            check_splitter(format!("{full}{end}a{end}").as_bytes(), &[&full, "a"]);
            check_splitter(format!("{full}y{end}a{end}").as_bytes(), &[&cut, "a"]);
            check_splitter(format!("{full}{full}{full}yy{end}a").as_bytes(), &[&cut, "a"]);
        }
        check_splitter(full.as_bytes(), &[&full]);
        check_splitter(format!("{full}\r").as_bytes(), &[&full]);
        check_splitter(format!("{full}\ry\na").as_bytes(), &[&cut, "a"]);
        check_splitter(format!("{full}y").as_bytes(), &[&cut]);
    }

    #[test]
    fn no_character_is_cut_in_half() {
        for (wide, bytes) in [("é", 2), ("✓", 3), ("🦀", 4)] {
            for inside in 1..bytes {
                let start = "x".repeat(MAX_LOG_LINE_BYTES - inside);
                let text = format!("{start}{wide}{}\n", "y".repeat(9));
                check_splitter(text.as_bytes(), &[&format!("{start}{CUT}")]);
            }
        }
    }

    #[test]
    fn line_that_is_too_long_is_passed_on_before_its_end() {
        let mut count = 0;
        Splitter::default().feed(&vec![b'x'; MAX_LOG_LINE_BYTES + 1], |_| count += 1);
        assert_eq!(count, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_chunking_gives_the_same_lines(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r')], 0..300),
            stretch in prop::option::of((any::<prop::sample::Index>(), 0..4_usize)),
            sizes in prop::collection::vec(1..70_000_usize, 1..40),
            small in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if let Some((at, over)) = stretch {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, vec![b'x'; MAX_LOG_LINE_BYTES - 2 + over]);
            }
            let mut chunks = Vec::new();
            let mut rest = &bytes[..];
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let size = if small { size % 7 + 1 } else { *size };
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(lines_of(chunks), lines_of([&bytes[..]]));
        }

        #[test]
        fn lines_that_fit_are_unchanged(lines in prop::collection::vec("[^\\n\\r]{0,40}", 0..9)) {
            let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            prop_assert_eq!(lines_of([text.as_bytes()]), lines);
        }
    }

    fn check_tail(lines: &[&str], expect: &str) {
        let mut tail = Tail::default();
        lines.iter().for_each(|line| tail.push(line));
        assert_eq!(tail.to_string(), expect);
    }

    #[test]
    fn lines_are_kept_in_order() {
        check_tail(&[], "");
        check_tail(&["a"], "a");
        check_tail(&["a", "", "  ", "  b  ", "c"], "a\n  b\nc");
    }

    #[test]
    fn only_the_last_twenty_lines_are_kept() {
        let lines: Vec<String> = (0..50).map(|at| at.to_string()).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        check_tail(&lines, &lines[30..].join("\n"));
    }

    #[test]
    fn long_line_is_cut() {
        check_tail(&[&"é".repeat(400)], &"é".repeat(400));
        check_tail(&[&"é".repeat(401)], &format!("{}…", "é".repeat(399)));
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        check_tail(&["\u{1b}[31mred\u{7}\tx\0"], "\\u{1b}[31mred\\u{7}\tx\\u{0}");
        let mut tail = Tail::default();
        tail.push(&"\u{1b}".repeat(400));
        assert_eq!(tail.to_string().chars().count(), 400);
    }

    #[test]
    fn wide_characters_displace_older_lines() {
        let wide = "🦀".repeat(400);
        let lines = ["a", &wide, &wide, &wide, &wide, &wide];
        check_tail(&lines, &lines.join("\n"));
        check_tail(&[&lines[..], &[&wide]].concat(), &[&*wide; 5].join("\n"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn tail_never_exceeds_its_limits(lines in prop::collection::vec("[aé🦀\\x1b ]{0,500}", 0..40)) {
            let mut tail = Tail::default();
            for line in &lines {
                tail.push(line);
                let text = tail.to_string();
                prop_assert!(text.len() <= MAX_BYTES);
                prop_assert!(tail.lines().len() <= MAX_LINES);
                prop_assert!(text.lines().all(|line| line.chars().count() <= MAX_LINE_CHARS));
                prop_assert_eq!(tail.is_empty(), text.is_empty());
            }
        }
    }
}
