//! Answers calls from earlier replies, if the application enables it. Costs a null check if not;
//! otherwise the SHA-256 of the input, a short lock, and a copy of the reply.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotbay_plugin::{ContentType, Output};
use lru::LruCache;
use sha2::{Digest, Sha256};

use super::service::{Before, Middleware};
use crate::call::{Reply, ReplySlot, Request};
use crate::error::Error;
use crate::id::GenerationId;
use crate::slot::{CallScope, Slot};
use crate::sync::lock;

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

pub(crate) struct Cache {
    slot: Arc<Slot>,
    /// `None` if the application enables no cache, which is usual.
    handle: Option<Box<CacheHandle>>,
}

struct CacheHandle {
    max_bytes: u64,
    store: Mutex<CacheStore>,
}

impl Middleware for Cache {
    /// The key under which the reply is to be stored; `None` if no cache is enabled, or no
    /// generation is current.
    type Guard<'c> = Option<Key>;

    #[inline]
    fn before<'c>(
        &'c self,
        scope: &CallScope<'c>,
        reply: &mut ReplySlot,
    ) -> Result<Before<Option<Key>>, Error> {
        match &self.handle {
            // The result of a method is not in the reply.
            Some(_) if scope.request.method_request().is_some() => Ok(Before::Continue(None)),
            None => Ok(Before::Continue(None)),
            Some(handle) => Ok(self.look_up(handle, scope, reply)),
        }
    }

    #[inline]
    fn after(
        &self,
        key: Option<Key>,
        _: &CallScope<'_>,
        reply: &ReplySlot,
        outcome: &Result<(), Error>,
    ) {
        if let (Some(key), Ok(())) = (key, outcome) {
            self.store(&key, reply);
        }
    }
}

impl Cache {
    pub(super) fn new(slot: Arc<Slot>, limits: Option<&ResponseCache>) -> Self {
        let handle = limits.map(|limits| {
            let store = Mutex::new(CacheStore::new(limits));
            Box::new(CacheHandle { max_bytes: limits.max_bytes, store })
        });
        Self { slot, handle }
    }

    /// Looks up the reply to a call.
    #[inline(never)]
    fn look_up(
        &self,
        handle: &CacheHandle,
        scope: &CallScope<'_>,
        reply: &mut ReplySlot,
    ) -> Before<Option<Key>> {
        let leased = scope.lease.map(|instance| instance.generation().id);
        let current = || self.slot.generation().map(|generation| generation.id);
        let Some(generation) = leased.or_else(current) else { return Before::Continue(None) };
        if self.slot.is_shutting_down() {
            return Before::Continue(None);
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
        match found {
            Some(entry) => {
                // Copied outside the lock.
                reply.set(entry.reply());
                Before::Answered
            }
            None => Before::Continue(Some(key)),
        }
    }

    /// Stores the reply after a miss.
    fn store(&self, key: &Key, reply: &ReplySlot) {
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

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("is_on", &self.handle.is_some()).finish_non_exhaustive()
    }
}

/// Approximate size of an entry besides its body.
const ENTRY_BYTES: u64 = 256;

/// The store's maximum size, divided by this, is the maximum size of one entry.
const MAX_SHARE: u64 = 8;

/// An LRU store of one plugin's replies by request, bounded in bytes and age. Holds replies of one
/// generation only, the latest it was used with. Pure: time is an argument.
#[derive(Debug)]
struct CacheStore {
    max_bytes: u64,
    max_age: Duration,
    /// The generation of the replies; zero before the first.
    generation: u64,
    replies: LruCache<[u8; 32], Arc<CacheEntry>>,
    bytes: u64,
}

/// A request to one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    generation: GenerationId,
    digest: [u8; 32],
}

/// A stored reply.
#[derive(Debug)]
struct CacheEntry {
    body: Box<[u8]>,
    content_type: ContentType,
    generation: GenerationId,
    since: Instant,
}

