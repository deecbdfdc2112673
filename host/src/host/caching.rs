//! Says whose replies are kept.

use super::HostBuilder;
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;
use crate::layers::ResponseCache;

impl HostBuilder {
    /// Keeps the replies of one plugin, of any kind, and answers the same questions from them;
    /// see [`ResponseCache`]. Without this, every call reaches its plugin.
    pub fn cache(mut self, plugin: &str, cache: ResponseCache) -> Self {
        match PluginName::new(plugin) {
            Ok(plugin) => self.layers.cache(plugin, cache),
            Err(error) => {
                let message = format!("the replies of `{plugin}` cannot be kept");
                let error = Error::new(ErrorKind::NotFound, message).caused_by(error);
                self.mistake.get_or_insert(error);
            }
        }
        self
    }
}
