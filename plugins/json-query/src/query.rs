//! JSONPath (RFC 9535): text to a query, a query to what it finds. The language itself is
//! `serde_json_path`'s; what is added are limits, since anybody may bring a query.

use std::fmt;

use serde_json::{Value, json};
use serde_json_path::JsonPath;

/// Longest query.
const QUERY_BYTES_MAX: usize = 4096;

/// Most brackets in each other: the parser calls itself for each.
const NESTING_MAX: usize = 16;

/// A query that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Query(JsonPath);

/// Why a text is no query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    query: String,
    /// In characters, from 0.
    position: usize,
    what: String,
}

impl Query {
    /// Reads a query.
    pub(crate) fn parse(text: &str) -> Result<Self, Mistake> {
        let mistake = |byte: usize, what: String| {
            let before = text.get(..byte).unwrap_or(text);
            // Enough to be known again.
            let query = text.chars().take(QUERY_BYTES_MAX).collect();
            Mistake { query, position: before.chars().count(), what }
        };
        if text.len() > QUERY_BYTES_MAX {
            let what = format!("it has {} bytes, more than {QUERY_BYTES_MAX}", text.len());
            return Err(mistake(QUERY_BYTES_MAX, what));
        }
        if let Some(byte) = too_deep(text) {
            let what = format!("more than {NESTING_MAX} brackets are open");
            return Err(mistake(byte, what));
        }
        JsonPath::parse(text)
            .map(Self)
            .map_err(|error| mistake(error.position(), error.message().to_owned()))
    }

    /// All values that are found, in the order of the document; with `paths`, each with where
    /// it was found.
    pub(crate) fn answer(&self, document: &Value, paths: bool) -> Value {
        if !paths {
            return self.0.query(document).all().into_iter().cloned().collect();
        }
        let found = self.0.query_located(document);
        let found = found.iter();
        found
            .map(|node| json!({ "path": node.location().to_string(), "value": node.node() }))
            .collect()
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Mistake {
    pub(crate) fn query(&self) -> &str {
        &self.query
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { query, position, what } = self;
        write!(
            f,
            "`{query}` is no JSONPath query, from character {position} (counted from 0) on: {what}"
        )
    }
}

/// Where more brackets are open than the parser is trusted with. Brackets within strings count:
/// what a string may hold is for the parser to know.
fn too_deep(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (byte, character) in text.char_indices() {
        match character {
            '(' | '[' => open += 1,
            ')' | ']' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > NESTING_MAX {
            return Some(byte);
        }
    }
    None
}
