//! The parameters of every start: a private copy of a program, its environment and its limits; and
//! its capabilities, which it prints.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use hotbay_manifest::{PluginName, Provided, SocketType};
use hotbay_protocol::{
    CAPABILITIES_ARGUMENT, CAPABILITIES_TIMEOUT, MAX_CAPABILITIES_BYTES, VERSION, variable,
};

use hotbay_sandbox::{Enforcement, Kernel, OmittedPath, Policy};

use crate::capabilities::Capabilities;
use crate::child::{RunToEnd, run_to_end};
use crate::diagnose;
use crate::error::{Diagnosis, Error, Step};
use crate::last_output::output_suffix;
use crate::launch::{ChildLimits, Launch, OwnFolder, create_private, token};
use crate::limit_cause;
use crate::output::Tail;

/// The private copy of a program, which the host makes.
pub trait ProgramCopy: fmt::Debug + Send + Sync {
    /// Returns the path of the copy, which is executed.
    fn path(&self) -> PathBuf;

    /// Returns the arguments by which an interpreter finds what it runs; none for a program.
    fn arguments(&self) -> Vec<OsString> {
        Vec::new()
    }

    /// Returns the files and folders that it reads besides those of the plugin's folder.
    fn files(&self) -> Vec<PathBuf>;

    /// Returns the digest of the program.
    fn sha256(&self) -> [u8; 32];

    /// Checks the files beside the program, and restores the copy if it was removed. Blocks.
    ///
    /// # Errors
    ///
    /// Explains why the program cannot be started.
    fn ensure_intact(&self) -> Result<(), Diagnosis>;
}

/// A program, and the parameters of each start.
#[derive(Debug)]
pub struct Program {
    /// The name of the plugin in the host.
    pub name: PluginName,
    /// The private copy that is run, independent of the original file.
    pub copy: Arc<dyn ProgramCopy>,
    /// The original file.
    pub original: PathBuf,
    /// The arguments before those of the protocol.
    pub args: Vec<OsString>,
    /// The plugin's folder, used as working directory.
    pub folder: PathBuf,
    /// The inherited part of the host's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The config of the manifest, an object.
    pub config: serde_json::Value,
    /// The contracts that the manifest provides, perhaps by endpoints for their methods.
    pub provides: Vec<Provided>,
    /// The kind of socket that it should listen on.
    pub socket_type: SocketType,
    /// The limits of its processes.
    pub limits: ProcessLimits,
    /// What its processes may do; `None` if they are not confined.
    pub sandbox: Option<Policy>,
    /// How the host owns a folder, so that no host removes it meanwhile.
    pub own_folder: OwnFolder,
}

impl Program {
    /// Returns the contract of this name that the manifest maps onto endpoints.
    pub fn mapped(&self, contract: &str) -> Option<&Provided> {
        let mut mapped = self.provides.iter().filter(|provided| !provided.methods.is_empty());
        mapped.find(|provided| provided.contract == contract)
    }

    /// Restores the private copy if it was removed, and checks the files beside it.
    pub(crate) async fn ensure_intact(&self) -> Result<(), Diagnosis> {
        let copy = Arc::clone(&self.copy);
        let ensured = tokio::task::spawn_blocking(move || copy.ensure_intact());
        match ensured.await {
            Ok(ensured) => ensured,
            Err(_) => Err("the host is shutting down".into()),
        }
    }

    /// Returns a launch of the program, without a guardian. `private` is the folder of the launch.
    pub(crate) fn launch(
        &self,
        args: Vec<OsString>,
        tag: String,
        private: Option<&Path>,
    ) -> Result<Launch, Diagnosis> {
        let mut environment = self.environment.clone();
        environment.push((variable::PROTOCOL.into(), VERSION.to_string().into()));
        let sandbox = match &self.sandbox {
            None => None,
            Some(policy) => {
                environment.retain(|(name, _)| name != "TMPDIR");
                if let Some(private) = private {
                    let folder = private.join("tmp");
                    create_private(&folder).map_err(|error| {
                        format!("cannot create `{}`: {error}", folder.display())
                    })?;
                    environment.push(("TMPDIR".into(), folder.into()));
                }
                let mut policy = policy.clone();
                policy.run.push(self.copy.path().into());
                policy.read.extend(self.copy.files().into_iter().map(Into::into));
                let enforcement = Enforcement::new(&policy, Kernel::of_policy(&policy), private)
                    .map_err(|error| Diagnosis::from(error.to_string()))?;
                self.check_omitted(enforcement.omitted())?;
                Some(Arc::new(enforcement))
            }
        };
        let own = self.sandbox.as_ref().map(|policy| policy.limits).unwrap_or_default();
        let min = |one: Option<u64>, other| [one, other].into_iter().flatten().min();
        Ok(Launch {
            program: self.copy.path(),
            args: self.copy.arguments().into_iter().chain(self.args.clone()).chain(args).collect(),
            folder: self.folder.clone(),
            environment,
            limits: ChildLimits {
                memory_bytes: min(self.limits.memory_bytes, own.memory_bytes),
                descriptors: min(self.limits.descriptors, own.open_files),
                cpu_s: min(self.limits.cpu_s, own.cpu_seconds),
                file_bytes: own.file_bytes,
            },
            sandbox,
            tag,
        })
    }

