//! How many steps a check goes down, and a stack that has room for them.
//! Knows no schema language but the keywords that refer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use serde_json::Value;

use super::tree::NESTING_DEPTH_MAX;
use crate::error::manifest::{SchemaError, Violation};

/// Stack of a check, besides what its steps need.
const STACK_BYTES_MIN: usize = 2 << 20;

/// Stack of a step into a schema: several times what the costliest keyword was seen to need,
/// `unevaluatedProperties` without optimisation.
const STACK_BYTES_PER_STEP: usize = 8 << 10;

/// Steps that any thread's stack has room for: most checks are flat, and a thread costs more
/// than they do.
pub(super) const STEPS_AT_HOME: usize = 16;

/// Most steps that a schema may lead into itself; their stack is reserved, not touched.
const STEPS_MAX: usize = 32_768;

/// Steps of a reference to another document: the drafts themselves are known, and refer a lot.
const STEPS_ELSEWHERE: usize = NESTING_DEPTH_MAX;

/// Does `work`, which goes so many steps deep, where the stack has room for it.
pub(super) fn with_stack<T: Send>(
    steps: usize,
    work: impl FnOnce() -> T + Send,
) -> Result<T, SchemaError> {
    let panicked = |_| SchemaError::Schema(Violation::of_all("made the checker panic".to_owned()));
    if steps <= STEPS_AT_HOME {
        return catch_unwind(AssertUnwindSafe(work)).map_err(panicked);
    }
    if steps > STEPS_MAX {
        let message = format!(
            "refers to itself in up to {steps} steps for this value; wanted at most {STEPS_MAX}, \
             so use fewer references"
        );
        return Err(SchemaError::Schema(Violation::of_all(message)));
    }
    let stack_bytes = STACK_BYTES_MIN + steps * STACK_BYTES_PER_STEP;
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("hotbay-schema".to_owned());
        let thread = thread.stack_size(stack_bytes).spawn_scoped(scope, work);
        thread.map_err(|error| SchemaError::NoThread(error.to_string()))?.join().map_err(panicked)
    })
}

/// What bounds the steps of a check: without a reference, they are no more than the depth; each
/// reference is followed at most once for each level of the value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outline {
    pub(super) depth: usize,
    reference_depths: usize,
}

impl Outline {
    /// Steps for a value of that depth.
    pub(super) fn steps(self, value_depth: usize) -> usize {
        self.depth + self.reference_depths * (value_depth + 1)
    }
}

/// `None` when `value` nests deeper than `levels`.
pub(super) fn outline(value: &Value, levels: usize) -> Option<Outline> {
    let mut whole = Outline::default();
    let mut add = |key: &str, child: &Value| {
        let child_is_local = child.as_str().is_none_or(|place| place.starts_with('#'));
        let child = outline(child, levels.checked_sub(1)?)?;
        whole.depth = whole.depth.max(child.depth + 1);
        whole.reference_depths += child.reference_depths;
        if matches!(key, "$ref" | "$dynamicRef" | "$recursiveRef") {
            whole.reference_depths += NESTING_DEPTH_MAX + 1 - levels;
            if !child_is_local {
                whole.reference_depths += STEPS_ELSEWHERE;
            }
        }
        Some(())
    };
    match value {
        Value::Object(object) => object.iter().try_for_each(|(key, child)| add(key, child))?,
        Value::Array(list) => list.iter().try_for_each(|child| add("", child))?,
        _ => {}
    }
    Some(whole)
}
