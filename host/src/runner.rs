//! One library in this process without a host: what the program `hotbay-runner` needs, which serves
//! a library over the protocol of processes.

use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hotbay_manifest::check_api;
use hotbay_plugin::abi::{CANCEL_INTERVAL, OutputSlot, RawContext, RawPayload, RawServices};
use hotbay_plugin::contract::internal::{
    Failed, ItemResult, RawHostFunctions, ServedItems, StartExecuteFn, batch,
};
use hotbay_plugin::contract::{ContractText, Format};
use hotbay_plugin::{CallContext, Fault, Output, Payload, PluginError, Snapshot};
use semver::{Version, VersionReq};

use crate::artifact::digest::Artifact;
use crate::artifact::stage::Staged;
use crate::boundary::probe::{Probed, probe};
use crate::boundary::stream::Requested;
use crate::boundary::task::RunningTask;
use crate::boundary::{
    BoundMethod, Image, Instance, MethodFunctions, OpenStream, Root, validate_config,
};
use crate::call::Failure;
use crate::error::{Error, ErrorKind};
use crate::loader::host_api;
use crate::sync::{WaitGroup, block_on_until, deadline_in};

/// The number of items that an async stream may make in advance.
const WINDOW: u32 = 32;

/// A library that was probed, without running it.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    probed: Probed,
}

/// A library that was opened.
#[derive(Debug)]
pub struct OpenLibrary {
    image: Arc<Image>,
    root: Root,
}

/// A plugin of a library that was started.
#[derive(Debug)]
pub struct RunningLibrary {
    instance: Instance,
    /// Starts a call, if it is an async plugin.
    start: Option<StartExecuteFn>,
    /// The methods of its contracts, in the order of their texts.
    methods: Vec<Box<[BoundMethod]>>,
    tasks: Arc<WaitGroup>,
}

/// Why a library did not do what it was called for.
#[derive(Debug)]
pub enum LibraryError {
    /// The part of the call that failed, and the error.
    Failed(Failed, PluginError),
    /// It panicked.
    Panicked(Fault),
}

impl Library {
    /// Probes the library at `path`, and checks that this version of the runner can open it.
    ///
    /// # Errors
    ///
    /// `Integrity` if it is not a plugin for this machine, `Incompatible` if it needs another version
    /// of the plugin API.
    pub fn probe(path: &Path) -> Result<Self, Error> {
        let failed = |kind| Error::new(kind, format!("cannot run `{}`", path.display()));
        // The host limits the size of libraries.
        let artifact = Artifact::read(path, u64::MAX)
            .map_err(|error| failed(ErrorKind::Integrity).caused_by(error))?;
        let probed = probe(artifact.bytes())
            .map_err(|error| failed(ErrorKind::Integrity).caused_by(error))?;
        check_api(&VersionReq::STAR, &probed.stamp.api, &host_api())
            .map_err(|error| failed(ErrorKind::Incompatible).caused_by(error))?;
        Ok(Self { path: path.to_owned(), probed })
    }

    /// Returns the package that it was built from.
    pub fn package(&self) -> &str {
        &self.probed.stamp.package
    }

    /// Returns the version of the package.
    pub fn version(&self) -> &Version {
        &self.probed.stamp.version
    }

    /// Returns the contracts that it serves.
    pub fn contracts(&self) -> &[ContractText] {
        &self.probed.contracts
    }

    /// Opens the library, which runs its initializers, and checks its layout. The thread should live
    /// as long as the process: some allocators bind memory to it.
    ///
    /// # Errors
    ///
    /// `StartFailed` if it cannot be opened, `Incompatible` if its layout differs.
    pub fn open(&self) -> Result<OpenLibrary, Error> {
        let failed = |kind| Error::new(kind, format!("cannot open `{}`", self.path.display()));
        let image = Image::open(Staged::of_other(self.path.clone()))
            .map_err(|error| failed(ErrorKind::StartFailed).caused_by(error))?;
        let incompatible = |error| failed(ErrorKind::Incompatible).caused_by(error);
        let root = Root::of(&image).map_err(incompatible)?;
        image.read_contracts(root.contracts()).map_err(incompatible)?;
        Ok(OpenLibrary { image: Arc::new(image), root })
    }
}

impl OpenLibrary {
    /// Validates a config with the code of the plugin.
    ///
    /// # Errors
    ///
    /// Those of the plugin.
    pub fn validate_config(&self, config: &str) -> Result<(), LibraryError> {
        validate_config(self.root, config).map_err(LibraryError::from)
    }

