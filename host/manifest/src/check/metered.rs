//! Values that count the accesses of the schema library: each access takes steps from the budget of
//! the check on this thread. Knows no schema.
//!
//! The library has no budget, and a few hundred bytes of schema can keep it busy forever. It reads
//! values through a trait, so this module implements that trait for `serde_json`'s values and
//! counts. When the budget is used up, every value looks like `null` and every iterator is at its
//! end, so the check returns soon, and its result is not used. The work between two accesses is
//! bounded when the schema is compiled (`expansion`).

use std::borrow::Cow;
use std::cell::Cell;
use std::time::{Duration, Instant};

use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, SerdeJson, cmp};
use jsonschema::types::JsonType;
use serde_json::{Map, Number, Value};

use crate::schema_error::Exceeded;

/// Maximum time of a check.
const MAX_CHECK_TIME: Duration = Duration::from_secs(5);

/// Steps between two clock reads: about 10 µs. Most checks take fewer, and never read the clock.
const STEPS_PER_SLICE: u64 = 1024;

/// Bytes of a text that count as one step.
const BYTES_PER_STEP: u64 = 32;

/// Steps for the identity of a container, by which the library remembers a result.
const STEPS_PER_IDENTITY: u64 = 8;

/// The budget of a check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Maximum number of steps.
    pub(super) steps: u64,
    /// The deadline of the check, besides its maximum time.
    pub(super) deadline: Option<Instant>,
}

/// Additional steps of accesses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AccessCosts {
    /// For each string, since patterns may be matched against it.
    pub(super) steps_per_text: u64,
    /// For each error.
    pub(super) steps_per_error: u64,
    /// Patterns that the name of a member may be matched against.
    pub(super) patterns_per_name: u64,
}

struct Meter {
    /// Steps until the next clock read.
    slice: Cell<u64>,
    /// Steps after that slice.
    rest: Cell<u64>,
    budget: Cell<Budget>,
    costs: Cell<AccessCosts>,
    /// When the first slice was used up.
    since: Cell<Option<Instant>>,
    exceeded: Cell<Option<Exceeded>>,
}

thread_local! {
    static METER: Meter = const {
        Meter {
            slice: Cell::new(0),
            rest: Cell::new(0),
            budget: Cell::new(Budget { steps: 0, deadline: None }),
            costs: Cell::new(AccessCosts {
                steps_per_text: 0,
                steps_per_error: 0,
                patterns_per_name: 0,
            }),
            since: Cell::new(None),
            exceeded: Cell::new(None),
        }
    };
}

/// Runs `check` on this thread within `budget`.
pub(super) fn with_budget<T>(
    budget: Budget,
    costs: AccessCosts,
    check: impl FnOnce() -> T,
) -> Result<T, Exceeded> {
    METER.with(|meter| {
        let slice = budget.steps.min(STEPS_PER_SLICE);
        meter.slice.set(slice);
        meter.rest.set(budget.steps - slice);
        meter.budget.set(budget);
        meter.costs.set(costs);
        meter.since.set(None);
        meter.exceeded.set(None);
    });
    let done = check();
    METER.with(|meter| meter.exceeded.take()).map_or(Ok(done), Err)
}

/// Takes steps from the budget; returns `false` if it is used up.
#[inline]
fn take(steps: u64) -> bool {
    METER.with(|meter| match meter.slice.get().checked_sub(steps) {
        Some(left) => {
            meter.slice.set(left);
            true
        }
        None => meter.next_slice(steps),
    })
}

/// Takes the steps for reading a string.
#[inline]
fn take_text(text: &str) -> bool {
    let per_text = METER.with(|meter| meter.costs.get().steps_per_text);
    take(1 + text.len() as u64 / BYTES_PER_STEP + per_text)
}

/// Takes the steps for reading a whole value.
fn take_all(value: &Value) -> bool {
    match value {
        Value::String(text) => take(1 + text.len() as u64 / BYTES_PER_STEP),
        Value::Array(elements) => take(1) && elements.iter().all(take_all),
        Value::Object(members) => members
            .iter()
            .all(|(name, value)| take(1 + name.len() as u64 / BYTES_PER_STEP) && take_all(value)),
        _ => take(1),
    }
}

impl Meter {
    #[cold]
    fn next_slice(&self, steps: u64) -> bool {
        if self.exceeded.get().is_some() {
            return false;
        }
        let budget = self.budget.get();
        let now = Instant::now();
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        let left = self.slice.get().saturating_add(self.rest.get());
        let exceeded = if budget.deadline.is_some_and(|deadline| deadline <= now) {
            Exceeded::Deadline
        } else if now.duration_since(since) > MAX_CHECK_TIME {
            Exceeded::Time(MAX_CHECK_TIME)
        } else if let Some(left) = left.checked_sub(steps) {
            let slice = left.min(STEPS_PER_SLICE);
            self.slice.set(slice);
            self.rest.set(left - slice);
            return true;
        } else {
            Exceeded::Steps(budget.steps)
        };
        self.exceeded.set(Some(exceeded));
        self.slice.set(0);
        self.rest.set(0);
        false
    }
}

/// The JSON of `serde_json`, with counted accesses.
pub(super) struct MeteredJson;

