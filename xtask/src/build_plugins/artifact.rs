//! Has cargo build one plugin's library and finds out where it lies.
//! One call a plugin: building several at once would unify their features.

use std::env::consts::DLL_EXTENSION;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::cargo;
use crate::workspace::{Package, Workspace};

/// Builds the library of `package` into the target folder of `workspace`.
pub(super) fn build(
    workspace: &Workspace,
    package: &Package,
    release: bool,
) -> anyhow::Result<PathBuf> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["build", "--package", &package.name, "--lib"]);
    command.arg("--message-format=json-render-diagnostics");
    command.arg("--manifest-path").arg(&package.manifest);
    command.arg("--target-dir").arg(&workspace.target);
    if release {
        command.arg("--release");
    }
    let output = cargo::output(&mut command)?;
    // Cargo has told why.
    let (name, status) = (&package.name, output.status);
    ensure!(status.success(), "`cargo build --package {name}` ended with {status}");
    find(&String::from_utf8_lossy(&output.stdout), &package.manifest).with_context(|| {
        format!(
            "cargo built no cdylib; `{}` wants `crate-type = [\"cdylib\", \"rlib\"]` under [lib]",
            workspace.told(&package.manifest)
        )
    })
}

/// The file that cargo's messages name as the cdylib of the crate with this `Cargo.toml`.
fn find(messages: &str, manifest: &Path) -> Option<PathBuf> {
    let artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["manifest_path"].as_str().map(Path::new) == Some(manifest))
        .filter(|message| {
            message["target"]["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
        });
    artifacts
        .filter_map(|message| {
            let files = message["filenames"].as_array()?;
            let library = |path: &PathBuf| path.extension().is_some_and(|e| e == DLL_EXTENSION);
            files.iter().filter_map(Value::as_str).map(PathBuf::from).find(library)
        })
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cdylib_of_the_asked_crate_is_taken() {
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
        let found = find(&messages, Path::new("/own/Cargo.toml")).unwrap();
        assert_eq!(found, PathBuf::from(format!("/t/libown.{DLL_EXTENSION}")));
        assert_eq!(find(&messages, Path::new("/none/Cargo.toml")), None);
    }
}
