//! Files by their text: values, places, includes, references, and each mistake.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::{Environment, HostFile, HostLimit, HostSettings};
use crate::error::ManifestError;
use crate::{Checker, PluginName, Sandbox, SignaturePolicy};

/// Reads `hotbay.toml` from files that exist in memory only.
fn read_from(files: &[(&str, &str)]) -> Result<HostFile, ManifestError> {
    let files: BTreeMap<_, _> =
        files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    let read = |path: &Path| {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        files.get(&super::normalized(path)).cloned().ok_or_else(missing)
    };
    let variable = |name: &str| match name {
        "USER" => Some("ada".into()),
        #[cfg(unix)]
        "LATIN" => Some(std::os::unix::ffi::OsStringExt::from_vec(vec![b'a', 0xe9])),
        _ => None,
    };
    HostFile::read("etc/hotbay.toml".as_ref(), &Environment { read: &read, variable: &variable })
}

fn read(text: &str) -> Result<HostSettings, String> {
    let read = read_from(&[("etc/hotbay.toml", text), ("etc/secret", "hunter2\n")]);
    read.map(|file| file.typed()).map_err(|error| error.to_string())
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(read(text).unwrap_err(), expected);
}

const FULL: &str = r#"
plugin_dirs = ["plugins", "/opt/${USER}/plugins"]
staging_dir = "staging"
default_deadline = "1.5s"
environment = ["TZ"]

[trust]
allow_unverified = true
allow_writable_by_others = false

[reload]
watch = true
poll_interval = "2s"
unload_removed = false

[limits]
max_workers = 4
max_input_bytes = 0x10_0000
queue_timeout = "100ms"
max_process_descriptors = "none"

[quarantine]
enabled = true
max_faults = 3
window = "1m"

[permissions]
default = ["log", "call:*"]

[providers]
"key-value" = ["storage", "memory"]

[plugins.storage]
enabled = true
permissions = ["*"]
limits = { workers = 2, deadline_ms = 500 }

[plugins.storage.config]
file = "data.db"
token = "Bearer ${file:secret}"
nested = { list = ["${USER}", 1, 1.5, true], empty = {} }

[plugins.second]
folder = "plugins/storage"
"#;

#[test]
fn all_values_are_read() {
    let found = read(FULL).unwrap();
    let dirs = ["etc/plugins", "/opt/ada/plugins"].map(PathBuf::from);
    assert_eq!(found.plugin_dirs.as_deref(), Some(&dirs[..]));
    assert_eq!(found.staging_dir, Some("etc/staging".into()));
    assert_eq!(found.default_deadline, Some(Duration::from_millis(1500)));
    assert_eq!(found.environment, ["TZ"]);
    assert_eq!(found.allow_unverified, Some(true));
    assert_eq!(found.allow_writable_by_others, Some(false));
    assert_eq!((found.watch, found.unload_removed), (Some(true), Some(false)));
    assert_eq!(found.poll_interval, Some(Duration::from_secs(2)));
    let limits = [
        ("max_input_bytes", HostLimit::Number(1 << 20)),
        ("max_process_descriptors", HostLimit::None),
        ("max_workers", HostLimit::Number(4)),
        ("queue_timeout", HostLimit::Time(Duration::from_millis(100))),
    ];
    let found_limits = found.limits.iter().map(|(name, limit)| (name.as_str(), *limit));
    assert!(found_limits.eq(limits), "{:?}", found.limits);
    assert_eq!(found.quarantine_enabled, Some(true));
    assert_eq!(found.quarantine["max_faults"], HostLimit::Number(3));
    assert_eq!(found.quarantine["window"], HostLimit::Time(Duration::from_secs(60)));
    assert_eq!(found.permissions.unwrap(), ["log", "call:*"]);
    let providers = ["storage", "memory"].map(|name| PluginName::new(name).unwrap());
    assert_eq!(found.providers["key-value"], providers);
    let storage = &found.plugins[&PluginName::new("storage").unwrap()];
    assert_eq!(storage.enabled, Some(true));
    assert_eq!(storage.permissions.as_deref(), Some(&["*".to_owned()][..]));
    assert_eq!(storage.limits.workers, Some(2));
    assert_eq!(storage.limits.deadline, Some(Duration::from_millis(500)));
    let config = json!({
        "file": "data.db",
        "token": "Bearer hunter2",
        "nested": { "list": ["ada", 1, 1.5, true], "empty": {} },
    });
    assert_eq!(serde_json::Value::from(storage.config.clone()), config);
    let second = &found.plugins[&PluginName::new("second").unwrap()];
    assert_eq!(second.folder, Some("etc/plugins/storage".into()));
    assert_eq!(read("").unwrap(), HostSettings::default());
}

