//! How many subschemas the schema library makes of a document with several resources (`$id`).
//! Follows references as the library does when it reads a schema; checks nothing.
//!
//! The library makes the target of a reference anew for each list of resources that leads to it,
//! since `$dynamicRef` depends on that list. A few resources that refer to one another twice are
//! enough for millions. Documents of one resource are made once, and are not looked at here.

use std::collections::HashSet;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::expansion::{Document, address};

/// Most subschemas, each counted as often as it is made.
pub(super) const SUBSCHEMAS_MAX: usize = 20_000;

/// Members that hold no subschemas, or only such as references name.
const NOT_MADE: [&str; 6] = ["$defs", "definitions", "enum", "const", "default", "examples"];

/// The resources that lead to a place, the last one first.
type Scope = Option<Rc<Entered>>;

#[derive(PartialEq, Eq, Hash)]
struct Entered {
    resource: usize,
    before: Scope,
}

/// Whether reading `schema` makes too many subschemas.
pub(super) fn makes_too_many(document: &Document<'_>, schema: &Value) -> bool {
    if !document.has_embedded_resources(schema) {
        return false;
    }
    let mut making = Making { document, made: HashSet::new(), active: Vec::new(), count: 0 };
    making.make(schema, schema, &None);
    making.count > SUBSCHEMAS_MAX
}

struct Making<'d, 's> {
    document: &'d Document<'s>,
    /// Targets of references, each with the resources that led to it.
    made: HashSet<(usize, Scope)>,
    /// Targets that are being made.
    active: Vec<usize>,
    count: usize,
}

impl<'s> Making<'_, 's> {
    fn make(&mut self, value: &'s Value, resource: &'s Value, scope: &Scope) {
        let map = match value {
            Value::Object(map) => map,
            Value::Array(list) => {
                return list.iter().for_each(|child| self.make(child, resource, scope));
            }
            _ => return,
        };
        self.count += 1;
        if self.count > SUBSCHEMAS_MAX {
            return;
        }
        let own = self.document.resource_of(map).unwrap_or(resource);
        let scope = &entered(scope, resource, own);
        let made = map.iter().filter(|(key, _)| !NOT_MADE.contains(&key.as_str()));
        made.for_each(|(_, child)| self.make(child, own, scope));
        for target in self.document.referred(map, own) {
            self.refer(target, own, scope);
        }
    }

    fn refer(&mut self, target: &'s Value, from: &'s Value, scope: &Scope) {
        let Value::Object(map) = target else { return };
        let resource = self.document.resource_of(map).unwrap_or(from);
        let scope = entered(scope, from, resource);
        let address = address(map);
        if self.active.contains(&address) || !self.made.insert((address, scope.clone())) {
            return;
        }
        self.active.push(address);
        self.make(target, resource, &scope);
        self.active.pop();
    }
}

/// The scope behind the step from one resource to another.
fn entered(scope: &Scope, from: &Value, to: &Value) -> Scope {
    if std::ptr::eq(from, to) {
        return scope.clone();
    }
    let resource = address_of(from);
    Some(Rc::new(Entered { resource, before: scope.clone() }))
}

fn address_of(value: &Value) -> usize {
    value.as_object().map_or(0, |map: &Map<_, _>| address(map))
}
