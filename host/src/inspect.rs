//! Inspects plugins without a host: surveys, reports on one plugin, ABI comparisons, and
//! conformance tests of programs. The `hotbay` command uses it.
//!
//! Each function takes the [`HostBuilder`] whose rules and limits apply.
//!
//! ```
//! use hotbay::{Host, inspect};
//!
//! let builder = Host::builder().plugin_dir("no/such/folder");
//! let survey = inspect::survey(&builder);
//! assert!(survey.plugins.is_empty());
//! assert_eq!(survey.errors.len(), 1);
//! ```

use std::path::{Path, PathBuf};

use hotbay_manifest::SignedFiles;
use hotbay_plugin::contract::ContractText;
use hotbay_sandbox::{Confinement, Delegated, Kernel};

#[cfg(feature = "conformance")]
use crate::call::Request;
use crate::error::Error;
#[cfg(any(doc, not(all(unix, feature = "process"))))]
use crate::error::ErrorKind;
use crate::host::HostBuilder;
use crate::id::{InvalidName, PluginName};
use crate::loader::SurveyRules;
pub use crate::loader::{Built, InspectedPermission, Inspection, SurveyedPlugin};
#[cfg(feature = "conformance")]
pub use hotbay_conformance::{Conformance, ConformanceOutcome, ConformanceStep};

/// The outcome of [`survey`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Survey {
    /// The plugins below the plugin directories.
    pub plugins: Vec<SurveyedPlugin>,
    /// The folders that hold a shared library but no `plugin.json`. Libraries load only with one.
    pub without_manifest: Vec<PathBuf>,
    /// The errors of the walk through the directories.
    pub errors: Vec<Error>,
}

/// Reads the manifests and stamps of all plugins below the builder's plugin directories, and checks
/// whether this machine can run and confine them as the builder requires. Runs nothing.
pub fn survey(builder: &HostBuilder) -> Survey {
    let (plugins, found) = crate::host::survey(&builder.dirs, survey_rules(builder));
    Survey { plugins, without_manifest: found.without_manifest, errors: found.problems }
}

/// Inspects the plugin in `folder`, without running anything.
///
/// The plugin has the settings that the builder's configuration has for it.
pub fn plugin(builder: &HostBuilder, folder: impl AsRef<Path>) -> Inspection {
    inspect(builder, folder.as_ref(), None)
}

/// Inspects the plugin in `folder` as the instance `name`, which the builder's configuration names.
///
/// # Errors
///
/// [`InvalidName`] if no plugin can have the name.
pub fn instance(
    builder: &HostBuilder,
    folder: impl AsRef<Path>,
    name: &str,
) -> Result<Inspection, InvalidName> {
    let name = PluginName::new(name)?;
    Ok(inspect(builder, folder.as_ref(), Some(&name)))
}

/// What this machine can do for the plugins of a host.
#[derive(Debug)]
#[non_exhaustive]
pub struct Machine {
    /// What the kernel supports.
    pub kernel: Kernel,
    /// What it enforces of a sandbox that has every rule, with the host's folder of control groups.
    pub confinement: Confinement,
    /// The program that runs isolated libraries, or the reason that none can be used.
    pub runner: Result<PathBuf, Error>,
}

/// Returns what this machine can do for the plugins of a host.
///
/// ```
/// use hotbay::{Host, inspect};
///
/// let machine = inspect::machine(&Host::builder().runner("no/such/program"));
/// assert!(machine.runner.unwrap_err().full_message().contains("no/such/program"));
/// ```
pub fn machine(builder: &HostBuilder) -> Machine {
    let kernel = Kernel::current();
    let cgroup = builder.confinement.cgroup.clone().map(Delegated::inspect);
    let confinement = Confinement::of_all_rules(kernel, cgroup);
    Machine { kernel, confinement, runner: runner(builder) }
}

#[cfg(all(unix, feature = "process"))]
fn runner(builder: &HostBuilder) -> Result<PathBuf, Error> {
    crate::loader::find_runner(builder.runner.as_deref(), builder.rules.trust())
}

