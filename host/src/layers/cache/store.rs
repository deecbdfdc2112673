//! An LRU store of replies by request, bounded in bytes and age. Holds replies of one generation
//! only, the latest it was used with. Pure: time is an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hotbay_plugin::{ContentType, Output};
use lru::LruCache;
use sha2::{Digest, Sha256};

use super::ResponseCache;
use crate::call::{Reply, Request};
use crate::id::GenerationId;

/// Approximate size of an entry besides its body.
const ENTRY_BYTES: u64 = 256;

/// The store's maximum size, divided by this, is the maximum size of one entry.
const MAX_SHARE: u64 = 8;

/// Replies of one plugin.
#[derive(Debug)]
pub(super) struct CacheStore {
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
pub(super) struct CacheEntry {
    body: Box<[u8]>,
    content_type: ContentType,
    generation: GenerationId,
    since: Instant,
}

impl Key {
    pub(super) fn of(request: &Request<'_>, generation: GenerationId) -> Self {
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
    pub(super) fn copy_of(reply: &Reply, now: Instant) -> Self {
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
    pub(super) fn reply(&self) -> Reply {
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
    pub(super) fn new(limits: &ResponseCache) -> Self {
        let ResponseCache { max_bytes, max_age } = *limits;
        // Bounded in bytes, which include `ENTRY_BYTES` for each entry.
        let replies = LruCache::unbounded();
        Self { max_bytes, max_age, generation: 0, replies, bytes: 0 }
    }

    /// Returns the bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the reply to a request, if it is not too old.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Arc<CacheEntry>> {
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
    pub(super) fn fits(max_bytes: u64, reply: &Reply) -> bool {
        bytes_of(reply.as_bytes().len(), reply.content_type()) <= max_bytes / MAX_SHARE
    }

    /// Stores a reply and evicts the least recently used ones.
    pub(super) fn put(&mut self, key: &Key, entry: CacheEntry, now: Instant) {
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
#[path = "store_tests.rs"]
mod tests;
