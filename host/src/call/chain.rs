//! Chains of plugins that wait for each other: a plugin calls another one, or a service of the host,
//! while it serves a call itself. A chain belongs to a call, by whose id the calls that the plugin
//! makes meanwhile are found, on whichever thread or process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};

use hotbay_plugin::contract::with_context;

use crate::error::{Error, ErrorKind};
use crate::id::PluginName;
use crate::sync::lock;

/// Maximum number of calls that wait for each other: a thread with a stack of 2 MiB has space for
/// more.
const MAX_CALLS: usize = 64;

/// Maximum number of names at each end of a chain in a message.
const MAX_NAMES: usize = 6;

/// The plugins and services that wait for a call, the last one first.
#[derive(Debug)]
pub(crate) struct Chain {
    name: LinkName,
    /// The number of calls that wait.
    calls: usize,
    before: Option<Arc<Self>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LinkName {
    Plugin(PluginName),
    Service(Arc<str>),
}

/// The chains of running calls, in shards, so that threads seldom wait for each other. One table for
/// all hosts, since the ids of calls are unique in this process.
static RUNNING: LazyLock<[Mutex<Running>; SHARDS as usize]> = LazyLock::new(Default::default);
const SHARDS: u64 = 16;

type Running = HashMap<u64, Arc<Chain>>;

fn shard(call_id: u64) -> &'static Mutex<Running> {
    &RUNNING[(call_id % SHARDS) as usize]
}

/// The chain of a running call, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct RunningChain {
    call_id: u64,
}

impl Chain {
    /// Returns the chain of the call that runs on this thread or has the id `outer`, the longer one.
    pub(crate) fn current(outer: Option<u64>) -> Option<Arc<Self>> {
        let find = |call_id: u64| lock(shard(call_id)).get(&call_id).cloned();
        // That of a service or a compiled-in plugin, which calls without an id.
        let own = with_context(|context| context.map(|context| context.call_id()));
        let found = outer.and_then(find);
        match own.filter(|own| Some(*own) != outer).and_then(find) {
            Some(own) if found.as_ref().is_none_or(|found| found.calls < own.calls) => Some(own),
            _ => found,
        }
    }

    /// Returns whether plugins may wait for the call that runs on this thread.
    pub(crate) fn may_be_current() -> bool {
        with_context(|context| context.is_some())
    }

    /// Returns the chain of a call by `caller` of another plugin.
    pub(crate) fn to_plugin(
        before: Option<Arc<Self>>,
        caller: &PluginName,
        callee: &PluginName,
    ) -> Result<Arc<Self>, Error> {
        let chain = Self::add_call(before, caller, LinkName::Plugin(callee.clone()))?;
        chain.check(callee)?;
        Ok(chain)
    }

    /// Returns the chain of a call by `caller` of a service of the host.
    pub(crate) fn to_service(
        before: Option<Arc<Self>>,
        caller: &PluginName,
        service: &str,
    ) -> Result<Arc<Self>, Error> {
        let service = LinkName::Service(service.into());
        let chain = Self::add_call(before, caller, service.clone())?;
        let calls = chain.calls;
        Ok(Arc::new(Self { name: service, calls, before: Some(chain) }))
    }

    fn add_call(
        before: Option<Arc<Self>>,
        caller: &PluginName,
        callee: LinkName,
    ) -> Result<Arc<Self>, Error> {
        let calls = before.as_ref().map_or(0, |before| before.calls) + 1;
        let name = LinkName::Plugin(caller.clone());
        let chain = Arc::new(Self { name, calls, before });
        if calls <= MAX_CALLS {
            return Ok(chain);
        }
        let message = format!(
            "{callee} was not called: more than {MAX_CALLS} calls wait for each other ({})",
            chain.shown_with(&callee)
        );
        let hint = "end the recursion: a plugin or a service calls itself by way of the others";
        Err(Error::new(ErrorKind::Circular, message).with_hint(hint))
    }

