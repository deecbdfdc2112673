//! Answers calls from earlier replies, if the application enables it. Costs a null check if not;
//! otherwise the SHA-256 of the input, a short lock, and a copy of the reply.

mod store;

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{AsyncService, CallScope, Slot, SyncService};
use crate::sync::lock;
use store::{CacheEntry, CacheStore, Key};

/// A cache of a plugin's replies, for [`HostBuilder::cache`](crate::HostBuilder::cache).
///
/// A call is answered from the cache if the plugin's current build answered a call with the same
/// input, content type, [operation](crate::Request::operation),
/// [endpoint](crate::Request::endpoint), [method](crate::Request::method) and
/// [headers](crate::Request::with_header) before. Deadlines, tokens and traces do not matter. So it
/// suits plugins whose replies depend on nothing else.
///
/// Errors are never cached, and a reload empties the cache. Two concurrent calls with the same
/// input both reach the plugin if no reply is cached yet. Permissions and `input_schema` are
/// checked before the cache. While a plugin is quarantined, [`call`](crate::PluginHandle::call) is
/// still answered from the cache; [`execute`](crate::PluginHandle::execute) fails, because its call
/// enters the plugin's queue first.
///
/// ```
/// # use std::sync::atomic::{AtomicU32, Ordering};
/// # use std::time::Duration;
/// # use hotbay::{Error, Host, Output, Request, ResponseCache};
/// let answered = AtomicU32::new(0);
/// let host = Host::builder()
///     .register_fn("slow", move |_, _| {
///         Ok(Output::text(format!("answer {}", answered.fetch_add(1, Ordering::Relaxed))))
///     })
///     .cache("slow", ResponseCache::new().with_max_bytes(1 << 20).with_max_age(Duration::from_secs(300)))
///     .build()?;
/// let slow = host.plugin("slow")?;
/// assert_eq!(slow.call(Request::text("a"))?.as_text()?, "answer 0");
/// assert_eq!(slow.call(Request::text("a"))?.as_text()?, "answer 0");
/// assert_eq!(slow.call(Request::text("b"))?.as_text()?, "answer 1");
/// assert_eq!((host.list()[0].stats.cache_hits, host.list()[0].stats.cache_misses), (1, 2));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct ResponseCache {
    max_bytes: u64,
    max_age: Duration,
}

impl ResponseCache {
    /// Creates a cache of 16 MiB whose replies are valid for 60 seconds.
    pub fn new() -> Self {
        Self { max_bytes: 16 << 20, max_age: Duration::from_secs(60) }
    }

    /// Sets the maximum size in bytes, which includes an overhead for each reply besides its body.
    /// The least recently used replies are evicted. A reply larger than an eighth of the maximum is
    /// not cached.
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets how long a reply is valid after the plugin returned it.
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }
}

impl Default for ResponseCache {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) struct Cache<S> {
    slot: Arc<Slot>,
    /// `None` if the application enables no cache, which is usual.
    handle: Option<Box<CacheHandle>>,
    inner: S,
}

struct CacheHandle {
    max_bytes: u64,
    store: Mutex<CacheStore>,
}

/// The result of a lookup.
enum Lookup {
    Hit(Reply),
    /// Not found; the reply is to be stored under this key.
    Miss(Key),
    /// No cache is enabled, or no generation is current.
    Bypass,
}

impl<S> Cache<S> {
    pub(super) fn new(slot: Arc<Slot>, limits: Option<&ResponseCache>, inner: S) -> Self {
        let handle = limits.map(|limits| {
            let store = Mutex::new(CacheStore::new(limits));
            Box::new(CacheHandle { max_bytes: limits.max_bytes, store })
        });
        Self { slot, handle, inner }
    }

    /// Looks up the reply to a call.
    #[inline]
    fn look_up(&self, scope: &CallScope<'_>) -> Lookup {
        match &self.handle {
            None => Lookup::Bypass,
            Some(handle) => self.look_up_in(handle, scope),
        }
    }

    #[inline(never)]
    fn look_up_in(&self, handle: &CacheHandle, scope: &CallScope<'_>) -> Lookup {
        let leased = scope.lease.map(|instance| instance.generation().id);
        let current = || self.slot.generation().map(|generation| generation.id);
        let Some(generation) = leased.or_else(current) else { return Lookup::Bypass };
        if self.slot.is_shutting_down() {
            return Lookup::Bypass;
        }
        let key = Key::of(scope.request, generation);
        let counters = &self.slot.counters.cache;
        let found = {
            let mut store = lock(&handle.store);
            let found = store.get(&key, Instant::now());
            counters.bytes.store(store.bytes(), Ordering::Relaxed);
            found
        };
        let counter = if found.is_some() { &counters.hits } else { &counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        // Copied outside the lock.
        found.map_or(Lookup::Miss(key), |entry| Lookup::Hit(entry.reply()))
    }

    /// Stores the reply after a miss.
    fn store(&self, key: &Key, reply: &Reply) {
        let Some(handle) = &self.handle else { return };
        if !CacheStore::fits(handle.max_bytes, reply) {
            return;
        }
        let now = Instant::now();
        let entry = CacheEntry::copy_of(reply, now);
        let mut store = lock(&handle.store);
        store.put(key, entry, now);
        self.slot.counters.cache.bytes.store(store.bytes(), Ordering::Relaxed);
    }
}

impl<S: SyncService> SyncService for Cache<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        match self.look_up(scope) {
            Lookup::Bypass => return self.inner.call(scope, reply),
            Lookup::Hit(found) => *reply = found,
            Lookup::Miss(key) => {
                self.inner.call(scope, reply)?;
                self.store(&key, reply);
            }
        }
        Ok(())
    }
}

impl<S: AsyncService> AsyncService for Cache<S> {
    async fn call_async(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        match self.look_up(scope) {
            Lookup::Bypass => return self.inner.call_async(scope, reply).await,
            Lookup::Hit(found) => *reply = found,
            Lookup::Miss(key) => {
                self.inner.call_async(scope, reply).await?;
                self.store(&key, reply);
            }
        }
        Ok(())
    }
}

impl<S: fmt::Debug> fmt::Debug for Cache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("is_on", &self.handle.is_some())
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
