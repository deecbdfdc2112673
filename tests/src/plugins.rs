//! Folders of installed plugins, as a test wants them: right at first, then spoilt on purpose.
//! What is spoilt is only ever a copy.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::artifacts::library_bytes;

/// A folder for plugins that is gone with its owner.
#[derive(Debug)]
pub struct Plugins {
    root: TempDir,
}

/// A plugin that is about to be installed.
#[derive(Debug)]
#[must_use = "nothing is installed before `write`"]
pub struct Plugin {
    folder: PathBuf,
    fields: Map<String, Value>,
    library: String,
    bytes: Vec<u8>,
    digest: Stated,
}

#[derive(Debug)]
enum Stated {
    OfWhatIsWritten,
    OfWhatWasBuilt,
    Nothing,
}

/// How a library of this stem is called on this system.
pub fn library_file_name(stem: &str) -> String {
    format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}")
}

impl Default for Plugins {
    fn default() -> Self {
        Self::new()
    }
}

impl Plugins {
    /// Makes an empty folder.
    ///
    /// # Panics
    ///
    /// When the disk does not allow it; so do all others here.
    pub fn new() -> Self {
        let root = TempDir::with_prefix("hotbay-tests-").expect("a folder for plugins");
        only_the_owner_writes(root.path(), 0o755);
        Self { root }
    }

    /// Where the plugins are.
    pub fn dir(&self) -> &Path {
        self.root.path()
    }

    /// Prepares a plugin of this name, in a folder of this name, made of the library of a
    /// workspace package.
    pub fn add(&self, name: &str, package: &str) -> Plugin {
        self.add_in(name, name, package)
    }

    /// Prepares a plugin in a folder of another name than its own.
    pub fn add_in(&self, folder: &str, name: &str, package: &str) -> Plugin {
        let built = library_bytes(package);
        let stem = package.replace('-', "_");
        let fields = json!({
            "name": name,
            "package": package,
            "version": built.version,
            "api": "^1.0",
            "library": stem,
        });
        let Value::Object(fields) = fields else {
            unreachable!("it is written as an object");
        };
        Plugin {
            folder: self.dir().join(folder),
            fields,
            library: library_file_name(&stem),
            bytes: built.bytes.clone(),
            digest: Stated::OfWhatIsWritten,
        }
    }
}

impl Plugin {
    /// Gives it a config.
    pub fn config(self, config: Value) -> Self {
        self.set("config", config)
    }

    /// Sets a field of its manifest.
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// Leaves a field out of its manifest.
    pub fn remove(mut self, field: &str) -> Self {
        self.fields.remove(field);
        self
    }

    /// Changes the library.
    pub fn bytes(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.bytes);
        self
    }

    /// Replaces a text in the library by one of the same length, everywhere.
    ///
    /// # Panics
    ///
    /// When the text is not there, or the lengths differ.
    pub fn patch(self, found: &str, by: &str) -> Self {
        assert_eq!(found.len(), by.len(), "a patch keeps the length");
        self.bytes(|bytes| {
            let mut places = Vec::new();
            for place in 0..bytes.len().saturating_sub(found.len()) {
                if bytes[place..].starts_with(found.as_bytes()) {
                    places.push(place);
                }
            }
            assert!(!places.is_empty(), "`{found}` is not in the library");
            for place in places {
                bytes[place..place + by.len()].copy_from_slice(by.as_bytes());
            }
        })
    }

    /// States the digest and length of the library as it was built, whatever became of it.
    pub fn stale_digest(mut self) -> Self {
        let digest = digest_of(&self.bytes);
        self.digest = Stated::OfWhatWasBuilt;
        self.fields.insert("sha256".to_owned(), digest.into());
        self.fields.insert("length".to_owned(), self.bytes.len().into());
        self
    }

    /// States neither digest nor length.
    pub fn unverified(mut self) -> Self {
        self.digest = Stated::Nothing;
        self
    }

    /// Installs it; answers with its folder.
    pub fn write(mut self) -> PathBuf {
        if let Stated::OfWhatIsWritten = self.digest {
            let digest = digest_of(&self.bytes);
            self.fields.entry("sha256").or_insert(digest.into());
            self.fields.entry("length").or_insert(self.bytes.len().into());
        }
        let manifest = serde_json::to_string_pretty(&self.fields).expect("JSON can be written");
        self.write_with_manifest(&manifest)
    }

    /// Installs it with a manifest of the test's own; answers with its folder.
    pub fn write_with_manifest(self, manifest: &str) -> PathBuf {
        fs::create_dir_all(&self.folder).expect("a folder for the plugin");
        only_the_owner_writes(&self.folder, 0o755);
        put(&self.folder.join(&self.library), &self.bytes);
        put(&self.folder.join("plugin.json"), manifest.as_bytes());
        self.folder
    }
}

fn put(file: &Path, bytes: &[u8]) {
    fs::write(file, bytes).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()));
    only_the_owner_writes(file, 0o644);
}

fn digest_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sets the mode, whatever the umask of the test run is.
fn only_the_owner_writes(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(path, mode)
            .unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
}