    /// Starts the plugin, which calls the host by `services` and `functions`.
    ///
    /// # Errors
    ///
    /// Those of the plugin.
    pub fn start(
        &self,
        config: &str,
        services: &RawServices,
        functions: &'static RawHostFunctions,
    ) -> Result<RunningLibrary, LibraryError> {
        let Self { image, root } = self;
        root.connect(functions);
        let instance = Instance::start(Arc::clone(image), *root, config, services, false)?;
        let contracts = image.contracts();
        let methods = contracts.into_iter().flat_map(|contracts| {
            // A contract is compatible with itself.
            contracts.texts().map(|text| contracts.bind(text).unwrap_or_default())
        });
        let methods = methods.collect();
        Ok(RunningLibrary { instance, start: root.start_execute(), methods, tasks: Arc::default() })
    }
}

impl RunningLibrary {
    /// Calls the plugin on this thread.
    ///
    /// # Errors
    ///
    /// Those of the plugin.
    pub fn execute(
        &self,
        context: &RawContext<'_>,
        input: Payload<'_>,
    ) -> Result<Output, LibraryError> {
        if let Some(start) = self.start {
            let task =
                self.instance.start_execute(start, context, input.into(), self.tasks.start())?;
            return finish(task, context);
        }
        let mut output = OutputSlot::new();
        self.instance.execute(context, &RawPayload::new(input), &mut output, |failure| failure)?;
        Ok(output.take().unwrap_or_default())
    }

    /// Calls the method with number `method` of the contract with number `contract`.
    ///
    /// # Errors
    ///
    /// Those of the method.
    pub fn call(
        &self,
        (contract, method): (usize, usize),
        context: &RawContext<'_>,
        format: Format,
        arguments: &[u8],
    ) -> Result<Output, LibraryError> {
        match self.functions(contract, method)? {
            MethodFunctions::Sync { serialized, .. } => {
                let arguments = RawPayload::new(Payload::bytes(arguments));
                let mut output = OutputSlot::new();
                self.instance.call_serialized(
                    serialized,
                    context,
                    format,
                    &arguments,
                    &mut output,
                )?;
                Ok(output.take().unwrap_or_default())
            }
            MethodFunctions::Async { start } => {
                let (arguments, guard) = (arguments.to_vec(), self.tasks.start());
                let task = self.instance.start_method(start, context, format, arguments, guard)?;
                finish(task, context)
            }
            MethodFunctions::Stream { .. } => Err(not_served()),
        }
    }

    /// Opens the stream of a method, like [`call`](Self::call).
    ///
    /// # Errors
    ///
    /// Those of the method.
    pub fn open(
        &self,
        (contract, method): (usize, usize),
        context: &RawContext<'_>,
        format: Format,
        arguments: &[u8],
    ) -> Result<LibraryStream, LibraryError> {
        let MethodFunctions::Stream { open } = self.functions(contract, method)? else {
            return Err(not_served());
        };
        let arguments = RawPayload::new(Payload::bytes(arguments));
        let (guard, instance) = (self.tasks.start(), &self.instance);
        let stream = OpenStream::open(guard, instance, open, context, format, &arguments)?;
        let tasks = Arc::clone(&self.tasks);
        let made = Vec::new().into_iter();
        Ok(LibraryStream { stream, tasks, requested: None, made, is_finished: false })
    }

    fn functions(&self, contract: usize, method: usize) -> Result<MethodFunctions, LibraryError> {
        match self.methods.get(contract).and_then(|methods| methods.get(method)) {
            Some(BoundMethod::Same(functions) | BoundMethod::Converted(functions)) => {
                Ok(*functions)
            }
            Some(BoundMethod::Missing) | None => Err(not_served()),
        }
    }

    /// Checks the health of the plugin.
    ///
    /// # Errors
    ///
    /// Those of the plugin.
    pub fn health(&self) -> Result<(), LibraryError> {
        Ok(self.instance.health()?)
    }

    /// Returns the state of the plugin.
    ///
    /// # Errors
    ///
    /// Those of the plugin.
    pub fn snapshot(&self) -> Result<Option<Snapshot>, LibraryError> {
        Ok(self.instance.snapshot()?)
    }

    /// Restores the state of a plugin that was not called yet.
    ///
    /// # Errors
    ///
    /// Those of the plugin.
    pub fn restore(&mut self, snapshot: Snapshot) -> Result<(), LibraryError> {
        Ok(self.instance.restore(snapshot)?)
    }

