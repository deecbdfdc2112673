//! A library as the SDK of programs serves it. Panics of the library were caught in it; they unwind
//! again to the SDK, which reports them like those of a program.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use hotbay::runner::{Library, LibraryError, OpenLibrary, RunningLibrary};
use hotbay_plugin::abi::RawContext;
use hotbay_plugin::contract::internal::{MethodKind, ServedCall, ServedItems, ServedMethod};
use hotbay_plugin::serve::{Program, host_functions};
use hotbay_plugin::{
    CallContext, Config, HostServices, Output, Payload, Plugin, PluginError, Snapshot,
};

use crate::opening_thread::OpeningThread;
use crate::refuse;

/// Time for async calls that were cancelled, before the plugin is shut down.
const TASKS_TIMEOUT: Duration = Duration::from_secs(1);

/// The library of this process.
static LIBRARY: OnceLock<Library> = OnceLock::new();
static OPENED: OnceLock<OpenLibrary> = OnceLock::new();
static THREAD: OnceLock<OpeningThread> = OnceLock::new();

/// Serves the library at `path`, or prints its capabilities.
pub(crate) fn run(path: &Path, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let library = match Library::probe(path) {
        Ok(library) => LIBRARY.get_or_init(|| library),
        Err(error) => return refuse(&error.full_message()),
    };
    let version: &'static str = Box::leak(library.version().to_string().into_boxed_str());
    let mut program = Program::<Isolated>::new(library.package(), version);
    for (at, contract) in library.contracts().iter().enumerate() {
        let methods = contract.methods.iter().enumerate().map(|(method, text)| {
            let call = served_call((at, method), text.kind);
            ServedMethod { name: &text.name, hash: text.hash(), call }
        });
        program = program.methods(contract, Vec::leak(methods.collect()));
    }
    program.run_with(arguments)
}

/// Returns the call of a method by the numbers of its contract and itself.
fn served_call(number: (usize, usize), kind: MethodKind) -> ServedCall<Isolated> {
    match kind {
        MethodKind::Sync | MethodKind::Async => ServedCall::Value(Box::leak(Box::new(
            move |Isolated(library): &Isolated, context: &RawContext<'_>, format, arguments: &_| {
                library.call(number, context, format, arguments).map_err(LibraryError::or_unwind)
            },
        ))),
        MethodKind::Stream => ServedCall::Stream(Box::leak(Box::new(
            move |Isolated(library): &Isolated, context: &RawContext<'_>, format, arguments: &_| {
                let opened = library.open(number, context, format, arguments);
                let stream = opened.map_err(LibraryError::or_unwind)?;
                Ok(Box::new(stream) as Box<dyn ServedItems>)
            },
        ))),
    }
}

/// The plugin of the library.
struct Isolated(RunningLibrary);

impl Isolated {
    /// Returns the opened library, whose methods are called on the thread that opened it.
    fn opened() -> Result<&'static OpenLibrary, PluginError> {
        if let Some(opened) = OPENED.get() {
            return Ok(opened);
        }
        let library = LIBRARY.get().ok_or_else(|| failed("no library was probed".to_owned()))?;
        let opened = library.open().map_err(|error| failed(error.full_message()))?;
        Ok(OPENED.get_or_init(|| opened))
    }

    /// Runs a job on the thread that opens the library.
    fn on_thread<T: Send + 'static>(
        job: impl FnOnce() -> Result<T, PluginFailure> + Send + 'static,
    ) -> Result<T, PluginError> {
        if THREAD.get().is_none() {
            let thread = OpeningThread::start().map_err(|error| failed(error.to_string()))?;
            let _ = THREAD.set(thread);
        }
        let thread = THREAD.get().expect("it was set above");
        let done = thread.run(job);
        let result = done.ok_or_else(|| failed("the runner panicked".to_owned()))?;
        result.map_err(|failure| match failure {
            PluginFailure::NotOpened(error) => error,
            PluginFailure::Library(error) => error.or_unwind().1,
        })
    }
}

/// Why a job on the thread of the library failed.
enum PluginFailure {
    NotOpened(PluginError),
    Library(LibraryError),
}

impl From<PluginError> for PluginFailure {
    fn from(error: PluginError) -> Self {
        Self::NotOpened(error)
    }
}

impl From<LibraryError> for PluginFailure {
    fn from(error: LibraryError) -> Self {
        Self::Library(error)
    }
}

fn failed(message: String) -> PluginError {
    PluginError::new(500, message)
}

fn value<T>(result: Result<T, LibraryError>) -> Result<T, PluginError> {
    result.map_err(|error| error.or_unwind().1)
}

impl Plugin for Isolated {
    fn validate_config(config: &Config) -> Result<(), PluginError> {
        let config = config.value().to_string();
        Self::on_thread(move || Ok(Self::opened()?.validate_config(&config)?))
    }

    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
        let config = config.value().to_string();
        let start = move || Ok(Self::opened()?.start(&config, host.raw(), host_functions())?);
        Self::on_thread(start).map(Self)
    }

    fn execute(
        &self,
        context: &CallContext<'_>,
        input: Payload<'_>,
    ) -> Result<Output, PluginError> {
        value(self.0.execute(context.raw(), input))
    }

    fn health(&self) -> Result<(), PluginError> {
        value(self.0.health())
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        value(self.0.snapshot())
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
        value(self.0.restore(snapshot))
    }

    fn shutdown(self) -> Result<(), PluginError> {
        Self::on_thread(move || Ok(self.0.shut_down(TASKS_TIMEOUT)?))
    }
}