#[derive(Clone, Copy)]
pub(super) struct Metered<'v>(pub(super) &'v Value);

pub(super) struct Members<'v>(&'v Map<String, Value>);

pub(super) struct Elements<'v>(&'v [Value]);

pub(super) struct MembersIter<'v>(serde_json::map::Iter<'v>);

pub(super) struct ElementsIter<'v>(std::slice::Iter<'v, Value>);

impl Json for MeteredJson {
    type Node<'v> = Metered<'v>;
    type PreparedKey = String;
    type StringBuffer = Value;

    const KEYS_PER_LOOKUP: usize = SerdeJson::KEYS_PER_LOOKUP;

    fn prepare_key(key: &str) -> String {
        SerdeJson::prepare_key(key)
    }

    fn with_string_node<T>(
        buffer: &mut Value,
        string: &str,
        visit: impl FnOnce(Metered<'_>) -> T,
    ) -> T {
        SerdeJson::with_string_node(buffer, string, |value| visit(Metered(value)))
    }
}

impl<'v> Node<'v, MeteredJson> for Metered<'v> {
    type Object = Members<'v>;
    type Array = Elements<'v>;
    type Number = &'v Number;

    #[inline]
    fn as_object(&self) -> Option<Members<'v>> {
        match self.0 {
            Value::Object(members) if take(1) => Some(Members(members)),
            _ => None,
        }
    }

    #[inline]
    fn as_array(&self) -> Option<Elements<'v>> {
        match self.0 {
            Value::Array(elements) if take(1) => Some(Elements(elements)),
            _ => None,
        }
    }

    #[inline]
    fn as_string(&self) -> Option<Cow<'v, str>> {
        match self.0 {
            Value::String(text) if take_text(text) => Some(Cow::Borrowed(text)),
            _ => None,
        }
    }

    #[inline]
    fn as_number(&self) -> Option<&'v Number> {
        match self.0 {
            Value::Number(number) if take(1) => Some(number),
            _ => None,
        }
    }

    #[inline]
    fn as_boolean(&self) -> Option<bool> {
        match self.0 {
            Value::Bool(truth) if take(1) => Some(*truth),
            _ => None,
        }
    }

    #[inline]
    fn is_null(&self) -> bool {
        !take(1) || self.0.is_null()
    }

    #[inline]
    fn json_type(&self) -> JsonType {
        if take(1) { self.0.json_type() } else { JsonType::Null }
    }

    fn string_length(&self) -> Option<u64> {
        if !take_text(self.0.as_str()?) {
            return None;
        }
        self.0.string_length()
    }

    fn equals_value(&self, expected: &Value) -> bool {
        let has_budget = match (self.0, expected) {
            (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
                take_all(self.0)
            }
            (Value::Object(found), Value::Object(expected)) if found.len() == expected.len() => {
                take_all(self.0)
            }
            (Value::String(found), Value::String(expected)) if found.len() == expected.len() => {
                take(1 + found.len() as u64 / BYTES_PER_STEP)
            }
            _ => take(1),
        };
        has_budget && cmp::equal(self.0, expected)
    }

    /// Returns the value as JSON. Called for each error.
    fn to_value(&self) -> Cow<'v, Value> {
        take(1 + METER.with(|meter| meter.costs.get().steps_per_error));
        Cow::Borrowed(self.0)
    }

    #[inline]
    fn identity(&self) -> Option<NodeIdentity> {
        take(1);
        // Also if the budget is used up: without it, the library would follow cycles forever.
        self.0.identity()
    }

    #[inline]
    fn container_identity(&self) -> Option<NodeIdentity> {
        take(STEPS_PER_IDENTITY);
        self.0.container_identity()
    }
}

impl<'v> Object<'v, MeteredJson> for Members<'v> {
    type Node = Metered<'v>;
    type MemberName = &'v str;
    type MembersIter = MembersIter<'v>;

    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn get(&self, name: &String) -> Option<Metered<'v>> {
        if !take(1) {
            return None;
        }
        self.0.get(name.as_str()).map(Metered)
    }

    fn members(&self) -> MembersIter<'v> {
        MembersIter(self.0.iter())
    }
}

impl<'v> Array<'v, MeteredJson> for Elements<'v> {
    type Node = Metered<'v>;
    type ElementsIter = ElementsIter<'v>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ElementsIter<'v> {
        ElementsIter(self.0.iter())
    }

    /// Takes the steps of all elements: short arrays are compared by pairs, long ones by hashes.
    fn is_unique(&self) -> bool {
        if !self.0.iter().all(take_all) {
            return true;
        }
        let values: &[Value] = self.0;
        Array::<SerdeJson>::is_unique(&values)
    }
}

impl<'v> Iterator for MembersIter<'v> {
    type Item = (&'v str, Metered<'v>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        let patterns = METER.with(|meter| meter.costs.get().patterns_per_name);
        let steps = 1 + name.len() as u64 / BYTES_PER_STEP;
        take(steps.saturating_mul(1 + patterns)).then_some((name.as_str(), Metered(value)))
    }
}

impl<'v> Iterator for ElementsIter<'v> {
    type Item = Metered<'v>;

    #[inline]
    fn next(&mut self) -> Option<Metered<'v>> {
        let value = self.0.next()?;
        take(1).then_some(Metered(value))
    }
}
