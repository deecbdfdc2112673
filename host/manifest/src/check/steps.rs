//! Computes how deep a check recurses, and runs it on a stack that is large enough. Knows only the
//! keywords of schemas that refer to others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use serde_json::Value;

use crate::schema_error::{SchemaError, Violation};
use crate::tree::MAX_NESTING_DEPTH;

/// Stack of a check, besides that of its steps.
const MIN_STACK_BYTES: usize = 2 << 20;

/// Stack of a step into a schema: several times the measured need of the costliest keyword,
/// `unevaluatedProperties` without optimization.
const STACK_BYTES_PER_STEP: usize = 8 << 10;

/// Steps for which any thread's stack is large enough. Most checks are flat, and a thread costs
/// more than they do.
pub(super) const MAX_STEPS_ON_CALLER_STACK: usize = 16;

/// Maximum number of steps of a schema; their stack is reserved, not touched.
const MAX_STEPS: usize = 32_768;

/// Steps of a reference to another document, such as the drafts, which contain many references.
const STEPS_OF_OTHER_DOCUMENT: usize = MAX_NESTING_DEPTH;

/// Runs `job`, which recurses `steps` deep, on a stack that is large enough.
pub(super) fn with_stack<T: Send>(
    steps: usize,
    job: impl FnOnce() -> T + Send,
) -> Result<T, SchemaError> {
    let panicked = |_| SchemaError::Schema(Violation::of_all("made the checker panic".to_owned()));
    if steps <= MAX_STEPS_ON_CALLER_STACK {
        return catch_unwind(AssertUnwindSafe(job)).map_err(panicked);
    }
    if steps > MAX_STEPS {
        let message = format!(
            "refers to itself in up to {steps} steps for this value; the limit is {MAX_STEPS}"
        );
        return Err(SchemaError::Schema(Violation::of_all(message)));
    }
    let stack_bytes = MIN_STACK_BYTES + steps * STACK_BYTES_PER_STEP;
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("hotbay-schema".to_owned());
        let thread = thread.stack_size(stack_bytes).spawn_scoped(scope, job);
        thread.map_err(|error| SchemaError::NoThread(error.to_string()))?.join().map_err(panicked)
    })
}

/// The bounds of the steps of a check. Without references, the steps are at most the depth; each
/// reference is followed at most once for each level of the value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outline {
    pub(super) depth: usize,
    reference_depths: usize,
}

impl Outline {
    /// Returns the steps for a value of this depth.
    pub(super) fn steps(self, value_depth: usize) -> usize {
        self.depth + self.reference_depths * (value_depth + 1)
    }
}

/// Returns the outline of a schema or value; `None` if it nests deeper than `levels`.
pub(super) fn outline(value: &Value, levels: usize) -> Option<Outline> {
    let mut whole = Outline::default();
    let mut add = |key: &str, child: &Value| {
        let child_is_local = child.as_str().is_none_or(|target| target.starts_with('#'));
        let child = outline(child, levels.checked_sub(1)?)?;
        whole.depth = whole.depth.max(child.depth + 1);
        whole.reference_depths += child.reference_depths;
        if matches!(key, "$ref" | "$dynamicRef" | "$recursiveRef") {
            whole.reference_depths += MAX_NESTING_DEPTH + 1 - levels;
            if !child_is_local {
                whole.reference_depths += STEPS_OF_OTHER_DOCUMENT;
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
