//! What a launch consists of: the program to start, the inherited part of the host's environment,
//! limits, a tag, and a private folder for its sockets.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotbay_protocol::{Hex, variable};
use hotbay_sandbox::{Enforcement, remove_folder};

/// The program to start, and its settings.
#[derive(Clone)]
pub(crate) struct Launch {
    /// An absolute path.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The working directory.
    pub(crate) folder: PathBuf,
    /// The whole environment except the launch tag.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) limits: ChildLimits,
    pub(crate) sandbox: Option<Arc<Enforcement>>,
    /// The value of `HOTBAY_LAUNCH`, by which all descendants are found.
    pub(crate) tag: String,
}

/// Resource limits of a child. No limit exceeds the host's own; core files are never written.
///
/// macOS accepts the memory limit and does not enforce it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChildLimits {
    /// Limit of data: heap and private writable mappings.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    pub(crate) cpu_s: Option<u64>,
    /// Limit of the size of a file.
    pub(crate) file_bytes: Option<u64>,
}

/// Prefix of the folder names; the host's process id follows.
const PREFIX: &str = "hotbay-run-";
/// The longest path of a socket, without the terminating zero.
const MAX_SOCKET_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// A separator and the longest name of a socket.
const MAX_SOCKET_NAME_BYTES: usize = 30;
/// Parent folder if the requested one makes socket paths too long.
const SHORT_PARENT: &str = "/tmp";

/// Creates a folder with a function, and marks the host as its owner until the value is dropped or
/// the host exits: [`SweepFolders`] removes only folders without an owner. The function may be
/// called again if the folder was swept meanwhile.
pub type OwnFolder =
    fn(&dyn Fn() -> io::Result<PathBuf>) -> io::Result<(PathBuf, Box<dyn Any + Send + Sync>)>;

/// Removes the folders below a parent whose names begin with a prefix and a process id, and that no
/// host owns.
pub type SweepFolders = fn(parent: &Path, prefix: &str);

/// A folder of mode 0700 with an unpredictable name, removed with its content on drop.
pub(crate) struct LaunchFolder {
    path: PathBuf,
    // Held until the folder is removed, so that no sweep considers it abandoned.
    _owned: Box<dyn Any + Send + Sync>,
}

