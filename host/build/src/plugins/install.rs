//! Installs a built plugin in the folder that hosts search. Each file is replaced atomically, so a
//! watching host never sees half of one.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use hotbay_manifest::{SIGNATURE, SIGNED_FILES};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::manifest::{Kind, Manifest};
use crate::print::Hinted;

/// The prefix of the names of files that are being written.
const UNFINISHED: &str = ".installing-";

/// A file to install.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Its path in the plugin's folder.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
}

/// The result of an installation.
#[derive(Debug)]
pub(super) struct Installed {
    /// The library or program.
    pub(super) main: PathBuf,
    /// Whether any file differs from the previous installation.
    pub(super) is_new: bool,
    /// Whether the previous installation was signed. Its signature was removed.
    pub(super) lost_signature: bool,
}

/// Installs the plugin of the folder `source` into the folder `into`: its library or program
/// `main`, and the files `beside` it. The manifest is installed last: it contains the digest of the
/// library or program.
pub(super) fn install(
    source: &Path,
    manifest: &Manifest,
    main: &File,
    beside: &[File],
    into: &Path,
) -> anyhow::Result<Installed> {
    if into.canonicalize().ok() == Some(source.canonicalize()?) {
        let message = format!("cannot install into `{}`: it is the source folder", into.display());
        bail!(Hinted::new(message, "choose another folder with `--out`"));
    }
    prepare(into)?;
    let before = names_of_earlier_install(into);

    let sealed = manifest.sealed(&hexadecimal(&Sha256::digest(&main.bytes)), main.bytes.len())?;
    let mut files = Vec::new();
    if let Ok(bytes) = fs::read(source.join("README.md")) {
        files.push(Prepared::new(into, "README.md", &bytes, 0o644)?);
    }
    for schema in &manifest.schema_files {
        let bytes = fs::read(source.join(schema))
            .with_context(|| format!("cannot read `{schema}`, which the manifest names"))?;
        files.push(Prepared::new(into, schema, &bytes, 0o644)?);
    }
    let is_signature = |name: &str| [SIGNED_FILES, SIGNATURE].contains(&name);
    let beside = beside
        .iter()
        .filter(|file| !manifest.schema_files.contains(&file.name) && !is_signature(&file.name));
    for File { name, bytes, mode } in beside.chain([main]) {
        if let Some(folder) = Path::new(name).parent().filter(|folder| *folder != Path::new("")) {
            prepare(&into.join(folder))?;
        }
        files.push(Prepared::new(into, name, bytes, *mode)?);
    }
    files.push(Prepared::new(into, "plugin.json", sealed.as_bytes(), 0o644)?);
    let installed: Vec<_> = files.iter().map(|file| file.name.clone()).collect();
    let stale: Vec<_> = before.iter().filter(|name| !installed.contains(name)).collect();
    let is_changed = !stale.is_empty() || files.iter().any(|file| file.written.is_some());
    let lost_signature = is_changed && remove_signature(into)?;
    // Only renames from here on, so that a watching host sees one replacement.
    let mut is_new = false;
    for file in files {
        is_new |= file.put()? == Put::Replaced;
    }

    for name in stale {
        let path = into.join(name);
        fs::remove_file(&path)
            .with_context(|| format!("cannot remove the stale file `{}`", path.display()))?;
    }
    Ok(Installed { main: into.join(&main.name), is_new, lost_signature })
}

/// Removes the signature of a folder whose files change. Returns whether there was one.
///
/// # Errors
///
/// If a file cannot be removed.
pub fn remove_signature(folder: &Path) -> anyhow::Result<bool> {
    let mut is_removed = false;
    for name in [SIGNATURE, SIGNED_FILES] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Ok(()) => is_removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("cannot remove the stale signature `{}`", path.display());
                return Err(error).context(message);
            }
        }
    }
    Ok(is_removed)
}

/// Returns the file name of a plugin's library or program.
pub(super) fn main_file(kind: &Kind) -> String {
    match kind {
        Kind::Library { stem } => format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}"),
        Kind::Process { program } => program.clone(),
    }
}

