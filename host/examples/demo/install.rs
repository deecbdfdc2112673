//! Installs instances of built plugins, each with its name and config, and changes or damages them.
//! Loads nothing.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Outcome;

/// Copies the built plugin `package`, with another name and config in its manifest.
pub(crate) fn install(
    root: &Path,
    built: &Path,
    name: &str,
    package: &str,
    config: Value,
) -> Outcome<()> {
    let from = built.join(package);
    let folder = root.join(name);
    fs::create_dir(&folder)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    edit(&folder, |fields| {
        fields["name"] = name.into();
        fields["package"] = package.into();
        fields["config"] = config;
    })
}

/// Changes the config of an instance.
pub(crate) fn configure(root: &Path, name: &str, config: Value) -> Outcome<()> {
    edit(&root.join(name), |fields| fields["config"] = config)
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) -> Outcome<()> {
    let manifest = folder.join("plugin.json");
    let mut fields: Value = serde_json::from_str(&fs::read_to_string(&manifest)?)?;
    change(&mut fields);
    fs::write(manifest, serde_json::to_string_pretty(&fields)?)?;
    Ok(())
}

/// Truncates the library of an instance to half its length, like an unfinished copy.
pub(crate) fn truncate(root: &Path, name: &str) -> Outcome<()> {
    let folder = root.join(name);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == std::env::consts::DLL_EXTENSION) {
            let length = fs::metadata(&path)?.len();
            fs::File::options().write(true).open(path)?.set_len(length / 2)?;
        }
    }
    Ok(())
}