impl LaunchFolder {
    /// Creates a folder in `parent`, or in `/tmp` if socket paths would become too long. `own` makes
    /// the host its owner.
    pub(crate) fn make(parent: &Path, own: OwnFolder) -> io::Result<Self> {
        // Another name each time: a sweep may have taken the folder for abandoned, and remove it now.
        let make = || {
            let name = format!("{PREFIX}{}-{}", std::process::id(), &token()?[..16]);
            let expected = parent.join(&name);
            let longest = expected.as_os_str().as_bytes().len() + MAX_SOCKET_NAME_BYTES;
            let path = match longest > MAX_SOCKET_PATH_BYTES {
                true => Path::new(SHORT_PARENT).join(&name),
                false => expected,
            };
            create_private(&path)?;
            Ok(path)
        };
        let (path, owned) = own(&make)?;
        Ok(Self { path, _owned: owned })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LaunchFolder {
    fn drop(&mut self) {
        // If this fails, a later host sweeps it.
        let _ = remove_folder(&self.path);
    }
}

/// Returns the folders in which a launch may have its private folder.
pub fn launch_parents() -> [PathBuf; 2] {
    [std::env::temp_dir(), SHORT_PARENT.into()]
}

/// Creates a folder of mode 0700.
pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    // Fails if the name exists, even as a symbolic link.
    DirBuilder::new().mode(0o700).create(path)?;
    // Whatever the umask.
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Removes the folders that earlier hosts left in `parent` and in `/tmp`.
pub(crate) fn sweep_launch_folders(parent: &Path, sweep: SweepFolders) {
    sweep(parent, PREFIX);
    if parent != Path::new(SHORT_PARENT) {
        sweep(Path::new(SHORT_PARENT), PREFIX);
    }
}

/// Variables that programs commonly need; none that commonly holds a secret.
const ALLOWED: [&str; 8] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "RUST_BACKTRACE"];
const ALLOWED_PREFIX: &[u8] = b"LC_";

/// Returns the variables of `all` that every child gets, and those named in `extra_names`; never
/// one of our own.
pub fn allowed(
    all: impl Iterator<Item = (OsString, OsString)>,
    extra_names: &[String],
) -> Vec<(OsString, OsString)> {
    all.filter(|(name, _)| is_allowed(name, extra_names)).collect()
}

/// Returns whether a child gets a variable of the host.
pub fn is_allowed(name: &OsStr, extra_names: &[String]) -> bool {
    let bytes = name.as_encoded_bytes();
    if bytes.starts_with(variable::PREFIX.as_bytes()) {
        return false;
    }
    bytes.starts_with(ALLOWED_PREFIX)
        || ALLOWED.iter().any(|allowed| name == *allowed)
        || extra_names.iter().any(|extra| name == extra.as_str())
}

/// Returns 128 random bits of the system, as 32 hexadecimal digits.
pub fn token() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(Hex(&bytes).to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Creates a folder without an owner.
    pub(crate) fn own_nothing(
        make: &dyn Fn() -> io::Result<PathBuf>,
    ) -> io::Result<(PathBuf, Box<dyn Any + Send + Sync>)> {
        Ok((make()?, Box::new(())))
    }

    #[test]
    fn folder_is_private_and_removed_with_its_content() {
        let parent = tempfile::tempdir().unwrap();
        let folder = LaunchFolder::make(parent.path(), own_nothing).unwrap();
        let other = LaunchFolder::make(parent.path(), own_nothing).unwrap();
        assert_ne!(folder.path(), other.path());
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/x.socket"), "x").unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
        assert!(other.path().exists());
    }

    #[test]
    fn folder_taken_by_a_sweep_is_not_used_again() {
        let parent = tempfile::tempdir().unwrap();
        fn own_second(
            make: &dyn Fn() -> io::Result<PathBuf>,
        ) -> io::Result<(PathBuf, Box<dyn Any + Send + Sync>)> {
            // The first one still exists, as while a sweep removes it.
            let first = make()?;
            let second = make()?;
            assert_ne!(first, second);
            Ok((second, Box::new(())))
        }
        let folder = LaunchFolder::make(parent.path(), own_second).unwrap();
        assert!(folder.path().exists());
    }

    #[test]
    fn paths_too_long_for_a_socket_use_the_short_parent() {
        let parent = tempfile::tempdir().unwrap();
        let long = parent.path().join("x".repeat(80));
        fs::create_dir(&long).unwrap();
        let folder = LaunchFolder::make(&long, own_nothing).unwrap();
        assert_eq!(folder.path().parent(), Some(Path::new(SHORT_PARENT)));
    }

    #[test]
    fn child_gets_only_listed_and_named_variables() {
        let all = [
            "PATH",
            "HOME",
            "LC_ALL",
            "LC_TIME",
            "LANG",
            "LANGUAGE",
            "TMPDIR",
            "AWS_SECRET",
            "API_KEY",
            "HOTBAY_LAUNCH",
            "PATHEXT",
            "LD_PRELOAD",
            "path",
        ];
        let all = all.iter().map(|name| (OsString::from(name), OsString::from("x")));
        let extra = ["API_KEY".to_owned(), "HOTBAY_LAUNCH".to_owned(), "NOT_THERE".to_owned()];
        let allowed = allowed(all, &extra);
        let names: Vec<_> = allowed.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["PATH", "HOME", "LC_ALL", "LC_TIME", "LANG", "TMPDIR", "API_KEY"]);
    }

    #[test]
    fn tokens_are_32_digits_and_differ() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert!(one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
        assert_ne!(one, other);
    }
}
