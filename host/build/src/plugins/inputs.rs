//! The files that decide whether a recorded command of the compiler is still what cargo would run:
//! manifests, settings, the toolchain, and the built dependencies with their sources. The sources of
//! the crate itself are not among them, since the compiler reads them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::record::Recorded;
use crate::cargo::{Package, Workspace};

/// The states of files at one time. Missing files are included, since creating them is a change.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    states: BTreeMap<PathBuf, Option<State>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    modified: SystemTime,
    bytes: u64,
}

impl Inputs {
    /// Returns the inputs of a crate that cargo has just built, from cargo's messages.
    ///
    /// Returns `None` if they cannot be determined, or if a file changed after `started`, so that
    /// cargo may have read an earlier state.
    pub(super) fn of(
        recorded: &Recorded,
        messages: &[Value],
        workspace: &Workspace,
        package: &Package,
        started: SystemTime,
    ) -> Option<Self> {
        let folder = package.manifest.parent()?;
        let mut sources = settings(folder);
        sources.insert(workspace.root.join("Cargo.lock"));
        sources.extend(manifests(folder));
        let mut built = BTreeSet::from([compiler(recorded)?]);
        for message in messages {
            match message["reason"].as_str() {
                Some("compiler-artifact") => {
                    let manifest = message["manifest_path"].as_str().map(Path::new);
                    // What cargo built of the crate itself is not read.
                    if manifest != Some(&package.manifest) || !is_library(message) {
                        built.extend(files(message)?);
                        if is_local(message) {
                            sources.extend(sources_of(message, &workspace.root)?);
                        }
                    }
                }
                Some("build-script-executed") => {
                    let (output, read) = script(message, messages)?;
                    built.insert(output);
                    sources.extend(read);
                }
                _ => {}
            }
        }
        let sources: BTreeMap<_, _> = sources.into_iter().map(with_state).collect();
        let is_newer = |state: &Option<State>| state.is_some_and(|one| one.modified >= started);
        if sources.values().any(is_newer) {
            return None;
        }
        let mut states: BTreeMap<_, _> = built.into_iter().map(with_state).collect();
        // A dependency that cargo has built exists, and so does the compiler.
        if states.values().any(Option::is_none) {
            return None;
        }
        states.extend(sources);
        Some(Self { states })
    }

    /// Returns whether all files are as they were.
    pub(super) fn are_unchanged(&self) -> bool {
        self.states.iter().all(|(path, found)| state(path) == *found)
    }
}

/// Returns the texts of cargo's settings for a crate in `folder`.
pub(super) fn texts_of_settings(folder: &Path) -> Vec<String> {
    settings(folder).iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn with_state(path: PathBuf) -> (PathBuf, Option<State>) {
    let state = state(&path);
    (path, state)
}

fn state(path: &Path) -> Option<State> {
    let metadata = fs::metadata(path).ok()?;
    Some(State { modified: metadata.modified().ok()?, bytes: metadata.len() })
}

/// Returns where settings of cargo and rustup for a crate in `folder` may be.
fn settings(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for above in folder.ancestors() {
        let names =
            [".cargo/config", ".cargo/config.toml", "rust-toolchain", "rust-toolchain.toml"];
        found.extend(names.map(|name| above.join(name)));
    }
    let home = |variable: &str, name: &str| {
        let set = env::var_os(variable).map(PathBuf::from);
        set.or_else(|| Some(env::home_dir()?.join(name)))
    };
    if let Some(cargo) = home("CARGO_HOME", ".cargo") {
        found.extend(["config", "config.toml"].map(|name| cargo.join(name)));
    }
    found.extend(home("RUSTUP_HOME", ".rustup").map(|rustup| rustup.join("settings.toml")));
    found
}

/// Returns the manifests that a crate in `folder` has or inherits from, and its build script.
fn manifests(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let above = folder.ancestors().map(|above| above.join("Cargo.toml"));
    above.chain([folder.join("build.rs")])
}

/// Returns the file of the compiler.
fn compiler(recorded: &Recorded) -> Option<PathBuf> {
    let program = &recorded.program;
    if program.components().count() > 1 {
        return Some(recorded.folder.join(program));
    }
    let path = recorded.variables.iter().find(|(name, _)| name == "PATH")?;
    env::split_paths(&path.1).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn is_library(message: &Value) -> bool {
    let kinds = message["target"]["kind"].as_array();
    kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
}

/// Returns whether the package can be edited: those of registries and git have fixed contents.
fn is_local(message: &Value) -> bool {
    !message["package_id"].as_str().is_some_and(|id| {
        id.starts_with("registry+") || id.starts_with("sparse+") || id.starts_with("git+")
    })
}

fn files(message: &Value) -> Option<Vec<PathBuf>> {
    let files = message["filenames"].as_array()?.iter();
    files.map(|file| Some(PathBuf::from(file.as_str()?))).collect()
}

fn folder_of(message: &Value) -> Option<&Path> {
    Path::new(message["manifest_path"].as_str()?).parent()
}

/// Returns the sources of a crate that was built, as the compiler listed them, and its manifests.
fn sources_of(message: &Value, root: &Path) -> Option<BTreeSet<PathBuf>> {
    let folder = folder_of(message)?;
    let mut found: BTreeSet<_> = manifests(folder).collect();
    let lists = lists(message)?;
    for list in &lists {
        for source in listed(&fs::read_to_string(list).ok()?) {
            // Cargo runs the compiler in the workspace's root, or in the crate's folder elsewhere.
            let mut places = [root, folder].into_iter().map(|place| place.join(&source));
            found.insert(places.find(|path| path.exists())?);
        }
    }
    Some(found)
}

/// Returns the lists of sources that the compiler wrote for a crate.
fn lists(message: &Value) -> Option<Vec<PathBuf>> {
    let file = files(message)?.into_iter().next()?;
    let folder = file.parent()?;
    if message["target"]["kind"][0] != "custom-build" {
        // `libNAME-HASH.rlib` has `NAME-HASH.d`.
        let stem = file.file_stem()?.to_str()?;
        let list = folder.join(format!("{}.d", stem.strip_prefix("lib").unwrap_or(stem)));
        return list.is_file().then(|| vec![list]);
    }
    // The file of a build script is renamed; its list is not.
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let lists: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "d")).collect();
    (!lists.is_empty()).then_some(lists)
}

