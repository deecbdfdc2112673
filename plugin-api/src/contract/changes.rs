//! Compares two versions of a contract: what changed, and whether old and new builds can still call
//! each other. Pure.

use std::fmt;

use super::compatibility::{Binding, bind_method};
use super::text::{ContractText, ContractVersion, MethodText};

/// The changes from one version of a contract to another. `Display` prints one per line, with
/// reasons and signatures below.
///
/// ```
/// use hotbay_plugin::contract::{ContractText, Impact, compare};
///
/// let parse = |text| ContractText::parse(text).unwrap().remove(0);
/// let old = parse("contract a 1.0\nfn f(n: u32) -> u64\nfn g() -> string");
/// let new = parse("contract a 1.1\nfn f(n: u32, max: u32?) -> u64\nfn g() -> [u8]");
/// let changes = compare(&old, &new);
/// assert!(!changes.are_allowed());
/// assert_eq!(changes.methods[0].impact, Impact::Compatible);
/// assert_eq!(
///     changes.methods[1].to_string(),
///     "breaking    g\n  \
///      hosts with 1.1 cannot call plugins with 1.0: result: `string` cannot be read as `[u8]`\n  \
///      hosts with 1.0 cannot call plugins with 1.1: result: `[u8]` cannot be read as `string`\n  \
///      old: fn g() -> string\n  \
///      new: fn g() -> [u8]"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// The old version.
    pub old: ContractVersion,
    /// The new version.
    pub new: ContractVersion,
    /// The methods that changed: those of the new contract in its order, then those removed.
    pub methods: Vec<MethodChange>,
}

/// A method that was added, removed or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodChange {
    /// The method of the old contract; `None` if it was added.
    pub old: Option<MethodText>,
    /// The method of the new contract; `None` if it was removed.
    pub new: Option<MethodText>,
    /// The consequence.
    pub impact: Impact,
    /// Why the change is breaking, as sentences; empty if it is not.
    pub reasons: Vec<String>,
}

/// The consequence of a change for hosts and plugins of different versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Impact {
    /// They call each other as before, except for methods that the plugin does not have.
    Unaffected,
    /// They call each other, but arguments and results are converted, which is slower.
    Compatible,
    /// A new host cannot call an old plugin, or an old host cannot call a new plugin.
    Breaking,
}

impl Changes {
    /// Returns the largest consequence of all changes.
    pub fn impact(&self) -> Impact {
        self.methods.iter().map(|change| change.impact).max().unwrap_or(Impact::Unaffected)
    }

    /// Returns whether the new version may have these changes: none is breaking, or its major number
    /// is higher.
    pub fn are_allowed(&self) -> bool {
        let is_same = self.new.major == self.old.major;
        self.new.major > self.old.major || (is_same && self.impact() < Impact::Breaking)
    }
}

impl MethodChange {
    /// Returns the name of the method.
    pub fn name(&self) -> &str {
        self.new.as_ref().or(self.old.as_ref()).map_or("", |method| &method.name)
    }

    /// Returns one word for the change: `added`, `removed`, `changed`, `compatible` or `breaking`.
    pub fn label(&self) -> &'static str {
        match (self.impact, &self.old, &self.new) {
            (Impact::Breaking, ..) => "breaking",
            (Impact::Compatible, ..) => "compatible",
            (Impact::Unaffected, None, _) => "added",
            (Impact::Unaffected, _, None) => "removed",
            (Impact::Unaffected, Some(_), Some(_)) => "changed",
        }
    }
}

/// Compares two versions of a contract, in both directions: new hosts with old plugins, and old hosts
/// with new plugins.
///
/// If the major numbers differ, it compares them as if they did not.
pub fn compare(old: &ContractText, new: &ContractText) -> Changes {
    let mut methods = Vec::new();
    for method in &new.methods {
        let before = old.methods.iter().find(|before| before.name == method.name);
        if before != Some(method) {
            methods.push(change(old, new, before, Some(method)));
        }
    }
    for method in &old.methods {
        if !new.methods.iter().any(|after| after.name == method.name) {
            methods.push(change(old, new, Some(method), None));
        }
    }
    Changes { old: old.version, new: new.version, methods }
}

fn change(
    old: &ContractText,
    new: &ContractText,
    before: Option<&MethodText>,
    after: Option<&MethodText>,
) -> MethodChange {
    let (mut impact, mut reasons) = (Impact::Unaffected, Vec::new());
    let sides = sides(old, new, before.is_some() && after.is_some());
    for ((method, plugin), [of_host, of_plugin]) in
        [(after, old), (before, new)].into_iter().zip(sides)
    {
        match method.map(|method| bind_method(method, plugin)) {
            Some(Ok(Binding::Converted(_))) => impact = impact.max(Impact::Compatible),
            Some(Ok(Binding::Same(_) | Binding::Missing)) | None => {}
            Some(Err(reason)) => {
                impact = Impact::Breaking;
                reasons.push(format!(
                    "hosts with {of_host} cannot call plugins with {of_plugin}: {reason}"
                ));
            }
        }
    }
    MethodChange { old: before.cloned(), new: after.cloned(), impact, reasons }
}

/// Returns names for what hosts and plugins have: first for new hosts with old plugins, then for old
/// hosts with new plugins. Equal versions do not show which is which.
fn sides(old: &ContractText, new: &ContractText, is_in_both: bool) -> [[String; 2]; 2] {
    let (old, new) = match (old.version == new.version, is_in_both) {
        (false, _) => (old.version.to_string(), new.version.to_string()),
        (true, true) => ("the old signature".to_owned(), "the new signature".to_owned()),
        (true, false) => ("the old contract".to_owned(), "the new contract".to_owned()),
    };
    [[new.clone(), old.clone()], [old, new]]
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, change) in self.methods.iter().enumerate() {
            let line_end = if at > 0 { "\n" } else { "" };
            write!(f, "{line_end}{change}")?;
        }
        Ok(())
    }
}

impl fmt::Display for MethodChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12}{}", self.label(), self.name())?;
        for reason in &self.reasons {
            write!(f, "\n  {reason}")?;
        }
        if let Some(old) = &self.old {
            write!(f, "\n  old: {old}")?;
        }
        if let Some(new) = &self.new {
            write!(f, "\n  new: {new}")?;
        }
        Ok(())
    }
}
