//! Errors for plugins that are not serving.

use super::registry::{Entries, Stage};
use super::shutting_down;
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;

/// Returns the error for a plugin that does not serve: it is being loaded or unloaded, or unknown,
/// or the host was shut down.
pub(super) fn not_serving(name: &str, entries: &Entries) -> Error {
    if entries.is_closed {
        return shutting_down();
    }
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
    let hint = nearest(name, names, "loaded plugins");
    let hint = hint.unwrap_or_else(|| "no plugin is loaded".to_owned());
    let error = match PluginName::new(name) {
        Ok(name) => Error::new(ErrorKind::NotFound, "not found").of(&name),
        Err(_) => Error::new(ErrorKind::NotFound, format!("plugin `{name}` not found")),
    };
    error.with_hint(hint)
}

/// Returns a hint for a name that is not among `known`: the nearest one, or the first ones after
/// `label`. `None` if `known` is empty.
pub(super) fn nearest<'n>(
    name: &str,
    known: impl Iterator<Item = &'n str> + Clone,
    label: &str,
) -> Option<String> {
    if let Some(near) = hotbay_manifest::nearest(name, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let names: Vec<_> = known.take(8).collect();
    (!names.is_empty()).then(|| format!("{label}: `{}`", names.join("`, `")))
}
