//! A plugin with contracts, with strict lints, in editions 2021 and 2024 (`contracts-2024`).

#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub, private_bounds)]
#![warn(unused, unused_qualifications, unused_crate_dependencies, rust_2018_idioms)]
#![warn(clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]

use std::collections::BTreeMap;

use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;
use hotbay_plugin::{contract, data};

/// Counts words.
#[contract(name = "words", version = "1.2")]
pub trait Words {
    /// Returns the number of words.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn count(&self, text: &str) -> Result<u64, CallError>;
    /// Returns the words.
    ///
    /// # Errors
    ///
    /// Those of the call.
    #[permission("read")]
    fn words(&self, text: String, limit: Option<u32>) -> Result<Vec<Word>, WordsError>;
    /// Moves points.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn moved(&self, points: &[Point], by: &Point) -> Result<Vec<Point>, CallError>;
    /// Returns the page.
    ///
    /// # Errors
    ///
    /// Those of the call.
    #[since("1.1")]
    async fn page(&self, event: Event, words: &[Word]) -> Result<Page<Word>, CallError>;
    /// Returns the longest word.
    ///
    /// # Errors
    ///
    /// Those of the call.
    #[since("1.2")]
    #[must_use = "it is the longest"]
    fn longest(&self, mut text: String) -> Result<String, CallError> {
        text.truncate(3);
        Ok(text)
    }
    /// Returns the number of pages.
    ///
    /// # Errors
    ///
    /// Those of the call.
    #[deprecated = "pages have no number"]
    #[since("1.2")]
    async fn pages(&self) -> Result<u32, CallError> {
        self.page(Event::Started, &[]).await.map(|page| page.items.len().try_into().unwrap_or(0))
    }
}

/// A word.
#[data]
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Word {
    /// The text.
    pub text: String,
    /// How often it occurs.
    #[serde(default)]
    pub count: u64,
    inner: Inner,
}

#[data]
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Inner(BTreeMap<String, Vec<Option<u8>>>);

/// A point.
#[data]
#[repr(C)]
#[derive(Debug, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Up.
    pub y: f64,
    is_set: Set,
}

#[data]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set(bool);

/// A page.
#[data]
#[derive(Debug)]
pub struct Page<T> {
    /// Its items.
    pub items: Vec<T>,
}

/// An event.
#[data]
#[derive(Debug)]
pub enum Event {
    /// Started.
    Started,
    /// Found a word.
    Found(Word),
    /// Moved.
    Moved {
        /// To this point.
        to: Point,
    },
}

/// The error of `Words::words`.
#[derive(Debug)]
pub struct WordsError(CallError);

impl From<CallError> for WordsError {
    fn from(error: CallError) -> Self {
        Self(error)
    }
}

impl From<WordsError> for PluginError {
    fn from(error: WordsError) -> Self {
        error.0.into()
    }
}

#[derive(Debug)]
struct Counter;

impl Plugin for Counter {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        let text = input.as_text()?;
        Ok(Output::text(format!("{} {}", in_function(text)?, private::count(text)?)))
    }
}

impl Words for Counter {
    fn count(&self, text: &str) -> Result<u64, CallError> {
        Ok(text.split_whitespace().count() as u64)
    }

    fn words(&self, text: String, limit: Option<u32>) -> Result<Vec<Word>, WordsError> {
        let limit = limit.map_or(usize::MAX, |limit| limit as usize);
        let words = text.split_whitespace().take(limit);
        let word = |text: &str| Word { text: text.to_owned(), ..Word::default() };
        Ok(words.map(word).collect())
    }

    fn moved(&self, points: &[Point], by: &Point) -> Result<Vec<Point>, CallError> {
        let moved = points.iter().map(|point| Point { x: point.x + by.x, ..*point });
        Ok(moved.collect())
    }

    async fn page(&self, _: Event, words: &[Word]) -> Result<Page<Word>, CallError> {
        Ok(Page { items: words.to_vec() })
    }
}

/// A contract in a function.
fn in_function(text: &str) -> Result<u64, CallError> {
    #[contract(name = "local", version = "1.0")]
    trait Local {
        fn count(&self, text: &str) -> Result<u64, CallError>;
    }

    impl Local for Counter {
        fn count(&self, text: &str) -> Result<u64, CallError> {
            Words::count(self, text)
        }
    }

    Local::count(&Counter, text)
}

mod private {
    use hotbay_plugin::contract;
    use hotbay_plugin::contract::CallError;

    use super::{Counter, Words};

    #[contract(name = "private", version = "1.0")]
    trait Private {
        fn count(&self, r#type: &str) -> Result<u64, CallError>;
    }

    impl Private for Counter {
        fn count(&self, r#type: &str) -> Result<u64, CallError> {
            Words::count(self, r#type)
        }
    }

    pub(super) fn count(text: &str) -> Result<u64, CallError> {
        Private::count(&Counter, text)
    }
}

export_plugin!(Counter, contracts = [Words]);
