//! Takes a host's figures, for whoever exports them. Counts nothing itself.

use super::{Host, PluginInfo};
use crate::metrics::{Figures, PluginFigures};

impl Host {
    /// What every plugin has done and is doing, as numbers. Exact for calls that have ended.
    pub fn figures(&self) -> Figures {
        Figures {
            plugins: self.list().into_iter().map(figures).collect(),
            kept_libraries: self.kept().len() as u64,
            sampled_one_in: 0,
        }
    }
}

fn figures(info: PluginInfo) -> PluginFigures {
    PluginFigures {
        generation: info.generation,
        calls: info.calls,
        errors: info.errors,
        faults: info.faults,
        refused: info.refused,
        waiting: info.waiting as u64,
        is_quarantined: info.state == "quarantined",
        ..PluginFigures::new(info.name)
    }
}