impl Key {
    fn of(request: &Request<'_>, generation: GenerationId) -> Self {
        let mut hash = Sha256::new();
        hash.update(generation.get().to_le_bytes());
        // Each part with its length and presence, so that no two requests hash the same bytes.
        let mut part = |part: Option<&[u8]>| match part {
            None => hash.update([0]),
            Some(bytes) => {
                hash.update([1]);
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
        };
        part(Some(request.content_type().as_bytes()));
        part(request.operation().map(str::as_bytes));
        part(request.endpoint().map(str::as_bytes));
        part(request.method().map(str::as_bytes));
        if let Some(headers) = request.named_headers() {
            part(Some(&(headers.iter().len() as u64).to_le_bytes()));
            for (name, value) in headers.iter() {
                part(Some(name.to_ascii_lowercase().as_bytes()));
                part(Some(value.as_bytes()));
            }
        }
        part(Some(request.as_bytes()));
        Self { generation, digest: hash.finalize().into() }
    }
}

impl CacheEntry {
    /// Creates an entry with a copy of `reply`.
    fn copy_of(reply: &ReplySlot, now: Instant) -> Self {
        let name = reply.content_type();
        let usual = [ContentType::TEXT, ContentType::JSON, ContentType::BYTES, ContentType::HTML];
        let content_type = match usual.into_iter().find(|usual| *usual == name) {
            Some(usual) => ContentType::new(usual),
            None => ContentType::new(name.to_owned()),
        };
        let (body, generation) = (reply.as_bytes().into(), reply.generation());
        Self { body, content_type, generation, since: now }
    }

    /// Creates a reply from the entry.
    fn reply(&self) -> Reply {
        let output = Output::copy_of(&self.body).with_content_type(self.content_type.clone());
        Reply::new(output).of_generation(self.generation)
    }

    fn bytes(&self) -> u64 {
        bytes_of(self.body.len(), self.content_type.as_str())
    }
}

fn bytes_of(body: usize, content_type: &str) -> u64 {
    (body as u64).saturating_add(content_type.len() as u64).saturating_add(ENTRY_BYTES)
}

impl CacheStore {
    fn new(limits: &ResponseCache) -> Self {
        let ResponseCache { max_bytes, max_age } = *limits;
        // Bounded in bytes, which include `ENTRY_BYTES` for each entry.
        let replies = LruCache::unbounded();
        Self { max_bytes, max_age, generation: 0, replies, bytes: 0 }
    }

    /// Returns the bytes held.
    fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the reply to a request, if it is not too old.
    fn get(&mut self, key: &Key, now: Instant) -> Option<Arc<CacheEntry>> {
        if !self.is_of(key.generation) {
            return None;
        }
        let entry = Arc::clone(self.replies.get(&key.digest)?);
        if self.is_old(&entry, now) {
            self.remove(&key.digest);
            return None;
        }
        Some(entry)
    }

    /// Returns whether a reply is small enough to be stored.
    fn fits(max_bytes: u64, reply: &ReplySlot) -> bool {
        bytes_of(reply.as_bytes().len(), reply.content_type()) <= max_bytes / MAX_SHARE
    }

    /// Stores a reply and evicts the least recently used ones.
    fn put(&mut self, key: &Key, entry: CacheEntry, now: Instant) {
        if !self.is_of(key.generation) || entry.generation != key.generation {
            return;
        }
        self.bytes += entry.bytes();
        if let Some(before) = self.replies.put(key.digest, Arc::new(entry)) {
            self.bytes -= before.bytes();
        }
        while let Some((digest, last)) = self.replies.peek_lru() {
            if self.bytes <= self.max_bytes && !self.is_old(last, now) {
                break;
            }
            let digest = *digest;
            self.remove(&digest);
        }
    }

    /// Returns whether the store holds replies of `generation`. A later generation empties it; an
    /// earlier one, which a caller may still hold, is not stored.
    fn is_of(&mut self, generation: GenerationId) -> bool {
        if generation.get() > self.generation {
            self.generation = generation.get();
            self.replies.clear();
            self.bytes = 0;
        }
        generation.get() == self.generation
    }

    fn is_old(&self, entry: &CacheEntry, now: Instant) -> bool {
        now.saturating_duration_since(entry.since) >= self.max_age
    }

