//! Generates `HOTBAY_TOML.md`, the reference of `hotbay.toml`, and its schema. Only the tests here use
//! it.

use super::HostFile;
use super::fields::{
    HOST_FILE, HOST_LIMITS, HOST_SANDBOX, PERMISSIONS, PLUGIN, QUARANTINE, RELOAD, TRUST,
};
use super::keys::KEY;
use crate::fields::{LIMITS, SANDBOX};
use crate::reference::table;

/// A file that shows the usual fields. A test parses it.
const EXAMPLE: &str = r#"plugin_dirs = ["target/plugins"]
default_deadline = "5s"

[limits]
max_workers = 4
drain_timeout = "10s"

[permissions]
default = ["log"]

[providers]
"key-value" = ["storage"]

[plugins.storage]
permissions = ["log", "contract:audit"]
config = { file = "data/main.db" }

[plugins.archive]    # another instance of the same plugin
folder = "target/plugins/storage"
config = { file = "${ARCHIVE:-data/archive.db}" }
"#;

fn reference() -> String {
    let mut text = String::from(
        "# hotbay.toml\n\n\
         The configuration of a host. `hotbay` reads it from the current folder, or from the path that \
         `--config` names; an application from the path that it passes to `HostBuilder::config_file`. \
         Unknown fields are errors, except those that start with `x-`. \
         [hotbay.schema.json](hotbay.schema.json) is its JSON Schema, for editors. This page and the \
         schema are generated from one table.\n\n",
    );
    text.push_str(&format!("```toml\n{EXAMPLE}```\n\n"));
    text.push_str(
        "`hotbay config check` reports all mistakes of the file, and `hotbay config show` prints the \
         effective values and the place that sets each. While a host watches the file \
         (`hotbay run --watch`), changes of `plugins`, of `permissions` and of the bounds in `sandbox` are applied, and a change of \
         any other field is reported, since it needs a restart.\n\n\
         Permissions limit what a plugin can ask the host for, and `hotbay inspect` shows which of them \
         a plugin has and why. They do not confine its code: a library runs in the process of the \
         host, and can do whatever that process can, so load only libraries that you trust.\n\n\
         ## Fields\n\n",
    );
    table(&mut text, HOST_FILE);
    for (name, fields) in [
        ("Fields of an entry of `plugins`", PLUGIN),
        ("Fields of `permissions`", PERMISSIONS),
        ("Fields of an entry of `keys`", KEY),
        ("Fields of `reload`", RELOAD),
        ("Fields of `trust`", TRUST),
        ("Fields of `quarantine`", QUARANTINE),
        ("Fields of `sandbox`", HOST_SANDBOX),
        ("Fields of `sandbox` of a plugin", SANDBOX),
        ("Fields of `limits`, for the whole host", HOST_LIMITS),
        ("Fields of `limits` of a plugin", LIMITS),
    ] {
        text.push_str(&format!("\n## {name}\n\n"));
        table(&mut text, fields);
    }
    text
}

#[test]
fn shipped_reference_and_schema_match_the_table() {
    let schema = format!("{:#}\n", HostFile::json_schema());
    for (file, generated) in [("HOTBAY_TOML.md", reference()), ("hotbay.schema.json", schema)] {
        let file = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&file, &generated).unwrap();
        }
        let shipped = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(shipped == generated, "run this test with UPDATE_SCHEMA=1, then check {file}");
    }
    let environment = super::Environment { read: &|_| Ok(EXAMPLE.to_owned()), variable: &|_| None };
    HostFile::read("hotbay.toml".as_ref(), &environment).unwrap();
}
