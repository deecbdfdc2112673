//! Converts between plugins and the messages of the protocol: tools, arguments, replies and errors.
//! Pure.

use std::sync::Arc;

use hotbay::{Error, PluginInfo, Reply, Request};
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool};
use serde_json::{Value, json};

/// A plugin as a tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PluginTool {
    pub(crate) tool: Tool,
    input: InputForm,
}

/// What a plugin gets as its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputForm {
    /// The arguments, as a JSON object.
    Arguments,
    /// The argument `text`. A plugin without a schema takes any text, not an object.
    Text,
}

/// Returns the tool of a plugin. A tool takes an object, so a plugin whose schema accepts none is
/// not a tool.
pub(crate) fn tool_of(plugin: &PluginInfo) -> Option<PluginTool> {
    let (schema, input) = match &plugin.input_schema {
        Some(schema) => (object_schema(schema)?, InputForm::Arguments),
        None => (text_schema(), InputForm::Text),
    };
    let description = plugin.manifest.description().map(|text| text.to_owned().into());
    let name = plugin.name.as_str().to_owned();
    Some(PluginTool { tool: Tool::new_with_raw(name, description, Arc::new(schema)), input })
}

/// Returns a schema whose `type` is `object`, as the protocol requires.
fn object_schema(schema: &Value) -> Option<JsonObject> {
    let mut schema = schema.as_object()?.clone();
    let accepts_objects = match schema.get("type") {
        None => true,
        Some(Value::Array(types)) => types.iter().any(|one| one == "object"),
        Some(one) => one == "object",
    };
    schema.insert("type".to_owned(), "object".into());
    accepts_objects.then_some(schema)
}

fn text_schema() -> JsonObject {
    let schema = json!({
        "type": "object",
        "properties": { "text": { "type": "string" } },
        "required": ["text"],
        "additionalProperties": false,
    });
    let Value::Object(schema) = schema else { return JsonObject::new() };
    schema
}

impl PluginTool {
    /// Returns the request of a call with these arguments.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the tool takes a text and there is none.
    pub(crate) fn request(&self, arguments: JsonObject) -> Result<Request<'static>, Error> {
        match (self.input, arguments.get("text")) {
            (InputForm::Arguments, _) => Request::json(&arguments),
            (InputForm::Text, Some(Value::String(text))) => {
                Ok(Request::owned(text.clone().into_bytes()).with_content_type("text/plain"))
            }
            (InputForm::Text, _) => {
                Err(Error::invalid_input("the argument `text` must be a string"))
            }
        }
    }
}

/// Returns the result of a call: the text of the reply, and its value if it is JSON.
pub(crate) fn result_of(reply: Result<Reply, Error>) -> CallToolResult {
    let text = reply.and_then(|reply| {
        let value = is_json(reply.content_type()).then(|| reply.json::<Value>()).transpose()?;
        Ok((reply.as_text()?.to_owned(), value))
    });
    match text {
        Ok((text, value)) => {
            let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
            result.structured_content = value;
            result
        }
        Err(error) => result_of_error(&error),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence == "application/json" || essence.ends_with("+json")
}

/// Returns the result of a failed call: a text for the model, and the fields of the error.
fn result_of_error(error: &Error) -> CallToolResult {
    let plugin_error = error.plugin_error();
    let text = match (plugin_error, error.hint()) {
        // The plugin's own words, for which the host has no advice.
        (Some(own), _) => format!("error {}: {}", own.code(), own.message()),
        (None, Some(hint)) => format!("{}: {}\nhint: {hint}", error.kind(), error.full_message()),
        (None, None) => format!("{}: {}", error.kind(), error.full_message()),
    };
    let mut fields = json!({
        "kind": error.kind().as_str(),
        "message": error.full_message(),
        "retryable": error.is_retryable(),
    });
    if let Some(own) = plugin_error {
        fields["code"] = own.code().into();
        fields["message"] = own.message().into();
        fields["details"] = own.details().cloned().unwrap_or_default();
    }
    let mut result = CallToolResult::error(vec![ContentBlock::text(text)]);
    result.structured_content = Some(fields);
    result
}
