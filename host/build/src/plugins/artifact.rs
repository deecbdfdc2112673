//! Builds one plugin's library or program with cargo and finds the built file. Each plugin is a
//! separate cargo call, since building several at once would unify their features.

use std::env::consts::DLL_EXTENSION;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use serde_json::Value;

use super::record::Recorder;
use crate::cargo;
use crate::cargo::Package;
use crate::print::Hinted;

/// The profile of a watch, as settings that hold in every workspace: a build without debug
/// information takes less time, and so does linking it.
const WATCH_PROFILE: [&str; 3] = [
    r#"profile.watch.inherits="dev""#,
    "profile.watch.debug=false",
    "profile.watch.incremental=true",
];

/// The target of a crate that is built.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Library,
    /// The binary of this name.
    Program(&'a str),
}

/// The settings of a build.
#[derive(Clone, Copy, Debug)]
pub(super) enum Profile<'a> {
    Dev,
    Release,
    /// Fast builds, one after another. The recorder gets the command of the library.
    Watch(Option<&'a Recorder>),
}

/// A built file, and what cargo printed about the build.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) file: PathBuf,
    pub(super) messages: Vec<Value>,
}

/// Builds `target` of `package` into the target folder `target_dir`.
pub(super) fn build(
    target_dir: &Path,
    package: &Package,
    target: Target<'_>,
    profile: Profile<'_>,
) -> anyhow::Result<Artifact> {
    let folder = package.manifest.parent().unwrap_or(Path::new("."));
    let mut command = cargo::cargo(folder);
    // Only `cargo rustc` can leave out the other types of a library.
    let is_watch = matches!(profile, Profile::Watch(_));
    let only_cdylib = is_watch && matches!(target, Target::Library) && package.is_cdylib;
    command.args([if only_cdylib { "rustc" } else { "build" }, "--package", &package.name]);
    match target {
        Target::Library => command.arg("--lib"),
        Target::Program(name) => command.args(["--bin", name]),
    };
    if only_cdylib {
        command.args(["--crate-type", "cdylib"]);
    }
    command.arg("--message-format=json-render-diagnostics");
    command.arg("--manifest-path").arg(&package.manifest);
    command.arg("--target-dir").arg(target_dir);
    match profile {
        Profile::Dev => {}
        Profile::Release => drop(command.arg("--release")),
        Profile::Watch(recorder) => {
            command.args(["--profile", "watch"]);
            for setting in WATCH_PROFILE {
                command.args(["--config", setting]);
            }
            if let Some(recorder) = recorder {
                recorder.attach(&mut command);
            }
        }
    }
    let output = cargo::output(&mut command)?;
    // Cargo has printed the reason.
    let (name, status) = (&package.name, output.status);
    ensure!(status.success(), "`cargo build --package {name}` failed ({status})");
    let messages = parse(&String::from_utf8_lossy(&output.stdout));
    let file = find(&messages, &package.manifest, target).ok_or_else(|| {
        let manifest = package.manifest.display();
        match target {
            Target::Library => {
                let hint = r#"set `crate-type = ["cdylib", "rlib"]` under [lib]"#;
                Hinted::new(format!("cargo built no cdylib from `{manifest}`"), hint).into()
            }
            Target::Program(name) => anyhow!("cargo built no binary `{name}` from `{manifest}`"),
        }
    })?;
    Ok(Artifact { file, messages })
}

fn parse(messages: &str) -> Vec<Value> {
    messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Returns the built file of the crate with this `Cargo.toml`, from the messages of cargo.
fn find(messages: &[Value], manifest: &Path, target: Target<'_>) -> Option<PathBuf> {
    let artifacts = messages
        .iter()
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["manifest_path"].as_str().map(Path::new) == Some(manifest));
    let file = |message: &Value| match target {
        Target::Library => {
            let files = message["filenames"].as_array();
            let files = files.filter(|_| is_of_kind(message, "cdylib"))?;
            let library = |path: &PathBuf| path.extension().is_some_and(|e| e == DLL_EXTENSION);
            files.iter().filter_map(Value::as_str).map(PathBuf::from).find(library)
        }
        Target::Program(name) => {
            let is_it = is_of_kind(message, "bin") && message["target"]["name"] == name;
            message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
        }
    };
    artifacts.filter_map(file).next_back()
}

fn is_of_kind(message: &Value, kind: &str) -> bool {
    let kinds = message["target"]["kind"].as_array();
    kinds.is_some_and(|kinds| kinds.iter().any(|found| found == kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cdylib_of_requested_crate_is_taken() {
        let message = |manifest: &str, kind: &str, file: &str| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": manifest,
                "target": {"kind": [kind, "rlib"]},
                "filenames": [format!("/t/{file}.rlib"), format!("/t/{file}.{DLL_EXTENSION}")],
            })
            .to_string()
        };
        let messages = [
            "no json at all".to_owned(),
            message("/dep/Cargo.toml", "cdylib", "libdep"),
            message("/own/Cargo.toml", "cdylib", "libown"),
            message("/own/Cargo.toml", "lib", "libother"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ]
        .join("\n");
        let messages = parse(&messages);
        let found = find(&messages, Path::new("/own/Cargo.toml"), Target::Library).unwrap();
        assert_eq!(found, PathBuf::from(format!("/t/libown.{DLL_EXTENSION}")));
        assert_eq!(find(&messages, Path::new("/none/Cargo.toml"), Target::Library), None);
    }

    #[test]
    fn only_binary_of_requested_name_is_taken() {
        let message = |name: &str, kind: &str| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": "/own/Cargo.toml",
                "target": {"name": name, "kind": [kind]}, "filenames": ["/t/x"],
                "executable": (kind == "bin").then(|| format!("/t/{name}")),
            })
            .to_string()
        };
        let messages = [message("a", "lib"), message("a", "bin"), message("b", "bin")].join("\n");
        let messages = parse(&messages);
        let find = |name| find(&messages, Path::new("/own/Cargo.toml"), Target::Program(name));
        assert_eq!(find("a"), Some("/t/a".into()));
        assert_eq!(find("c"), None);
    }
}
