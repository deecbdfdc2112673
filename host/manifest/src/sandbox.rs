//! The section `sandbox` of `plugin.json` and of `hotbay.toml`: what a program may do, in the words
//! of the file. What its paths mean on a machine, and what a kernel can enforce, is decided later.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::fields::{Field, Presence, Shape, field, number};
use super::rules::Expected;
use super::setters;
use super::words::{Preset, SandboxRule};

/// What a program may do. Everything that a rule does not list is denied.
///
/// In a manifest, `None` and an empty list are equal. In the host's policy, `None` sets no bound.
///
/// ```
/// # use std::path::Path;
/// use hotbay::Manifest;
///
/// let text = r#"{ "name": "fetch", "version": "0.1.0", "api": "^1.0",
///     "kind": "process", "command": ["fetch.py"],
///     "sandbox": { "preset": "python", "write": ["{state}"], "net": { "connect": [443] } } }"#;
/// let manifest = Manifest::parse(text, Path::new("plugin.json"))?;
/// let sandbox = manifest.sandbox().expect("the section");
/// assert_eq!(sandbox.write, Some(vec!["{state}".to_owned()]));
/// assert_eq!(sandbox.connect.as_ref().map(Vec::len), Some(1));
/// # Ok::<(), hotbay::ManifestError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sandbox {
    /// Adds what a usual program of this kind needs to start.
    pub preset: Option<Preset>,
    /// Files and folders that can be read: absolute paths, or such that begin with a placeholder.
    pub read: Option<Vec<String>>,
    /// Files and folders that can be read and changed.
    pub write: Option<Vec<String>>,
    /// Programs that can be executed: paths, or names that are searched in `PATH`.
    pub run: Option<Vec<String>>,
    /// Ports that can be connected to.
    pub connect: Option<Vec<NetRule>>,
    /// TCP ports that can be listened on.
    pub listen: Option<Vec<NetRule>>,
    /// Variables of the host's environment, besides `PATH` and those of the locale.
    pub env: Option<Vec<String>>,
    /// Limits of its processes.
    pub limits: SandboxLimits,
    /// Rules without which the program must not run.
    pub require: BTreeSet<SandboxRule>,
}

setters!(Sandbox {
    with_preset => preset: Option<Preset>,
    with_read => read: Option<Vec<String>>,
    with_write => write: Option<Vec<String>>,
    with_run => run: Option<Vec<String>>,
    with_connect => connect: Option<Vec<NetRule>>,
    with_listen => listen: Option<Vec<NetRule>>,
    with_env => env: Option<Vec<String>>,
    with_limits => limits: SandboxLimits,
    with_require => require: BTreeSet<SandboxRule>,
});

/// Limits of the processes of a program. `None` sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SandboxLimits {
    /// Maximum memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Maximum number of processes. 1 means that it cannot start any.
    pub processes: Option<u64>,
    /// Maximum processor time per second of wall-clock time, in milliseconds: 1000 is one processor.
    pub cpu_millis: Option<u64>,
    /// Maximum processor time in total, in seconds.
    pub cpu_seconds: Option<u64>,
    /// Maximum number of open files of each process.
    pub open_files: Option<u64>,
    /// Maximum size of a file that it writes, in bytes.
    pub file_bytes: Option<u64>,
}

setters!(SandboxLimits {
    with_memory_bytes => memory_bytes: Option<u64>,
    with_processes => processes: Option<u64>,
    with_cpu_millis => cpu_millis: Option<u64>,
    with_cpu_seconds => cpu_seconds: Option<u64>,
    with_open_files => open_files: Option<u64>,
    with_file_bytes => file_bytes: Option<u64>,
});