/// Returns the files that an earlier installation left, which may be removed. Files that were
/// beside a script are not listed anywhere, so they stay.
fn names_of_earlier_install(folder: &Path) -> Vec<String> {
    let mut names = vec!["README.md".to_owned()];
    let manifest = fs::read_to_string(folder.join("plugin.json")).unwrap_or_default();
    if let Ok(manifest) = Manifest::read(&manifest) {
        names.extend(manifest.schema_files.iter().cloned());
        names.push(main_file(&manifest.kind));
    } else {
        names.clear();
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.extend(entries.filter(|name| name.starts_with(UNFINISHED)));
    names.retain(|name| folder.join(name).is_file());
    names
}

/// A file with its final content, which only has to be renamed.
struct Prepared {
    name: String,
    path: PathBuf,
    /// `None` if the installed file is the same, so that a watching host reloads nothing.
    written: Option<NamedTempFile>,
}

#[derive(PartialEq, Eq)]
enum Put {
    Unchanged,
    Replaced,
}

impl Prepared {
    fn new(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> anyhow::Result<Self> {
        let path = folder.join(name);
        let write = || -> io::Result<_> {
            if has_mode(&path, mode) && fs::read(&path)? == bytes {
                return Ok(None);
            }
            let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
            file.write_all(bytes)?;
            set_mode(file.path(), mode)?;
            Ok(Some(file))
        };
        let written = write().with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self { name: name.to_owned(), path, written })
    }

    fn put(self) -> anyhow::Result<Put> {
        let Some(file) = self.written else { return Ok(Put::Unchanged) };
        file.persist(&self.path)
            .with_context(|| format!("cannot replace `{}`", self.path.display()))?;
        Ok(Put::Replaced)
    }
}

/// Creates a folder that the host accepts: it refuses folders that other users can write to.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    let prepare = || -> io::Result<()> {
        create(folder)?;
        set_mode(folder, 0o755)
    };
    prepare().with_context(|| format!("cannot create the folder `{}`", folder.display()))
}

#[cfg(unix)]
fn create(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)
}

#[cfg(not(unix))]
fn create(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn set_mode(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn has_mode(path: &Path, mode: u32) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::symlink_metadata(path)
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o7777 == mode)
}