    /// Fails if the plugin is one of those that wait.
    pub(crate) fn check(&self, callee: &PluginName) -> Result<(), Error> {
        let is_callee =
            |link: &Self| matches!(&link.name, LinkName::Plugin(name) if name == callee);
        if !self.links().any(is_callee) {
            return Ok(());
        }
        let shown = self.shown_with(&LinkName::Plugin(callee.clone()));
        let message = format!("was not called: it waits for this call ({shown})");
        let hint = "let one of the plugins return before it is called again";
        Err(Error::new(ErrorKind::Circular, message).with_hint(hint).of(callee))
    }

    /// Fails if the plugin is one of those that wait for a call with the chain `own`, or without one,
    /// for the call that runs on this thread.
    pub(crate) fn check_waiting(own: Option<&Arc<Self>>, callee: &PluginName) -> Result<(), Error> {
        let current = if own.is_none() { Self::current(None) } else { None };
        own.or(current.as_ref()).map_or(Ok(()), |chain| chain.check(callee))
    }

    fn links(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |link| link.before.as_deref())
    }

    /// Returns the chain as text, in the order of the calls, without the middle of a long one.
    fn shown_with(&self, callee: &LinkName) -> String {
        let mut names: Vec<_> = self.links().map(|link| link.name.as_str()).collect();
        names.reverse();
        names.push(callee.as_str());
        if names.len() > 2 * MAX_NAMES {
            names.splice(MAX_NAMES..names.len() - MAX_NAMES, ["…"]);
        }
        names.join(" → ")
    }
}

impl RunningChain {
    /// Records the chain of a call that is about to run.
    pub(crate) fn enter(call_id: u64, chain: &Arc<Chain>) -> Self {
        lock(shard(call_id)).insert(call_id, Arc::clone(chain));
        Self { call_id }
    }
}

impl Drop for RunningChain {
    fn drop(&mut self) {
        let chain = lock(shard(self.call_id)).remove(&self.call_id);
        drop(chain);
    }
}

impl LinkName {
    fn as_str(&self) -> &str {
        match self {
            Self::Plugin(name) => name.as_str(),
            Self::Service(name) => name,
        }
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(name) => write!(f, "plugin `{name}`"),
            Self::Service(name) => write!(f, "service `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PluginName {
        PluginName::new(text).unwrap()
    }

    #[test]
    fn circle_is_refused_with_its_chain() {
        let (a, b, c) = (name("a"), name("b"), name("c"));
        let to_b = Chain::to_plugin(None, &a, &b).unwrap();
        let to_service = Chain::to_service(Some(Arc::clone(&to_b)), &b, "key-value").unwrap();
        Chain::to_plugin(Some(Arc::clone(&to_b)), &b, &c).unwrap();
        let error = Chain::to_plugin(Some(to_b), &b, &a).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Circular);
        let expected = "plugin `a` was not called: it waits for this call (a → b → a)";
        assert_eq!(error.to_string(), expected);
        let error = to_service.check(&b).unwrap_err();
        assert!(error.to_string().ends_with("(a → b → key-value → b)"), "{error}");
        assert!(to_service.check(&c).is_ok());
        assert_eq!(Chain::to_plugin(None, &a, &a).unwrap_err().kind(), ErrorKind::Circular);
    }

    #[test]
    fn long_chain_is_refused_and_shortened() {
        let a = name("a");
        let mut chain = None;
        for _ in 0..MAX_CALLS {
            chain = Some(Chain::to_service(chain, &a, "s").unwrap());
        }
        let error = Chain::to_service(chain, &a, "s").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Circular);
        let expected = "service `s` was not called: more than 64 calls wait for each other (a → s → \
                        a → s → a → s → … → a → s → a → s → a → s)";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn chain_is_found_by_its_call_while_that_runs() {
        let chain = Chain::to_plugin(None, &name("a"), &name("b")).unwrap();
        let running = RunningChain::enter(u64::MAX - 1, &chain);
        assert!(Chain::current(Some(u64::MAX - 1)).is_some_and(|found| found.calls == 1));
        assert!(Chain::current(None).is_none());
        drop(running);
        assert!(Chain::current(Some(u64::MAX - 1)).is_none());
    }
}
