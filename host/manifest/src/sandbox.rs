//! The section `sandbox` of `plugin.json` and of `hotbay.toml`: what a program may do, in the words
//! of the file. What its paths mean on a machine, and what a kernel can enforce, is decided later.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::entries::thousandths;
use super::net_rule::NetRule;
use super::words::{Preset, SandboxRule};
use crate::setters;

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
    /// Whether it runs in new Linux namespaces. A rule in `require` implies it.
    pub namespaces: bool,
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
    with_namespaces => namespaces: bool,
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
    /// Maximum processor time of one call, in milliseconds.
    pub call_cpu_millis: Option<u64>,
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
    with_call_cpu_millis => call_cpu_millis: Option<u64>,
    with_open_files => open_files: Option<u64>,
    with_file_bytes => file_bytes: Option<u64>,
});

impl SandboxLimits {
    /// Returns the lower one of each limit.
    #[must_use]
    pub fn min(self, other: &Self) -> Self {
        let min = |one: Option<u64>, other| [one, other].into_iter().flatten().min();
        Self {
            memory_bytes: min(self.memory_bytes, other.memory_bytes),
            processes: min(self.processes, other.processes),
            cpu_millis: min(self.cpu_millis, other.cpu_millis),
            cpu_seconds: min(self.cpu_seconds, other.cpu_seconds),
            call_cpu_millis: min(self.call_cpu_millis, other.call_cpu_millis),
            open_files: min(self.open_files, other.open_files),
            file_bytes: min(self.file_bytes, other.file_bytes),
        }
    }

    /// Returns each limit with the rule that it belongs to.
    pub fn entries(&self) -> [(SandboxRule, Option<u64>); 7] {
        [
            (SandboxRule::MemoryBytes, self.memory_bytes),
            (SandboxRule::Processes, self.processes),
            (SandboxRule::Cpu, self.cpu_millis),
            (SandboxRule::CpuSeconds, self.cpu_seconds),
            (SandboxRule::CallCpuSeconds, self.call_cpu_millis),
            (SandboxRule::OpenFiles, self.open_files),
            (SandboxRule::FileBytes, self.file_bytes),
        ]
    }

    fn set(&mut self, name: &str, value: &Value) {
        let number = value.as_u64();
        match name {
            "memory_bytes" => self.memory_bytes = number,
            "processes" => self.processes = number,
            "cpu" => self.cpu_millis = value.as_f64().and_then(thousandths),
            "cpu_seconds" => self.cpu_seconds = number,
            "call_cpu_seconds" => self.call_cpu_millis = value.as_f64().and_then(thousandths),
            "open_files" => self.open_files = number,
            "file_bytes" => self.file_bytes = number,
            _ => debug_assert!(false, "limit `{name}` is in the table but not here"),
        }
    }
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
            ["namespaces"] => self.namespaces = value.as_bool() == Some(true),
            ["limits", name] => self.limits.set(name, value),
            ["require"] => {
                let words = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                self.require = words.filter_map(SandboxRule::from_word).collect();
            }
            _ => debug_assert!(false, "{path:?} is in the table of fields but not here"),
        }
    }

    /// Returns the section as in `plugin.json`.
    pub fn to_json(&self) -> Value {
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
        put("namespaces", self.namespaces.then_some(true.into()));
        let limits = self.limits.entries().into_iter().map(|(rule, limit)| {
            let value = limit.map(|limit| match rule {
                SandboxRule::Cpu | SandboxRule::CallCpuSeconds => json!(limit as f64 / 1000.0),
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
                "run": ["git", "/usr/bin/env"], "env": ["TZ"], "namespaces": true,
                "limits": { "memory_bytes": 268435456, "processes": 16, "cpu": 1.5,
                    "call_cpu_seconds": 0.25, "open_files": 256 },
                "require": ["read", "write"] }"#,
        )
        .expect("a section");
        assert_eq!(sandbox.preset, Some(Preset::Python));
        let connect = sandbox.connect.expect("ports");
        let connect: Vec<_> = connect.iter().map(ToString::to_string).collect();
        assert_eq!(Vec::from(["443", "127.0.0.1:5432", "udp:53", "[::1]:80"]), as_texts(&connect));
        assert_eq!(sandbox.listen, Some(Vec::new()));
        assert!(sandbox.namespaces);
        assert_eq!(sandbox.limits.cpu_millis, Some(1500));
        assert_eq!(sandbox.limits.cpu_seconds, None);
        assert_eq!(sandbox.limits.call_cpu_millis, Some(250));
        assert_eq!(sandbox.require, BTreeSet::from([SandboxRule::Read, SandboxRule::Write]));
        assert_eq!(parse("{}"), Ok(Sandbox::default()));
    }

    fn as_texts(texts: &[String]) -> Vec<&str> {
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
        check(r#"{ "limits": { "call_cpu_seconds": 0 } }"#, "seconds, from 0.001 to 4096");
        check(r#"{ "limits": { "call_cpu_seconds": "1" } }"#, "seconds, from 0.001 to 4096");
        check(r#"{ "limits": { "processes": 0 } }"#, "at least 1");
        check(r#"{ "require": ["reed"] }"#, "did you mean `read`?");
        check(r#"{ "namespaces": 1 }"#, "expected `true` or `false`");
        check(r#"{ "preset": "ruby" }"#, "`native`, `python` or `node`");
        check(r#"{ "read": "/etc" }"#, "a list of paths");
    }
}
