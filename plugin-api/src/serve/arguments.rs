//! What the program was started for: its arguments, and the configuration in the environment or in
//! a file that the environment names.

use std::ffi::OsString;
use std::fs;

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// What the program can do.
    Capabilities,
    /// How to start it.
    Help,
    /// To serve, with this JSON.
    Start(String),
}

/// What stands in the environment.
#[derive(Debug, Default)]
pub(super) struct InEnvironment {
    /// `HOTBAY_CONFIG`
    pub(super) text: Option<OsString>,
    /// `HOTBAY_CONFIG_FILE`
    pub(super) file: Option<OsString>,
}

/// Reads the arguments after the program's name. `--config` goes before what stands in the
/// environment, and there the file before the text.
///
/// # Errors
///
/// What is wrong with them, for people.
pub(super) fn asked(
    mut arguments: impl Iterator<Item = OsString>,
    in_environment: InEnvironment,
) -> Result<Asked, String> {
    let Some(first) = arguments.next() else {
        if let Some(file) = in_environment.file {
            let config = fs::read_to_string(&file).map_err(|error| {
                let file = file.to_string_lossy();
                format!("`{file}`, which HOTBAY_CONFIG_FILE names, cannot be read: {error}")
            })?;
            return Ok(Asked::Start(config));
        }
        let config = in_environment.text.ok_or(
            "neither `capabilities` nor `--config` was given, and neither HOTBAY_CONFIG nor \
             HOTBAY_CONFIG_FILE is set",
        )?;
        return text(config, "HOTBAY_CONFIG").map(Asked::Start);
    };
    let first = text(first, "the first argument")?;
    let asked = match first.as_str() {
        "capabilities" => Asked::Capabilities,
        "--help" | "-h" | "help" => Asked::Help,
        "--config" => {
            let config = arguments.next().ok_or("`--config` is to be followed by JSON")?;
            Asked::Start(text(config, "--config")?)
        }
        other => match other.strip_prefix("--config=") {
            Some(config) => Asked::Start(config.to_owned()),
            None => return Err(format!("the argument `{other}` is unknown")),
        },
    };
    match arguments.next() {
        None => Ok(asked),
        Some(more) => Err(format!("`{}` is one argument too many", more.to_string_lossy())),
    }
}

fn text(value: OsString, name: &str) -> Result<String, String> {
    value.into_string().map_err(|_| format!("{name} is not UTF-8"))
}

/// How to start the program.
pub(super) fn help(name: &str) -> String {
    format!(
        "This is the hotbay plugin `{name}`, a program that a host starts and calls over a socket.\n\
         \n\
         {name} capabilities      says what it can do\n\
         {name} --config <JSON>   serves; the JSON may stand in HOTBAY_CONFIG instead, or in\n\
         \x20   the file that HOTBAY_CONFIG_FILE names, such as\n\
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
    fn arguments_say_what_is_wanted() {
        check(&["capabilities"], None, Ok(Asked::Capabilities));
        check(&["capabilities"], Some("{}"), Ok(Asked::Capabilities));
        check(&["--config", "{}"], None, Ok(Asked::Start("{}".to_owned())));
        check(&["--config={}"], None, Ok(Asked::Start("{}".to_owned())));
        check(&["--config", "a"], Some("b"), Ok(Asked::Start("a".to_owned())));
        check(&[], Some("b"), Ok(Asked::Start("b".to_owned())));
        check(&["-h"], None, Ok(Asked::Help));
    }

    #[test]
    fn file_in_the_environment_is_read_unless_there_is_an_argument() {
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
        assert!(wrong.contains("HOTBAY_CONFIG_FILE names, cannot be read"), "{wrong}");
    }

    #[test]
    fn wrong_arguments_are_told() {
        check(&[], None, Err("neither `capabilities` nor `--config`"));
        check(&["--config"], None, Err("is to be followed by JSON"));
        check(&["serve"], None, Err("the argument `serve` is unknown"));
        check(&["capabilities", "now"], None, Err("`now` is one argument too many"));
    }
}
