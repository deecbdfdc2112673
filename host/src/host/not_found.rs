//! Errors for plugins that do not serve.

use super::registry::{Entries, Stage};
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;

/// Returns the error for a plugin that does not serve: it is being loaded or unloaded, or unknown.
pub(super) fn not_serving(name: &str, entries: &Entries) -> Error {
    let Some(entry) = entries.by_name.get(name) else { return not_found(name, entries) };
    let message = match entry.stage {
        Stage::Unloading => "is being unloaded",
        // Includes a plugin that started to serve after the caller's check.
        Stage::Loading | Stage::Serving { .. } => "is still being loaded",
    };
    Error::new(ErrorKind::NotFound, message).of(entry.manifest.name())
}

fn not_found(name: &str, entries: &Entries) -> Error {
    let names = entries.by_name.keys().map(PluginName::as_str);
    let near = names.map(|known| (strsim::damerau_levenshtein(known, name), known));
    let near = near.filter(|(distance, _)| *distance <= 1 + name.len() / 4).min();
    let hint = match near {
        Some((_, near)) => format!("did you mean `{near}`?"),
        None if entries.by_name.is_empty() => "no plugin is loaded".to_owned(),
        None => {
            let names: Vec<_> = entries.by_name.keys().take(8).map(PluginName::as_str).collect();
            format!("loaded plugins: `{}`", names.join("`, `"))
        }
    };
    let error = match PluginName::new(name) {
        Ok(name) => Error::new(ErrorKind::NotFound, "not found").of(&name),
        Err(_) => Error::new(ErrorKind::NotFound, format!("plugin `{name}` not found")),
    };
    error.with_hint(hint)
}
