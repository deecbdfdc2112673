//! The spans that are open in the plugin, for the text of where an event happened, such as
//! `request{id=7}:query{table=users}`. Bounded in number, in text and in depth.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Current, Id, Record};
use tracing_core::{Event, Metadata};

use crate::text::start_of;

/// Spans that are told at the same time; more than that are silent.
const MAX_SPANS: usize = 4096;
/// Bytes of the text of a span and of those around it; the rest is cut.
const MAX_PATH_BYTES: usize = 2 << 10;
/// Spans that a thread is in; those depth are silent.
const MAX_DEPTH: usize = 32;

struct Span {
    metadata: &'static Metadata<'static>,
    /// The path of the span around it.
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

/// The ids of the spans that a thread is in, the current_id last.
#[derive(Clone, Copy)]
struct Stack {
    ids: [u64; MAX_DEPTH],
    depth: usize,
}

thread_local! {
    /// Plain data, so without a destructor.
    static STACK: Cell<Stack> = const { Cell::new(Stack { ids: [0; MAX_DEPTH], depth: 0 }) };
}

/// Never held while the author's code runs.
fn open_spans() -> MutexGuard<'static, BTreeMap<u64, Span>> {
    SPANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text of the spans that an event happens in.
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

/// An id of which nothing is known.
pub(super) fn new_id() -> Id {
    // Counts from 1, and 64 bits do not run out.
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

/// Adds fields that got a value later.
pub(super) fn record(id: &Id, values: &Record<'_>) {
    let mut text = FieldsText::default();
    values.record(&mut text);
    if let Some(span) = open_spans().get_mut(&id.into_u64()) {
        let mut fields = FieldsText(std::mem::take(&mut span.fields));
        // It ends with an error where it is cut.
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

/// Leaves a span, which need not be the current_id.
pub(super) fn exit(id: &Id) {
    let mut stack = STACK.get();
    let depth = stack.depth.min(MAX_DEPTH);
    if let Some(at) = stack.ids[..depth].iter().rposition(|entered| *entered == id.into_u64()) {
        stack.ids.copy_within(at + 1..depth, at);
        // Those too deep to be known have no id to move up.
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

/// Whether that was the last holder.
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

/// `a=1 b="x"`, cut at its limit.
#[derive(Default)]
struct FieldsText(String);

impl Visit for FieldsText {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // It ends with an error where it is cut, or where the author's code says so.
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