    /// Logs which paths of the sandbox grant nothing. Fails if the program itself is among them.
    fn check_omitted(&self, omitted: &[OmittedPath]) -> Result<(), Diagnosis> {
        for OmittedPath { path, reason } in omitted {
            if *path == self.copy.path() {
                let message = format!("its sandbox denies the program itself, since {reason}");
                let hint = "remove that folder from `write` of its sandbox, or set another folder \
                            with `staging_dir`";
                return Err(Diagnosis { message, hint: Some(hint.to_owned()) });
            }
            tracing::warn!(
                plugin = %self.name,
                path = %path.display(),
                "a path of the sandbox grants nothing: {reason}"
            );
        }
        Ok(())
    }

    /// Explains why it was not spawned.
    pub(crate) fn explain_spawn_error(&self, error: &io::Error) -> Diagnosis {
        let is_confined = self.sandbox.is_some();
        let name = self.name_at_start();
        self.with_original_path(diagnose::of_spawn(error, &self.copy.path(), &name, is_confined))
    }

    /// Explains how it exited before it could be called, and why.
    pub(crate) fn explain_failed_start(&self, status: ExitStatus, tail: &Tail) -> Diagnosis {
        let exit = diagnose::of_exit(status, &self.copy.path(), &self.name_at_start(), tail);
        self.with_limits(self.with_original_path(exit), Some(status), tail, true)
    }

    /// Explains why it was not ready in time.
    pub(crate) fn explain_slow_start(&self, message: String, tail: &Tail) -> Diagnosis {
        self.with_limits(message.into(), None, tail, true)
    }

    /// Explains how it exited after it could be called, and why.
    pub(crate) fn explain_exit(&self, status: ExitStatus, tail: &Tail) -> Diagnosis {
        let name = quoted(&self.original);
        let exit = diagnose::of_exit(status, &self.copy.path(), &name, tail);
        self.with_limits(self.with_original_path(exit), Some(status), tail, false)
    }

    /// Adds the limits of the sandbox that may be the reason of an exit, or, without a status, of a
    /// start that takes too long.
    fn with_limits(
        &self,
        Diagnosis { message, hint }: Diagnosis,
        status: Option<ExitStatus>,
        tail: &Tail,
        was_starting: bool,
    ) -> Diagnosis {
        let limits = self.sandbox.as_ref().map(|policy| policy.limits).unwrap_or_default();
        let causes = limit_cause::causes(&limits, status, tail, was_starting);
        if causes.is_empty() {
            return Diagnosis { message, hint };
        }
        let causes: Vec<_> = causes.iter().map(|rule| format!("`{rule}`")).collect();
        let causes = causes.join(", ");
        let raise = format!("raise {causes} in its sandbox and in hotbay.toml, if it needs more");
        Diagnosis {
            message: format!("{message}\nits sandbox limits {causes}"),
            hint: Some(hint.map_or_else(|| raise.clone(), |hint| format!("{hint}, or {raise}"))),
        }
    }

    /// Explains what is wrong with the file itself, if that is the cause.
    pub(crate) fn explain_file(&self) -> Option<Diagnosis> {
        diagnose::of_file(&self.copy.path()).map(|cause| self.with_original_path(cause))
    }

    /// Returns what messages call it until it can be called: with its interpreter, if it has one,
    /// since either can be the cause.
    fn name_at_start(&self) -> String {
        match self.has_interpreter() {
            true => {
                format!("the runner {} of {}", quoted(&self.copy.path()), quoted(&self.original))
            }
            false => quoted(&self.original),
        }
    }

