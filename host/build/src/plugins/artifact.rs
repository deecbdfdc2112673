//! Builds one plugin's library or program with cargo and finds the built file. Each plugin is a
//! separate cargo call, since building several at once would unify their features.

use std::env::consts::DLL_EXTENSION;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use serde_json::Value;

use crate::cargo;
use crate::cargo::Package;
use crate::print::Hinted;

/// The target of a crate that is built.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Library,
    /// The binary of this name.
    Program(&'a str),
}

/// Builds `target` of `package` into the target folder `target_dir`.
pub(super) fn build(
    target_dir: &Path,
    package: &Package,
    target: Target<'_>,
    release: bool,
) -> anyhow::Result<PathBuf> {
    let folder = package.manifest.parent().unwrap_or(Path::new("."));
    let mut command = cargo::cargo(folder);
    command.args(["build", "--package", &package.name]);
    match target {
        Target::Library => command.arg("--lib"),
        Target::Program(name) => command.args(["--bin", name]),
    };
    command.arg("--message-format=json-render-diagnostics");
    command.arg("--manifest-path").arg(&package.manifest);
    command.arg("--target-dir").arg(target_dir);
    if release {
        command.arg("--release");
    }
    let output = cargo::output(&mut command)?;
    // Cargo has printed the reason.
    let (name, status) = (&package.name, output.status);
    ensure!(status.success(), "`cargo build --package {name}` failed ({status})");
    let built = find(&String::from_utf8_lossy(&output.stdout), &package.manifest, target);
    built.ok_or_else(|| {
        let manifest = package.manifest.display();
        match target {
            Target::Library => {
                let hint = r#"set `crate-type = ["cdylib", "rlib"]` under [lib]"#;
                Hinted::new(format!("cargo built no cdylib from `{manifest}`"), hint).into()
            }
            Target::Program(name) => anyhow!("cargo built no binary `{name}` from `{manifest}`"),
        }
    })
}

/// Returns the built file of the crate with this `Cargo.toml`, from the messages of cargo.
fn find(messages: &str, manifest: &Path, target: Target<'_>) -> Option<PathBuf> {
    let artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["manifest_path"].as_str().map(Path::new) == Some(manifest));
    let file = |message: Value| match target {
        Target::Library => {
            let files = message["filenames"].as_array();
            let files = files.filter(|_| is_of_kind(&message, "cdylib"))?;
            let library = |path: &PathBuf| path.extension().is_some_and(|e| e == DLL_EXTENSION);
            files.iter().filter_map(Value::as_str).map(PathBuf::from).find(library)
        }
        Target::Program(name) => {
            let is_it = is_of_kind(&message, "bin") && message["target"]["name"] == name;
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
        let find = |name| find(&messages, Path::new("/own/Cargo.toml"), Target::Program(name));
        assert_eq!(find("a"), Some("/t/a".into()));
        assert_eq!(find("c"), None);
    }
}
