//! Counts how often a schema refers to itself at one location of a value, and what its patterns
//! cost. Follows references within the document; checks nothing.
//!
//! The schema library evaluates a subschema again for each path that leads to it, and `metered`
//! does not count what it does between two accesses to the value. So the paths that stay at one
//! location of the value are counted here, once, when the schema is compiled.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::metered::AccessCosts;
use crate::schema_error::{Exceeded, SchemaError, Violation};

/// Maximum number of evaluations of subschemas at one location of a value.
const MAX_EXPANSIONS: usize = 10_000;

/// The same maximum for all subschemas with `unevaluatedProperties` or `unevaluatedItems` together:
/// the library makes a validator for each of them.
const MAX_UNEVALUATED_EXPANSIONS: usize = 10_000;

/// Maximum number of counting steps.
const MAX_COUNTED: usize = 2_000_000;

/// Maximum number of patterns of a schema.
const MAX_PATTERNS: usize = 4_096;

/// Maximum memory of all compiled patterns of a schema together, and the range of the maximum of
/// one.
const MAX_PATTERNS_BYTES: usize = 64 << 20;
const PATTERN_BYTES_RANGE: std::ops::RangeInclusive<usize> = (64 << 10)..=(2 << 20);

/// Steps for a text that may be matched with backtracking.
const STEPS_PER_BACKTRACKING: u64 = 512;

/// Keywords with one subschema for the same location of the value, with a list of them, and with an
/// object of them.
const ONE: [&str; 4] = ["not", "if", "then", "else"];
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const OBJECTS: [&str; 2] = ["dependentSchemas", "dependencies"];

/// The costs of a schema that are known without a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    pub(super) access: AccessCosts,
    /// Maximum bytes of one compiled pattern.
    pub(super) max_pattern_bytes: usize,
    /// Bytes of the longest part of the schema that a message may repeat.
    pub(super) repeated_bytes: usize,
    /// The budget that each check would exceed.
    pub(super) exceeded: Option<Exceeded>,
}

/// Counts the paths through a schema. Rejects a schema that is too expensive to compile. If only
/// its checks are too expensive, each check fails.
pub(super) fn costs(schema: &Value) -> Result<Costs, SchemaError> {
    let mut document = Document::default();
    document.add(schema, schema);
    if document.patterns > MAX_PATTERNS {
        let patterns = document.patterns;
        let message = format!("has {patterns} patterns; the limit is {MAX_PATTERNS}");
        return Err(SchemaError::Schema(Violation::of_all(message)));
    }
    let bytes = MAX_PATTERNS_BYTES / document.patterns.max(1);
    Ok(Costs {
        access: document.costs,
        max_pattern_bytes: bytes.clamp(*PATTERN_BYTES_RANGE.start(), *PATTERN_BYTES_RANGE.end()),
        repeated_bytes: document.repeated_bytes,
        exceeded: exceeded(&document, schema),
    })
}

/// Returns the budget that a check would exceed for any value.
fn exceeded(document: &Document<'_>, schema: &Value) -> Option<Exceeded> {
    let mut counter = ExpansionCounter::new(document, schema);
    let mut unevaluated = 0_usize;
    for object in &document.objects {
        let count = counter.expansions(object.map);
        if counter.counted > MAX_COUNTED || count > MAX_EXPANSIONS {
            return Some(Exceeded::Expansions(MAX_EXPANSIONS));
        }
        if object.map.keys().any(|key| key.starts_with("unevaluated")) {
            unevaluated = unevaluated.saturating_add(count);
        }
    }
    if unevaluated > MAX_UNEVALUATED_EXPANSIONS {
        return Some(Exceeded::Expansions(MAX_UNEVALUATED_EXPANSIONS));
    }
    compiles_too_many(document, schema).then_some(Exceeded::Subschemas(MAX_SUBSCHEMAS))
}

/// An object of the document, which may be a subschema, and its resource.
struct InDocument<'s> {
    map: &'s Map<String, Value>,
    resource: &'s Value,
}

