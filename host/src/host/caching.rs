//! Sets which replies are cached.

use super::HostBuilder;
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;
use crate::middleware::ResponseCache;

impl HostBuilder {
    /// Caches the replies of one plugin, of any kind, and returns them for equal requests. See
    /// [`ResponseCache`].
    pub fn cache(mut self, plugin: &str, cache: ResponseCache) -> Self {
        match PluginName::new(plugin) {
            Ok(plugin) => self.layers.cache(plugin, cache),
            Err(error) => {
                let message = format!("the replies of `{plugin}` cannot be cached");
                let error = Error::new(ErrorKind::NotFound, message).caused_by(error);
                self.invalid.get_or_insert(error);
            }
        }
        self
    }
}
