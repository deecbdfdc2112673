//! Delivery of the start configuration to a program: in the environment, in a file, or as an
//! argument.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::child::Launch;
use super::dialect::Capabilities;
use crate::error::Diagnosis;

const TEXT_VARIABLE: &str = "HOTBAY_CONFIG";
const FILE_VARIABLE: &str = "HOTBAY_CONFIG_FILE";

/// A longer config is passed in a file, if the program reads one.
const MAX_TEXT_BYTES: usize = 96 << 10;

/// The longest argument or variable that Linux accepts, including the terminating zero
/// (`MAX_ARG_STRLEN` of execve(2)). Other systems limit only the sum of all.
const MAX_STRING_BYTES: usize = if cfg!(target_os = "linux") { 128 << 10 } else { usize::MAX };

/// The way a config is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Environment,
    File,
    Argument,
}

impl Channel {
    /// Selects the channel for a config of `config_bytes`.
    pub(super) fn of(capabilities: &Capabilities, config_bytes: usize) -> Self {
        let (env, file) = (capabilities.reads_config_from_env, capabilities.reads_config_from_file);
        match (env, file) {
            (true, true) if config_bytes <= MAX_TEXT_BYTES => Self::Environment,
            (_, true) => Self::File,
            (true, false) => Self::Environment,
            (false, false) => Self::Argument,
        }
    }

    /// Returns the name as users know it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Environment => TEXT_VARIABLE,
            Self::File => FILE_VARIABLE,
            Self::Argument => "--config",
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
pub(super) fn give(
    launch: &mut Launch,
    config: String,
    capabilities: &Capabilities,
    folder: &Path,
) -> Result<Option<PathBuf>, Diagnosis> {
    let channel = Channel::of(capabilities, config.len());
    let name_bytes = if channel == Channel::Environment { TEXT_VARIABLE.len() + 1 } else { 0 };
    if channel != Channel::File && config.len() + name_bytes + 1 > MAX_STRING_BYTES {
        let message = format!(
            "its start configuration has {} bytes, more than the {} that the system passes via {}",
            config.len(),
            MAX_STRING_BYTES - name_bytes - 1,
            channel.name()
        );
        let hint = format!(
            "shorten the config, or have the program read the file named by {FILE_VARIABLE} and \
             declare `\"config\": [\"env\", \"file\"]` in its capabilities"
        );
        return Err(Diagnosis::new(message, hint));
    }
    match channel {
        Channel::Environment => launch.environment.push((TEXT_VARIABLE.into(), config.into())),
        Channel::Argument => launch.args.extend(["--config".into(), config.into()]),
        Channel::File => {
            let path = folder.join("config.json");
            write(&path, &config)
                .map_err(|error| format!("cannot write its start configuration: {error}"))?;
            launch.environment.push((FILE_VARIABLE.into(), path.clone().into()));
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