#[derive(Default)]
pub(super) struct Document<'s> {
    objects: Vec<InDocument<'s>>,
    /// Indices into `objects`, by address of the object.
    positions: HashMap<usize, usize>,
    /// Resources with their identifiers.
    resources: Vec<(&'s str, &'s Value)>,
    anchors: HashMap<&'s str, Vec<&'s Value>>,
    recursive_anchors: Vec<&'s Value>,
    patterns: usize,
    costs: AccessCosts,
    repeated_bytes: usize,
}

impl<'s> Document<'s> {
    /// Adds all of `value`, which is in `resource`. Recurses as deep as it nests.
    fn add(&mut self, value: &'s Value, resource: &'s Value) {
        let map = match value {
            Value::Object(map) => map,
            Value::Array(list) => return list.iter().for_each(|child| self.add(child, resource)),
            _ => return,
        };
        let mut resource = resource;
        for (key, child) in map {
            match (key.as_str(), child) {
                ("$id" | "id", Value::String(id)) => match id.strip_prefix('#') {
                    Some(anchor) => self.anchors.entry(anchor).or_default().push(value),
                    None => {
                        self.resources.push((id, value));
                        resource = value;
                    }
                },
                ("$anchor" | "$dynamicAnchor", Value::String(anchor)) => {
                    self.anchors.entry(anchor).or_default().push(value);
                }
                ("$recursiveAnchor", Value::Bool(true)) => self.recursive_anchors.push(value),
                ("pattern", Value::String(pattern)) => self.add_pattern(pattern),
                ("patternProperties", Value::Object(by_pattern)) => {
                    by_pattern.keys().for_each(|pattern| self.add_pattern(pattern));
                    let max = &mut self.costs.patterns_per_name;
                    *max = (*max).max(by_pattern.len() as u64);
                }
                ("format", Value::String(format)) if format == "regex" => {
                    self.costs.steps_per_text = STEPS_PER_BACKTRACKING;
                }
                ("not" | "required", repeated) => {
                    self.repeated_bytes = self.repeated_bytes.max(bytes_of(repeated));
                }
                _ => {}
            }
        }
        self.positions.insert(address(map), self.objects.len());
        self.objects.push(InDocument { map, resource });
        map.values().for_each(|child| self.add(child, resource));
    }

