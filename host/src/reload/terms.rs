//! What the calls of a build will go by: its manifest, within its host.

use std::sync::Arc;

use super::Workshop;
use super::candidate::Candidate;
use super::clamp::PluginLimits;
use crate::error::Error;
use crate::generation::{Parts, Terms};
use crate::pool::QueueLimits;

pub(super) fn terms(workshop: &Workshop, candidate: &Candidate, limits: &PluginLimits) -> Terms {
    let host = &workshop.limits;
    Terms {
        queue: QueueLimits {
            places: limits.queue as usize,
            outside: host.place_waiters_max as usize,
            replaced: host.abandoned_max,
        },
        queue_age_max: host.queue_age_max,
        deadline_max: limits.deadline,
        deadline_default: workshop.deadline_default,
        in_flight_max: limits.in_flight,
        in_flight: Arc::default(),
        memory_bytes_max: limits.memory_bytes,
        input_bytes_max: limits.input_bytes,
        permissions: candidate.granted.clone(),
        withheld: candidate.withheld(),
        input_schema: None,
    }
}

/// Checks the config, and has calls checked from here on if there is a schema for their input.
pub(super) fn check_schemas(
    workshop: &Workshop,
    candidate: &Candidate,
    parts: &mut Parts,
) -> Result<(), Error> {
    if let Some(checker) = candidate.check_schemas(&workshop.rules)? {
        let input_schema = Some(Arc::new(checker));
        parts.terms = Arc::new(Terms { input_schema, ..Terms::clone(&parts.terms) });
    }
    Ok(())
}
