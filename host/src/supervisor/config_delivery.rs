//! How a program gets its start configuration: in the environment, in a file, or as an argument.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::child::Launch;
use super::dialect::Capabilities;

const TEXT_VARIABLE: &str = "HOTBAY_CONFIG";
const FILE_VARIABLE: &str = "HOTBAY_CONFIG_FILE";

/// A longer text is given in a file, where the program reads one.
const TEXT_BYTES_MAX: usize = 96 << 10;

/// What Linux takes for one argument or variable, the zero at its end counted (`MAX_ARG_STRLEN`
/// of execve(2)). Elsewhere only the sum of all has a limit.
const STRING_BYTES_MAX: usize = if cfg!(target_os = "linux") { 128 << 10 } else { usize::MAX };

/// How a config is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Environment,
    File,
    Argument,
}

impl Channel {
    /// The one for a config of that length.
    pub(super) fn of(capabilities: &Capabilities, config_bytes: usize) -> Self {
        let (env, file) = (capabilities.reads_config_from_env, capabilities.reads_config_from_file);
        match (env, file) {
            (true, true) if config_bytes <= TEXT_BYTES_MAX => Self::Environment,
            (_, true) => Self::File,
            (true, false) => Self::Environment,
            (false, false) => Self::Argument,
        }
    }

    /// As people and programs know it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Environment => TEXT_VARIABLE,
            Self::File => FILE_VARIABLE,
            Self::Argument => "--config",
        }
    }
}

/// Adds the config to a launch. Answers with the file that was made in `folder`, which has served
/// once the program is ready.
///
/// # Errors
///
/// That it is too long for a program that reads no file, or that the file cannot be written.
pub(super) fn give(
    launch: &mut Launch,
    config: String,
    capabilities: &Capabilities,
    folder: &Path,
) -> Result<Option<PathBuf>, String> {
    let channel = Channel::of(capabilities, config.len());
    let name_bytes = if channel == Channel::Environment { TEXT_VARIABLE.len() + 1 } else { 0 };
    if channel != Channel::File && config.len() + name_bytes + 1 > STRING_BYTES_MAX {
        return Err(format!(
            "its start configuration has {} bytes, and the system passes at most {} by {}; make \
             the config shorter, or have the program read the file that {FILE_VARIABLE} names and \
             declare `\"config\": [\"env\", \"file\"]` in its capabilities",
            config.len(),
            STRING_BYTES_MAX - name_bytes - 1,
            channel.name()
        ));
    }
    match channel {
        Channel::Environment => launch.environment.push((TEXT_VARIABLE.into(), config.into())),
        Channel::Argument => launch.args.extend(["--config".into(), config.into()]),
        Channel::File => {
            let path = folder.join("config.json");
            write(&path, &config)
                .map_err(|error| format!("no file for its start configuration: {error}"))?;
            launch.environment.push((FILE_VARIABLE.into(), path.clone().into()));
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Readable by this user alone.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}
