//! Stands in for the enforcement on systems that cannot confine a process.

use std::io;
use std::path::Path;

use crate::{Kernel, NoNamespaces, OmittedPath, Policy};

/// Enforces nothing on this system; its report says so.
#[derive(Debug)]
pub struct Enforcement(());

impl Enforcement {
    /// Prepares nothing.
    ///
    /// # Errors
    ///
    /// Never fails.
    pub fn new(_: &Policy, _: Kernel, _: Option<&Path>) -> io::Result<Self> {
        Ok(Self(()))
    }

    /// Returns none.
    pub fn omitted(&self) -> &[OmittedPath] {
        &[]
    }

    /// Returns false.
    pub fn ran_out_of_memory(&self) -> bool {
        false
    }

    /// Returns `None`.
    pub fn group(&self) -> Option<&Path> {
        None
    }

    /// Returns `None`: no child enters namespaces.
    pub fn explain_namespaces(_: &io::Error) -> Option<NoNamespaces> {
        None
    }

    /// Does nothing.
    ///
    /// # Errors
    ///
    /// Never fails.
    pub fn enter(&self) -> io::Result<()> {
        Ok(())
    }
}
