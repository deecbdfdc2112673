//! Tests of lookup, eviction and limits.

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

fn reply(answer: &str, of: u64) -> Reply {
    Reply::new(Output::text(answer)).of_generation(generation(of))
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
    let digests: std::collections::BTreeSet<_> = of(1).chain(of(2)).map(|key| key.digest).collect();
    assert_eq!(digests.len(), 2 * questions.len());
    let bounded = request().with_idempotent(true).with_timeout(SECOND).with_space_timeout(SECOND);
    assert_eq!(Key::of(&bounded, generation(1)), Key::of(&request(), generation(1)));
}

#[test]
fn entry_is_returned_unchanged_until_it_expires() {
    let (mut store, now) = (store(1 << 20), Instant::now());
    let output = Output::text("<a/>").with_content_type("text/x-own");
    let of = Reply::new(output).of_generation(generation(3));
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