    /// Shuts the plugin down once its tasks have finished, for which it waits at most `timeout`. The
    /// library stays mapped.
    ///
    /// # Errors
    ///
    /// Those of the plugin, or that its tasks are still running.
    pub fn shut_down(mut self, timeout: Duration) -> Result<(), LibraryError> {
        if !self.tasks.wait_idle(deadline_in(timeout)) {
            let message = "tasks were still running, so the plugin was not shut down";
            return Err(LibraryError::Failed(Failed::Method, PluginError::new(500, message)));
        }
        Ok(self.instance.end(true)?)
    }
}

/// An open stream of a method.
#[derive(Debug)]
pub struct LibraryStream {
    stream: OpenStream,
    tasks: Arc<WaitGroup>,
    /// A request that was not answered yet.
    requested: Option<Requested>,
    /// Items that were made in advance.
    made: std::vec::IntoIter<Vec<u8>>,
    is_finished: bool,
}

impl ServedItems for LibraryStream {
    fn poll_next(
        &mut self,
        context: &RawContext<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<ItemResult>> {
        let item = loop {
            if let Some(item) = self.made.next() {
                break Some(Ok(item));
            }
            if self.is_finished {
                break None;
            }
            if !self.stream.is_polled() {
                let mut item = Vec::new();
                let has_item = self.stream.next(context, &mut item);
                break has_item.map(|has_item| has_item.then_some(item)).transpose();
            }
            let (stream, tasks) = (&mut self.stream, &self.tasks);
            let requested =
                self.requested.get_or_insert_with(|| stream.request(WINDOW, tasks.start()));
            let Poll::Ready(answer) = Pin::new(requested).poll(cx) else { return Poll::Pending };
            self.requested = None;
            // The sender is dropped only with a result.
            let batch = answer.unwrap_or(Err(Failure::Cancelled));
            if let Err(failure) = batch.and_then(|batch| self.take(&batch)) {
                break Some(Err(failure));
            }
        };
        if !matches!(item, Some(Ok(_))) {
            self.is_finished = true;
        }
        let item = item.map(|item| item.map(Output::bytes).map_err(LibraryError::from));
        Poll::Ready(item.map(|item| item.map_err(LibraryError::or_unwind)))
    }
}

impl LibraryStream {
    /// Takes the items of a batch.
    fn take(&mut self, batch: &Output) -> Result<(), Failure> {
        let Some((is_last, items)) = batch::parse(batch.as_bytes()) else {
            let message = "the plugin made an invalid batch of items";
            return Err(Failure::Error(PluginError::new(500, message)));
        };
        let items: Vec<_> = items.into_iter().map(<[u8]>::to_vec).collect();
        self.is_finished = is_last;
        self.made = items.into_iter();
        Ok(())
    }
}

/// Waits for a task of the plugin, and cancels it when its call was cancelled.
fn finish(task: RunningTask, context: &RawContext<'_>) -> Result<Output, LibraryError> {
    let context = CallContext::new(context);
    let mut task = pin!(task);
    loop {
        match block_on_until(task.as_mut(), Some(Instant::now() + CANCEL_INTERVAL)) {
            Some(result) => return Ok(result?),
            None if context.is_cancelled() => return Err(Failure::Cancelled.into()),
            None => {}
        }
    }
}

#[cold]
fn not_served() -> LibraryError {
    LibraryError::Failed(Failed::Method, PluginError::new(500, "the method is not served"))
}

impl LibraryError {
    /// Returns the error of a method; unwinds with the fault of a panic, which the SDK of programs
    /// reports as its own.
    pub fn or_unwind(self) -> (Failed, PluginError) {
        match self {
            Self::Failed(part, error) => (part, error),
            Self::Panicked(fault) => std::panic::resume_unwind(Box::new(fault)),
        }
    }
}

impl From<Failure> for LibraryError {
    #[cold]
    fn from(failure: Failure) -> Self {
        let error =
            |code, message: String| Self::Failed(Failed::Method, PluginError::new(code, message));
        match failure {
            Failure::Error(error) => Self::Failed(Failed::Method, error),
            Failure::Panic(fault) => Self::Panicked(fault),
            Failure::BadArguments(error) => Self::Failed(Failed::Arguments, error),
            Failure::BadResult(error) => Self::Failed(Failed::Result, error),
            Failure::Cancelled => error(499, "cancelled".to_owned()),
            Failure::Code(code) => error(500, format!("the plugin returned the code {code}")),
            Failure::Other(cause) => error(500, cause.full_message()),
        }
    }
}
