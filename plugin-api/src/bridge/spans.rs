//! Tracks the open spans of the plugin, to describe the context of an event by a path such as
//! `request{id=7}:query{table=users}`. Number, text and depth of spans have limits.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Current, Id, Record};
use tracing_core::{Event, Metadata};

use crate::text::start_of;

/// Maximum number of open spans; further spans do not appear in paths.
const MAX_SPANS: usize = 4096;
/// Maximum length of a path in bytes; the rest is truncated.
const MAX_PATH_BYTES: usize = 2 << 10;
/// Maximum number of entered spans of a thread; deeper spans do not appear in paths.
const MAX_DEPTH: usize = 32;

struct Span {
    metadata: &'static Metadata<'static>,
    /// Path of the enclosing span.
    parent_path: String,
    fields: String,
    ref_count: usize,
}

impl Span {
    fn path(&self) -> String {
        let parent_path = &self.parent_path;
        let separator = if parent_path.is_empty() { "" } else { ":" };
        let mut path = format!("{parent_path}{separator}{}", self.metadata.name());
        if !self.fields.is_empty() {
            path.push('{');
            path.push_str(&self.fields);
            path.push('}');
        }
        path.truncate(start_of(&path, MAX_PATH_BYTES).len());
        path
    }
}

static SPANS: Mutex<BTreeMap<u64, Span>> = Mutex::new(BTreeMap::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Ids of the entered spans of a thread, the innermost last.
#[derive(Clone, Copy)]
struct Stack {
    ids: [u64; MAX_DEPTH],
    depth: usize,
}

thread_local! {
    /// Has no destructor.
    static STACK: Cell<Stack> = const { Cell::new(Stack { ids: [0; MAX_DEPTH], depth: 0 }) };
}

/// Locks the open spans. Do not hold the lock while the author's code runs.
fn open_spans() -> MutexGuard<'static, BTreeMap<u64, Span>> {
    SPANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the path of the spans that enclose an event.
pub(super) fn path_of_event(event: &Event<'_>) -> Option<String> {
    path_of(event.parent(), event.is_contextual())
}

fn path_of(parent: Option<&Id>, is_contextual: bool) -> Option<String> {
    let id = parent.map(Id::into_u64).or_else(|| is_contextual.then(current_id)?)?;
    open_spans().get(&id).map(Span::path)
}

fn current_id() -> Option<u64> {
    let stack = STACK.get();
    let depth = stack.depth.min(MAX_DEPTH);
    depth.checked_sub(1).map(|last| stack.ids[last])
}

/// Returns an unused id.
pub(super) fn new_id() -> Id {
    // Ids start at 1, and 64 bits do not overflow.
    Id::from_u64(NEXT_ID.fetch_add(1, Ordering::Relaxed).max(1))
}

pub(super) fn open(span: &Attributes<'_>) -> Id {
    let id = new_id();
    let mut text = FieldsText::default();
    span.record(&mut text);
    let parent_path = path_of(span.parent(), span.is_contextual()).unwrap_or_default();
    let mut spans = open_spans();
    if spans.len() < MAX_SPANS {
        let metadata = span.metadata();
        spans.insert(id.into_u64(), Span { metadata, parent_path, fields: text.0, ref_count: 1 });
    }
    id
}

/// Adds fields that were recorded after the span was created.
pub(super) fn record(id: &Id, values: &Record<'_>) {
    let mut text = FieldsText::default();
    values.record(&mut text);
    if let Some(span) = open_spans().get_mut(&id.into_u64()) {
        let mut fields = FieldsText(std::mem::take(&mut span.fields));
        // Fails if the text is truncated.
        let _ = fields.write_str(if fields.0.is_empty() || text.0.is_empty() { "" } else { " " });
        let _ = fields.write_str(&text.0);
        span.fields = fields.0;
    }
}

pub(super) fn enter(id: &Id) {
    let mut stack = STACK.get();
    if let Some(slot) = stack.ids.get_mut(stack.depth) {
        *slot = id.into_u64();
    }
    stack.depth += 1;
    STACK.set(stack);
}

/// Exits a span, which is not necessarily the innermost.
pub(super) fn exit(id: &Id) {
    let mut stack = STACK.get();
    let depth = stack.depth.min(MAX_DEPTH);
    if let Some(at) = stack.ids[..depth].iter().rposition(|entered| *entered == id.into_u64()) {
        stack.ids.copy_within(at + 1..depth, at);
        // Spans beyond the maximum depth have no stored id to move here.
        stack.ids[depth - 1] = 0;
    }
    stack.depth = stack.depth.saturating_sub(1);
    STACK.set(stack);
}

pub(super) fn add_ref(id: &Id) {
    if let Some(span) = open_spans().get_mut(&id.into_u64()) {
        span.ref_count += 1;
    }
}

/// Drops a reference; returns whether it was the last.
pub(super) fn drop_ref(id: &Id) -> bool {
    let mut spans = open_spans();
    let Some(span) = spans.get_mut(&id.into_u64()) else { return false };
    span.ref_count -= 1;
    span.ref_count == 0 && spans.remove(&id.into_u64()).is_some()
}

pub(super) fn current() -> Current {
    let Some(id) = current_id() else { return Current::none() };
    let metadata = open_spans().get(&id).map(|span| span.metadata);
    metadata.map_or_else(Current::none, |metadata| Current::new(Id::from_u64(id), metadata))
}

/// Fields as `a=1 b="x"`, truncated at the maximum length.
#[derive(Default)]
struct FieldsText(String);

impl Visit for FieldsText {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // Fails if the text is truncated, or if the author's code fails.
        let _ = match field.name() {
            "message" => write!(self, "{space}{value:?}"),
            name => write!(self, "{space}{name}={value:?}"),
        };
    }
}

impl Write for FieldsText {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let remaining = MAX_PATH_BYTES.saturating_sub(self.0.len());
        self.0.push_str(start_of(more, remaining));
        if more.len() <= remaining { Ok(()) } else { Err(fmt::Error) }
    }
}
