//! Compares the contract of a caller with that of a plugin. Pure.

use std::fmt;

use super::shape::MethodKind;
use super::text::{ContractText, FieldTypes, MethodText, Type};

/// How the plugin serves a method of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// With the same signature: its position in the plugin's contract.
    Same(usize),
    /// With another signature that accepts the arguments as JSON: its position in the plugin's
    /// contract.
    Converted(usize),
    /// Not at all: the plugin was built against an earlier version.
    Missing,
}

/// The reason a plugin does not serve a caller's contract. `Display` prints a sentence, and up to two
/// lines with both signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incompatible {
    reason: String,
    signatures: Option<(String, Option<String>)>,
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if let Some((expected, found)) = &self.signatures {
            write!(f, "\n  expected: {expected}")?;
            if let Some(found) = found {
                write!(f, "\n  found:    {found}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Incompatible {}

/// Returns how a plugin serves each method of a caller's contract.
///
/// # Errors
///
/// If the plugin's contract has another major version, lacks a method that it should have, or has a
/// method whose signature cannot be converted.
///
/// ```
/// use hotbay_plugin::contract::{Binding, ContractText, bind};
///
/// let parse = |text| ContractText::parse(text).unwrap().remove(0);
/// let caller = parse("contract a 1.1\nfn f(n: u32) -> u64\n#since 1.1 fn g() -> string");
/// let plugin = parse("contract a 1.0\nfn f(n: u64) -> u64");
/// assert_eq!(bind(&caller, &plugin).unwrap(), [Binding::Converted(0), Binding::Missing]);
///
/// let plugin = parse("contract a 1.0\nfn f(n: string) -> u64");
/// assert_eq!(
///     bind(&caller, &plugin).unwrap_err().to_string(),
///     "method `f`: argument `n`: `u32` cannot be read as `string`\n  \
///      expected: fn f(n: u32) -> u64\n  \
///      found:    fn f(n: string) -> u64"
/// );
/// ```
pub fn bind(caller: &ContractText, plugin: &ContractText) -> Result<Vec<Binding>, Incompatible> {
    if caller.version.major != plugin.version.major {
        let reason = format!("found version {}, expected {}", plugin.version, caller.version);
        return Err(Incompatible { reason, signatures: None });
    }
    let bind = |method: &MethodText| {
        bind_method(method, plugin).map_err(|reason| {
            let found = plugin.methods.iter().find(|found| found.name == method.name);
            let found = found.map(|found| found.signature.clone());
            let reason = format!("method `{}`: {reason}", method.name);
            Incompatible { reason, signatures: Some((method.signature.clone(), found)) }
        })
    };
    caller.methods.iter().map(bind).collect()
}

/// Returns how a plugin serves one method, whatever the major versions, or the reason it does not.
pub(super) fn bind_method(method: &MethodText, plugin: &ContractText) -> Result<Binding, String> {
    let mut methods = plugin.methods.iter().enumerate();
    let Some((at, found)) = methods.find(|(_, found)| found.name == method.name) else {
        let is_newer = method.since.is_some_and(|since| since > plugin.version);
        if is_newer || method.has_default {
            return Ok(Binding::Missing);
        }
        let version = plugin.version;
        return Err(format!(
            "missing in the plugin, which serves version {version} of the contract"
        ));
    };
    if method.signature == found.signature {
        return Ok(Binding::Same(at));
    }
    check_conversion(method, found).map(|()| Binding::Converted(at))
}

fn check_conversion(caller: &MethodText, plugin: &MethodText) -> Result<(), String> {
    if caller.kind != plugin.kind {
        let name = |kind| match kind {
            MethodKind::Sync => "a value",
            MethodKind::Async => "a future",
            MethodKind::Stream => "a stream",
        };
        let (found, expected) = (name(plugin.kind), name(caller.kind));
        return Err(format!("it returns {found}, expected {expected}"));
    }
    for (name, to) in &plugin.arguments {
        match caller.arguments.iter().find(|(known, _)| known == name) {
            Some((_, from)) => {
                check_reads(from, to).map_err(|reason| format!("argument `{name}`: {reason}"))?;
            }
            None if matches!(to, Type::Optional(_)) => {}
            None => return Err(format!("the plugin needs an argument `{name}`")),
        }
    }
    for (name, from) in &caller.arguments {
        let is_known = plugin.arguments.iter().any(|(known, _)| known == name);
        if !is_known && !matches!(from, Type::Optional(_)) {
            return Err(format!("the plugin has no argument `{name}`"));
        }
    }
    check_reads(&plugin.output, &caller.output).map_err(|reason| format!("result: {reason}"))
}

/// Checks that JSON of one type can be read as another.
fn check_reads(from: &Type, to: &Type) -> Result<(), String> {
    let mismatch = || Err(format!("`{from}` cannot be read as `{to}`"));
    match (from, to) {
        _ if from == to => Ok(()),
        (_, Type::Scalar(to)) if to == "json" => Ok(()),
        // serde writes a struct with one field without a name as that field.
        (Type::Struct(_, FieldTypes::Unnamed(parts)), _) if parts.len() == 1 => {
            check_reads(&parts[0], to)
        }
        (_, Type::Struct(_, FieldTypes::Unnamed(parts))) if parts.len() == 1 => {
            check_reads(from, &parts[0])
        }
        (Type::Optional(from), Type::Optional(to)) => check_reads(from, to),
        (Type::Optional(_), _) => mismatch(),
        (_, Type::Optional(to)) => check_reads(from, to),
        (Type::Scalar(from), Type::Scalar(to)) if is_widening(from, to) => Ok(()),
        (Type::List(from) | Type::Set(from), Type::List(to) | Type::Set(to)) => {
            check_reads(from, to)
        }
        (Type::Map(from_key, from), Type::Map(to_key, to)) => {
            check_reads(from_key, to_key)?;
            check_reads(from, to)
        }
        (Type::Tuple(from), Type::Tuple(to))
        | (Type::Struct(_, FieldTypes::Unnamed(from)), Type::Tuple(to))
        | (Type::Tuple(from), Type::Struct(_, FieldTypes::Unnamed(to))) => {
            check_parts(from, to).unwrap_or_else(mismatch)
        }
        (Type::Struct(_, from), Type::Struct(_, to)) => {
            check_fields(from, to).unwrap_or_else(mismatch)
        }
        (Type::Enum(_, from), Type::Enum(_, to)) => {
            for (name, from) in from {
                let Some((_, to)) = to.iter().find(|(known, _)| known == name) else {
                    return Err(format!("variant `{name}` is unknown"));
                };
                check_fields(from, to)
                    .unwrap_or_else(mismatch)
                    .map_err(|reason| format!("variant `{name}`: {reason}"))?;
            }
            Ok(())
        }
        _ => mismatch(),
    }
}

/// Returns `None` if the numbers of parts differ.
fn check_parts(from: &[Type], to: &[Type]) -> Option<Result<(), String>> {
    let mut parts = from.iter().zip(to);
    (from.len() == to.len()).then(|| parts.try_for_each(|(from, to)| check_reads(from, to)))
}

/// Returns `None` if the fields are of different kinds.
fn check_fields(from: &FieldTypes, to: &FieldTypes) -> Option<Result<(), String>> {
    match (from, to) {
        (FieldTypes::Unit, FieldTypes::Unit) => Some(Ok(())),
        (FieldTypes::Unnamed(from), FieldTypes::Unnamed(to)) => check_parts(from, to),
        (FieldTypes::Named(from), FieldTypes::Named(to)) => {
            Some(to.iter().try_for_each(|(name, to, has_default)| {
                match from.iter().find(|(known, ..)| known == name) {
                    Some((_, from, _)) => check_reads(from, to),
                    None if *has_default || matches!(to, Type::Optional(_)) => return Ok(()),
                    None => Err("missing".to_owned()),
                }
                .map_err(|reason| format!("field `{name}`: {reason}"))
            }))
        }
        _ => None,
    }
}

/// Returns whether every value of one number type is a value of the other.
fn is_widening(from: &str, to: &str) -> bool {
    let number = |name: &str| {
        let bits: u32 = name.get(1..)?.parse().ok()?;
        matches!(bits, 8 | 16 | 32 | 64).then_some((name.as_bytes()[0], bits))
    };
    match (number(from), number(to)) {
        (Some((b'u', from)), Some((b'u', to))) | (Some((b'i', from)), Some((b'i', to))) => {
            from <= to
        }
        (Some((b'u', from)), Some((b'i', to))) => from < to,
        (Some((b'f', from)), Some((b'f', to))) => from <= to,
        (Some((b'u' | b'i', from)), Some((b'f', 64))) => from <= 32,
        _ => from == "char" && to == "string",
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(name) => f.write_str(name),
            Self::List(item) => write!(f, "[{item}]"),
            Self::Set(item) => write!(f, "set<{item}>"),
            Self::Optional(item) => write!(f, "{item}?"),
            Self::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Self::Tuple(parts) => {
                f.write_str("(")?;
                for (at, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            // The fields are named where they differ.
            Self::Struct(name, _) => f.write_str(name),
            Self::Enum(name, _) => write!(f, "enum {name}"),
        }
    }
}
