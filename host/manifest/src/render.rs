//! Renders a `Manifest` as JSON. Does not keep the author's layout.

use serde_json::{Map, Value, json};

use super::words::{Handover, SocketType, Unload};
use super::{ConfigSchema, Manifest};

impl Manifest {
    /// Returns the manifest as in `plugin.json`, without the fields that have their default.
    ///
    /// [`Manifest::parse`] reads its text as an equal manifest.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            object.extend(value.map(|value| (name.to_owned(), value)));
        };
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        put("name", Some(self.name.as_str().into()));
        put("package", Some(self.package.as_str().into()));
        put("version", Some(self.version.to_string().into()));
        put("api", Some(self.api.to_string().into()));
        put("kind", Some(self.kind.as_str().into()));
        put("library", text(&self.library));
        put("command", non_empty(self.command.as_slice().into()));
        let socket_type = self.socket_type;
        let is_default = socket_type == SocketType::default();
        put("type", (!is_default).then(|| socket_type.as_str().into()));
        put("description", text(&self.description));
        put("authors", non_empty(self.authors.as_slice().into()));
        put("license", text(&self.license));
        put("homepage", text(&self.homepage));
        put("config", non_empty(self.config.clone()));
        for (name, schema) in self.schemas() {
            put(name, schema.map(json_of));
        }
        put("provides", non_empty(self.provides()
            .iter()
            .map(|entry| json!({ "contract": entry.contract, "version": entry.version.to_string() }))
            .collect()));
        put(
            "requires",
            non_empty(
                self.requires
                    .iter()
                    .map(|(name, accepted)| (name.to_string(), accepted.to_string()))
                    .collect(),
            ),
        );
        put(
            "limits",
            non_empty(
                self.limits
                    .entries()
                    .into_iter()
                    .filter_map(|(name, number)| Some((name.to_owned(), Value::from(number?))))
                    .collect(),
            ),
        );
        let handover = self.handover;
        put("handover", (handover != Handover::default()).then(|| handover.as_str().into()));
        let unload = self.unload;
        put("unload", (unload != Unload::default()).then(|| unload.as_str().into()));
        put("permissions", non_empty(self.permissions.iter().map(String::as_str).collect()));
        put("sha256", self.sha256.map(|digest| digest.to_string().into()));
        put("length", self.length.map(Value::from));
        Value::Object(object)
    }
}

/// Returns `None` for an empty list or object.
fn non_empty(value: Value) -> Option<Value> {
    let empty =
        value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    (!empty).then_some(value)
}

fn json_of(schema: &ConfigSchema) -> Value {
    match schema {
        ConfigSchema::Inline(schema) => schema.clone(),
        ConfigSchema::File(file) => file.as_str().into(),
    }
}
