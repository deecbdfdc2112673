//! Generates `MANIFEST.md`, the reference of `plugin.json`, from the table of fields. Only its test
//! uses it.

use std::fmt::Write as _;

use super::fields::{
    Field, LIMITS, MANIFEST, MAPPED, NET, PROVIDED, Presence, SANDBOX, SANDBOX_LIMITS, Shape,
};

/// A manifest that shows the usual fields. A test parses it.
const EXAMPLE: &str = r#"{
  "$schema": "plugin.schema.json",
  "name": "greet",
  "version": "0.1.0",
  "api": "^1.0",
  "library": "greet",
  "config": { "greeting": "Hello" },
  "config_schema": {
    "type": "object",
    "properties": { "greeting": { "type": "string", "minLength": 1 } },
    "additionalProperties": false
  },
  "limits": { "workers": 2, "deadline_ms": 500 },
  "permissions": ["log"]
}"#;

/// Returns the reference as Markdown.
fn reference() -> String {
    let mut text = String::from(
        "# plugin.json\n\n\
         Every plugin is a folder with a `plugin.json`, its *manifest*: strict JSON of at most 1 MiB. \
         Unknown fields are errors, except `$schema` and those that start with `x-`, which are for \
         other tools. [plugin.schema.json](plugin.schema.json) is its JSON Schema; an editor that \
         finds it through `$schema` completes and checks the file. This page and the schema are \
         generated from one table.\n\n",
    );
    let _ = write!(text, "```json\n{EXAMPLE}\n```\n\n## Fields\n\n");
    table(&mut text, MANIFEST);
    text.push_str("\n## Entries of `provides`\n\n");
    table(&mut text, PROVIDED);
    text.push_str("\n## Entries of `methods` in `provides`\n\n");
    table(&mut text, MAPPED);
    text.push_str(
        "\n## Fields of `limits`\n\n\
         The host's own limit applies if a field is missing, and bounds the fields that are set.\n\n",
    );
    table(&mut text, LIMITS);
    text.push_str("\n## Fields of `sandbox`\n\n");
    table(&mut text, SANDBOX);
    text.push_str("\n## Fields of `sandbox.net`\n\n");
    table(&mut text, NET);
    text.push_str("\n## Fields of `sandbox.limits`\n\n");
    table(&mut text, SANDBOX_LIMITS);
    text
}

pub(crate) fn table(text: &mut String, fields: &[Field]) {
    text.push_str("| field | value | presence | meaning |\n|---|---|---|---|\n");
    for field in fields {
        let cells = [
            format!("`{}`", field.name),
            field.expected.to_owned(),
            presence(&field.presence),
            bounds(&field.shape, field.doc),
        ];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}

fn presence(presence: &Presence) -> String {
    match presence {
        Presence::Required => "required".to_owned(),
        Presence::Optional => "optional".to_owned(),
        Presence::Default(value) => format!("default `{value}`"),
        Presence::OnlyFor(kind) => format!("only for kind `{kind}`"),
        Presence::RequiredFor(kind) => format!("required for kind `{kind}`"),
    }
}

fn bounds(shape: &Shape, doc: &str) -> String {
    match shape {
        Shape::Number { min, .. } if *min > 0 => format!("{doc} At least {min}."),
        _ => doc.to_owned(),
    }
}

#[test]
fn shipped_reference_matches_the_table() {
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/MANIFEST.md");
    let generated = reference();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(FILE, &generated).unwrap();
    }
    let shipped = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(shipped == generated, "run this test with UPDATE_SCHEMA=1, then check {FILE}");
    super::Manifest::parse(EXAMPLE, FILE.as_ref()).unwrap();
}
