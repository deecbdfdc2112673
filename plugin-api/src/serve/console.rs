//! The console of a program: its command line, its configuration in the environment, and its own
//! output: JSON lines on stderr, and results on stdout. Failures to write to stderr are ignored.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::{fs, io};

use hotbay_protocol::{CAPABILITIES_ARGUMENT, CONFIG_ARGUMENT};
use serde_json::{Map, Value};

/// A command of the command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Print the capabilities.
    Capabilities,
    /// Print the usage.
    Help,
    /// Serve with this start configuration, a JSON text.
    Serve(String),
}

/// The start configuration as the environment passes it.
#[derive(Debug, Default)]
pub(super) struct EnvConfig {
    /// `HOTBAY_CONFIG`
    pub(super) text: Option<OsString>,
    /// `HOTBAY_CONFIG_FILE`
    pub(super) file: Option<OsString>,
}

/// Parses the arguments after the program's name.
///
/// `--config` takes precedence over the environment, and `HOTBAY_CONFIG_FILE` over
/// `HOTBAY_CONFIG`.
///
/// # Errors
///
/// A message for people if the arguments are invalid or the file cannot be read.
pub(super) fn parse_arguments(
    mut arguments: impl Iterator<Item = OsString>,
    env_config: EnvConfig,
) -> Result<Command, String> {
    let Some(first) = arguments.next() else {
        if let Some(file) = env_config.file {
            let config = fs::read_to_string(&file).map_err(|error| {
                let file = file.to_string_lossy();
                format!("cannot read the file `{file}` in HOTBAY_CONFIG_FILE: {error}")
            })?;
            return Ok(Command::Serve(config));
        }
        let config = env_config.text.ok_or(
            "no start configuration found: expected `capabilities`, `--config <JSON>`, \
             HOTBAY_CONFIG or HOTBAY_CONFIG_FILE",
        )?;
        return utf8(config, "HOTBAY_CONFIG").map(Command::Serve);
    };
    let first = utf8(first, "the first argument")?;
    let command = match first.as_str() {
        CAPABILITIES_ARGUMENT => Command::Capabilities,
        "--help" | "-h" | "help" => Command::Help,
        CONFIG_ARGUMENT => {
            let config = arguments.next().ok_or("missing value of `--config`: expected JSON")?;
            Command::Serve(utf8(config, "--config")?)
        }
        other => match other.strip_prefix("--config=") {
            Some(config) => Command::Serve(config.to_owned()),
            None => return Err(format!("unknown argument `{other}`")),
        },
    };
    match arguments.next() {
        None => Ok(command),
        Some(more) => Err(format!("unexpected argument `{}`", more.to_string_lossy())),
    }
}

fn utf8(value: OsString, name: &str) -> Result<String, String> {
    value.into_string().map_err(|_| format!("{name} is not UTF-8"))
}

/// Returns the usage text.
pub(super) fn usage(name: &str) -> String {
    format!(
        "hotbay plugin `{name}`: a program that a host starts and calls over a socket\n\
         \n\
         {name} capabilities      prints the capabilities as JSON\n\
         {name} --config <JSON>   serves; the JSON may also be in HOTBAY_CONFIG, or in the file\n\
         \x20   that HOTBAY_CONFIG_FILE names, for example\n\
         \x20   {{\"id\":\"{name}\",\"type\":\"unix\",\"idleTimeout\":\"5m\"}}"
    )
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &[&str], env_config: Option<&str>, expected: Result<Command, &str>) {
        let given = arguments.iter().map(OsString::from);
        let env_config = EnvConfig { text: env_config.map(Into::into), file: None };
        match (parse_arguments(given, env_config), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn valid_arguments_select_a_command() {
        check(&["capabilities"], None, Ok(Command::Capabilities));
        check(&["capabilities"], Some("{}"), Ok(Command::Capabilities));
        check(&["--config", "{}"], None, Ok(Command::Serve("{}".to_owned())));
        check(&["--config={}"], None, Ok(Command::Serve("{}".to_owned())));
        check(&["--config", "a"], Some("b"), Ok(Command::Serve("a".to_owned())));
        check(&[], Some("b"), Ok(Command::Serve("b".to_owned())));
        check(&["-h"], None, Ok(Command::Help));
    }

    #[test]
    fn config_file_is_read_unless_an_argument_is_given() {
        let folder = std::env::temp_dir().join(format!("hotbay-arguments-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("config.json");
        fs::write(&file, "in file").unwrap();
        let given = |file: &std::path::Path| EnvConfig {
            text: Some("in text".into()),
            file: Some(file.into()),
        };
        let none = || std::iter::empty::<OsString>();
        assert_eq!(parse_arguments(none(), given(&file)), Ok(Command::Serve("in file".to_owned())));
        let argument = ["--config=a"].into_iter().map(OsString::from);
        assert_eq!(parse_arguments(argument, given(&file)), Ok(Command::Serve("a".to_owned())));
        fs::remove_dir_all(&folder).unwrap();
        let wrong = parse_arguments(none(), given(&file)).unwrap_err();
        assert!(wrong.contains("in HOTBAY_CONFIG_FILE: "), "{wrong}");
    }

    #[test]
    fn invalid_arguments_are_reported() {
        check(&[], None, Err("expected `capabilities`, `--config <JSON>`"));
        check(&["--config"], None, Err("missing value of `--config`"));
        check(&["serve"], None, Err("unknown argument `serve`"));
        check(&["capabilities", "now"], None, Err("unexpected argument `now`"));
    }
}
