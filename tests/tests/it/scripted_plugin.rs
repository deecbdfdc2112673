//! A plugin on strings: a function whose calls do what their inputs say, and wait at a door that
//! the test opens. It tests nothing itself.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use hotbay::{CallContext, Host, HostBuilder, Output, Payload, PluginError, PluginHandle, Request};
use hotbay_tests::{LIMIT, until};

/// What is known of the calls of one puppet, and the door at which they wait.
///
/// Inputs: `wait…` waits at the door, and panics then if it says `and panic`; `watch…` waits until the call is cancelled; `left` answers
/// the milliseconds that are left, or `none`; `panic`, `error`; all others are answered as they
/// are.
#[derive(Clone, Default)]
pub(crate) struct ScriptedPlugin(Arc<Shared>);

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    heard: Vec<String>,
    done: Vec<String>,
    cancelled: Vec<(String, Option<Duration>)>,
    inside: usize,
    max_concurrent: usize,
    /// How many may still go through the door; none: all.
    tickets: Option<usize>,
}

impl ScriptedPlugin {
    pub(crate) fn new() -> Self {
        let scripted = Self::default();
        scripted.change(|seen| seen.tickets = Some(0));
        scripted
    }

    /// Hangs it into a host.
    pub(crate) fn register(&self, builder: HostBuilder, name: &str) -> HostBuilder {
        let scripted = self.clone();
        builder.register_fn(name, move |ctx, input| scripted.run_script(ctx, input))
    }

    /// A host with nothing but this puppet, under the name `scripted`.
    pub(crate) fn host(&self, configure: impl FnOnce(HostBuilder) -> HostBuilder) -> Fixture {
        let builder = configure(Host::builder());
        let host = self.register(builder, "scripted").build().expect("a host");
        let handle = host.plugin("scripted").expect("it is compiled in");
        Fixture { host, handle }
    }

    /// All inputs that came, in their order.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.read(|seen| seen.heard.clone())
    }

    /// The inputs of the calls that have come to their ends.
    pub(crate) fn done(&self) -> Vec<String> {
        self.read(|seen| seen.done.clone())
    }

    /// What `watch` calls saw: who, and how long they had when they saw it.
    pub(crate) fn cancelled(&self) -> Vec<(String, Option<Duration>)> {
        self.read(|seen| seen.cancelled.clone())
    }

    /// The most calls that were inside at once.
    pub(crate) fn max_concurrent(&self) -> usize {
        self.read(|seen| seen.max_concurrent)
    }

    /// Waits until a call with this input has begun.
    pub(crate) fn begins(&self, input: &str) {
        until(&format!("`{input}` begins"), || self.has(&self.heard(), input));
    }

    /// Waits until a call with this input has ended.
    pub(crate) fn ends(&self, input: &str) {
        until(&format!("`{input}` ends"), || self.has(&self.done(), input));
    }

    fn has(&self, inputs: &[String], input: &str) -> Option<()> {
        inputs.iter().any(|heard| heard == input).then_some(())
    }

    /// Lets all through that wait at the door, and all to come.
    pub(crate) fn open(&self) {
        self.change(|seen| seen.tickets = None);
    }

    /// Lets one through.
    pub(crate) fn release_one(&self) {
        self.change(|seen| seen.tickets = seen.tickets.map(|tickets| tickets + 1));
    }

    fn read<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.0.seen.lock().unwrap())
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.seen.lock().unwrap());
        self.0.changed.notify_all();
    }

    fn pass(&self) {
        let seen = self.0.seen.lock().unwrap();
        let (mut seen, waited) =
            self.0.changed.wait_timeout_while(seen, LIMIT, |seen| seen.tickets == Some(0)).unwrap();
        assert!(!waited.timed_out(), "nobody opened the door");
        seen.tickets = seen.tickets.map(|tickets| tickets - 1);
    }

    fn run_script(&self, ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        let text = input.as_text()?.to_owned();
        self.change(|seen| {
            seen.heard.push(text.clone());
            seen.inside += 1;
            seen.max_concurrent = seen.max_concurrent.max(seen.inside);
        });
        let _leaves = Leaves(self, text.clone());
        match text.as_str() {
            wait if wait.starts_with("wait") => {
                self.pass();
                assert!(!wait.contains("and panic"), "as asked");
            }
            watch if watch.starts_with("watch") => {
                until("the call is cancelled", || ctx.is_cancelled().then_some(()));
                self.change(|seen| seen.cancelled.push((text.clone(), ctx.remaining())));
            }
            "left" => {
                let left = ctx.remaining().map(|left| left.as_millis().to_string());
                return Ok(Output::text(left.unwrap_or_else(|| "none".to_owned())));
            }
            "panic" => panic!("as asked"),
            "error" => return Err(PluginError::new(500, "as asked")),
            _ => {}
        }
        Ok(Output::text(text))
    }
}

struct Leaves<'p>(&'p ScriptedPlugin, String);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.change(|seen| {
            seen.inside -= 1;
            seen.done.push(std::mem::take(&mut self.1));
        });
    }
}

/// A host with one puppet.
pub(crate) struct Fixture {
    pub(crate) host: Host,
    pub(crate) handle: PluginHandle,
}

impl Fixture {
    /// A pooled call.
    pub(crate) fn execute(&self, input: &str) -> hotbay::Execute {
        self.handle.execute(Request::text(input))
    }

    pub(crate) fn info(&self) -> hotbay::PluginInfo {
        self.host.list().into_iter().next().expect("it is there")
    }
}

/// A short time, after which something is to happen by itself.
pub(crate) const SOON: Duration = Duration::from_millis(30);

/// A time that no test waits for.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// A deadline that calls meet, however busy the machine is, once they have begun.
pub(crate) const LATE: Duration = Duration::from_millis(300);
