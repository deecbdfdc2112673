//! The errors for a plugin that is called or named and does not serve.

use super::registry::{Entries, Stage};
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;

/// Returns the error for a plugin that does not serve: it is on its way in or out, or unknown.
pub(super) fn not_serving(name: &str, entries: &Entries) -> Error {
    let Some(entry) = entries.by_name.get(name) else { return not_found(name, entries) };
    let message = match entry.stage {
        Stage::Unloading => "is being unloaded",
        // One that began to serve after the caller looked counts as loading, too.
        Stage::Loading | Stage::Serving { .. } => {
            "is being loaded; it can be called once that is done"
        }
    };
    Error::new(ErrorKind::NotFound, message).of(entry.manifest.name())
}

fn not_found(name: &str, entries: &Entries) -> Error {
    let names = entries.by_name.keys().map(PluginName::as_str);
    let near = names.map(|known| (strsim::damerau_levenshtein(known, name), known));
    let near = near.filter(|(distance, _)| *distance <= 1 + name.len() / 4).min();
    let message = match near {
        Some((_, near)) => format!("is not there; is it `{near}`?"),
        None if entries.by_name.is_empty() => "is not there; no plugin is loaded".to_owned(),
        None => {
            let names: Vec<_> = entries.by_name.keys().take(8).map(PluginName::as_str).collect();
            format!("is not there; there are {}", names.join(", "))
        }
    };
    match PluginName::new(name) {
        Ok(name) => Error::new(ErrorKind::NotFound, message).of(&name),
        Err(_) => Error::new(ErrorKind::NotFound, format!("a plugin `{name}` {message}")),
    }
}
