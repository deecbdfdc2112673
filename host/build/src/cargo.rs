//! Starts cargo, go and git, and reads the root, target folder and packages of a workspace from
//! `cargo metadata`. The only file of this crate and of xtask that starts processes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cargo;

/// Returns a command for the cargo that runs this program, so that `cargo +nightly xtask` uses
/// nightly; otherwise for the one of `PATH`.
pub fn cargo(folder: &Path) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    start_in(folder, &program)
}

/// Returns a command for cargo of the toolchain `nightly`, as rustup selects it.
pub fn nightly(folder: &Path) -> Command {
    let mut command = start_in(folder, OsStr::new("cargo"));
    command.arg("+nightly");
    command
}

/// Returns a command for the git of `PATH`.
pub fn git(folder: &Path) -> Command {
    start_in(folder, OsStr::new("git"))
}

/// Returns a command for the go of `PATH`.
pub(crate) fn go(folder: &Path) -> Command {
    start_in(folder, OsStr::new("go"))
}

/// Returns a command for the spelling checker of `PATH`.
pub fn typos(folder: &Path) -> Command {
    start_in(folder, OsStr::new("typos"))
}

/// Returns a command for the mdBook of `PATH`.
pub fn mdbook(folder: &Path) -> Command {
    start_in(folder, OsStr::new("mdbook"))
}

/// Returns a command for the compiler or the wrapper at `program`.
pub(crate) fn compiler(folder: &Path, program: &OsStr) -> Command {
    start_in(folder, program)
}

/// Runs `command` with the stdin, stdout and stderr of this program.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", display(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", display(command));
    }
    Ok(())
}

/// Runs `command` and returns its stdout; its stderr passes through.
pub fn read(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    read_with(command, Stdio::inherit())
}

fn read_with(command: &mut Command, stderr: Stdio) -> anyhow::Result<Vec<u8>> {
    let output = output_with(command, stderr)?;
    if !output.status.success() {
        bail!("{} failed ({})", display(command), output.status);
    }
    Ok(output.stdout)
}

/// Runs `command` and returns its output and status; its stderr passes through.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    output_with(command, Stdio::inherit())
}

fn output_with(command: &mut Command, stderr: Stdio) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::null())
        .stderr(stderr)
        .output()
        .with_context(|| format!("cannot start {}", display(command)))
}

/// Returns the command as a user would type it.
pub fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_stem().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    format!("`{}`", words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" "))
}

#[allow(clippy::disallowed_methods, reason = "the one place that starts processes")]
fn start_in(folder: &Path, program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    command
}

/// A cargo workspace, or a crate that is its own workspace.
#[derive(Debug)]
pub struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub root: PathBuf,
    /// The folder that cargo builds in; respects `CARGO_TARGET_DIR`.
    pub target: PathBuf,
    /// The members.
    pub packages: Vec<Package>,
}

/// One member.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Path of its `Cargo.toml`.
    pub manifest: PathBuf,
    /// The folders of the crates that it links by path, without those for its tests.
    pub links: Vec<PathBuf>,
    /// Whether its library is built as a `cdylib`.
    pub is_cdylib: bool,
}

