//! A `Manifest` made in code, under the same rules as one that is read.

use std::collections::{BTreeMap, BTreeSet};

use semver::VersionReq;
use serde_json::Value;

use super::fields::{self, LIMITS, MANIFEST, PROVIDED};
use super::rules::{self, Wanted};
use super::tree::quoted;
use super::words::{Handover, Kind, SocketType, Unload};
use super::{ConfigSchema, Limits, Manifest, Provided};
use crate::error::manifest::{ManifestError, Problem};

impl Manifest {
    /// A manifest with these two and defaults otherwise; it accepts any released plugin API.
    ///
    /// # Errors
    ///
    /// When `name` is no plugin name, or `version` is not MAJOR.MINOR.PATCH.
    pub fn new(name: &str, version: &str) -> Result<Self, ManifestError> {
        let plugin = rules::name(name).map_err(|wanted| refuse("name", name, wanted))?;
        let version =
            rules::version(version).map_err(|wanted| refuse("version", version, wanted))?;
        Ok(Self {
            package: plugin.to_string(),
            name: plugin,
            version,
            api: VersionReq::STAR,
            kind: Kind::Library,
            library: None,
            command: Vec::new(),
            socket_type: SocketType::default(),
            description: None,
            authors: Vec::new(),
            license: None,
            homepage: None,
            config: Value::Object(serde_json::Map::new()),
            config_schema: None,
            input_schema: None,
            provides: Vec::new(),
            requires: BTreeMap::new(),
            limits: Limits::default(),
            handover: Handover::default(),
            unload: Unload::default(),
            permissions: BTreeSet::new(),
            sha256: None,
            length: None,
        })
    }

    /// With this name. Its package stays the same.
    ///
    /// # Errors
    ///
    /// If `name` is not a valid plugin name.
    pub fn with_name(mut self, name: &str) -> Result<Self, ManifestError> {
        self.name = rules::name(name).map_err(|wanted| refuse("name", name, wanted))?;
        Ok(self)
    }

    /// With this text about what the plugin does.
    #[must_use]
    pub fn with_description(mut self, description: &str) -> Self {
        self.description = Some(description.to_owned());
        self
    }

    /// With this config.
    ///
    /// # Errors
    ///
    /// When `config` is not an object.
    pub fn with_config(mut self, config: Value) -> Result<Self, ManifestError> {
        self.config = object("config", config)?;
        Ok(self)
    }

    /// With this JSON Schema, which the config is checked against before the plugin starts.
    ///
    /// # Errors
    ///
    /// When `schema` is not an object.
    pub fn with_config_schema(mut self, schema: Value) -> Result<Self, ManifestError> {
        self.config_schema = Some(ConfigSchema::Inline(object("config_schema", schema)?));
        Ok(self)
    }

    /// With this JSON Schema, which the input of each call is checked against: calls whose
    /// input does not fit are answered with `InvalidInput`, and never reach the plugin.
    ///
    /// # Errors
    ///
    /// When `schema` is not an object.
    pub fn with_input_schema(mut self, schema: Value) -> Result<Self, ManifestError> {
        self.input_schema = Some(ConfigSchema::Inline(object("input_schema", schema)?));
        Ok(self)
    }

    /// With one more permission: `log`, `metrics`, `call:NAME`; or an operation that requests
    /// may name: `read`, `write`, `exec`, or a word of the application.
    ///
    /// # Errors
    ///
    /// When it is none of these.
    pub fn with_permission(mut self, permission: &str) -> Result<Self, ManifestError> {
        let checked = rules::permission(permission);
        self.permissions
            .insert(checked.map_err(|wanted| refuse("permissions", permission, wanted))?);
        Ok(self)
    }

    /// With one more contract that the plugin fulfils, in this version of the contract, by which
    /// [`Host::providers`](crate::Host::providers) finds it.
    ///
    /// # Errors
    ///
    /// When `contract` is empty, or `version` is not MAJOR.MINOR.PATCH.
    pub fn with_contract(mut self, contract: &str, version: &str) -> Result<Self, ManifestError> {
        let refuse = |field, text, wanted: Wanted| {
            let own = fields::find(PROVIDED, field).map_or("", |field| field.wanted);
            let wanted = wanted.unwrap_or_else(|| own.to_owned());
            let problem = Problem::Value { found: quoted(text), wanted, nearest: None };
            let path = format!("provides[{}].{field}", self.provides.len());
            ManifestError::new("", None, &path, problem)
        };
        let contract =
            rules::contract(contract).map_err(|wanted| refuse("contract", contract, wanted))?;
        let version =
            rules::version(version).map_err(|wanted| refuse("version", version, wanted))?;
        self.provides.push(Provided { contract, version });
        Ok(self)
    }

