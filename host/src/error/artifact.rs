//! Errors between a folder on disk and a private copy.

use std::path::PathBuf;
use std::{error, fmt, io};

use crate::id::Hex;

/// The reason an artifact could not be found, trusted, read, verified or staged.
#[derive(Debug)]
pub(crate) enum ArtifactError {
    /// The system refused to read a file or folder.
    Read { path: PathBuf, source: io::Error },
    /// A plugin directory is a file or something else.
    RootNotAFolder { path: PathBuf },
    /// The search reached its limit of entries.
    TooManyEntries { root: PathBuf, max_entries: usize },
    /// The search skipped folders below this one.
    TooDeep { path: PathBuf, max_depth: usize },
    /// A link leads out of the folder.
    OutsideFolder { link: PathBuf, target: PathBuf, root: PathBuf },
    /// A path in a manifest is not valid for a file of its folder.
    InvalidPath { path: String, why: &'static str },
    /// A path where the manifest must name the stem of a library.
    StemIsPath(String),
    /// The library does not exist; `libraries` are those in its folder.
    LibraryNotFound { path: PathBuf, libraries: Vec<String> },
    /// A folder, pipe, device or socket instead of a file.
    NotAFile { path: PathBuf, found: &'static str },
    /// Other users can write to it.
    WritableByOthers { path: PathBuf, mode: u32 },
    /// Another user owns it.
    ForeignOwner { path: PathBuf, owner: u32, user: u32 },
    /// The folder of a program holds more files than the host checks.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    TooManyFiles { path: PathBuf, max_entries: usize, max_depth: usize },
    /// The private copy was removed, and the original has changed since.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    OriginalChanged { path: PathBuf },
    /// It is larger than the host reads into memory.
    TooLarge { path: PathBuf, found_bytes: u64, max_bytes: u64 },
    /// It changed while the host read it.
    ChangedWhileRead { path: PathBuf },
    /// Its length is not the one that its manifest states.
    Length { path: PathBuf, found: u64, expected: u64 },
    /// Its digest is not the one that its manifest states.
    Digest { path: PathBuf, found: [u8; 32], expected: [u8; 32] },
    /// Its manifest states no digest.
    Unverified { path: PathBuf },
    /// The plugin is signed, and its content is not the one that was signed.
    NotAsSigned { path: PathBuf, found: [u8; 32], expected: [u8; 32] },
    /// The plugin is signed, but not this file.
    NotSigned { path: PathBuf },
    /// The private copy could not be written or removed.
    Stage { path: PathBuf, source: io::Error },
}

/// The options that turn off the check of owner and mode.
const ALLOW_WRITABLE: &str = "`.allow_writable_by_others(true)` / `--allow-writable`";

impl ArtifactError {
    /// Returns the hint of the error.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::TooManyEntries { .. } => "pass a folder that contains only plugins".to_owned(),
            Self::TooDeep { .. } => "pass a folder closer to the plugins".to_owned(),
            Self::OutsideFolder { .. } => "put the file itself in the folder".to_owned(),
            Self::LibraryNotFound { libraries, .. } if libraries.is_empty() => {
                "run `hotbay build` to build and install the library".to_owned()
            }
            Self::LibraryNotFound { .. } => {
                "set `library` in plugin.json to the library's name without prefix and suffix"
                    .to_owned()
            }
            Self::WritableByOthers { path, .. } => {
                format!(
                    "run `chmod go-w {}`, or turn this check off with {ALLOW_WRITABLE}",
                    path.display()
                )
            }
            Self::TooManyFiles { .. } => {
                format!(
                    "remove files that the program does not need, or turn this check off with \
                    {ALLOW_WRITABLE}"
                )
            }
            Self::ForeignOwner { path, user, .. } => {
                format!(
                    "run `chown {user} {}`, or turn this check off with {ALLOW_WRITABLE}",
                    path.display()
                )
            }
            Self::OriginalChanged { .. } => "reload the plugin, or restore the file".to_owned(),
            Self::ChangedWhileRead { .. } => {
                "install files by rename, as `hotbay build` does".to_owned()
            }
            Self::Length { .. } | Self::Digest { .. } => {
                "install the file again if it is incomplete, or run `hotbay seal DIR` to write its \
                 current digest"
                    .to_owned()
            }
            Self::Unverified { .. } => {
                "run `hotbay build` or `hotbay seal DIR` to add it, or load the plugin without it \
                 with `.allow_unverified(true)` / `--allow-unverified`"
                    .to_owned()
            }
            Self::NotAsSigned { .. } | Self::NotSigned { .. } => {
                "install the plugin again, or sign it again with `hotbay sign DIR --key FILE`"
                    .to_owned()
            }
            Self::Stage { source, .. } => return stage_hint(source),
            Self::Read { .. }
            | Self::RootNotAFolder { .. }
            | Self::InvalidPath { .. }
            | Self::StemIsPath(_)
            | Self::NotAFile { .. }
            | Self::TooLarge { .. } => return None,
        };
        Some(hint)
    }
}

fn stage_hint(source: &io::Error) -> Option<String> {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free disk space, or set `TMPDIR` to a folder on another disk".to_owned())
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some(match owner_umask() {
                Some(umask) if source.kind() == io::ErrorKind::PermissionDenied => format!(
                    "set another umask, such as 022: that of this process, {umask:04o}, removes \
                     the owner's permissions"
                ),
                _ => "set `TMPDIR` to a writable folder".to_owned(),
            })
        }
        io::ErrorKind::NotFound => Some("create the folder".to_owned()),
        _ => None,
    }
}

