//! The start configuration of a program: which parts of a plugin's config it receives, and by which
//! channel: in the environment, in a file, or as an argument.
//!
//! In our protocol the whole config has the type `hotbay/v1`. In addition, and in the older
//! dialects exclusively, each member of the config whose name is a declared config type is
//! delivered as that type.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hotbay_manifest::SocketType;
use hotbay_protocol::{
    CONFIG_ARGUMENT, CONFIG_TYPE, ConfigEntry, MAX_VARIABLE_CONFIG_BYTES, SocketKind, StartConfig,
    variable,
};
use serde_json::Value;

use crate::capabilities::Capabilities;
use crate::error::Diagnosis;
use crate::launch::Launch;
use crate::program::Program;

/// The parts of a config that are delivered.
#[derive(Debug, PartialEq)]
struct Delivery<'c> {
    /// Each type with its value.
    entries: Vec<(&'c str, &'c Value)>,
    /// Declared types that are missing, and members that are not delivered, as sentences.
    notes: Vec<String>,
}

/// Selects the members of `config`, an object, by the types that the program declares.
fn delivery<'c>(capabilities: &'c Capabilities, config: &'c Value) -> Delivery<'c> {
    let declared = &capabilities.config_types;
    let takes_whole =
        capabilities.is_ours() || declared.iter().any(|declared| declared == CONFIG_TYPE);
    let mut entries = Vec::new();
    if takes_whole {
        entries.push((CONFIG_TYPE, config));
    }
    let mut notes = Vec::new();
    for name in declared.iter().map(String::as_str).filter(|name| *name != CONFIG_TYPE) {
        match config.get(name) {
            Some(_) if entries.iter().any(|(known, _)| *known == name) => {}
            Some(value) => entries.push((name, value)),
            None => notes.push(format!(
                "`config` has no member `{name}`, a config type that the program declares; the \
                 program receives no value for it"
            )),
        }
    }
    if !takes_whole {
        let members = config.as_object().into_iter().flatten();
        let unknown = members.filter(|(name, _)| !declared.contains(name));
        notes.extend(unknown.map(|(name, _)| {
            let known = match declared.is_empty() {
                true => "it declares none".to_owned(),
                false => format!("it declares `{}`", declared.join("`, `")),
            };
            format!(
                "`config.{name}` is not delivered: the program does not declare the config type \
                 `{name}`; {known}"
            )
        }));
    }
    Delivery { entries, notes }
}

/// Returns declared config types that are missing and members that are not delivered, as
/// sentences.
pub(crate) fn notes(capabilities: &Capabilities, config: &Value) -> Vec<String> {
    delivery(capabilities, config).notes
}

/// The longest argument or variable that Linux accepts, including the terminating zero
/// (`MAX_ARG_STRLEN` of execve(2)). Other systems limit only the sum of all.
const MAX_STRING_BYTES: usize = if cfg!(target_os = "linux") { 128 << 10 } else { usize::MAX };

/// Returns the start configuration in the protocol's form.
pub(crate) fn start_config(program: &Program, capabilities: &Capabilities) -> String {
    // In the older dialects zero does not disable the timeout, and an idle exit may race with a
    // call: the host stops them itself.
    let idle_ns = match capabilities.is_ours() {
        true => u64::try_from(program.limits.idle_timeout.as_nanos()).unwrap_or(u64::MAX),
        false => u64::MAX,
    };
    let delivery = delivery(capabilities, &program.config);
    let entries = delivery.entries.into_iter().map(|(name, value)| {
        let data = Some(STANDARD.encode(value.to_string()));
        ConfigEntry { data, name: name.to_owned() }
    });
    let config = StartConfig {
        config_types: Some(entries.collect()),
        id: Some(program.name.as_str().to_owned()),
        // Readers of the older dialects use signed numbers.
        idle_timeout: Some(idle_ns.min(i64::MAX as u64).into()),
        socket_kind: match program.socket_type {
            SocketType::Unix => SocketKind::Unix,
            SocketType::Tcp => SocketKind::Tcp,
        },
    };
    serde_json::to_string(&config).expect("it has neither maps nor floating-point numbers")
}

/// Returns the name of the channel by which a program gets its start configuration: a variable or
/// `--config`.
pub fn config_channel(program: &Program, capabilities: &Capabilities) -> &'static str {
    Channel::of(capabilities, start_config(program, capabilities).len()).name()
}