#[cfg(not(all(unix, feature = "process")))]
fn runner(_: &HostBuilder) -> Result<PathBuf, Error> {
    let error = Error::new(ErrorKind::Unsupported, crate::loader::NO_PROCESSES);
    Err(error.with_hint(crate::loader::NO_PROCESSES_HINT))
}

fn inspect(builder: &HostBuilder, folder: &Path, instance: Option<&PluginName>) -> Inspection {
    let policy = builder.permission_policy.as_ref();
    crate::loader::inspect(folder, survey_rules(builder), policy, instance)
}

fn survey_rules(builder: &HostBuilder) -> SurveyRules<'_> {
    SurveyRules {
        rules: &builder.rules,
        settings: &builder.settings,
        confinement: &builder.confinement,
        runner: builder.runner.as_deref(),
        environment: &builder.environment,
        staging_dir: builder.staging_dir.as_deref(),
        plugin_dirs: &builder.dirs,
    }
}

/// Returns the list of all files of the plugin in `folder`, which a signature covers.
///
/// Compares nothing with a signature or digest that exists. The command `hotbay sign` writes the list
/// as `plugin.files.json`, and its signature as `plugin.files.json.minisig`.
///
/// # Errors
///
/// [`ErrorKind::Manifest`] and [`ErrorKind::Integrity`] if the manifest or a file cannot be read, or
/// the folder has a link, a file whose name is not plain UTF-8 text, or too many files.
pub fn files_to_sign(
    builder: &HostBuilder,
    folder: impl AsRef<Path>,
) -> Result<SignedFiles, Error> {
    crate::loader::files_to_sign(folder.as_ref(), &builder.rules)
}

/// Returns the contracts that a library serves, from its file, without opening it.
///
/// `library` is the file itself; for a plugin's folder, see [`Inspection::contracts`].
///
/// # Errors
///
/// [`ErrorKind::Integrity`] if the file is not the library of a plugin
/// for this host.
pub fn contracts(
    builder: &HostBuilder,
    library: impl AsRef<Path>,
) -> Result<Vec<ContractText>, Error> {
    crate::loader::contracts(library.as_ref(), &builder.rules)
}

/// Compares the root module of the library in `folder` with this host's. Returns a report of the
/// differences, or `None` if there are none.
///
/// Runs the library's initializers in this process, so a damaged library can end it.
///
/// # Errors
///
/// Depends on the step that failed before the comparison: see [`Error::step`].
/// [`ErrorKind::Unsupported`] if the library is isolated.
pub fn abi_report(
    builder: &HostBuilder,
    folder: impl AsRef<Path>,
) -> Result<Option<String>, Error> {
    crate::loader::abi_report(folder.as_ref(), survey_rules(builder))
}

/// Tests whether the program in `folder` conforms to the protocol for processes.
///
/// Starts it several times, with and without the token, and also sends it invalid requests.
/// `sample` is an input that the program accepts. Blocks the current thread for seconds, or minutes
/// if the program does not respond. A step that fails is part of the result, not an error.
///
/// # Errors
///
/// [`ErrorKind::Manifest`] and [`ErrorKind::Integrity`] if there is nothing to start,
/// [`ErrorKind::Unsupported`] for libraries, and on other systems than Unix.
#[cfg(feature = "conformance")]
pub fn check_program(
    builder: &HostBuilder,
    folder: impl AsRef<Path>,
    sample: Option<&Request<'_>>,
) -> Result<Conformance, Error> {
    #[cfg(unix)]
    return crate::loader::check_program(
        folder.as_ref(),
        sample,
        &crate::loader::ConformanceRun { host: survey_rules(builder), limits: &builder.limits },
    );
    #[cfg(not(unix))]
    {
        let _ = (builder, sample);
        let folder = folder.as_ref().display();
        let message = format!("`{folder}`: {}", crate::loader::NO_PROCESSES);
        Err(Error::new(ErrorKind::Unsupported, message).with_hint(crate::loader::NO_PROCESSES_HINT))
    }
}