impl fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read `{}`", path.display()),
            Self::RootNotAFolder { path } => {
                write!(f, "`{}` is not a folder; expected a folder of plugins", path.display())
            }
            Self::TooManyEntries { root, max_entries } => write!(
                f,
                "`{}` contains more than {max_entries} files and folders; the rest was skipped",
                root.display()
            ),
            Self::TooDeep { path, max_depth } => write!(
                f,
                "`{}` is {max_depth} folders deep; everything below it was skipped",
                path.display()
            ),
            Self::OutsideFolder { link, target, root } => write!(
                f,
                "`{}` links to `{}`, which is outside `{}`",
                link.display(),
                target.display(),
                root.display()
            ),
            Self::InvalidPath { path, why } => write!(
                f,
                "`{}` {why}; expected a path inside the plugin's folder, such as \
                 `config.schema.json`",
                path.escape_debug()
            ),
            Self::StemIsPath(stem) => write!(
                f,
                "`{}` is a path; expected the stem of a library in the plugin's folder, such as \
                 `transform`",
                stem.escape_debug()
            ),
            Self::LibraryNotFound { path, libraries } => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                let folder = path.parent().unwrap_or(path);
                write!(f, "`{}` not found in `{}`", name.display(), folder.display())?;
                match libraries.is_empty() {
                    true => f.write_str(", which contains no library"),
                    false => write!(f, ", which contains `{}`", libraries.join("`, `")),
                }
            }
            Self::NotAFile { path, found } => {
                write!(f, "`{}` is {found}; expected a regular file", path.display())
            }
            Self::WritableByOthers { path, mode } => write!(
                f,
                "`{}` is writable by other users (mode {:04o})",
                path.display(),
                mode & 0o7777,
            ),
            Self::TooManyFiles { path, max_entries, max_depth } => write!(
                f,
                "`{}` exceeds the limit of {max_entries} files or of {max_depth} nested folders",
                path.display()
            ),
            Self::OriginalChanged { path } => write!(
                f,
                "the private copy of `{}` was removed, and that file has changed since the plugin \
                 was loaded",
                path.display()
            ),
            Self::ForeignOwner { path, owner, user } => write!(
                f,
                "`{}` is owned by user {owner}; expected root or user {user}, who runs this \
                 program",
                path.display()
            ),
            Self::TooLarge { path, found_bytes, max_bytes } => write!(
                f,
                "`{}` has at least {found_bytes} bytes; the limit is {max_bytes}",
                path.display()
            ),
            Self::ChangedWhileRead { path } => {
                write!(f, "`{}` changed while the host read it", path.display())
            }
            Self::Length { path, found, expected } => write!(
                f,
                "`{}` has {found} bytes, but its manifest expects {expected}",
                path.display()
            ),
            Self::Digest { path, found, expected } => write!(
                f,
                "`{}` has SHA-256 {}, but its manifest expects {}",
                path.display(),
                Hex(found),
                Hex(expected)
            ),
            Self::Unverified { path } => {
                write!(f, "the manifest of `{}` contains no `sha256`", path.display())
            }
            Self::NotAsSigned { path, found, expected } => write!(
                f,
                "`{}` has SHA-256 {}, but the signed one has {}",
                path.display(),
                Hex(found),
                Hex(expected)
            ),
            Self::NotSigned { path } => {
                write!(f, "`{}` is not one of the signed files", path.display())
            }
            Self::Stage { path, .. } => {
                write!(f, "cannot write a private copy to `{}`", path.display())
            }
        }
    }
}

/// Returns the umask of this process if it removes permissions of the owner; `None` if unknown.
fn owner_umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok().filter(|mask| mask & 0o700 != 0)
}

impl error::Error for ArtifactError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Stage { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn messages_contain_path_values_and_hint() {
        let path = || PathBuf::from("/p/x");
        let cases: [(ArtifactError, &[&str]); 6] = [
            (
                ArtifactError::WritableByOthers { path: path(), mode: 0o100_666 },
                &["/p/x", "0666", "chmod go-w /p/x", "--allow-writable"],
            ),
            (ArtifactError::ForeignOwner { path: path(), owner: 7, user: 8 }, &["7", "chown 8"]),
            (ArtifactError::Unverified { path: path() }, &["sha256", "hotbay seal", "--allow-"]),
            (
                ArtifactError::Length { path: path(), found: 1, expected: 2 },
                &["1 bytes", "expects 2"],
            ),
            (
                ArtifactError::Digest { path: path(), found: [0xab; 32], expected: [0; 32] },
                &["abababab", "00000000"],
            ),
            (
                ArtifactError::Stage { path: path(), source: io::ErrorKind::StorageFull.into() },
                &["/p/x", "free disk space"],
            ),
        ];
        for (error, expected) in cases {
            let text = format!("{error}; {}", error.hint().unwrap_or_default());
            assert!(text.lines().count() == 1, "{text}");
            for part in expected {
                assert!(text.contains(part), "`{part}` in: {text}");
            }
        }
    }

    #[test]
    fn display_omits_the_source() {
        let error = ArtifactError::Read {
            path: "/p".into(),
            source: io::Error::other("the disk is on fire"),
        };
        assert!(!error.to_string().contains("fire"));
        assert!(error.source().is_some_and(|source| source.to_string().contains("fire")));
    }
}
