//! What goes wrong between a folder on disk and a staged copy.
//! Only says so; decides nothing and touches no file.

use std::path::PathBuf;
use std::{error, fmt, io};

use super::Hex;

/// Why an artifact could not be found, trusted, read, verified or staged.
#[derive(Debug)]
pub(crate) enum ArtifactError {
    /// The system refused to read a file or folder.
    Read { path: PathBuf, source: io::Error },
    /// The place to look for plugins is a file or the like.
    RootNotAFolder { path: PathBuf },
    /// The walk was ended before it saw everything.
    TooManyEntries { root: PathBuf, entries_max: usize },
    /// Folders below this one were not looked at.
    TooDeep { path: PathBuf, depth_max: usize },
    /// A link leads to where it must not.
    OutsideFolder { link: PathBuf, target: PathBuf, root: PathBuf },
    /// A path of a manifest that cannot stand for a file of its folder.
    NotInside { path: String, why: &'static str },
    /// The file is not there; `beside` are the libraries that are.
    NoLibrary { path: PathBuf, beside: Vec<String> },
    /// A folder, a pipe, a device or a socket stands where a file should.
    NotAFile { path: PathBuf, found: &'static str },
    /// Others than the host's user may change it.
    Writable { path: PathBuf, mode: u32 },
    /// Somebody else owns it.
    ForeignOwner { path: PathBuf, owner: u32, user: u32 },
    /// A folder of a program holds more than is looked at.
    TooManyBeside { path: PathBuf, entries_max: usize, depth_max: usize },
    /// The private copy was removed, and the file that it was made from is another one by now.
    OtherBuild { path: PathBuf },
    /// It is larger than what the host reads into memory.
    TooLarge { path: PathBuf, found_bytes: u64, bytes_max: u64 },
    /// It was written to while it was read.
    ChangedWhileRead { path: PathBuf },
    /// It is longer or shorter than its manifest states.
    Length { path: PathBuf, found: u64, wanted: u64 },
    /// Its bytes are not those that its manifest states.
    Digest { path: PathBuf, found: [u8; 32], wanted: [u8; 32] },
    /// Its manifest states no digest.
    Unverified { path: PathBuf },
    /// The private copy could not be written or removed.
    Stage { path: PathBuf, source: io::Error },
}

impl fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read `{}`", path.display()),
            Self::RootNotAFolder { path } => {
                write!(f, "`{}` is no folder; wanted a folder in which plugins lie", path.display())
            }
            Self::TooManyEntries { root, entries_max } => write!(
                f,
                "`{}` holds more than {entries_max} files and folders, the rest was not looked at; \
                 name a folder that holds only plugins",
                root.display()
            ),
            Self::TooDeep { path, depth_max } => write!(
                f,
                "`{}` lies {depth_max} folders deep, what is below was not looked at; \
                 name a folder nearer to the plugins",
                path.display()
            ),
            Self::OutsideFolder { link, target, root } => write!(
                f,
                "`{}` leads to `{}`, out of `{}`; put the file itself there",
                link.display(),
                target.display(),
                root.display()
            ),
            Self::NotInside { path, why } => write!(
                f,
                "`{}` {why}; wanted a path of the plugin's own folder, such as `config.schema.json`",
                path.escape_debug()
            ),
            Self::NoLibrary { path, beside } => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                let folder = path.parent().unwrap_or(path);
                let (name, folder) = (name.display(), folder.display());
                if beside.is_empty() {
                    write!(
                        f,
                        "`{name}` is not in `{folder}`, and no other library is; \
                         `cargo xtask build-plugins` builds and installs it"
                    )
                } else {
                    let beside = beside.join("`, `");
                    write!(
                        f,
                        "`{name}` is not in `{folder}`, which holds `{beside}`; \
                         `library` of plugin.json takes the name without prefix and suffix"
                    )
                }
            }
            Self::NotAFile { path, found } => {
                write!(f, "`{}` is {found}; wanted a regular file", path.display())
            }
            Self::Writable { path, mode } => write!(
                f,
                "`{path}` may be changed by other users (mode {:04o}); `chmod go-w {path}`, or allow \
                 it with `.allow_writable_by_others(true)` / `--allow-writable`",
                mode & 0o7777,
                path = path.display()
            ),
            Self::TooManyBeside { path, entries_max, depth_max } => write!(
                f,
                "`{}` holds more than {entries_max} files, or folders deeper than {depth_max}, and \
                 all of them are checked; move what the program does not need, or allow it with \
                 `.allow_writable_by_others(true)` / `--allow-writable`",
                path.display()
            ),
            Self::OtherBuild { path } => write!(
                f,
                "the private copy of `{}` was removed, and that file is another build by now than \
                 the one that is loaded; reload the plugin, or put the file back",
                path.display()
            ),
            Self::ForeignOwner { path, owner, user } => write!(
                f,
                "`{path}` belongs to user {owner}; wanted root or user {user}, who runs this \
                 program; `chown {user} {path}`, or allow it with \
                 `.allow_writable_by_others(true)` / `--allow-writable`",
                path = path.display()
            ),
            Self::TooLarge { path, found_bytes, bytes_max } => write!(
                f,
                "`{}` has {found_bytes} bytes or more; at most {bytes_max} are read",
                path.display()
            ),
            Self::ChangedWhileRead { path } => write!(
                f,
                "`{}` was written to while it was read; install it by rename, as \
                 `cargo xtask build-plugins` does",
                path.display()
            ),
            Self::Length { path, found, wanted } => write!(
                f,
                "`{}` has {found} bytes, its manifest states {wanted}: half-written, or built anew \
                 without its manifest; `hotbay seal DIR` writes what it has now",
                path.display()
            ),
            Self::Digest { path, found, wanted } => write!(
                f,
                "`{}` has SHA-256 {}, its manifest states {}: damaged, or built anew without its \
                 manifest; `hotbay seal DIR` writes what it has now",
                path.display(),
                Hex(found),
                Hex(wanted)
            ),
            Self::Unverified { path } => write!(
                f,
                "the manifest of `{}` states no `sha256`; `cargo xtask build-plugins` or \
                 `hotbay seal DIR` writes it, `.allow_unverified(true)` / `--allow-unverified` \
                 does without",
                path.display()
            ),
            Self::Stage { path, source } => {
                write!(f, "cannot keep a private copy at `{}`", path.display())?;
                match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => f.write_str(
                        ": the disk is full; free some space, or stage on another disk (`TMPDIR`)",
                    ),
                    io::ErrorKind::PermissionDenied => match owner_umask() {
                        Some(umask) => write!(
                            f,
                            ": the umask of this process, {umask:04o}, takes the owner's rights \
                             from what it makes; set another, such as 022"
                        ),
                        None => f.write_str(NOT_WRITABLE),
                    },
                    io::ErrorKind::ReadOnlyFilesystem => f.write_str(NOT_WRITABLE),
                    io::ErrorKind::NotFound => f.write_str(": the folder has vanished"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Follows the error for a staging folder that refuses new files.
const NOT_WRITABLE: &str = ": the folder cannot be written to; stage in another one (`TMPDIR`)";

/// Returns the umask of this process if it takes rights of the owner; `None` if it is unknown.
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
    fn messages_name_the_thing_what_was_found_and_what_to_do() {
        let path = || PathBuf::from("/p/x");
        let cases: [(ArtifactError, &[&str]); 6] = [
            (
                ArtifactError::Writable { path: path(), mode: 0o100_666 },
                &["/p/x", "0666", "chmod go-w /p/x", "--allow-writable"],
            ),
            (ArtifactError::ForeignOwner { path: path(), owner: 7, user: 8 }, &["7", "chown 8"]),
            (ArtifactError::Unverified { path: path() }, &["sha256", "hotbay seal", "--allow-"]),
            (ArtifactError::Length { path: path(), found: 1, wanted: 2 }, &["1 bytes", "states 2"]),
            (
                ArtifactError::Digest { path: path(), found: [0xab; 32], wanted: [0; 32] },
                &["abababab", "00000000"],
            ),
            (
                ArtifactError::Stage { path: path(), source: io::ErrorKind::StorageFull.into() },
                &["/p/x", "disk is full"],
            ),
        ];
        for (error, wanted) in cases {
            let text = error.to_string();
            assert!(text.lines().count() == 1, "{text}");
            for part in wanted {
                assert!(text.contains(part), "`{part}` in: {text}");
            }
        }
    }

    #[test]
    fn the_cause_is_told_by_source_only() {
        let error = ArtifactError::Read {
            path: "/p".into(),
            source: io::Error::other("the disk is on fire"),
        };
        assert!(!error.to_string().contains("fire"));
        assert!(error.source().is_some_and(|source| source.to_string().contains("fire")));
    }
}
