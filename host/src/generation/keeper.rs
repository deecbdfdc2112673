//! What is left of generations whose libraries stay mapped: counted, listed with the reason,
//! and never freed, because something may still run in them.

use std::sync::Mutex;

use crate::boundary::{Image, Instance};
use crate::id::{GenerationId, PluginName};
use crate::sync::lock;

/// What is left of one generation.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) plugin: PluginName,
    /// None if it never served.
    pub(crate) generation: Option<GenerationId>,
    pub(crate) reason: String,
    /// Held, so that it is never freed.
    #[expect(dead_code, reason = "held, not read")]
    pub(crate) left: Left,
}

/// What has to stay in memory.
#[derive(Debug)]
pub(crate) enum Left {
    /// A plugin that runs, somewhere.
    Running,
    /// A plugin that was not stopped.
    #[expect(dead_code, reason = "held, not read")]
    Instance(Instance),
    /// A library that nothing of ours uses any more.
    #[expect(dead_code, reason = "held, not read")]
    Image(std::sync::Arc<Image>),
    /// A library that was closed, and that the system keeps.
    Closed,
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

    /// Who stays mapped, and why.
    pub(crate) fn list(&self) -> Vec<(PluginName, Option<GenerationId>, String)> {
        let kept = lock(&self.kept);
        let entry = |kept: &Kept| (kept.plugin.clone(), kept.generation, kept.reason.clone());
        kept.iter().map(entry).collect()
    }
}
