//! Two builds of one plugin with different replies, which replace each other by renames, as
//! `build-plugins` installs them.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Two builds, prepared beside the folder they are installed into.
#[derive(Debug)]
pub(crate) struct Builds {
    /// The plugin's folder.
    pub(crate) folder: PathBuf,
    /// File name of the library.
    pub(crate) file_name: String,
    prepared: PathBuf,
    libraries: [Vec<u8>; 2],
}

/// The common part of both manifests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind<'a> {
    pub(crate) package: &'a str,
    pub(crate) handover: &'a str,
    /// Config of each build.
    pub(crate) configs: &'a [Value; 2],
}

impl Builds {
    /// Prepares two builds of the library `built`, and installs the first into `dir/plugins/NAME`.
    /// The second library differs by one byte after its end.
    pub(crate) fn new(
        dir: &Path,
        name: &str,
        built: &Path,
        kind: Kind<'_>,
    ) -> anyhow::Result<Self> {
        let library = fs::read(built)?;
        let mut other = library.clone();
        other.push(0);
        let stem = kind.package.replace('-', "_");
        let builds = Self {
            folder: dir.join("plugins").join(name),
            file_name: format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}"),
            prepared: dir.join(format!("{name}-builds")),
            libraries: [library, other],
        };
        fs::create_dir(&builds.folder)?;
        fs::create_dir(&builds.prepared)?;
        for which in [0, 1] {
            let library = &builds.libraries[which];
            let manifest = json!({
                "name": name,
                "package": kind.package,
                "version": env!("CARGO_PKG_VERSION"),
                "api": "^1.0",
                "library": stem,
                "config": kind.configs[which],
                "handover": kind.handover,
                "permissions": ["log"],
                "sha256": sha256(library),
                "length": library.len(),
            });
            fs::write(builds.prepared(which, "library"), library)?;
            fs::write(builds.prepared(which, "manifest"), format!("{manifest:#}"))?;
        }
        builds.put(0)?;
        Ok(builds)
    }

    /// Installs a build: the library, then the manifest, each by one rename.
    pub(crate) fn put(&self, which: usize) -> anyhow::Result<()> {
        for ready in self.ready(which)? {
            ready.put()?;
        }
        Ok(())
    }

    /// Returns the renames that install a build.
    pub(crate) fn ready(&self, which: usize) -> anyhow::Result<[Ready; 2]> {
        Ok([
            self.linked(&self.prepared(which, "library"), &self.file_name)?,
            self.linked(&self.prepared(which, "manifest"), "plugin.json")?,
        ])
    }

    /// Returns the rename that replaces the library with these bytes.
    pub(crate) fn ready_library(&self, bytes: &[u8]) -> anyhow::Result<Ready> {
        let from = self.prepared.join("next-bytes");
        fs::write(&from, bytes)?;
        Ok(Ready { from, to: self.folder.join(&self.file_name) })
    }

    /// Returns the rename that changes the config of the installed build.
    pub(crate) fn ready_manifest(&self, config: &Value) -> anyhow::Result<Ready> {
        self.changed(|manifest| {
            manifest.insert("config".to_owned(), config.clone());
        })
    }

    /// Removes digest and length from the installed manifest.
    pub(crate) fn unseal(&self) -> anyhow::Result<()> {
        let unsealed = self.changed(|manifest| {
            manifest.remove("sha256");
            manifest.remove("length");
        })?;
        unsealed.put()
    }

    fn changed(&self, change: impl FnOnce(&mut Map<String, Value>)) -> anyhow::Result<Ready> {
        let to = self.folder.join("plugin.json");
        let mut manifest = serde_json::from_slice(&fs::read(&to)?)?;
        change(&mut manifest);
        let from = self.prepared.join("next-manifest");
        fs::write(&from, serde_json::to_string(&manifest)?)?;
        Ok(Ready { from, to })
    }

    /// Returns the bytes of a build's library.
    pub(crate) fn library(&self, which: usize) -> &[u8] {
        &self.libraries[which]
    }

    /// Returns the path of a prepared file.
    fn prepared(&self, which: usize, what: &str) -> PathBuf {
        self.prepared.join(format!("{which}-{what}"))
    }

    /// Links a prepared file, since a rename removes the name.
    fn linked(&self, prepared: &Path, name: &str) -> anyhow::Result<Ready> {
        let from = self.prepared.join(format!("next-{name}"));
        // Left over if the same file was installed already.
        let _ = fs::remove_file(&from);
        fs::hard_link(prepared, &from)?;
        Ok(Ready { from, to: self.folder.join(name) })
    }
}

/// A file ready to be renamed into place.
#[must_use]
#[derive(Debug)]
pub(crate) struct Ready {
    from: PathBuf,
    to: PathBuf,
}

impl Ready {
    pub(crate) fn put(self) -> anyhow::Result<()> {
        Ok(fs::rename(self.from, self.to)?)
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
