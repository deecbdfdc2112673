//! Folders of installed plugins: valid ones, and copies that tests corrupt on purpose.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::artifacts::library_bytes;

/// A temporary folder for plugins.
#[derive(Debug)]
pub struct Plugins {
    root: TempDir,
}

/// A plugin to be installed.
#[derive(Debug)]
#[must_use = "nothing is installed before `write`"]
pub struct Plugin {
    folder: PathBuf,
    fields: Map<String, Value>,
    library: String,
    bytes: Vec<u8>,
    digest: DigestSource,
}

#[derive(Debug)]
enum DigestSource {
    Written,
    Built,
    Nothing,
}

/// Returns the file name of a library with this stem on this system.
pub fn library_file_name(stem: &str) -> String {
    format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}")
}

impl Default for Plugins {
    fn default() -> Self {
        Self::new()
    }
}

impl Plugins {
    /// Creates an empty folder.
    ///
    /// # Panics
    ///
    /// Panics on I/O errors, as do all functions below.
    pub fn new() -> Self {
        let root =
            TempDir::with_prefix("hotbay-tests-").expect("a temporary folder can be created");
        set_mode(root.path(), 0o755);
        Self { root }
    }

    /// Returns the folder of the plugins.
    pub fn dir(&self) -> &Path {
        self.root.path()
    }

    /// Prepares a plugin with this name, in a folder with this name, from the library of a
    /// workspace package.
    pub fn add(&self, name: &str, package: &str) -> Plugin {
        self.add_in(name, name, package)
    }

    /// Prepares a plugin whose folder has another name.
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
            unreachable!("the literal is an object");
        };
        Plugin {
            folder: self.dir().join(folder),
            fields,
            library: library_file_name(&stem),
            bytes: built.bytes.clone(),
            digest: DigestSource::Written,
        }
    }
}

impl Plugin {
    /// Sets its config.
    pub fn config(self, config: Value) -> Self {
        self.set("config", config)
    }

    /// Sets a field of its manifest.
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// Removes a field from its manifest.
    pub fn remove(mut self, field: &str) -> Self {
        self.fields.remove(field);
        self
    }

    /// Changes the bytes of the library.
    pub fn bytes(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.bytes);
        self
    }

    /// Replaces a text in the library by another of the same length, everywhere.
    ///
    /// # Panics
    ///
    /// Panics if the text is not found or the lengths differ.
    pub fn patch(self, found: &str, by: &str) -> Self {
        assert_eq!(found.len(), by.len(), "a patch must keep the length");
        self.bytes(|bytes| {
            let mut places = Vec::new();
            for place in 0..bytes.len().saturating_sub(found.len()) {
                if bytes[place..].starts_with(found.as_bytes()) {
                    places.push(place);
                }
            }
            assert!(!places.is_empty(), "`{found}` not found in the library");
            for place in places {
                bytes[place..place + by.len()].copy_from_slice(by.as_bytes());
            }
        })
    }

    /// Sets digest and length of the library as it was built, whatever changes later.
    pub fn stale_digest(mut self) -> Self {
        let digest = digest_of(&self.bytes);
        self.digest = DigestSource::Built;
        self.fields.insert("sha256".to_owned(), digest.into());
        self.fields.insert("length".to_owned(), self.bytes.len().into());
        self
    }

    /// Leaves out digest and length.
    pub fn unverified(mut self) -> Self {
        self.digest = DigestSource::Nothing;
        self
    }

    /// Installs the plugin and returns its folder.
    pub fn write(mut self) -> PathBuf {
        if let DigestSource::Written = self.digest {
            let digest = digest_of(&self.bytes);
            self.fields.entry("sha256").or_insert(digest.into());
            self.fields.entry("length").or_insert(self.bytes.len().into());
        }
        let manifest = serde_json::to_string_pretty(&self.fields).expect("a manifest serializes");
        self.write_with_manifest(&manifest)
    }

    /// Installs the plugin with this manifest and returns its folder.
    pub fn write_with_manifest(self, manifest: &str) -> PathBuf {
        fs::create_dir_all(&self.folder).expect("the plugin's folder can be created");
        set_mode(&self.folder, 0o755);
        put(&self.folder.join(&self.library), &self.bytes);
        put(&self.folder.join("plugin.json"), manifest.as_bytes());
        self.folder
    }
}

fn put(file: &Path, bytes: &[u8]) {
    fs::write(file, bytes).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()));
    set_mode(file, 0o644);
}

fn digest_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sets the mode, independent of the umask.
fn set_mode(path: &Path, mode: u32) {
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