impl Workspace {
    /// Returns the workspace of the running crate, or of the current folder.
    pub fn here() -> anyhow::Result<Self> {
        // Read at run time, so that a folder that was moved with its target keeps working.
        let folder = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => env::current_dir().context("cannot determine the current folder")?,
        };
        Self::read(&folder, None, Stdio::inherit())
    }

    /// Returns the workspace of the crate with this `Cargo.toml`.
    pub fn of(manifest: &Path) -> anyhow::Result<Self> {
        Self::read(folder_of(manifest), Some(manifest), Stdio::inherit())
    }

    /// Returns the workspace of the crate with this `Cargo.toml`. Cargo prints no errors: those of
    /// the build are enough.
    pub(crate) fn of_silently(manifest: &Path) -> anyhow::Result<Self> {
        Self::read(folder_of(manifest), Some(manifest), Stdio::null())
    }

    /// Returns the member with this `Cargo.toml`.
    pub fn package_at(&self, manifest: &Path) -> Option<&Package> {
        self.packages.iter().find(|package| package.manifest == manifest)
    }

    /// Returns the member with this name.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// Returns the root of the workspace of the crate with this `Cargo.toml`, and the folders of all
    /// crates that it links by path, directly or indirectly. Cargo prints no errors.
    pub fn links_by_path(&self, manifest: &Path) -> anyhow::Result<(PathBuf, Vec<PathBuf>)> {
        let mut others = Vec::new();
        let mut root = None;
        let mut folders = Vec::new();
        let mut waiting = vec![manifest.to_owned()];
        while let Some(manifest) = waiting.pop() {
            if self.package_at(&manifest).is_none() {
                others.push(Self::of_silently(&manifest)?);
            }
            let mut workspaces = others.iter().rev().chain([self]);
            let found = workspaces.find_map(|one| Some((one, one.package_at(&manifest)?)));
            let (workspace, package) =
                found.with_context(|| format!("`{}` has no [package]", manifest.display()))?;
            root.get_or_insert_with(|| workspace.root.clone());
            for folder in &package.links {
                if !folders.contains(folder) {
                    folders.push(folder.clone());
                    waiting.push(folder.join("Cargo.toml"));
                }
            }
        }
        Ok((root.unwrap_or_else(|| self.root.clone()), folders))
    }

    /// Returns `path` relative to the root if it is inside.
    pub fn display<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }

    fn read(folder: &Path, manifest: Option<&Path>, stderr: Stdio) -> anyhow::Result<Self> {
        let mut command = cargo::cargo(folder);
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        if let Some(manifest) = manifest {
            command.arg("--manifest-path").arg(manifest);
        }
        let text = cargo::read_with(&mut command, stderr)?;
        let value =
            serde_json::from_slice(&text).context("`cargo metadata` printed invalid JSON")?;
        Self::from_metadata(&value).context("the output of `cargo metadata` lacks a field")
    }

    fn from_metadata(value: &Value) -> Option<Self> {
        let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
        let packages = value.get("packages")?.as_array()?.iter().map(|package| {
            Some(Package {
                name: text(package, "name")?,
                version: text(package, "version")?,
                manifest: text(package, "manifest_path")?.into(),
                links: links(package),
                is_cdylib: is_cdylib(package),
            })
        });
        Some(Self {
            root: text(value, "workspace_root")?.into(),
            target: text(value, "target_directory")?.into(),
            packages: packages.collect::<Option<_>>()?,
        })
    }
}

fn folder_of(manifest: &Path) -> &Path {
    manifest.parent().unwrap_or(Path::new("."))
}

fn links(package: &Value) -> Vec<PathBuf> {
    let links = package.get("dependencies").and_then(Value::as_array);
    let links = links.into_iter().flatten().filter(|link| link["kind"] != "dev");
    links.filter_map(|link| Some(link.get("path")?.as_str()?.into())).collect()
}

fn is_cdylib(package: &Value) -> bool {
    let targets = package.get("targets").and_then(Value::as_array).into_iter().flatten();
    let mut types = targets.filter_map(|target| target["crate_types"].as_array()).flatten();
    types.any(|one| one == "cdylib")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_gives_root_target_and_members() {
        let metadata = serde_json::json!({
            "workspace_root": "/w", "target_directory": "/elsewhere",
            "packages": [{"name": "a", "version": "0.2.0", "manifest_path": "/w/a/Cargo.toml"}],
        });
        let workspace = Workspace::from_metadata(&metadata).unwrap();
        assert_eq!(workspace.target, Path::new("/elsewhere"));
        assert_eq!(workspace.package("a").unwrap().version, "0.2.0");
        assert_eq!(workspace.package_at(Path::new("/w/a/Cargo.toml")).unwrap().name, "a");
        assert_eq!(workspace.display(Path::new("/w/x/y")).to_string(), "x/y");
        assert_eq!(workspace.display(Path::new("/v/y")).to_string(), "/v/y");
    }

    #[test]
    fn crates_linked_by_path_are_followed() {
        let package = |name: &str, links: serde_json::Value| {
            serde_json::json!({
                "name": name, "version": "0.1.0", "dependencies": links,
                "manifest_path": format!("/w/{name}/Cargo.toml"),
            })
        };
        let to = |name: &str, kind: Option<&str>| serde_json::json!({"name": name, "kind": kind, "path": format!("/w/{name}")});
        let registry = serde_json::json!({"name": "serde", "kind": null});
        let metadata = serde_json::json!({
            "workspace_root": "/w", "target_directory": "/w/target",
            "packages": [
                package("a", serde_json::json!([to("b", None), registry, to("d", Some("dev"))])),
                package("b", serde_json::json!([to("c", Some("build")), to("a", None)])),
                package("c", serde_json::json!([])),
            ],
        });
        let workspace = Workspace::from_metadata(&metadata).unwrap();
        let (root, links) = workspace.links_by_path(Path::new("/w/c/Cargo.toml")).unwrap();
        assert_eq!((root, links), ("/w".into(), vec![]));
        let (_, links) = workspace.links_by_path(Path::new("/w/a/Cargo.toml")).unwrap();
        let expected = ["/w/b", "/w/c", "/w/a"].map(PathBuf::from);
        assert!(links.len() == 3 && expected.iter().all(|one| links.contains(one)), "{links:?}");
    }
}
