//! A compiled-in plugin whose calls follow a script in their input, and can wait at a gate that the
//! test opens. Contains no tests.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use hotbay::{CallContext, Host, HostBuilder, Output, Payload, PluginError, PluginHandle, Request};
use hotbay_tests::{LIMIT, until};

/// Records the calls of one scripted plugin and holds the gate at which they wait.
///
/// Scripts: `wait…` waits at the gate, then panics if it contains `and panic`; `watch…` waits until
/// the call is cancelled; `left` returns the remaining milliseconds, or `none`; `panic` and `error`
/// fail. Any other input is echoed.
#[derive(Clone, Default)]
pub(crate) struct ScriptedPlugin(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    inputs: Vec<String>,
    done: Vec<String>,
    cancelled: Vec<(String, Option<Duration>)>,
    active: usize,
    max_concurrent: usize,
    /// Number of calls that may still pass the gate; `None` if it is open.
    passes: Option<usize>,
}

impl ScriptedPlugin {
    pub(crate) fn new() -> Self {
        let scripted = Self::default();
        scripted.change(|state| state.passes = Some(0));
        scripted
    }

    /// Registers it in a host.
    pub(crate) fn register(&self, builder: HostBuilder, name: &str) -> HostBuilder {
        let scripted = self.clone();
        builder.register_fn(name, move |ctx, input| scripted.run_script(ctx, input))
    }

    /// Builds a host with only this plugin, named `scripted`.
    pub(crate) fn host(&self, configure: impl FnOnce(HostBuilder) -> HostBuilder) -> Fixture {
        let builder = configure(Host::builder());
        let host = self.register(builder, "scripted").build().expect("a host");
        let handle = host.plugin("scripted").expect("the plugin is registered");
        Fixture { host, handle }
    }

    /// Returns all inputs received, in order.
    pub(crate) fn inputs(&self) -> Vec<String> {
        self.read(|state| state.inputs.clone())
    }

    /// Returns the inputs of finished calls.
    pub(crate) fn finished(&self) -> Vec<String> {
        self.read(|state| state.done.clone())
    }

    /// Returns the inputs of cancelled `watch` calls, each with the remaining time it saw.
    pub(crate) fn cancelled(&self) -> Vec<(String, Option<Duration>)> {
        self.read(|state| state.cancelled.clone())
    }

    /// Returns the maximum number of concurrent calls.
    pub(crate) fn max_concurrent(&self) -> usize {
        self.read(|state| state.max_concurrent)
    }

    /// Waits until a call with this input has started.
    pub(crate) fn wait_started(&self, input: &str) {
        until(&format!("`{input}` starts"), || self.has(&self.inputs(), input));
    }

    /// Waits until a call with this input has finished.
    pub(crate) fn wait_finished(&self, input: &str) {
        until(&format!("`{input}` finishes"), || self.has(&self.finished(), input));
    }

    fn has(&self, inputs: &[String], input: &str) -> Option<()> {
        inputs.iter().any(|other| other == input).then_some(())
    }

    /// Opens the gate for all present and future calls.
    pub(crate) fn release_all(&self) {
        self.change(|state| state.passes = None);
    }

    /// Lets one call pass the gate.
    pub(crate) fn release_one(&self) {
        self.change(|state| state.passes = state.passes.map(|passes| passes + 1));
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.0.state.lock().unwrap())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock().unwrap());
        self.0.changed.notify_all();
    }

    fn wait_at_gate(&self) {
        let state = self.0.state.lock().unwrap();
        let (mut state, waited) = self
            .0
            .changed
            .wait_timeout_while(state, LIMIT, |state| state.passes == Some(0))
            .unwrap();
        assert!(!waited.timed_out(), "the gate was not opened");
        state.passes = state.passes.map(|passes| passes - 1);
    }

    fn run_script(&self, ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        let text = input.as_text()?.to_owned();
        self.change(|state| {
            state.inputs.push(text.clone());
            state.active += 1;
            state.max_concurrent = state.max_concurrent.max(state.active);
        });
        let _leaves = CallGuard(self, text.clone());
        match text.as_str() {
            wait if wait.starts_with("wait") => {
                self.wait_at_gate();
                assert!(!wait.contains("and panic"), "on request");
            }
            watch if watch.starts_with("watch") => {
                until("the call is cancelled", || ctx.is_cancelled().then_some(()));
                self.change(|state| state.cancelled.push((text.clone(), ctx.remaining())));
            }
            "left" => {
                let left = ctx.remaining().map(|left| left.as_millis().to_string());
                return Ok(Output::text(left.unwrap_or_else(|| "none".to_owned())));
            }
            "panic" => panic!("on request"),
            "error" => return Err(PluginError::new(500, "on request")),
            _ => {}
        }
        Ok(Output::text(text))
    }
}

struct CallGuard<'p>(&'p ScriptedPlugin, String);

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.active -= 1;
            state.done.push(std::mem::take(&mut self.1));
        });
    }
}

/// A host with one scripted plugin.
pub(crate) struct Fixture {
    pub(crate) host: Host,
    pub(crate) handle: PluginHandle,
}

impl Fixture {
    /// Starts a pooled call.
    pub(crate) fn execute(&self, input: &str) -> hotbay::Execute {
        self.handle.execute(Request::text(input))
    }

    pub(crate) fn info(&self) -> hotbay::PluginInfo {
        self.host.list().into_iter().next().expect("the plugin is listed")
    }
}

/// A short delay.
pub(crate) const SOON: Duration = Duration::from_millis(30);

/// A duration that no test reaches.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// A deadline that calls meet once started, even on a busy machine.
pub(crate) const LATE: Duration = Duration::from_millis(300);