    fn has_interpreter(&self) -> bool {
        !self.copy.arguments().is_empty()
    }

    /// Replaces the path of the private copy by that of the original file, which users know.
    fn with_original_path(&self, Diagnosis { message, hint }: Diagnosis) -> Diagnosis {
        if self.has_interpreter() {
            return Diagnosis { message, hint };
        }
        let copy = self.copy.path().display().to_string();
        let original = self.original.display().to_string();
        let replace = |text: String| text.replace(&copy, &original);
        Diagnosis { message: replace(message), hint: hint.map(replace) }
    }
}

fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

/// The limits of one process and of the calls to it.
#[derive(Clone, Copy, Debug)]
pub struct ProcessLimits {
    /// Limit of data: heap and private writable mappings.
    pub memory_bytes: Option<u64>,
    /// Limit of open file descriptors.
    pub descriptors: Option<u64>,
    /// Limit of processor time, in seconds.
    pub cpu_s: Option<u64>,
    /// From the launch until it is ready.
    pub start_timeout: Duration,
    /// Time in which it must exit on request.
    pub stop_timeout: Duration,
    /// After this time without calls it exits, or the host stops it if it speaks an older dialect.
    /// Zero disables this.
    pub idle_timeout: Duration,
    /// Time for which `/healthz` may stay unanswered after a call has missed its deadline. Zero
    /// disables the check.
    pub health_timeout: Duration,
    /// Limit of the response to a call.
    pub max_response_bytes: u64,
    /// Limit of a state.
    pub max_snapshot_bytes: u64,
}

const RUNNER_HINT: &str = "check that it is the program `hotbay-runner` of the host's version, which it \
                           prints with `--version`, or correct `runner` in hotbay.toml";

impl Program {
    /// Queries the capabilities, on a thread of the host's runtime.
    ///
    /// # Errors
    ///
    /// `StartFailed` if the program does not run, or prints invalid capabilities.
    pub async fn capabilities(&self) -> Result<Capabilities, Error> {
        let failed = |reason: Diagnosis| Error::at(Step::Capabilities, reason);
        let tag = token().map_err(|error| failed(error.to_string().into()))?;
        let launch = self.launch(vec![CAPABILITIES_ARGUMENT.into()], tag, None).map_err(failed)?;
        let limit = self.limits.start_timeout.min(CAPABILITIES_TIMEOUT);
        match run_to_end(&launch, limit, MAX_CAPABILITIES_BYTES).await {
            RunToEnd::Exited { status, stdout, stderr } if status.success() => {
                Capabilities::parse(&stdout).map_err(|error| {
                    let output = output_suffix(&tail_of(&stderr));
                    let (file, hint) = match self.explain_file() {
                        Some(Diagnosis { message, hint }) => (format!("; {message}"), hint),
                        None => (String::new(), error.hint.map(str::to_owned)),
                    };
                    let (subject, hint) = match self.has_interpreter() {
                        true => (
                            format!("the runner {}", quoted(&self.copy.path())),
                            Some(RUNNER_HINT.to_owned()),
                        ),
                        false => ("`capabilities`".to_owned(), hint),
                    };
                    let message =
                        format!("{subject} printed invalid capabilities: {error}{file}{output}");
                    failed(Diagnosis { message, hint })
                })
            }
            RunToEnd::Exited { status, stderr, .. } => {
                let why = self.explain_failed_start(status, &tail_of(&stderr));
                Err(failed(
                    why.map_message(|why| format!("the command `capabilities` failed: {why}")),
                ))
            }
            RunToEnd::TimedOut { stderr } => {
                let tail = tail_of(&stderr);
                let (output, waited) = (output_suffix(&tail), limit.as_millis());
                let message = format!("`capabilities` did not exit within {waited} ms{output}");
                Err(failed(self.explain_slow_start(message, &tail)))
            }
            RunToEnd::TooMuchOutput { stderr } => {
                let (max, output) = (MAX_CAPABILITIES_BYTES, output_suffix(&tail_of(&stderr)));
                Err(failed(format!("`capabilities` printed more than {max} bytes{output}").into()))
            }
            RunToEnd::NotStarted(error) => Err(failed(self.explain_spawn_error(&error))),
        }
    }
}

fn tail_of(stderr: &[u8]) -> Tail {
    let mut tail = Tail::default();
    for line in String::from_utf8_lossy(stderr).lines() {
        tail.push(line);
    }
    tail
}
