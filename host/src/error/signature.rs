//! Errors of the signature of a plugin's folder.

use std::path::PathBuf;
use std::{error, fmt, io};

use hotbay_manifest::{Day, InvalidSignedFiles, SIGNATURE, SIGNED_FILES};
use semver::Version;

use super::artifact::ArtifactError;
use crate::id::PluginName;

/// The reason a plugin's signature was not accepted.
#[derive(Debug)]
pub(crate) enum SignatureError {
    /// The plugin has no signature, but the host requires one.
    Missing { folder: PathBuf },
    /// The serving build is signed with `key`, and the new one has no signature.
    Lost { key: String },
    /// One of the two files of a signature does not exist.
    Incomplete { missing: PathBuf },
    /// The file is not a signature of minisign.
    Malformed { path: PathBuf, reason: &'static str },
    /// The signature does not use the prehashed algorithm.
    Legacy { path: PathBuf },
    /// No trusted key has this id.
    UnknownKey { key_id: String, known: Vec<String> },
    /// The signature of a trusted key is not one of this list.
    Mismatch { key: String },
    /// The key may not sign plugins of this name.
    OutOfScope { key: String, plugin: PluginName, patterns: Vec<String> },
    /// The trust in the key has ended.
    Expired { key: String, last_day: Day },
    /// The list is not valid.
    List(InvalidSignedFiles),
    /// The list belongs to another plugin.
    OtherName { signed: PluginName, found: PluginName },
    /// The list belongs to another version of the plugin.
    OtherVersion { signed: Version, found: Version },
    /// A file is not the one that was signed.
    Changed { path: String },
    /// A signed file does not exist.
    Removed { path: String },
    /// A file is not in the list.
    Added { path: String },
    /// A link or another entry that cannot be signed.
    NotAFile { path: PathBuf, found: &'static str },
    /// The folder holds more files than the host checks.
    TooMany { path: PathBuf, max_files: usize, max_depth: usize },
    /// The signed files have more bytes than the host reads.
    TooLarge { found_bytes: u64, max_bytes: u64 },
    /// The system refused to read a folder.
    Read { path: PathBuf, source: io::Error },
    /// A file cannot be read or is not safe.
    Artifact(ArtifactError),
}

const SIGN: &str = "sign it with `hotbay sign DIR --key FILE`";
const SIGN_AGAIN: &str =
    "install the plugin again, or sign it again with `hotbay sign DIR --key FILE`";

impl SignatureError {
    /// Returns the hint of the error.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { .. } => {
                format!("{SIGN}, or accept plugins without one with `signatures = \"if-present\"`")
            }
            Self::Lost { .. } => format!("{SIGN}, or unload the plugin before you replace it"),
            Self::Legacy { .. } => {
                "sign it with `hotbay sign`, or with `minisign` 0.10 or later".to_owned()
            }
            Self::UnknownKey { .. } => {
                "add the public key to `keys` if you trust it, or sign the plugin again with a known \
                 key"
                    .to_owned()
            }
            Self::OutOfScope { key, plugin, .. } => {
                format!("add `{plugin}` to `plugins` of the key `{key}` if you trust it with that")
            }
            Self::Expired { key, .. } => {
                format!("sign the plugin with another key, or set a later `expires` for `{key}`")
            }
            Self::NotAFile { .. } => "put the file itself in the folder".to_owned(),
            Self::Added { .. } => {
                format!("remove it; a plugin keeps its data elsewhere. Or {SIGN_AGAIN}")
            }
            Self::TooMany { .. } => "remove files that the plugin does not need".to_owned(),
            Self::TooLarge { .. } => {
                "remove files that the plugin does not need, or raise `max_library_bytes`".to_owned()
            }
            Self::Read { .. } => return None,
            Self::Artifact(error) => return error.hint(),
            _ => SIGN_AGAIN.to_owned(),
        })
    }
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { folder } => {
                write!(f, "`{}` has no signature, but this host requires one", folder.display())
            }
            Self::Lost { key } => write!(
                f,
                "the new build has no signature, but the one that serves is signed with the key \
                 `{key}`"
            ),
            Self::Incomplete { missing } => {
                write!(f, "`{}` not found: a signature consists of both ", missing.display())?;
                write!(f, "`{SIGNED_FILES}` and `{SIGNATURE}`")
            }
            Self::Malformed { path, reason } => {
                write!(f, "`{}` is not a signature of minisign: {reason}", path.display())
            }
            Self::Legacy { path } => write!(
                f,
                "`{}` is a legacy signature of minisign; expected one of the prehashed algorithm",
                path.display()
            ),
            Self::UnknownKey { key_id, known } if known.is_empty() => {
                write!(f, "it is signed with the key {key_id}, but no key is trusted")
            }
            Self::UnknownKey { key_id, known } => write!(
                f,
                "it is signed with the key {key_id}, which is not trusted; trusted keys: {}",
                known.join(", ")
            ),
            Self::Mismatch { key } => {
                write!(f, "the signature of the key `{key}` does not match `{SIGNED_FILES}`")
            }
            Self::OutOfScope { key, plugin, patterns } if patterns.is_empty() => {
                write!(f, "the key `{key}` may sign no plugin, and thus not `{plugin}`")
            }
            Self::OutOfScope { key, plugin, patterns } => write!(
                f,
                "the key `{key}` may not sign `{plugin}`, only `{}`",
                patterns.join("`, `")
            ),
            Self::Expired { key, last_day } => {
                write!(f, "the key `{key}` is not trusted anymore: it expired after {last_day}")
            }
            Self::List(error) => error.fmt(f),
            Self::OtherName { signed, found } => write!(
                f,
                "the signature belongs to the plugin `{signed}`, but the manifest states `{found}`"
            ),
            Self::OtherVersion { signed, found } => write!(
                f,
                "the signature belongs to version {signed}, but the manifest states {found}"
            ),
            Self::Changed { path } => write!(f, "`{path}` is not the file that was signed"),
            Self::Removed { path } => write!(f, "the signed file `{path}` was not found"),
            Self::Added { path } => {
                write!(f, "`{}` is not one of the signed files", path.escape_debug())
            }
            Self::NotAFile { path, found } => write!(
                f,
                "`{}` is {found}; the folder of a signed plugin contains only files and folders",
                path.display()
            ),
            Self::TooMany { path, max_files, max_depth } => write!(
                f,
                "`{}` exceeds the limit of {max_files} files or of {max_depth} nested folders",
                path.display()
            ),
            Self::TooLarge { found_bytes, max_bytes } => write!(
                f,
                "the signed files have {found_bytes} bytes in all; the limit is {max_bytes}"
            ),
            Self::Read { path, .. } => write!(f, "cannot read `{}`", path.display()),
            Self::Artifact(error) => error.fmt(f),
        }
    }
}

impl error::Error for SignatureError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            // Its own message is that of this error.
            Self::Artifact(error) => error.source(),
            _ => None,
        }
    }
}

impl From<ArtifactError> for SignatureError {
    fn from(error: ArtifactError) -> Self {
        Self::Artifact(error)
    }
}