impl SandboxLimits {
    /// Returns the lower one of each limit.
    #[must_use]
    pub fn min(self, other: &Self) -> Self {
        let min = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            memory_bytes: min(self.memory_bytes, other.memory_bytes),
            processes: min(self.processes, other.processes),
            cpu_millis: min(self.cpu_millis, other.cpu_millis),
            cpu_seconds: min(self.cpu_seconds, other.cpu_seconds),
            open_files: min(self.open_files, other.open_files),
            file_bytes: min(self.file_bytes, other.file_bytes),
        }
    }

    /// Returns each limit with the rule that it belongs to.
    pub fn entries(&self) -> [(SandboxRule, Option<u64>); 6] {
        [
            (SandboxRule::MemoryBytes, self.memory_bytes),
            (SandboxRule::Processes, self.processes),
            (SandboxRule::Cpu, self.cpu_millis),
            (SandboxRule::CpuSeconds, self.cpu_seconds),
            (SandboxRule::OpenFiles, self.open_files),
            (SandboxRule::FileBytes, self.file_bytes),
        ]
    }

    fn set(&mut self, name: &str, value: &Value) {
        let number = value.as_u64();
        match name {
            "memory_bytes" => self.memory_bytes = number,
            "processes" => self.processes = number,
            "cpu" => self.cpu_millis = value.as_f64().and_then(share_millis),
            "cpu_seconds" => self.cpu_seconds = number,
            "open_files" => self.open_files = number,
            "file_bytes" => self.file_bytes = number,
            _ => debug_assert!(false, "limit `{name}` is in the table but not here"),
        }
    }
}

/// A port, and the address that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct NetRule {
    /// Whether it is a UDP port. Kernels restrict no UDP ports, so it permits all of them.
    pub udp: bool,
    /// The only address; `None` means any. Kernels check the port only.
    pub address: Option<IpAddr>,
    /// The port. To listen on port 0 means a free port.
    pub port: u16,
}

impl NetRule {
    /// Returns the TCP port of any address.
    pub const fn tcp(port: u16) -> Self {
        Self { udp: false, address: None, port }
    }

    /// Parses `443`, `127.0.0.1:5432`, `[::1]:5432` or `udp:53`.
    pub fn parse(text: &str) -> Option<Self> {
        let (udp, rest) = match text.strip_prefix("udp:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if let Some(port) = parse_port(rest) {
            return Some(Self { udp, address: None, port });
        }
        let (address, port) = rest.rsplit_once(':')?;
        let address = match address.strip_prefix('[') {
            Some(address) => IpAddr::V6(address.strip_suffix(']')?.parse().ok()?),
            None => IpAddr::V4(address.parse().ok()?),
        };
        Some(Self { udp, address: Some(address), port: parse_port(port)? })
    }

    /// Returns whether this rule, as a bound, includes what `other` permits.
    pub fn includes(&self, other: &Self) -> bool {
        self.udp == other.udp
            && self.port == other.port
            && self.address.is_none_or(|address| other.address == Some(address))
    }

    fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(port) => port.as_u64()?.try_into().ok().map(Self::tcp),
            Value::String(text) => Self::parse(text),
            _ => None,
        }
    }

    fn to_json(self) -> Value {
        match self {
            Self { udp: false, address: None, port } => port.into(),
            _ => self.to_string().into(),
        }
    }
}

impl fmt::Display for NetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.udp {
            f.write_str("udp:")?;
        }
        match self.address {
            None => write!(f, "{}", self.port),
            Some(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

/// Parses a port; unlike `u16::from_str`, without a sign.
fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// A list of the section, whose elements have a form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entries {
    Paths,
    Programs,
    Ports,
    Variables,
    Rules,
}

const PLACEHOLDER_PATTERN: &str = r"^(?!(.*/)?\.\.(/|$))(/|\{(plugin|state|tmp)\}(/|$))";
const PROGRAM_PATTERN: &str = r"^(?!(.*/)?\.\.(/|$))((/|\{(plugin|state|tmp)\}/).*|[^/\x00{}]+)$";
const PORT_PATTERN: &str = r"^(udp:)?((\d{1,3}(\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\]):)?\d{1,5}$";
const VARIABLE_PATTERN: &str = r"^[A-Za-z_][A-Za-z0-9_]*$";

/// The placeholders of paths.
pub const PLACEHOLDERS: [&str; 3] = ["{plugin}", "{state}", "{tmp}"];

impl Entries {
    /// Returns the JSON Schema of an element.
    pub(crate) fn schema(self) -> Value {
        match self {
            Self::Paths => json!({ "type": "string", "pattern": PLACEHOLDER_PATTERN }),
            Self::Programs => json!({ "type": "string", "pattern": PROGRAM_PATTERN }),
            Self::Variables => json!({ "type": "string", "pattern": VARIABLE_PATTERN }),
            Self::Rules => json!({ "enum": SandboxRule::WORDS }),
            Self::Ports => json!({ "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": u16::MAX },
                { "type": "string", "pattern": PORT_PATTERN },
            ] }),
        }
    }

    /// Checks an element.
    pub(crate) fn check(self, value: &Value) -> Result<(), Expected> {
        let text = value.as_str();
        let (is_valid, expected) = match self {
            Self::Paths => (
                text.is_some_and(is_path),
                "an absolute path without `..`, or one that begins with `{plugin}`, `{state}` or \
                 `{tmp}`",
            ),
            Self::Programs => (
                text.is_some_and(|text| is_path(text) || is_program_name(text)),
                "an absolute path, or the name of a program in `PATH`",
            ),
            Self::Variables => {
                (text.is_some_and(is_variable), "the name of a variable, such as `TZ`")
            }
            Self::Rules => {
                let nearest = text.and_then(|text| {
                    super::name::nearest(text, SandboxRule::WORDS.iter().copied())
                });
                if text.and_then(SandboxRule::from_word).is_some() {
                    return Ok(());
                }
                let suggestion = nearest.map(|nearest| format!(" (did you mean `{nearest}`?)"));
                return Err(Some(format!(
                    "one of `{}`{}",
                    SandboxRule::WORDS.join("`, `"),
                    suggestion.unwrap_or_default()
                )));
            }
            Self::Ports => (
                NetRule::from_json(value).is_some(),
                "a port such as 443, an address with a port such as \"127.0.0.1:5432\", or \
                 \"udp:53\"; host names cannot be restricted",
            ),
        };
        if is_valid { Ok(()) } else { Err(Some(expected.to_owned())) }
    }
}

