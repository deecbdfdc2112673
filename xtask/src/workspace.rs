//! What `cargo metadata` says of a workspace: its root, its target folder, its packages.
//! Reads nothing else and changes nothing.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use crate::cargo;

/// A cargo workspace, or a crate that is its own.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo builds; `CARGO_TARGET_DIR` is respected.
    pub(crate) target: PathBuf,
    /// The members.
    pub(crate) packages: Vec<Package>,
}

/// One member.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Path of its `Cargo.toml`.
    pub(crate) manifest: PathBuf,
}

impl Workspace {
    /// The workspace that xtask belongs to.
    pub(crate) fn here() -> anyhow::Result<Self> {
        // Asked at run time: a folder that was moved together with its target keeps working.
        let folder = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => env::current_dir().context("there is no current folder")?,
        };
        Self::read(&folder, None)
    }

    /// The workspace that the crate with this `Cargo.toml` belongs to.
    pub(crate) fn of(manifest: &Path) -> anyhow::Result<Self> {
        let folder = manifest.parent().unwrap_or(Path::new("."));
        Self::read(folder, Some(manifest))
    }

    /// The member with this `Cargo.toml`.
    pub(crate) fn package_at(&self, manifest: &Path) -> Option<&Package> {
        self.packages.iter().find(|package| package.manifest == manifest)
    }

    /// The member with this name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// `path` as it is told to people: relative to the root where that is shorter.
    pub(crate) fn told<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }

    fn read(folder: &Path, manifest: Option<&Path>) -> anyhow::Result<Self> {
        let mut command = cargo::cargo(folder);
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        if let Some(manifest) = manifest {
            command.arg("--manifest-path").arg(manifest);
        }
        let text = cargo::read(&mut command)?;
        let value = serde_json::from_slice(&text).context("`cargo metadata` answered no JSON")?;
        Self::from_metadata(&value).context("`cargo metadata` answered without a known field")
    }

    fn from_metadata(value: &Value) -> Option<Self> {
        let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
        let packages = value.get("packages")?.as_array()?.iter().map(|package| {
            Some(Package {
                name: text(package, "name")?,
                version: text(package, "version")?,
                manifest: text(package, "manifest_path")?.into(),
            })
        });
        Some(Self {
            root: text(value, "workspace_root")?.into(),
            target: text(value, "target_directory")?.into(),
            packages: packages.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_target_and_members_come_from_the_metadata() {
        let metadata = serde_json::json!({
            "workspace_root": "/w", "target_directory": "/elsewhere",
            "packages": [{"name": "a", "version": "0.2.0", "manifest_path": "/w/a/Cargo.toml"}],
        });
        let workspace = Workspace::from_metadata(&metadata).unwrap();
        assert_eq!(workspace.target, Path::new("/elsewhere"));
        assert_eq!(workspace.package("a").unwrap().version, "0.2.0");
        assert_eq!(workspace.package_at(Path::new("/w/a/Cargo.toml")).unwrap().name, "a");
        assert_eq!(workspace.told(Path::new("/w/x/y")).to_string(), "x/y");
        assert_eq!(workspace.told(Path::new("/v/y")).to_string(), "/v/y");
    }
}