    /// With one more required plugin, of a version that `accepted` accepts, such as `^1.0`.
    ///
    /// # Errors
    ///
    /// When `name` is no plugin name or this plugin's own, or `accepted` is no requirement.
    pub fn with_requirement(mut self, name: &str, accepted: &str) -> Result<Self, ManifestError> {
        let required = rules::name(name).map_err(|wanted| refuse("name", name, wanted))?;
        let path = format!("requires.{required}");
        if required == self.name {
            return Err(ManifestError::new("", None, &path, Problem::RequiresItself));
        }
        let accepted = rules::parsed(accepted).map_err(|wanted| {
            ManifestError::new("", None, &path, problem("api", quoted(accepted), wanted))
        })?;
        self.requires.insert(required, accepted);
        Ok(self)
    }

    /// With these limits in place of the ones it had.
    ///
    /// # Errors
    ///
    /// When one of them is zero.
    pub fn with_limits(mut self, limits: Limits) -> Result<Self, ManifestError> {
        rules::limits(&limits).map_err(|(name, number, wanted)| {
            let own = fields::find(LIMITS, name).map_or("", |field| field.wanted);
            let wanted = wanted.unwrap_or_else(|| own.to_owned());
            let problem = Problem::Value { found: number.to_string(), wanted, nearest: None };
            ManifestError::new("", None, &format!("limits.{name}"), problem)
        })?;
        self.limits = limits;
        Ok(self)
    }
}

fn object(field: &str, value: Value) -> Result<Value, ManifestError> {
    if value.is_object() {
        return Ok(value);
    }
    let found = match &value {
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    };
    let problem = problem(field, found, Some("an object".to_owned()));
    Err(ManifestError::new("", None, field, problem))
}

fn refuse(field: &str, text: &str, wanted: Wanted) -> ManifestError {
    ManifestError::new("", None, field, problem(field, quoted(text), wanted))
}

fn problem(field: &str, found: String, wanted: Wanted) -> Problem {
    let own = fields::find(MANIFEST, field).map_or("", |field| field.wanted);
    Problem::Value { found, wanted: wanted.unwrap_or_else(|| own.to_owned()), nearest: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_manifest_made_in_code_is_under_the_same_rules() {
        let new = || Manifest::new("greet", "1.0.0").unwrap();
        let zero = Limits { queue: Some(0), ..Limits::default() };
        let cases = [
            (
                Manifest::new("Greet", "1.0.0"),
                "`name` is \"Greet\"; expected a lower-case letter, then at most 63 of `a-z`, \
                 `0-9`, `-`",
            ),
            (
                Manifest::new("greet", "1.2"),
                "`version` is \"1.2\"; expected MAJOR.MINOR.PATCH, for example `1.2.0`",
            ),
            (new().with_config(json!([1])), "`config` is a list; expected an object"),
            (new().with_config_schema(json!(true)), "`config_schema` is true; expected an object"),
            (new().with_input_schema(json!([])), "`input_schema` is a list; expected an object"),
            (
                new().with_permission("call:"),
                "`permissions` is \"call:\"; expected `log`, `metrics`, `call:NAME` with a plugin's \
                 name, `read`, `write`, `exec`, or a word of the application",
            ),
            (
                new().with_contract(" ", "1.0.0"),
                "`provides[0].contract` is \" \"; expected the contract's name",
            ),
            (
                new().with_contract("table", "1"),
                "`provides[0].version` is \"1\"; expected MAJOR.MINOR.PATCH, for example `1.0.0`",
            ),
            (
                new().with_requirement("clock", "one"),
                "`requires.clock` is \"one\"; expected a semver requirement, for example `^1.0`",
            ),
            (new().with_requirement("greet", "*"), "`requires.greet` is the plugin itself"),
            (
                new().with_limits(zero),
                "`limits.queue` is 0; expected at least 1; leave it out for the host's own limit",
            ),
        ];
        for (result, expect) in cases {
            let error = result.unwrap_err();
            assert_eq!(error.to_string(), expect);
            assert_eq!((error.line(), error.column()), (None, None));
        }
    }

    #[test]
    fn what_was_put_in_comes_out() {
        let manifest = Manifest::new("greet", "1.0.0")
            .and_then(|manifest| manifest.with_config(json!({ "mode": "loud" })))
            .and_then(|manifest| manifest.with_config_schema(json!({ "type": "object" })))
            .and_then(|manifest| manifest.with_input_schema(json!({ "type": "string" })))
            .and_then(|manifest| manifest.with_permission("log"))
            .and_then(|manifest| manifest.with_permission("write"))
            .and_then(|manifest| manifest.with_contract("greeter", "2.1.0"))
            .and_then(|manifest| manifest.with_requirement("clock", "^1.2"))
            .and_then(|manifest| {
                manifest.with_limits(Limits { workers: Some(2), ..Limits::default() })
            })
            .unwrap()
            .with_description("Greets.");
        let text = manifest.to_json().to_string();
        assert_eq!(Manifest::parse(&text, "".as_ref()).unwrap(), manifest);
        assert!(manifest.api().matches(&semver::Version::new(1, 4, 0)));
        assert_eq!(manifest.description(), Some("Greets."));
    }
}
