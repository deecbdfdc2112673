//! Contracts that a manifest maps onto endpoints of a program, which does not describe them itself.
//! Pure.

use hotbay_manifest::{MappedMethod, Provided};
use hotbay_plugin::contract::internal::MethodKind;
use hotbay_plugin::contract::{
    Binding, ContractText, ContractVersion, Incompatible, MethodText, Type, bind,
};

/// Maximum number of mapped methods in a hint.
const MAX_SHOWN: usize = 8;

/// Returns how endpoints serve the methods of a caller's contract. The types are those of the caller,
/// since a manifest states none.
pub(crate) fn bind_mapped(
    caller: &ContractText,
    provided: &Provided,
) -> Result<Vec<Binding>, Incompatible> {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let version = &provided.version;
    let version = ContractVersion { major: number(version.major), minor: number(version.minor) };
    let methods = caller.methods.iter().filter_map(|method| {
        let mapped = provided.methods.get(&method.name)?;
        Some(served_by(mapped, method))
    });
    bind(caller, &ContractText { name: caller.name.clone(), version, methods: methods.collect() })
}

/// Returns the hint for an incompatible mapping.
pub(crate) fn mapped_hint(provided: &Provided) -> String {
    let shown = provided.methods.keys().take(MAX_SHOWN).map(|method| format!("`{method}`"));
    let mut methods = shown.collect::<Vec<_>>().join(", ");
    if provided.methods.len() > MAX_SHOWN {
        methods.push_str(", …");
    }
    format!(
        "correct `methods` or `version` of contract `{}` in `provides` of plugin.json, which maps \
         {methods}",
        provided.contract
    )
}

/// Returns the method that an endpoint serves.
fn served_by(mapped: &MappedMethod, method: &MethodText) -> MethodText {
    let MappedMethod { endpoint, body, .. } = mapped;
    let mut served = method.clone();
    served.signature = format!("endpoint `{endpoint}`");
    if method.kind == MethodKind::Stream {
        // A response is one value.
        served.kind = MethodKind::Sync;
    }
    if let Some(body) = body {
        served.signature = format!("endpoint `{endpoint}`, body `{body}`");
        served.arguments.retain(|(name, _)| name == body);
        if served.arguments.is_empty() {
            served.arguments.push((body.clone(), Type::Scalar("json".to_owned())));
        }
    }
    served
}

#[cfg(test)]
mod tests {
    use hotbay_manifest::Manifest;

    use super::*;

    const CALLER: &str = "contract a 1.1\n\
         fn ping() -> string\n\
         fn two(n: u32, m: u32?) -> u32\n\
         #since 1.1 fn new() -> u32";

    fn bound(caller: &str, version: &str, methods: &str) -> Result<Vec<Binding>, String> {
        let manifest = format!(
            r#"{{ "name": "p", "version": "1.0.0", "api": "^1", "kind": "process", "command": ["p"],
                "provides": [{{ "contract": "a", "version": "{version}", "methods": {methods} }}] }}"#
        );
        let manifest = Manifest::parse(&manifest, "plugin.json".as_ref()).unwrap();
        let caller = ContractText::parse(caller).unwrap().remove(0);
        bind_mapped(&caller, &manifest.provides()[0]).map_err(|error| error.to_string())
    }

    #[test]
    fn endpoints_serve_methods_by_name() {
        let methods = r#"{ "ping": { "endpoint": "p" }, "two": { "endpoint": "t", "body": "n" } }"#;
        let expected = [Binding::Converted(0), Binding::Converted(1), Binding::Missing];
        assert_eq!(bound(CALLER, "1.0.0", methods).unwrap(), expected);
    }

    #[test]
    fn each_mistake_names_the_method() {
        let error = |version, methods| bound(CALLER, version, methods).unwrap_err();
        let both = r#"{ "ping": { "endpoint": "p" }, "two": { "endpoint": "t" } }"#;
        assert_eq!(error("2.0.0", both), "found version 2.0, expected 1.1");
        assert_eq!(
            error("1.1.0", both),
            "method `new`: missing in the plugin, which serves version 1.1 of the contract\n  \
             expected: fn new() -> u32"
        );
        assert_eq!(
            error("1.0.0", r#"{ "ping": { "endpoint": "p" } }"#),
            "method `two`: missing in the plugin, which serves version 1.0 of the contract\n  \
             expected: fn two(n: u32, m: u32?) -> u32"
        );
        let other = r#"{ "ping": { "endpoint": "p" }, "two": { "endpoint": "t", "body": "m" } }"#;
        assert_eq!(
            error("1.0.0", other),
            "method `two`: the plugin has no argument `n`\n  \
             expected: fn two(n: u32, m: u32?) -> u32\n  \
             found:    endpoint `t`, body `m`"
        );
        let unknown = r#"{ "ping": { "endpoint": "p", "body": "x" }, "two": { "endpoint": "t" } }"#;
        assert_eq!(
            error("1.0.0", unknown),
            "method `ping`: the plugin needs an argument `x`\n  \
             expected: fn ping() -> string\n  \
             found:    endpoint `p`, body `x`"
        );
        let stream = "contract a 1.0\nstream fn rows() -> u32";
        let error = bound(stream, "1.0.0", r#"{ "rows": { "endpoint": "r" } }"#).unwrap_err();
        assert!(
            error.starts_with("method `rows`: it returns a value, expected a stream"),
            "{error}"
        );
    }
}