#[test]
fn each_value_has_its_place_and_secrets_are_marked() {
    let file = read_from(&[("etc/hotbay.toml", FULL), ("etc/secret", "hunter2\n")]).unwrap();
    let place = |path: &str| {
        let path: Vec<_> = path.split('.').collect();
        let setting = file.settings().find(|setting| setting.path == path).expect("a value");
        (setting.origin.line, setting.origin.column, setting.is_secret)
    };
    assert_eq!(place("plugin_dirs"), (2, 15, false));
    assert_eq!(place("limits.max_workers"), (17, 15, false));
    assert_eq!(place("plugins.storage.limits.workers"), (36, 22, false));
    assert_eq!(place("plugins.storage.config.file"), (39, 8, false));
    assert_eq!(place("plugins.storage.config.token"), (40, 9, true));
    assert_eq!(place("plugins.storage.config.nested.list"), (41, 19, true));
    assert!(!format!("{file:?}").contains("hunter2"));
}

#[test]
fn later_files_replace_values_of_earlier_ones() {
    let file = read_from(&[
        (
            "etc/hotbay.toml",
            "include = [\"a.toml\", \"d/b.toml\"]\n[plugins.p.config]\nx = 1\ny.z = 1\n",
        ),
        (
            "etc/a.toml",
            "plugin_dirs = [\"a\"]\n[limits]\nmax_workers = 1\n[plugins.p.config]\nx.deep = 2\ny = 2\nw = 2\n",
        ),
        ("etc/d/b.toml", "include = [\"../c.toml\"]\n[limits]\nmax_workers = 2\n"),
        ("etc/c.toml", "plugin_dirs = [\"c\"]\n[limits]\nmax_workers = 3\nmax_queued_calls = 3\n"),
    ])
    .unwrap();
    let found = file.typed();
    assert_eq!(found.limits["max_workers"], HostLimit::Number(2));
    assert_eq!(found.limits["max_queued_calls"], HostLimit::Number(3));
    assert_eq!(found.plugin_dirs.unwrap(), [Path::new("etc/d/../c")]);
    let config = &found.plugins[&PluginName::new("p").unwrap()].config;
    assert_eq!(serde_json::Value::from(config.clone()), json!({ "x": 1, "y": { "z": 1 }, "w": 2 }));
    assert_eq!(file.files().len(), 4);
}

#[test]
fn circular_include_is_an_error() {
    let error = read_from(&[
        ("etc/hotbay.toml", "include = [\"a.toml\"]"),
        ("etc/a.toml", "\ninclude = [\"b.toml\", \"../etc/./hotbay.toml\"]"),
        ("etc/b.toml", ""),
    ]);
    assert_eq!(
        error.unwrap_err().to_string(),
        "etc/a.toml:2:11: `include[1]` is \"etc/../etc/./hotbay.toml\"; expected a file that does \
         not include this one (`etc/hotbay.toml` → `etc/a.toml` → `etc/../etc/./hotbay.toml`)"
    );
    let error = read_from(&[("etc/hotbay.toml", "include = [\"hotbay.toml\"]")]);
    assert!(error.unwrap_err().to_string().contains("does not include this one"));
    // Many files, none of them twice in one chain.
    let names: Vec<_> = (0..100).map(|number| format!("etc/{number}.toml")).collect();
    let texts: Vec<_> = (1..=100).map(|number| format!("include = [\"{number}.toml\"]")).collect();
    let mut files = vec![("etc/hotbay.toml", "include = [\"0.toml\"]")];
    files.extend(names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str())));
    let error = read_from(&files).unwrap_err().to_string();
    assert!(error.ends_with("expected at most 64 included files"), "{error}");
}

