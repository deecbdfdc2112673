//! What is left of generations whose libraries stay mapped: counted, listed with the reason,
//! looked at again when the reason may have gone, and never freed before.

use std::sync::{Arc, Mutex};

use super::retire::close;
use crate::boundary::{Image, Instance, Root};
use crate::event::{Board, HostEvent};
use crate::id::{GenerationId, PluginName};
use crate::sync::lock;

/// What is left of one generation.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) plugin: PluginName,
    /// None if it never served.
    pub(crate) generation: Option<GenerationId>,
    pub(crate) reason: String,
    pub(crate) left: Left,
}

/// What has to stay in memory.
#[derive(Debug)]
pub(crate) enum Left {
    /// A plugin that runs, somewhere: nothing can be done.
    Running,
    /// A plugin that was not stopped: nothing can be done.
    #[expect(dead_code, reason = "held, not read")]
    Instance(Instance),
    /// A library of a plugin that has ended, for a reason that stays.
    #[expect(dead_code, reason = "held, not read")]
    Image(Arc<Image>),
    /// A library of a plugin that has ended, for a reason that may go.
    ForNow(Arc<Image>, Option<Root>),
    /// A library that was closed, and that the system keeps until a thread has ended.
    Closed(Image),
}

/// All that is left in a host.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    kept: Mutex<Vec<Kept>>,
}

impl Keeper {
    pub(crate) fn keep(&self, kept: Kept) {
        tracing::warn!(
            plugin = %kept.plugin,
            generation = kept.generation.map(GenerationId::get),
            reason = kept.reason,
            "library stays mapped"
        );
        lock(&self.kept).push(kept);
    }

    /// How many libraries stay mapped.
    pub(crate) fn count(&self) -> usize {
        lock(&self.kept).len()
    }

    /// Looks again at those whose reason may have gone, and tells which are closed now.
    pub(crate) fn look_again(&self, board: &Board) {
        // Taken out meanwhile, so that no lock is held while their code is asked.
        let kept = std::mem::take(&mut *lock(&self.kept));
        let mut still = Vec::with_capacity(kept.len());
        for mut one in kept {
            let left = match one.left {
                Left::ForNow(image, root) => match close(image, root, None) {
                    Ok(leaked_bytes) => Err(leaked_bytes),
                    Err((reason, left)) => {
                        one.reason = reason;
                        Ok(left)
                    }
                },
                Left::Closed(image) if !image.is_mapped() => Err(None),
                left => Ok(left),
            };
            match (left, one.generation) {
                (Ok(left), _) => still.push(Kept { left, ..one }),
                (Err(leaked_bytes), Some(generation)) => {
                    board.tell(HostEvent::Closed { plugin: one.plugin, generation, leaked_bytes });
                }
                (Err(_), None) => {}
            }
        }
        lock(&self.kept).append(&mut still);
    }

    /// Who stays mapped, and why.
    pub(crate) fn list(&self) -> Vec<(PluginName, Option<GenerationId>, String)> {
        let kept = lock(&self.kept);
        let entry = |kept: &Kept| (kept.plugin.clone(), kept.generation, kept.reason.clone());
        kept.iter().map(entry).collect()
    }
}
