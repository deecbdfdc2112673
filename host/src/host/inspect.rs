//! What a builder can tell of plugins without a host: surveys, close looks, and how a program
//! keeps to the protocol. Loads nothing for good.

use std::path::Path;

use super::builder::HostBuilder;
use crate::call::Request;
use crate::conformance::Conformance;
use crate::error::Error;
#[cfg(any(doc, not(unix)))]
use crate::error::ErrorKind;
use crate::reload::{Inspection, SurveyedPlugin};

impl HostBuilder {
    /// Looks at every folder below the plugin directories, without running anything: manifests
    /// and stamps only. The second answer is what was wrong with the walk itself.
    pub fn survey(&self) -> (Vec<SurveyedPlugin>, Vec<Error>) {
        super::load_all::survey(&self.dirs, &self.rules)
    }

    /// Looks closely at the plugin in `folder`, without running anything.
    pub fn inspect(&self, folder: impl AsRef<Path>) -> Inspection {
        crate::reload::inspect(folder.as_ref(), &self.rules)
    }

    /// Compares the root module of the library in `folder` with this host's, at length.
    ///
    /// Answers with the report of the differences, or none if there are none. Runs the
    /// library's initialisers in this process, so a damaged library can end it.
    ///
    /// # Errors
    ///
    /// By the step that failed before the comparison.
    pub fn abi_report(&self, folder: impl AsRef<Path>) -> Result<Option<String>, Error> {
        crate::reload::abi_report(folder.as_ref(), &self.rules)
    }

    /// Holds the program in `folder` against every step of the protocol for processes.
    ///
    /// Starts it several times, with and without the token, and sends it what unlucky hosts send
    /// too; `sample` is an input that it is known to take. Blocks this thread until all is
    /// asked, which takes seconds, and minutes with a program that answers nothing. A step that
    /// fails is told in the answer and is no error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Manifest`] and [`ErrorKind::Integrity`] where there is nothing to start,
    /// [`ErrorKind::Unsupported`] for libraries and on systems without processes as plugins.
    pub fn check_program(
        &self,
        folder: impl AsRef<Path>,
        sample: Option<&Request<'_>>,
    ) -> Result<Conformance, Error> {
        #[cfg(unix)]
        return crate::reload::check_program(
            folder.as_ref(),
            sample,
            &crate::reload::ConformanceRun {
                rules: &self.rules,
                limits: &self.limits,
                environment: &self.environment,
                staging_dir: self.staging_dir.as_deref(),
            },
        );
        #[cfg(not(unix))]
        {
            let _ = sample;
            let folder = folder.as_ref().display();
            let message = format!("`{folder}`: plugins in processes need Unix");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}