    /// Returns the resource of an object of the document.
    pub(super) fn resource_of(&self, map: &Map<String, Value>) -> Option<&'s Value> {
        let position = self.positions.get(&address(map))?;
        self.objects.get(*position).map(|object| object.resource)
    }

    /// Returns whether it has other resources than the whole document.
    pub(super) fn has_embedded_resources(&self, root: &Value) -> bool {
        self.resources.iter().any(|(_, resource)| !std::ptr::eq(*resource, root))
    }

    /// Returns the possible targets of the references of an object in `resource`.
    pub(super) fn references(
        &self,
        map: &'s Map<String, Value>,
        resource: &'s Value,
    ) -> Vec<&'s Value> {
        let mut found = Vec::new();
        if let Some(Value::String(reference)) = map.get("$ref") {
            found.extend(self.targets(reference, resource));
        }
        if let Some(Value::String(reference)) = map.get("$dynamicRef") {
            let name = reference.rsplit('#').next().unwrap_or_default();
            found.extend(self.anchors.get(name).into_iter().flatten().copied());
            let targets = self.targets(reference, resource);
            let is_found = |target: &Value| found.iter().any(|one| std::ptr::eq(*one, target));
            let more: Vec<_> = targets.into_iter().filter(|target| !is_found(target)).collect();
            found.extend(more);
        }
        if map.contains_key("$recursiveRef") {
            found.push(resource);
            let others = self.recursive_anchors.iter().copied();
            found.extend(others.filter(|other| !std::ptr::eq(*other, resource)));
        }
        found
    }

    fn add_pattern(&mut self, pattern: &str) {
        self.patterns += 1;
        self.repeated_bytes = self.repeated_bytes.max(pattern.len());
        if backtracks(pattern) {
            self.costs.steps_per_text = STEPS_PER_BACKTRACKING;
        }
    }

    /// Returns the possible targets of a reference in `resource`, all of them in the document.
    fn targets(&self, reference: &str, resource: &'s Value) -> Vec<&'s Value> {
        let (id, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let resources: Vec<_> = if id.is_empty() {
            vec![resource]
        } else {
            let same = |(other, _): &&(&str, _)| last_segment(other) == last_segment(id);
            self.resources.iter().filter(same).map(|(_, value)| *value).collect()
        };
        if fragment.is_empty() {
            return resources;
        }
        if !fragment.starts_with('/') {
            return self.anchors.get(fragment).cloned().unwrap_or_default();
        }
        let pointer = percent_decoded(fragment);
        resources.into_iter().filter_map(|resource| resource.pointer(&pointer)).collect()
    }
}

/// Counts the evaluations at one location of a value.
struct ExpansionCounter<'d, 's> {
    document: &'d Document<'s>,
    root: &'s Value,
    /// Counts of the objects that are not in a cycle with one being counted.
    counts: HashMap<usize, usize>,
    /// Addresses of the objects that are being counted.
    stack: Vec<usize>,
    counted: usize,
}

impl<'d, 's> ExpansionCounter<'d, 's> {
    fn new(document: &'d Document<'s>, root: &'s Value) -> Self {
        Self { document, root, counts: HashMap::new(), stack: Vec::new(), counted: 0 }
    }

    fn expansions(&mut self, map: &'s Map<String, Value>) -> usize {
        self.count(map).0
    }

    /// Returns the evaluations, and the lowest position in the stack to which a cycle leads back.
    fn count(&mut self, map: &'s Map<String, Value>) -> (usize, usize) {
        let address = address(map);
        if let Some(count) = self.counts.get(&address) {
            return (*count, usize::MAX);
        }
        // The library follows a cycle once.
        if let Some(position) = self.stack.iter().position(|other| *other == address) {
            return (1, position);
        }
        self.counted += 1;
        if self.counted > MAX_COUNTED {
            return (usize::MAX, 0);
        }
        let position = self.stack.len();
        self.stack.push(address);
        let (mut count, mut lowest) = (1_usize, usize::MAX);
        for subschema in self.subschemas(map) {
            let (more, back_to) = match subschema {
                Value::Object(map) => self.count(map),
                _ => (1, usize::MAX),
            };
            count = count.saturating_add(more);
            lowest = lowest.min(back_to);
            if count > MAX_EXPANSIONS {
                break;
            }
        }
        self.stack.pop();
        if lowest >= position {
            self.counts.insert(address, count);
            lowest = usize::MAX;
        }
        (count, lowest)
    }

    /// Returns the subschemas that are evaluated at the same location of a value.
    fn subschemas(&self, map: &'s Map<String, Value>) -> Vec<&'s Value> {
        let mut found = Vec::new();
        found.extend(ONE.iter().filter_map(|key| map.get(*key)));
        let lists = LISTS.iter().filter_map(|key| map.get(*key)?.as_array());
        found.extend(lists.flatten());
        let objects = OBJECTS.iter().filter_map(|key| map.get(*key)?.as_object());
        found.extend(objects.flat_map(Map::values));
        let resource = self.document.resource_of(map).unwrap_or(self.root);
        found.extend(self.document.references(map, resource));
        found
    }
}

pub(super) fn address(map: &Map<String, Value>) -> usize {
    std::ptr::from_ref(map) as usize
}

fn last_segment(id: &str) -> &str {
    id.trim_end_matches('#').rsplit('/').next().unwrap_or(id)
}

/// Returns whether a pattern may backtrack: look-around, references to groups, possessive or atomic
/// parts.
fn backtracks(pattern: &str) -> bool {
    let bytes = pattern.as_bytes();
    bytes.windows(2).any(|two| match two {
        [b'\\', next] => next.is_ascii_digit() || matches!(next, b'k' | b'G' | b'K' | b'Z'),
        [b'+' | b'*' | b'?' | b'}', b'+'] => true,
        _ => false,
    }) || bytes.windows(3).any(|three| {
        // The linear engine supports only `(?:`, flags and named groups.
        matches!(three, [b'(', b'?', next] if !matches!(next, b':' | b'P' | b'a'..=b'z' | b'-'))
    })
}

/// Returns the approximate bytes of a value as JSON.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| key.len() + bytes_of(value)).sum::<usize>() + 64
        }
        Value::Array(list) => list.iter().map(bytes_of).sum::<usize>() + 32,
        Value::String(text) => text.len() + 32,
        _ => 32,
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(hex.unwrap_or(*first));
        rest = if hex.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Maximum number of subschemas, each counted as often as it is compiled.
pub(super) const MAX_SUBSCHEMAS: usize = 20_000;

/// Keywords without subschemas, or only with those that references name.
const NOT_COMPILED: [&str; 6] = ["$defs", "definitions", "enum", "const", "default", "examples"];

/// The resources that lead to a subschema, the last one first.
type Scope = Option<Rc<ScopeEntry>>;

#[derive(PartialEq, Eq, Hash)]
struct ScopeEntry {
    resource: usize,
    before: Scope,
}

/// Returns whether compiling `schema` makes too many subschemas.
pub(super) fn compiles_too_many(document: &Document<'_>, schema: &Value) -> bool {
    if !document.has_embedded_resources(schema) {
        return false;
    }
    let mut counter = Counter { document, compiled: HashSet::new(), active: Vec::new(), count: 0 };
    counter.count_value(schema, schema, &None);
    counter.count > MAX_SUBSCHEMAS
}

struct Counter<'d, 's> {
    document: &'d Document<'s>,
    /// Targets of references, each with the resources that lead to it.
    compiled: HashSet<(usize, Scope)>,
    /// Targets that are being counted.
    active: Vec<usize>,
    count: usize,
}

impl<'s> Counter<'_, 's> {
    fn count_value(&mut self, value: &'s Value, resource: &'s Value, scope: &Scope) {
        let map = match value {
            Value::Object(map) => map,
            Value::Array(list) => {
                return list.iter().for_each(|child| self.count_value(child, resource, scope));
            }
            _ => return,
        };
        self.count += 1;
        if self.count > MAX_SUBSCHEMAS {
            return;
        }
        let own_resource = self.document.resource_of(map).unwrap_or(resource);
        let scope = &enter(scope, resource, own_resource);
        let subschemas = map.iter().filter(|(key, _)| !NOT_COMPILED.contains(&key.as_str()));
        subschemas.for_each(|(_, child)| self.count_value(child, own_resource, scope));
        for target in self.document.references(map, own_resource) {
            self.count_reference(target, own_resource, scope);
        }
    }

    fn count_reference(&mut self, target: &'s Value, from: &'s Value, scope: &Scope) {
        let Value::Object(map) = target else { return };
        let resource = self.document.resource_of(map).unwrap_or(from);
        let scope = enter(scope, from, resource);
        let address = address(map);
        if self.active.contains(&address) || !self.compiled.insert((address, scope.clone())) {
            return;
        }
        self.active.push(address);
        self.count_value(target, resource, &scope);
        self.active.pop();
    }
}

/// Returns the scope after a step from one resource to another.
fn enter(scope: &Scope, from: &Value, to: &Value) -> Scope {
    if std::ptr::eq(from, to) {
        return scope.clone();
    }
    let resource = address_of(from);
    Some(Rc::new(ScopeEntry { resource, before: scope.clone() }))
}

fn address_of(value: &Value) -> usize {
    value.as_object().map_or(0, |map: &Map<_, _>| address(map))
}
