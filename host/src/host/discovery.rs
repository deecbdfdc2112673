//! Finds the folders of plugins that `load_all` loads.

use std::path::PathBuf;
use std::sync::Arc;

use crate::artifact::discover::folders;
use crate::artifact::trust::Rules;
use crate::error::Error;
use crate::loader::{CurrentSettings, LoadOptions};

/// Finds plugins for [`Host::load_all`](crate::Host::load_all).
///
/// The default is a walk through the [plugin directories](crate::HostBuilder::plugin_dir). An
/// application implements it to take the folders from elsewhere, such as a database, or to load
/// one folder under several names.
///
/// ```
/// use hotbay::{Discovered, Discovery, Error, Host, LoadOptions};
///
/// struct Regions;
///
/// impl Discovery for Regions {
///     fn discover(&self) -> Vec<Result<Discovered, Error>> {
///         let orders = |region: &str| {
///             let options = LoadOptions::new().with_name(format!("orders-{region}"));
///             Ok(Discovered::new("plugins/orders").with_options(options))
///         };
///         vec![orders("eu"), orders("us")]
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotbay::Error> {
/// let host = Host::builder().discovery(Regions).build()?;
/// let report = host.load_all().await;
/// // Without such a folder, both are refused.
/// assert_eq!(report.refused.len(), 2);
/// # Ok(())
/// # }
/// ```
pub trait Discovery: Send + Sync + 'static {
    /// Returns the plugins to load, and the errors of the search. Called at each
    /// [`load_all`](crate::Host::load_all), on a thread of the host. Plugins that are loaded
    /// already are skipped.
    fn discover(&self) -> Vec<Result<Discovered, Error>>;
}

/// A plugin found by a [`Discovery`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Discovered {
    /// The folder of the plugin.
    pub folder: PathBuf,
    /// Replacements for fields of its manifest.
    pub options: LoadOptions,
}

impl Discovered {
    /// Creates an entry for a folder. A relative one is resolved against the working directory when
    /// it is loaded.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), options: LoadOptions::new() }
    }

    /// Sets the replacements for fields of the manifest.
    #[must_use]
    pub fn with_options(mut self, options: LoadOptions) -> Self {
        self.options = options;
        self
    }
}

/// The walk through the plugin directories.
pub(super) struct DirectoryWalk {
    pub(super) dirs: Vec<PathBuf>,
    pub(super) rules: Rules,
    /// What the configuration adds: further instances.
    pub(super) settings: Arc<CurrentSettings>,
}

impl Discovery for DirectoryWalk {
    fn discover(&self) -> Vec<Result<Discovered, Error>> {
        let (folders, errors) = folders(&self.dirs, &self.rules);
        let folders = folders.into_iter().map(|folder| Ok(Discovered::new(folder)));
        let settings = self.settings.load();
        let instances = settings.instances().map(|(name, folder)| {
            let options = LoadOptions::new().with_name(name.as_str());
            Ok(Discovered::new(folder).with_options(options))
        });
        folders.chain(instances).chain(errors.into_iter().map(Err)).collect()
    }
}
