//! JSONPath queries (RFC 9535) by `serde_json_path`, with limits, since callers choose the queries.

use std::fmt;

use serde_json::{Value, json};
use serde_json_path::JsonPath;

/// Maximum length of a query in bytes.
const MAX_QUERY_BYTES: usize = 4096;

/// Maximum depth of nested brackets: the parser is recursive.
const MAX_NESTING: usize = 16;

/// A valid query.
#[derive(Clone, Debug)]
pub(crate) struct Query(JsonPath);

/// The reason a query is invalid.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueryError {
    query: String,
    /// Position in characters, from 0.
    position: usize,
    reason: String,
}

impl Query {
    /// Parses a query.
    pub(crate) fn parse(text: &str) -> Result<Self, QueryError> {
        let invalid = |byte: usize, reason: String| {
            let before = text.get(..byte).unwrap_or(text);
            // Long enough to identify the query.
            let query = text.chars().take(MAX_QUERY_BYTES).collect();
            QueryError { query, position: before.chars().count(), reason }
        };
        if text.len() > MAX_QUERY_BYTES {
            let reason = format!("expected at most {MAX_QUERY_BYTES} bytes, found {}", text.len());
            return Err(invalid(MAX_QUERY_BYTES, reason));
        }
        if let Some(byte) = position_beyond_nesting_limit(text) {
            let reason = format!("expected at most {MAX_NESTING} nested brackets");
            return Err(invalid(byte, reason));
        }
        JsonPath::parse(text)
            .map(Self)
            .map_err(|error| invalid(error.position(), error.message().to_owned()))
    }

    /// Returns all matching values in the order of the document. With `paths`, each has the path at
    /// which it was found.
    pub(crate) fn find(&self, document: &Value, paths: bool) -> Value {
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

impl QueryError {
    pub(crate) fn query(&self) -> &str {
        &self.query
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { query, position, reason } = self;
        write!(f, "invalid JSONPath query `{query}` at character {position} (from 0): {reason}")
    }
}

/// Returns the position of the first bracket beyond the nesting limit. Brackets in strings count
/// too, because only the parser knows where strings end.
fn position_beyond_nesting_limit(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (byte, character) in text.char_indices() {
        match character {
            '(' | '[' => open += 1,
            ')' | ']' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_NESTING {
            return Some(byte);
        }
    }
    None
}