#[test]
fn missing_file_is_an_error() {
    check(
        "include = [\"none.toml\"]",
        "etc/hotbay.toml:1:11: `include[0]` is \"etc/none.toml\"; expected the path of a file that \
         can be read: no such file",
    );
    let error = read_from(&[]).unwrap_err().to_string();
    assert_eq!(error, "etc/hotbay.toml: the file cannot be read: no such file");
}

#[test]
fn invalid_toml_is_an_error_with_its_place() {
    check(
        "a = ",
        "etc/hotbay.toml:1:5: the file is not TOML: string values must be quoted, expected literal string",
    );
}

#[test]
fn all_mistakes_are_reported_with_their_places() {
    check(
        "plugin_dirs = \"plugins\"\nplugins_dir = []\n[limits]\nmax_workers = 0\nmax_worker = 1\n\
         drain_timeout = 30\nstart_timeout = \"0s\"\n[trust]\nallow_unverified = \"yes\"\n",
        "etc/hotbay.toml has 7 mistakes:\n  \
         1:15: `plugin_dirs` is \"plugins\"; expected a list of paths\n  \
         2:1: `plugins_dir` is not a known field\n  \
         4:15: `limits.max_workers` is 0; expected at least 1\n  \
         5:1: `limits.max_worker` is not a known field\n  \
         6:17: `limits.drain_timeout` is 30; expected a duration such as `50ms`, `1.5s` or `2m`\n  \
         7:17: `limits.start_timeout` is \"0s\"; expected a duration such as `50ms`, `1.5s` or `2m`\n  \
         9:20: `trust.allow_unverified` is \"yes\"; expected `true` or `false`",
    );
}

#[test]
fn values_of_plugins_are_checked() {
    check(
        "[plugins]\nB = {}\na = 1\n[plugins.c]\nenabled = 1\nfolder = 1\npermissions = [\"LOG\"]\n\
         config = 7\nlimits = { workers = 0, x = 1 }\nother = 1\nisolation = \"thread\"\n",
        "etc/hotbay.toml has 10 mistakes:\n  \
         2:1: `plugins` is \"B\"; expected a plugin's name: a lower-case letter, then at most 63 of \
         `a-z`, `0-9`, `-`\n  \
         3:5: `plugins.a` is 1; expected a table with the settings of the plugin\n  \
         5:11: `plugins.c.enabled` is 1; expected `true` or `false`\n  \
         6:10: `plugins.c.folder` is 1; expected a path\n  \
         7:16: `plugins.c.permissions[0]` is \"LOG\"; expected a permission such as `log` or \
         `contract:key-value`, one that ends in `*` for all that begin so, or `*` for all\n  \
         8:10: `plugins.c.config` is 7; expected a table\n  \
         9:22: `plugins.c.limits.workers` is 0; expected at least 1\n  \
         9:25: `plugins.c.limits.x` is not a known field; expected one of `deadline_ms`, `workers`, \
         `queue`, `in_flight`, `memory_bytes`, `call_memory_bytes`, `input_bytes`, \
         `output_bytes`, `stack_bytes`, `open_streams`\n  \
         10:1: `plugins.c.other` is not a known field; expected one of `enabled`, `folder`, \
         `isolation`, `permissions`, `config`, `replace_config`, `limits`, \
         `sandbox`\n  \
         11:13: `plugins.c.isolation` is \"thread\"; expected `none` or `process`",
    );
}

const SIGNED: &str = r#"
signatures = "required"

[keys.acme]
public_key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
plugins = ["acme-*", "storage", "*"]
expires = "2027-01-31"

[keys.other]
public_key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
"#;

