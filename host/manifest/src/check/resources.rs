//! Counts the subschemas that the schema library compiles for a document with several resources
//! (`$id`). Follows references as the library does when it compiles a schema; checks nothing.
//!
//! The library compiles the target of a reference again for each list of resources that leads to
//! it, since `$dynamicRef` depends on that list. A few resources that refer to each other twice are
//! enough for millions. Documents of one resource are compiled once, and not counted here.

use std::collections::HashSet;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::expansion::{Document, address};

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
