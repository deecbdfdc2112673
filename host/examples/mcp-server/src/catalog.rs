//! The list of tools: a snapshot of the loaded plugins, renewed at each event of the host.

use std::sync::Arc;

use hotbay::{Events, Host, HostEvent};
use tokio::sync::watch;

use crate::messages::{PluginTool, tool_of};

/// The tools of a host.
#[derive(Debug)]
pub(crate) struct Catalog {
    host: Host,
    tools: watch::Sender<Vec<PluginTool>>,
}

impl Catalog {
    pub(crate) fn new(host: Host) -> Self {
        let this = Self { host, tools: watch::Sender::new(Vec::new()) };
        this.refresh();
        this
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the tools, sorted by name.
    pub(crate) fn tools(&self) -> Vec<PluginTool> {
        self.tools.borrow().clone()
    }

    pub(crate) fn tool(&self, name: &str) -> Option<PluginTool> {
        self.tools.borrow().iter().find(|tool| tool.tool.name == name).cloned()
    }

    /// Returns a receiver that is notified when the list differs.
    pub(crate) fn changes(&self) -> watch::Receiver<Vec<PluginTool>> {
        self.tools.subscribe()
    }

    /// Logs the events of the host, and renews the list, until the host is gone.
    pub(crate) async fn follow(self: Arc<Self>, mut events: Events) {
        while let Some(event) = events.next().await {
            tracing::info!("{event}");
            self.refresh();
            if let HostEvent::Loaded { plugin, .. } | HostEvent::Promoted { plugin, .. } = &event
                && self.tool(plugin.as_str()).is_none()
                && self.host.plugin(plugin.as_str()).is_ok()
            {
                tracing::warn!("`{plugin}` is not a tool: its `input_schema` accepts no object");
            }
        }
    }

    fn refresh(&self) {
        // Any event may have changed the list: also `Missed`, which stands for others.
        let tools: Vec<_> = self.host.list().iter().filter_map(tool_of).collect();
        self.tools.send_if_modified(|current| {
            let differs = *current != tools;
            *current = tools;
            differs
        });
    }
}