#[cfg(not(unix))]
fn has_mode(path: &Path, _mode: u32) -> bool {
    fs::symlink_metadata(path).is_ok_and(|data| data.is_file())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether this is the name of a temporary file of an editor or of an installation.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    name.starts_with(['.', '#'])
        || name.ends_with(['~', '#'])
        || name.contains("___jb_")
        || ["swp", "swx", "swo", "tmp", "bak", "orig"].contains(&ending)
        // Vim creates files with such names to check whether it can write to a folder.
        || (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a source folder with these files, and a folder to install into.
    fn folders(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("source");
        fs::create_dir(&source).unwrap();
        for (name, text) in files {
            fs::write(source.join(name), text).unwrap();
        }
        let into = root.path().join("out/plugins/a");
        (root, source, into)
    }

    fn manifest(more: &str) -> Manifest {
        let text = format!(r#"{{"name": "a", "version": "1.0.0", "library": "a"{more}}}"#);
        Manifest::read(&text).unwrap()
    }

    fn library(stem: &str, bytes: &[u8]) -> File {
        let name = main_file(&Kind::Library { stem: stem.to_owned() });
        File { name, bytes: bytes.to_vec(), mode: 0o755 }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn digest_and_length_match_library() {
        let (_root, source, into) = folders(&[]);
        let library =
            install(&source, &manifest(""), &library("a", b"abc"), &[], &into).unwrap().main;
        assert_eq!(fs::read(library).unwrap(), b"abc");
        let text = fs::read_to_string(into.join("plugin.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(value["sha256"], digest);
        assert_eq!(value["length"], 3);
    }

    #[test]
    fn reinstall_removes_old_files_and_keeps_foreign_ones() {
        let (_root, source, into) =
            folders(&[("schema.json", "{}"), ("input.json", "{}"), ("README.md", "# a")]);
        let with_schema =
            manifest(r#", "config_schema": "schema.json", "input_schema": "input.json""#);
        install(&source, &with_schema, &library("a", b"1"), &[], &into).unwrap();
        fs::write(into.join("notes.txt"), "mine").unwrap();
        fs::write(into.join(".installing-x"), "half").unwrap();
        let a = library("a", b"").name;
        let readme = "README.md";
        let expected =
            [".installing-x", readme, "input.json", &a, "notes.txt", "plugin.json", "schema.json"];
        assert_eq!(names(&into), expected);

        fs::remove_file(source.join(readme)).unwrap();
        install(&source, &manifest(""), &library("b", b"2"), &[], &into).unwrap();
        assert_eq!(names(&into), [&library("b", b"").name, "notes.txt", "plugin.json"]);
    }

    #[test]
    fn changed_files_lose_their_signature() {
        let (_root, source, into) = folders(&[("README.md", "# a")]);
        let install = |bytes: &[u8], beside: &[File]| {
            install(&source, &manifest(""), &library("a", bytes), beside, &into).unwrap()
        };
        assert!(!install(b"1", &[]).lost_signature);
        let sign = || {
            for name in [SIGNED_FILES, SIGNATURE] {
                fs::write(into.join(name), "signed").unwrap();
            }
        };
        sign();
        assert!(!install(b"1", &[]).lost_signature && into.join(SIGNATURE).exists());
        assert!(install(b"2", &[]).lost_signature);
        let left = [SIGNED_FILES, SIGNATURE].map(|name| into.join(name).exists());
        assert_eq!(left, [false, false]);
        sign();
        fs::remove_file(source.join("README.md")).unwrap();
        assert!(install(b"2", &[]).lost_signature, "a stale file was removed");
        let copied = File { name: SIGNATURE.to_owned(), bytes: b"x".to_vec(), mode: 0o644 };
        install(b"3", &[copied]);
        assert!(!into.join(SIGNATURE).exists(), "a signature beside the sources is not installed");
    }

    #[test]
    fn source_folder_as_target_is_refused() {
        let (_root, source, _) = folders(&[("plugin.json", "{}")]);
        let error = install(&source, &manifest(""), &library("a", b"1"), &[], &source).unwrap_err();
        assert!(error.to_string().contains("it is the source folder"), "{error}");
        assert_eq!(names(&source), ["plugin.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn installed_files_are_not_writable_by_others() {
        let (_root, source, into) = folders(&[]);
        let library =
            install(&source, &manifest(""), &library("a", b"1"), &[], &into).unwrap().main;
        for (path, mode) in [(&library, 0o755), (&into.join("plugin.json"), 0o644), (&into, 0o755)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let found = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, mode, "{}", path.display());
        }
    }

    #[test]
    fn program_keeps_its_name_and_companion_files() {
        let (_root, source, into) = folders(&[("README.md", "# a")]);
        let text =
            r#"{"name": "a", "version": "1.0.0", "kind": "process", "command": ["a.py", "-v"]}"#;
        let manifest = Manifest::read(text).unwrap();
        let file = |name: &str, mode| File { name: name.to_owned(), bytes: b"abc".to_vec(), mode };
        let beside = [file("words/en.txt", 0o644)];
        let installed = install(&source, &manifest, &file("a.py", 0o755), &beside, &into).unwrap();
        assert_eq!(installed.main, into.join("a.py"));
        assert_eq!(names(&into), ["README.md", "a.py", "plugin.json", "words"]);
        assert_eq!(fs::read(into.join("words/en.txt")).unwrap(), b"abc");
        let sealed = fs::read_to_string(into.join("plugin.json")).unwrap();
        assert!(sealed.contains("\"length\": 3") || sealed.contains("\"length\":3"), "{sealed}");
    }

    #[cfg(unix)]
    #[test]
    fn unchanged_file_is_not_rewritten() {
        use std::os::unix::fs::MetadataExt as _;
        let (_root, source, into) = folders(&[]);
        let first = install(&source, &manifest(""), &library("a", b"1"), &[], &into).unwrap();
        let before = fs::metadata(&first.main).unwrap().ino();
        let second = install(&source, &manifest(""), &library("a", b"1"), &[], &into).unwrap();
        assert_eq!(fs::metadata(&second.main).unwrap().ino(), before);
        assert!(first.is_new && !second.is_new);
    }
}
