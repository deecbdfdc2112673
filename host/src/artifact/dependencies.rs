//! The libraries that a plugin's library links and that lie in the plugin's folder, as they were
//! read. Says nothing of where they are looked for.

use std::path::PathBuf;

use super::digest::Artifact;

/// A name by which a library links another, and the file that is meant.
pub(crate) type Link = (String, usize);

/// What a library links in its plugin's folder. File 0 is the library itself.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    /// The library's own path in the plugin's folder.
    pub(crate) library: PathBuf,
    /// What the library links.
    pub(crate) links: Vec<Link>,
    /// File 1 and those that follow.
    pub(crate) files: Vec<Dependency>,
    /// Names that were not found in the folder; each with a sentence that says where it was
    /// looked for.
    pub(crate) unresolved: Vec<(String, String)>,
    /// What is not used although it lies there, in words.
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
