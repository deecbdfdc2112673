//! Plugins as instances: copies of built ones with names and configs of their own, changed and
//! broken on purpose. Loads nothing.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Outcome;

/// Installs an instance: the built library under its manifest with another name and config.
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

/// Gives an installed instance another config, as an operator would.
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

/// Cuts the library of an instance in half, as a build that is being copied would be.
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