    fn remove(&mut self, digest: &[u8; 32]) {
        if let Some(entry) = self.replies.pop(digest) {
            self.bytes -= entry.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn store(max_bytes: u64) -> CacheStore {
        CacheStore::new(&ResponseCache::new().with_max_bytes(max_bytes).with_max_age(10 * SECOND))
    }

    fn generation(number: u64) -> GenerationId {
        GenerationId::after(number - 1)
    }

    fn key(question: &str, of: u64) -> Key {
        Key::of(&Request::text(question), generation(of))
    }

    fn reply(answer: &str, of: u64) -> ReplySlot {
        slot_with(Output::text(answer), of)
    }

    fn slot_with(output: Output, of: u64) -> ReplySlot {
        let mut slot = ReplySlot::new();
        slot.set(Reply::new(output).of_generation(generation(of)));
        slot
    }

    fn put(store: &mut CacheStore, question: &str, answer: &str, of: u64, now: Instant) {
        store.put(&key(question, of), CacheEntry::copy_of(&reply(answer, of), now), now);
    }

    fn get(store: &mut CacheStore, question: &str, of: u64, now: Instant) -> Option<String> {
        let reply = store.get(&key(question, of), now)?.reply();
        assert_eq!(reply.generation(), generation(of));
        Some(reply.as_text().unwrap().to_owned())
    }

    #[test]
    fn key_depends_on_every_part_of_request() {
        let request = || Request::text("a");
        let questions = [
            request(),
            Request::text("b"),
            Request::text(""),
            Request::bytes(b"a"),
            request().with_content_type("a"),
            request().with_operation("read"),
            request().with_operation("rea"),
            request().with_operation(""),
            request().with_endpoint("read"),
            request().with_method("GET"),
            request().with_method("read"),
            request().with_header("Authorization", "a"),
            request().with_header("Authorization", "b"),
            request().with_header("x", "Authorization"),
            request().with_header("x", "a").with_header("y", "b"),
            request().with_header("x", "ay").with_header("", "b"),
            Request::text("da").with_operation("rea"),
            Request::text("").with_operation("reada"),
        ];
        let of = |of| questions.iter().map(move |request| Key::of(request, generation(of)));
        let digests: std::collections::BTreeSet<_> =
            of(1).chain(of(2)).map(|key| key.digest).collect();
        assert_eq!(digests.len(), 2 * questions.len());
        let bounded =
            request().with_idempotent(true).with_timeout(SECOND).with_space_timeout(SECOND);
        assert_eq!(Key::of(&bounded, generation(1)), Key::of(&request(), generation(1)));
    }

    #[test]
    fn entry_is_returned_unchanged_until_it_expires() {
        let (mut store, now) = (store(1 << 20), Instant::now());
        let output = Output::text("<a/>").with_content_type("text/x-own");
        let of = slot_with(output, 3);
        store.put(&key("q", 3), CacheEntry::copy_of(&of, now), now);
        let found = store.get(&key("q", 3), now + 9 * SECOND).expect("an entry").reply();
        assert_eq!((found.as_bytes(), found.content_type()), (&b"<a/>"[..], "text/x-own"));
        assert!(store.get(&key("q", 3), now + 10 * SECOND).is_none());
        assert_eq!(store.bytes(), 0, "the expired entry was removed");
    }

    #[test]
    fn least_recently_used_entry_is_evicted_first() {
        let now = Instant::now();
        let mut store = store(3 * bytes_of(1, "text/plain; charset=utf-8"));
        for question in ["a", "b", "c"] {
            put(&mut store, question, "1", 1, now);
        }
        assert!(get(&mut store, "a", 1, now).is_some());
        put(&mut store, "d", "1", 1, now);
        let found: Vec<_> =
            ["a", "b", "c", "d"].map(|one| get(&mut store, one, 1, now).is_some()).into();
        assert_eq!(found, [true, false, true, true]);
        assert_eq!(store.bytes(), store.max_bytes);
        put(&mut store, "e", "1", 1, now + 10 * SECOND);
        assert_eq!(store.bytes(), store.max_bytes / 3, "expired entries are evicted");
    }

    #[test]
    fn same_request_is_stored_once_with_latest_reply() {
        let (mut store, now) = (store(1 << 20), Instant::now());
        put(&mut store, "q", "long ago", 1, now);
        put(&mut store, "q", "now", 1, now);
        assert_eq!(get(&mut store, "q", 1, now).as_deref(), Some("now"));
        assert_eq!(store.bytes(), bytes_of(3, "text/plain; charset=utf-8"));
    }

    #[test]
    fn later_generation_empties_store_and_earlier_is_ignored() {
        let (mut store, now) = (store(1 << 20), Instant::now());
        put(&mut store, "q", "of one", 1, now);
        assert_eq!(get(&mut store, "q", 2, now), None);
        assert_eq!(store.bytes(), 0);
        put(&mut store, "q", "of two", 2, now);
        put(&mut store, "q", "of one", 1, now);
        assert_eq!(get(&mut store, "q", 1, now), None);
        assert_eq!(get(&mut store, "q", 2, now).as_deref(), Some("of two"));
        // The request was keyed for one generation and answered by the next: not stored.
        store.put(&key("r", 2), CacheEntry::copy_of(&reply("of three", 3), now), now);
        assert_eq!(get(&mut store, "r", 2, now), None);
    }

    #[test]
    fn reply_larger_than_an_eighth_is_not_stored() {
        let max_bytes = 8 * bytes_of(100, "text/plain; charset=utf-8");
        let check = |length, fits| {
            let reply = reply(&"x".repeat(length), 1);
            assert_eq!(CacheStore::fits(max_bytes, &reply), fits, "{length}");
        };
        check(0, true);
        check(100, true);
        check(101, false);
        assert!(!CacheStore::fits(0, &reply("", 1)));
    }
}