#[test]
fn keys_and_their_policy_are_read() {
    let found = read(SIGNED).unwrap();
    assert_eq!(found.signatures, Some(SignaturePolicy::Required));
    let acme = &found.keys["acme"];
    assert!(acme.public_key.starts_with("RWQf6") && acme.public_key.ends_with("GFO3"));
    assert_eq!(acme.plugins.as_deref(), Some(&["acme-*", "storage", "*"].map(str::to_owned)[..]));
    assert_eq!(acme.expires.as_deref(), Some("2027-01-31"));
    assert_eq!((&found.keys["other"].plugins, &found.keys["other"].expires), (&None, &None));
}

#[test]
fn keys_and_their_policy_are_checked() {
    check(
        "signatures = \"require\"\n[keys]\nB = {}\na = 1\n[keys.c]\npublic_key = \"RWQ\"\n\
         plugins = [\"a*b\", \"a\"]\nexpires = \"2027-02-29\"\nkind = 1\n[keys.d]\nplugins = 1\n",
        "etc/hotbay.toml has 8 mistakes:\n  \
         1:14: `signatures` is \"require\"; expected `required`, `if-present` or `off`\n  \
         3:1: `keys` is \"B\"; expected a key's name: a lower-case letter, then at most 63 of `a-z`, \
         `0-9`, `-`\n  \
         4:5: `keys.a` is 1; expected a table with `public_key`\n  \
         6:14: `keys.c.public_key` is \"RWQ\"; expected a public key of minisign: 56 characters that \
         begin with `RW`\n  \
         7:12: `keys.c.plugins[0]` is \"a*b\"; expected a plugin's name, or the beginning of one and \
         `*`\n  \
         8:11: `keys.c.expires` is \"2027-02-29\"; expected a date such as `2027-01-31`\n  \
         9:1: `keys.c.kind` is not a known field; expected one of `public_key`, `plugins`, `expires`\n  \
         11:11: `keys.d.plugins` is 1; expected a list of names of plugins such as `storage`, or \
         beginnings of names and `*`, such as `acme-*`",
    );
}

#[test]
fn missing_variable_and_invalid_reference_are_errors() {
    check(
        "[plugins.p.config]\na = \"${NONE}\"\nb = [\"${\"]\nc = \"${file:none}\"",
        "etc/hotbay.toml has 3 mistakes:\n  \
         2:5: `plugins.p.config.a` is \"${NONE}\"; expected a value for the variable `NONE`: set it, \
         or write `${NONE:-DEFAULT}`\n  \
         3:5: `plugins.p.config.b` is a list; expected a `}` after `${`, or `$${` for the text `${`\n  \
         4:5: `plugins.p.config.c` is \"${file:none}\"; expected the text of the file `none`: no such \
         file",
    );
}

/// It is not taken as one that is not set, for which there may be another text.
#[cfg(unix)]
#[test]
fn variable_that_is_not_text_is_an_error() {
    check(
        "[plugins.p.config]\na = \"${LATIN:-other}\"",
        "etc/hotbay.toml:2:5: `plugins.p.config.a` is \"${LATIN:-other}\"; expected UTF-8 text as \
         the value of the variable `LATIN`",
    );
}

