//! Reads a process plugin that is not compiled: its files are installed as is, with their execute
//! permission. Runs nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use super::install::{File, is_temporary};
use crate::print::Hinted;

/// Maximum number of files; a folder with more is probably not a plugin's.
const MAX_FILES: usize = 1000;

/// Returns the program and the files beside it, without those below `installed`.
pub(super) fn read(
    folder: &Path,
    program: &str,
    installed: &Path,
) -> anyhow::Result<(File, Vec<File>)> {
    let mut files = Vec::new();
    collect(folder, Path::new(""), installed, &mut files)?;
    let place = files.iter().position(|file| file.name == program);
    let place = place.with_context(|| {
        format!(
            "`command` names `{program}`, but `{0}` has neither that file, nor a Cargo.toml or a go.mod",
            folder.display()
        )
    })?;
    let main = files.swap_remove(place);
    if main.mode & 0o100 == 0 {
        let path = folder.join(program);
        let message = format!("`{}` is not executable", path.display());
        bail!(Hinted::new(message, format!("run `chmod +x {}`", path.display())));
    }
    Ok((main, files))
}

/// Returns whether the file at `path` in a script's folder is installed.
pub(super) fn is_installed(path: &Path) -> bool {
    path.components().all(|part| {
        if is_temporary(part.as_os_str()) {
            return false;
        }
        let part = part.as_os_str().to_string_lossy();
        let stem = part.split('.').next().unwrap_or_default();
        let is_test = stem.starts_with("test_") || stem.ends_with("_test");
        !(is_test || ["tests", "test", "__pycache__"].contains(&&*part))
    })
}

fn collect(
    root: &Path,
    within: &Path,
    installed: &Path,
    files: &mut Vec<File>,
) -> anyhow::Result<()> {
    let folder = root.join(within);
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let within = within.join(entry.file_name());
        // Installed elsewhere: sealed, or for every kind of plugin.
        let is_apart = [Path::new("plugin.json"), Path::new("README.md")].contains(&&*within);
        let path = entry.path();
        if is_apart || !is_installed(&within) || path == installed {
            continue;
        }
        // Links to folders are not followed: they may form a cycle.
        if entry.file_type()?.is_dir() {
            collect(root, &within, installed, files)?;
            continue;
        }
        let metadata =
            path.metadata().with_context(|| format!("cannot read `{}`", path.display()))?;
        if !metadata.is_file() {
            continue;
        }
        let name = within.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?;
        let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        files.push(File { name: name.to_owned(), bytes, mode: mode(&metadata) });
        let holds = folder.display();
        ensure!(files.len() <= MAX_FILES, "`{holds}` contains more than {MAX_FILES} files");
    }
    Ok(())
}

/// Returns the mode to install with: only the execute permission is kept, since the host refuses
/// files that others can write to.
#[cfg(unix)]
fn mode(metadata: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 }
}

#[cfg(not(unix))]
fn mode(_: &fs::Metadata) -> u32 {
    0o755
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Creates a folder with these files; those that end in `.py` are executable.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name).unwrap();
            let mode = if name.ends_with(".py") { 0o775 } else { 0o664 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        folder
    }

    #[test]
    fn tests_and_python_caches_are_not_installed() {
        let names = ["a.py", "words/en.txt", "plugin.json", "README.md", "test_a.py", "a_test.py"];
        let folder = folder(&[&names[..], &["tests/x", "__pycache__/a.pyc", ".env"]].concat());
        let (main, beside) = read(folder.path(), "a.py", Path::new("")).unwrap();
        assert_eq!((main.name.as_str(), main.mode), ("a.py", 0o755));
        let beside: Vec<_> = beside.iter().map(|file| (file.name.as_str(), file.mode)).collect();
        assert_eq!(beside, [("words/en.txt", 0o644)]);
    }

    #[test]
    fn installed_plugins_in_the_folder_are_not_installed_again() {
        let folder = folder(&["a.py", "target/plugins/a/a.py"]);
        let installed = folder.path().join("target/plugins");
        let (_, beside) = read(folder.path(), "a.py", &installed).unwrap();
        assert_eq!(beside, []);
    }

    #[test]
    fn missing_or_non_executable_program_is_reported() {
        let folder = folder(&["a.txt"]);
        let check = |program: &str, expected: &str| {
            let error = read(folder.path(), program, Path::new("")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("a.txt", "is not executable");
        check("a.py", "`command` names `a.py`");
    }
}
