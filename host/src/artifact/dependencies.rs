//! The libraries in a plugin's folder that the plugin's library links, with their bytes. Does not
//! search for them.

use std::path::PathBuf;

use super::digest::Artifact;

/// A name by which a library links another one, and the number of that file.
pub(crate) type Link = (String, usize);

/// The libraries that a library links in its plugin's folder. File 0 is the library itself.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    /// The library's path in the plugin's folder.
    pub(crate) library: PathBuf,
    /// The links of the library.
    pub(crate) links: Vec<Link>,
    /// Files 1 and following.
    pub(crate) files: Vec<Dependency>,
    /// Names that were not found in the folder, each with a message about the searched places.
    pub(crate) unresolved: Vec<(String, String)>,
    /// Notes about files in the folder that are not used.
    pub(crate) notes: Vec<String>,
}

/// A library that another one links.
#[derive(Debug)]
pub(crate) struct Dependency {
    /// Its path in the plugin's folder.
    pub(crate) relative: PathBuf,
    pub(crate) artifact: Artifact,
    pub(crate) links: Vec<Link>,
}