#[test]
fn shipped_schema_and_parser_accept_the_same_files() {
    let checker = Checker::new(&HostFile::json_schema(), None).unwrap();
    let check = |text: &str, is_valid: bool| {
        let table: toml::de::DeValue<'_> =
            toml::de::DeValue::Table(toml::de::DeTable::parse(text).unwrap().into_inner());
        let value = json_of(&table);
        assert_eq!(checker.check(&value, None).is_ok(), is_valid, "schema: {text}");
        assert_eq!(read(text).is_ok(), is_valid, "parser: {text}");
    };
    check(FULL, true);
    check("", true);
    check("[limits]\nmax_in_flight = \"none\"\nprocess_idle_timeout = \"none\"", true);
    check("[limits]\nmax_in_flight = 0", false);
    check("[limits]\nmax_in_flight = \"all\"", false);
    check("[limits]\nmax_workers = \"none\"", false);
    check("[limits]\nmax_workers = 4294967296", false);
    check("[limits]\ndrain_timeout = \"soon!\"", false);
    check("[quarantine]\nmax_faults = 0", false);
    check("[reload]\nwatch = 1", false);
    check("[providers]\na = [\"B\"]", false);
    check("[providers]\na = \"b\"", false);
    check("[permissions]\ndefault = [\"*\", \"call:a\", \"db:*\", \"call:*\"]", true);
    check("[permissions]\ndefault = [\"\"]", false);
    check("[permissions]\nothers = []", false);
    check(SIGNED, true);
    check("signatures = \"off\"", true);
    check("signatures = true", false);
    check("[keys.a]\npublic_key = \"RWQ\"", false);
    check("[keys.A]", false);
    check("[plugins.A]", false);
    check("[plugins]\na = []", false);
    check("include = \"a\"", false);
    check("plugin_dirs = [\"\"]", false);
    check("signature = {}", false);
    check("[sandbox]\nrequired = true\nstate_dir = \"state\"\nread = [\"/usr\"]", true);
    check("[sandbox]\nnamespaces = true\n[plugins.a.sandbox]\nnamespaces = false", true);
    check("[sandbox]\nnamespaces = \"yes\"", false);
    check("[sandbox]\npreset = \"python\"", false);
    check("[sandbox.net]\nconnect = [443, \"127.0.0.1:5432\"]", true);
    check("[sandbox.net]\nconnect = [\"example.org:443\"]", false);
    check("[plugins.a.sandbox]\npreset = \"node\"\nread = [\"{plugin}\"]", true);
    check("[plugins.a.sandbox]\nread = [\"usr\"]", false);
    check("[plugins.a.sandbox]\nread = [\"/usr/../etc\"]", false);
    check("[plugins.a.sandbox.limits]\ncpu = 0.5\nprocesses = 1", true);
    check("[plugins.a.sandbox.limits]\ncpu = 0.0", false);
}

#[test]
fn empty_section_of_a_sandbox_confines_and_grants_no_ports() {
    let plugin = |text: &str| {
        let typed = read(text).expect("valid");
        typed.plugins.get("a").and_then(|plugin| plugin.sandbox.clone())
    };
    assert_eq!(plugin("[plugins.a]\nenabled = true"), None);
    for text in ["[plugins.a.sandbox]", "plugins.a.sandbox.limits = {}"] {
        assert_eq!(plugin(text), Some(Sandbox::default()), "{text}");
    }
    let no_ports = |sandbox: Sandbox| sandbox.with_connect(Some(vec![])).with_listen(Some(vec![]));
    assert_eq!(plugin("[plugins.a.sandbox]\nnet = {}"), Some(no_ports(Sandbox::default())));
    let bounds = |text: &str| read(text).expect("valid").sandbox;
    assert_eq!(bounds("[sandbox]"), None);
    assert_eq!(bounds("[sandbox]\nnet = {}"), Some(no_ports(Sandbox::default())));
    for (field, ports) in [("connect", "[443]"), ("listen", "[0]")] {
        let found = bounds(&format!("[sandbox.net]\n{field} = {ports}")).expect("bounds");
        let other = if field == "connect" { found.listen } else { found.connect };
        assert_eq!(other, Some(vec![]), "{field}");
    }
    // It changes no values of an included file.
    let files = [
        ("etc/hotbay.toml", "include = [\"a.toml\"]\n[plugins.a.sandbox]\n[sandbox.net]"),
        ("etc/a.toml", "[plugins.a.sandbox]\nread = [\"/usr\"]\n[sandbox]\nnet.connect = [443]"),
    ];
    let typed = read_from(&files).expect("valid").typed();
    let [found] = typed.plugins.values().collect::<Vec<_>>()[..] else { panic!("one plugin") };
    let expected = Sandbox::default().with_read(Some(vec!["/usr".to_owned()]));
    assert_eq!(found.sandbox, Some(expected));
    assert_eq!(typed.sandbox, Some(no_ports(Sandbox::default())));
}

/// Converts TOML to JSON, as editors do that check a file against the schema.
fn json_of(value: &toml::de::DeValue<'_>) -> serde_json::Value {
    use toml::de::DeValue;
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).unwrap().into()
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().unwrap().into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(list) => list.iter().map(|value| json_of(value.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), json_of(value.get_ref())))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}
