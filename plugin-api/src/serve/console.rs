//! Output of the program itself: JSON lines on stderr, and results on stdout. Failures to write to
//! stderr are ignored.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Map, Value};

/// Logs an error with fields for programs.
pub(super) fn error(message: &str, fields: Map<String, Value>) {
    log("error", message, fields);
}

/// Logs a warning.
pub(super) fn warn(message: &str) {
    log("warn", message, Map::new());
}

fn log(level: &str, message: &str, mut fields: Map<String, Value>) {
    fields.insert("level".to_owned(), level.into());
    fields.insert("msg".to_owned(), message.into());
    fields.insert("target".to_owned(), "hotbay_plugin".into());
    write_line(&Value::Object(fields).to_string());
}

/// Writes text for people.
pub(super) fn write_line(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Prints a result on stdout.
pub(super) fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(format!("{text}\n").as_bytes()).and_then(|()| stdout.flush());
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
