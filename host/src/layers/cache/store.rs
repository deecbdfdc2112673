//! Replies by what was asked, bounded in bytes and age; the one that was not asked for longest
//! goes first. Holds those of one generation only, the latest that it heard of. Pure: time is an
//! argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hotbay_plugin::{ContentType, Output};
use lru::LruCache;
use sha2::{Digest, Sha256};

use super::ResponseCache;
use crate::call::{Reply, Request};
use crate::id::GenerationId;

/// What an entry takes besides its body, about.
const ENTRY_BYTES: u64 = 256;

/// One entry may take so much of the whole, at most.
const MAX_SHARE: u64 = 8;

/// Replies of one plugin.
#[derive(Debug)]
pub(super) struct CacheStore {
    bytes_max: u64,
    age_max: Duration,
    /// The number of the generation whose replies these are; zero before the first.
    generation: u64,
    replies: LruCache<[u8; 32], Arc<CacheEntry>>,
    bytes: u64,
}

/// A question to one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    generation: GenerationId,
    digest: [u8; 32],
}

/// A reply that is kept.
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
        // With its length, or without one where there is none, so that no two are alike.
        let mut part = |part: Option<&[u8]>| match part {
            None => hash.update([0]),
            Some(bytes) => {
                hash.update([1]);
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
        };
        part(Some(request.content_type().as_bytes()));
        part(request.named_operation().map(str::as_bytes));
        part(request.named_endpoint().map(str::as_bytes));
        part(request.named_method().map(str::as_bytes));
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
    /// A copy of `reply`.
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

    /// The reply again.
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
        let ResponseCache { bytes_max, age_max } = *limits;
        // Bounded by its bytes, which count for each entry as well.
        let replies = LruCache::unbounded();
        Self { bytes_max, age_max, generation: 0, replies, bytes: 0 }
    }

    /// Bytes that are held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Finds the reply to a question, if it is young enough.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Arc<CacheEntry>> {
        if !self.is_of(key.generation) {
            return None;
        }
        let kept = Arc::clone(self.replies.get(&key.digest)?);
        if self.is_old(&kept, now) {
            self.remove(&key.digest);
            return None;
        }
        Some(kept)
    }

    /// Whether a reply is small enough to be kept.
    pub(super) fn has_room_for(bytes_max: u64, reply: &Reply) -> bool {
        bytes_of(reply.as_bytes().len(), reply.content_type()) <= bytes_max / MAX_SHARE
    }

    /// Keeps a reply, in place of those that were not asked for longest.
    pub(super) fn put(&mut self, key: &Key, kept: CacheEntry, now: Instant) {
        if !self.is_of(key.generation) || kept.generation != key.generation {
            return;
        }
        self.bytes += kept.bytes();
        if let Some(before) = self.replies.put(key.digest, Arc::new(kept)) {
            self.bytes -= before.bytes();
        }
        while let Some((digest, last)) = self.replies.peek_lru() {
            if self.bytes <= self.bytes_max && !self.is_old(last, now) {
                break;
            }
            let digest = *digest;
            self.remove(&digest);
        }
    }

    /// Whether replies of `generation` are held here. A later one than before has everything
    /// dropped; an earlier one, which somebody may still hold, has no place here.
    fn is_of(&mut self, generation: GenerationId) -> bool {
        if generation.get() > self.generation {
            self.generation = generation.get();
            self.replies.clear();
            self.bytes = 0;
        }
        generation.get() == self.generation
    }

    fn is_old(&self, kept: &CacheEntry, now: Instant) -> bool {
        now.saturating_duration_since(kept.since) >= self.age_max
    }

    fn remove(&mut self, digest: &[u8; 32]) {
        if let Some(kept) = self.replies.pop(digest) {
            self.bytes -= kept.bytes();
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