/// The way a config is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Environment,
    File,
    Argument,
}

impl Channel {
    /// Selects the channel for a config of `config_bytes`.
    fn of(capabilities: &Capabilities, config_bytes: usize) -> Self {
        let (env, file) = (capabilities.reads_config_from_env, capabilities.reads_config_from_file);
        match (env, file) {
            (true, true) if config_bytes <= MAX_VARIABLE_CONFIG_BYTES => Self::Environment,
            (_, true) => Self::File,
            (true, false) => Self::Environment,
            (false, false) => Self::Argument,
        }
    }

    /// Returns the name as users know it.
    fn name(self) -> &'static str {
        match self {
            Self::Environment => variable::CONFIG,
            Self::File => variable::CONFIG_FILE,
            Self::Argument => CONFIG_ARGUMENT,
        }
    }
}

/// Adds the config to a launch. Returns the file created in `folder`, if any, which can be removed
/// once the program is ready.
///
/// # Errors
///
/// Fails if the config is too long for a program that reads no file, or if the file cannot be
/// written.
pub(crate) fn give(
    launch: &mut Launch,
    config: String,
    capabilities: &Capabilities,
    folder: &Path,
) -> Result<Option<PathBuf>, Diagnosis> {
    let channel = Channel::of(capabilities, config.len());
    let name_bytes = if channel == Channel::Environment { variable::CONFIG.len() + 1 } else { 0 };
    if channel != Channel::File && config.len() + name_bytes + 1 > MAX_STRING_BYTES {
        let message = format!(
            "its start configuration has {} bytes, more than the {} that the system passes via {}",
            config.len(),
            MAX_STRING_BYTES - name_bytes - 1,
            channel.name()
        );
        let hint = format!(
            "shorten the config, or have the program read the file named by {} and \
             declare `\"config\": [\"env\", \"file\"]` in its capabilities",
            variable::CONFIG_FILE
        );
        return Err(Diagnosis::new(message, hint));
    }
    match channel {
        Channel::Environment => launch.environment.push((variable::CONFIG.into(), config.into())),
        Channel::Argument => launch.args.extend([CONFIG_ARGUMENT.into(), config.into()]),
        Channel::File => {
            let path = folder.join("config.json");
            write(&path, &config)
                .map_err(|error| format!("cannot write its start configuration: {error}"))?;
            launch.environment.push((variable::CONFIG_FILE.into(), path.clone().into()));
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Writes a file that only this user can read.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(capabilities: &Value, config: &Value, entries: &[&str], notes: &[&str]) {
        let text = capabilities.to_string();
        let capabilities = Capabilities::parse(text.as_bytes()).expect("capabilities");
        let found = delivery(&capabilities, config);
        let names: Vec<_> = found.entries.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, entries);
        for (name, value) in &found.entries {
            let expected = if *name == CONFIG_TYPE { Some(config) } else { config.get(name) };
            assert_eq!(Some(*value), expected);
        }
        assert_eq!(found.notes.len(), notes.len(), "{:?}", found.notes);
        for (found, expected) in found.notes.iter().zip(notes) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn declared_types_are_delivered_and_others_are_noted() {
        let older = |types: &[&str]| json!({ "types": {}, "configTypes": types });
        let newer = json!({ "capabilities": [], "supportedConfigTypes": ["db/v1"] });
        let ours = json!({
            "hotbay": { "protocol": 1, "endpoints": ["execute"] }, "configTypes": ["db/v1"],
        });
        let config = json!({ "db/v1": { "url": "x" }, "more": 1 });
        check(&older(&["db/v1"]), &config, &["db/v1"], &["`config.more` is not delivered"]);
        check(&newer, &config, &["db/v1"], &["it declares `db/v1`"]);
        check(&ours, &config, &[CONFIG_TYPE, "db/v1"], &[]);
        check(&ours, &json!({}), &[CONFIG_TYPE], &["no member `db/v1`"]);
        check(&older(&["db/v1", "log"]), &json!({}), &[], &["`db/v1`", "`log`"]);
        check(&older(&[]), &config, &[], &["it declares none", "it declares none"]);
        check(&older(&[CONFIG_TYPE, "db/v1"]), &config, &[CONFIG_TYPE, "db/v1"], &[]);
        check(&older(&["db/v1", "db/v1"]), &json!({ "db/v1": 0 }), &["db/v1"], &[]);
    }
}
