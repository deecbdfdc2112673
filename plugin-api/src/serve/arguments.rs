//! The command line of a process plugin, and the configuration that the environment holds or names.

use std::ffi::OsString;
use std::fs;

/// What the command line requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Print the capabilities.
    Capabilities,
    /// Print the usage.
    Help,
    /// Serve with this start configuration, a JSON text.
    Start(String),
}

/// The start configuration as the environment passes it.
#[derive(Debug, Default)]
pub(super) struct InEnvironment {
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
pub(super) fn asked(
    mut arguments: impl Iterator<Item = OsString>,
    in_environment: InEnvironment,
) -> Result<Asked, String> {
    let Some(first) = arguments.next() else {
        if let Some(file) = in_environment.file {
            let config = fs::read_to_string(&file).map_err(|error| {
                let file = file.to_string_lossy();
                format!("cannot read the file `{file}` in HOTBAY_CONFIG_FILE: {error}")
            })?;
            return Ok(Asked::Start(config));
        }
        let config = in_environment.text.ok_or(
            "no start configuration found: expected `capabilities`, `--config <JSON>`, \
             HOTBAY_CONFIG or HOTBAY_CONFIG_FILE",
        )?;
        return text(config, "HOTBAY_CONFIG").map(Asked::Start);
    };
    let first = text(first, "the first argument")?;
    let asked = match first.as_str() {
        "capabilities" => Asked::Capabilities,
        "--help" | "-h" | "help" => Asked::Help,
        "--config" => {
            let config = arguments.next().ok_or("missing value of `--config`: expected JSON")?;
            Asked::Start(text(config, "--config")?)
        }
        other => match other.strip_prefix("--config=") {
            Some(config) => Asked::Start(config.to_owned()),
            None => return Err(format!("unknown argument `{other}`")),
        },
    };
    match arguments.next() {
        None => Ok(asked),
        Some(more) => Err(format!("unexpected argument `{}`", more.to_string_lossy())),
    }
}

fn text(value: OsString, name: &str) -> Result<String, String> {
    value.into_string().map_err(|_| format!("{name} is not UTF-8"))
}

/// Returns the usage text.
pub(super) fn help(name: &str) -> String {
    format!(
        "hotbay plugin `{name}`: a program that a host starts and calls over a socket\n\
         \n\
         {name} capabilities      prints the capabilities as JSON\n\
         {name} --config <JSON>   serves; the JSON may also be in HOTBAY_CONFIG, or in the file\n\
         \x20   that HOTBAY_CONFIG_FILE names, for example\n\
         \x20   {{\"id\":\"{name}\",\"type\":\"unix\",\"idleTimeout\":\"5m\"}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &[&str], in_environment: Option<&str>, wanted: Result<Asked, &str>) {
        let given = arguments.iter().map(OsString::from);
        let in_environment = InEnvironment { text: in_environment.map(Into::into), file: None };
        match (asked(given, in_environment), wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, wanted),
            (Err(found), Err(wanted)) => assert!(found.contains(wanted), "{found}"),
            (found, wanted) => panic!("{found:?}, wanted {wanted:?}"),
        }
    }

    #[test]
    fn valid_arguments_select_a_command() {
        check(&["capabilities"], None, Ok(Asked::Capabilities));
        check(&["capabilities"], Some("{}"), Ok(Asked::Capabilities));
        check(&["--config", "{}"], None, Ok(Asked::Start("{}".to_owned())));
        check(&["--config={}"], None, Ok(Asked::Start("{}".to_owned())));
        check(&["--config", "a"], Some("b"), Ok(Asked::Start("a".to_owned())));
        check(&[], Some("b"), Ok(Asked::Start("b".to_owned())));
        check(&["-h"], None, Ok(Asked::Help));
    }

    #[test]
    fn config_file_is_read_unless_an_argument_is_given() {
        let folder = std::env::temp_dir().join(format!("hotbay-arguments-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("config.json");
        fs::write(&file, "in file").unwrap();
        let given = |file: &std::path::Path| InEnvironment {
            text: Some("in text".into()),
            file: Some(file.into()),
        };
        let none = || std::iter::empty::<OsString>();
        assert_eq!(asked(none(), given(&file)), Ok(Asked::Start("in file".to_owned())));
        let argument = ["--config=a"].into_iter().map(OsString::from);
        assert_eq!(asked(argument, given(&file)), Ok(Asked::Start("a".to_owned())));
        fs::remove_dir_all(&folder).unwrap();
        let wrong = asked(none(), given(&file)).unwrap_err();
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