fn is_path(text: &str) -> bool {
    let rest = PLACEHOLDERS.iter().find_map(|placeholder| text.strip_prefix(placeholder));
    let has_start = match rest {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => text.starts_with('/'),
    };
    has_start && !text.contains('\0') && text.split('/').all(|part| part != "..")
}

fn is_program_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '\0', '{', '}']) && text != ".."
}

fn is_variable(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Converts processors to thousandths of one.
fn share_millis(processors: f64) -> Option<u64> {
    let millis = (processors * 1000.0).round();
    (1.0..=MAX_CPU_MILLIS).contains(&millis).then_some(millis as u64)
}

const MAX_CPU_MILLIS: f64 = 4_096_000.0;

/// Checks a number of processors.
pub(crate) fn check_share(value: &Value) -> Result<(), Expected> {
    value.as_f64().and_then(share_millis).map(drop).ok_or(None)
}

const LIST_OF_PATHS: &str = "a list of paths";

/// The fields of `sandbox`.
pub(crate) const SANDBOX: &[Field] =
    &[PRESET, READ, WRITE, RUN, NET_FIELD, ENV, LIMITS_FIELD, REQUIRE];

pub(crate) const PRESET: Field = field(
    "preset",
    Shape::Words(Preset::WORDS),
    Presence::Optional,
    "`native`, `python` or `node`",
    "Adds what such a program needs to start: its libraries and interpreter, a folder for temporary \
     files, and a few files of the system. By default `native`.",
);
pub(crate) const READ: Field = list(
    "read",
    Entries::Paths,
    LIST_OF_PATHS,
    "Files and folders that can be read. `{plugin}` is the plugin's folder, which is always \
     readable; `{state}` a private folder of the plugin that survives restarts; `{tmp}` a private \
     folder of the process.",
);
pub(crate) const WRITE: Field = list(
    "write",
    Entries::Paths,
    LIST_OF_PATHS,
    "Files and folders that can be read and changed. The folder `{state}` is created if it is listed \
     here, and its path is in the variable `HOTBAY_STATE_DIR`.",
);
pub(crate) const RUN: Field = list(
    "run",
    Entries::Programs,
    "a list of paths, or of names of programs",
    "Programs that can be executed: paths, or names that are searched in `PATH`.",
);
pub(crate) const NET_FIELD: Field = field(
    "net",
    Shape::Object(NET),
    Presence::Optional,
    "an object",
    "Ports that the program can use. Unix sockets are no part of it.",
);
pub(crate) const ENV: Field = list(
    "env",
    Entries::Variables,
    "a list of names",
    "Variables of the host's environment that the program gets, besides `PATH` and those of the \
     locale. The host must pass them on.",
);
pub(crate) const LIMITS_FIELD: Field = field(
    "limits",
    Shape::Object(SANDBOX_LIMITS),
    Presence::Optional,
    "an object",
    "Limits of its processes.",
);
pub(crate) const REQUIRE: Field = list(
    "require",
    Entries::Rules,
    "a list of rules, such as `read` or `net`",
    "Rules without which the program must not run. On a machine that cannot enforce one of them, the \
     load fails. Others are enforced as far as the machine can.",
);

/// The fields of `sandbox.net`.
pub(crate) const NET: &[Field] = &[
    list(
        "connect",
        Entries::Ports,
        "a list of ports",
        "Ports that can be connected to: 443, \"127.0.0.1:5432\" or \"udp:53\". Kernels check the \
         port and not the address, and restrict no UDP ports.",
    ),
    list(
        "listen",
        Entries::Ports,
        "a list of ports",
        "TCP ports that can be listened on. A program with the socket type `tcp` can always listen \
         on a free port.",
    ),
];

/// The fields of `sandbox.limits`.
pub(crate) const SANDBOX_LIMITS: &[Field] = &[
    limit("memory_bytes", "a whole number of bytes", "Maximum memory, in bytes."),
    limit(
        "processes",
        "a whole number of processes",
        "Maximum number of processes. With 1, it cannot start any.",
    ),
    field(
        "cpu",
        Shape::Share,
        Presence::Optional,
        "a number of processors, at least 0.001",
        "Maximum share of processor time: 0.5 is half of one processor.",
    ),
    limit(
        "cpu_seconds",
        "a whole number of seconds",
        "Maximum processor time of each process, in seconds.",
    ),
    limit("open_files", "a whole number of files", "Maximum number of open files of each process."),
    limit(
        "file_bytes",
        "a whole number of bytes",
        "Maximum size of a file that it writes, in bytes.",
    ),
];

const fn list(
    name: &'static str,
    entries: Entries,
    expected: &'static str,
    doc: &'static str,
) -> Field {
    field(name, Shape::Entries(entries), Presence::Optional, expected, doc)
}

const fn limit(name: &'static str, expected: &'static str, doc: &'static str) -> Field {
    field(name, number(1, u64::MAX), Presence::Optional, expected, doc)
}

impl Sandbox {
    /// Sets the value at a path inside the section, which the table of fields has checked.
    pub(crate) fn set(&mut self, path: &[&str], value: &Value) {
        let texts = || {
            let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            Some(texts.map(str::to_owned).collect())
        };
        let ports = || {
            let ports = value.as_array().into_iter().flatten();
            Some(ports.filter_map(NetRule::from_json).collect())
        };
        match path {
            ["preset"] => self.preset = value.as_str().and_then(Preset::from_word),
            ["read"] => self.read = texts(),
            ["write"] => self.write = texts(),
            ["run"] => self.run = texts(),
            ["net", "connect"] => self.connect = ports(),
            ["net", "listen"] => self.listen = ports(),
            ["env"] => self.env = texts(),
            ["limits", name] => self.limits.set(name, value),
            ["require"] => {
                let words = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                self.require = words.filter_map(SandboxRule::from_word).collect();
            }
            _ => debug_assert!(false, "{path:?} is in the table of fields but not here"),
        }
    }

    /// Returns the section as in `plugin.json`.
    pub(crate) fn to_json(&self) -> Value {
        let mut object = Map::new();
        let texts = |texts: &Option<Vec<String>>| texts.as_ref().map(|texts| json!(texts));
        let ports = |ports: &Option<Vec<NetRule>>| {
            ports.as_ref().map(|ports| ports.iter().map(|port| port.to_json()).collect())
        };
        let mut put = |name: &str, value: Option<Value>| {
            object.extend(value.map(|value| (name.to_owned(), value)));
        };
        put("preset", self.preset.map(|preset| preset.as_str().into()));
        put("read", texts(&self.read));
        put("write", texts(&self.write));
        put("run", texts(&self.run));
        let net = [("connect", ports(&self.connect)), ("listen", ports(&self.listen))];
        put("net", object_of(net.into_iter()));
        put("env", texts(&self.env));
        let limits = self.limits.entries().into_iter().map(|(rule, limit)| {
            let value = limit.map(|limit| match rule {
                SandboxRule::Cpu => json!(limit as f64 / 1000.0),
                _ => limit.into(),
            });
            (rule.as_str(), value)
        });
        put("limits", object_of(limits));
        let require: Vec<_> = self.require.iter().map(|rule| rule.as_str()).collect();
        put("require", (!require.is_empty()).then(|| json!(require)));
        object.into()
    }
}

/// Returns an object of the values that exist, if there are any.
fn object_of(values: impl Iterator<Item = (&'static str, Option<Value>)>) -> Option<Value> {
    let object: Map<_, _> =
        values.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    (!object.is_empty()).then(|| object.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    fn parse(section: &str) -> Result<Sandbox, String> {
        let text = format!(
            r#"{{ "name": "a", "version": "1.0.0", "api": "^1", "kind": "process",
                "command": ["serve"], "sandbox": {section} }}"#
        );
        let manifest = Manifest::parse(&text, "".as_ref()).map_err(|error| error.to_string())?;
        let json = manifest.to_json().to_string();
        assert_eq!(Manifest::parse(&json, "".as_ref()).as_ref(), Ok(&manifest));
        Ok(manifest.sandbox().cloned().expect("the section"))
    }

    #[test]
    fn whole_section_is_read_and_rendered() {
        let sandbox = parse(
            r#"{ "preset": "python", "read": ["{plugin}", "/usr/share/zoneinfo"],
                "write": ["{state}"],
                "net": { "connect": [443, "127.0.0.1:5432", "udp:53", "[::1]:80"], "listen": [] },
                "run": ["git", "/usr/bin/env"], "env": ["TZ"],
                "limits": { "memory_bytes": 268435456, "processes": 16, "cpu": 1.5,
                    "open_files": 256 },
                "require": ["read", "write"] }"#,
        )
        .expect("a section");
        assert_eq!(sandbox.preset, Some(Preset::Python));
        let connect = sandbox.connect.expect("ports").iter().map(ToString::to_string).collect();
        assert_eq!(Vec::from(["443", "127.0.0.1:5432", "udp:53", "[::1]:80"]), as_texts(&connect));
        assert_eq!(sandbox.listen, Some(Vec::new()));
        assert_eq!(sandbox.limits.cpu_millis, Some(1500));
        assert_eq!(sandbox.limits.cpu_seconds, None);
        assert_eq!(sandbox.require, BTreeSet::from([SandboxRule::Read, SandboxRule::Write]));
        assert_eq!(parse("{}"), Ok(Sandbox::default()));
    }

    fn as_texts(texts: &Vec<String>) -> Vec<&str> {
        texts.iter().map(String::as_str).collect()
    }

    #[test]
    fn invalid_values_name_what_is_expected() {
        let check = |section: &str, expect: &str| {
            let error = parse(section).expect_err(section);
            assert!(error.contains(expect), "{error}");
        };
        check(r#"{ "read": ["etc"] }"#, "`sandbox.read[0]` is \"etc\"; expected an absolute path");
        check(r#"{ "read": ["/a/../b"] }"#, "expected an absolute path without `..`");
        check(r#"{ "write": ["{home}"] }"#, "begins with `{plugin}`, `{state}` or `{tmp}`");
        check(r#"{ "write": ["{state}x"] }"#, "begins with `{plugin}`");
        check(r#"{ "run": ["bin/ls"] }"#, "the name of a program in `PATH`");
        check(
            r#"{ "net": { "connect": ["example.org:443"] } }"#,
            "host names cannot be restricted",
        );
        check(r#"{ "net": { "connect": [65536] } }"#, "a port such as 443");
        check(r#"{ "net": { "connect": ["+443"] } }"#, "a port such as 443");
        check(r#"{ "net": { "udp": [] } }"#, "`sandbox.net.udp` is not a known field");
        check(r#"{ "env": ["A=B"] }"#, "the name of a variable");
        check(r#"{ "limits": { "cpu": 0 } }"#, "a number of processors, at least 0.001");
        check(r#"{ "limits": { "processes": 0 } }"#, "at least 1");
        check(r#"{ "require": ["reed"] }"#, "did you mean `read`?");
        check(r#"{ "preset": "ruby" }"#, "`native`, `python` or `node`");
        check(r#"{ "read": "/etc" }"#, "a list of paths");
    }

    #[test]
    fn bounds_of_ports_include_narrower_ones() {
        let rule = |text: &str| NetRule::parse(text).expect(text);
        assert!(rule("443").includes(&rule("443")));
        assert!(rule("443").includes(&rule("127.0.0.1:443")));
        assert!(!rule("127.0.0.1:443").includes(&rule("443")));
        assert!(!rule("443").includes(&rule("udp:443")));
        assert!(!rule("443").includes(&rule("80")));
    }
}