/// Parses a list of sources: each has a line `PATH:`, with `\ ` for a space.
fn listed(text: &str) -> Vec<PathBuf> {
    let lines = text.lines().filter_map(|line| line.strip_suffix(':'));
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| PathBuf::from(line.replace("\\ ", " "))).collect()
}

/// Returns the file with the output of a build script, and the files that make cargo run it again.
/// Returns `None` if these are a whole folder, or if one is missing: cargo runs the script each time.
fn script(message: &Value, messages: &[Value]) -> Option<(PathBuf, Vec<PathBuf>)> {
    let output = Path::new(message["out_dir"].as_str()?).parent()?.join("output");
    let text = fs::read_to_string(&output).ok()?;
    let id = &message["package_id"];
    let of = messages.iter().find(|one| one["package_id"] == *id && folder_of(one).is_some());
    let folder = folder_of(of?)?;
    let is_local = is_local(message);
    let after = |line: &str, key: &str| {
        let rest = line.strip_prefix("cargo:")?;
        rest.strip_prefix(':').unwrap_or(rest).strip_prefix(key).map(str::to_owned)
    };
    // Without any of these, every file of the package counts.
    if is_local && !text.lines().any(|line| after(line, "rerun-if-").is_some()) {
        return None;
    }
    let paths = text.lines().filter_map(|line| after(line, "rerun-if-changed="));
    let paths = paths.map(|path| folder.join(path.trim()));
    let paths: Vec<_> = paths.filter(|path| is_local || !path.starts_with(folder)).collect();
    paths.iter().all(|path| path.exists() && !path.is_dir()).then_some((output, paths))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn listed_sources_may_contain_spaces() {
        let text = "/t/a.d: src/lib.rs a\\ b.txt\n\nsrc/lib.rs:\na\\ b.txt:\n# env-dep:X=1:\n";
        assert_eq!(listed(text), [PathBuf::from("src/lib.rs"), PathBuf::from("a b.txt")]);
    }

    #[test]
    fn changed_created_and_removed_files_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        fs::write(&a, "1").unwrap();
        let inputs = |paths: &[&PathBuf]| Inputs {
            states: paths.iter().map(|path| with_state((*path).clone())).collect(),
        };
        let all = inputs(&[&a, &b]);
        assert!(all.are_unchanged());
        fs::write(&b, "").unwrap();
        assert!(!all.are_unchanged());
        let all = inputs(&[&a, &b]);
        fs::write(&a, "12").unwrap();
        assert!(!all.are_unchanged());
        let all = inputs(&[&a, &b]);
        fs::remove_file(&a).unwrap();
        assert!(!all.are_unchanged());
    }

    /// Checks which files make cargo run a build script again.
    fn check_script(id: &str, output: &str, expected: Option<&[&str]>) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/folder")).unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        fs::write(folder.path().join("a/build.rs"), "").unwrap();
        fs::write(folder.path().join("output"), output).unwrap();
        let message = json!({ "package_id": id, "out_dir": folder.path().join("out") });
        let manifest = folder.path().join("a/Cargo.toml");
        let messages = [json!({ "package_id": id, "manifest_path": manifest })];
        let found = script(&message, &messages).map(|(_, paths)| paths);
        let expected = expected
            .map(|paths| paths.iter().map(|path| folder.path().join("a").join(path)).collect());
        assert_eq!(found, expected, "{output}");
    }

    #[test]
    fn build_script_inputs_are_files_that_it_names() {
        let local = "path+file:///a#0.1.0";
        check_script(local, "cargo:rerun-if-changed=build.rs\n", Some(&["build.rs"]));
        check_script(local, "cargo::rerun-if-env-changed=X\n", Some(&[]));
        check_script(local, "cargo::rustc-cfg=x\n", None);
        check_script(local, "cargo::rerun-if-changed=folder\n", None);
        check_script(local, "cargo::rerun-if-changed=missing\n", None);
        let fixed = "registry+https://example.org/index#a@0.1.0";
        check_script(fixed, "cargo::rustc-cfg=x\ncargo:rerun-if-changed=x.c\n", Some(&[]));
        check_script(fixed, "cargo:rerun-if-changed=/etc/passwd\n", Some(&["/etc/passwd"]));
    }
}
