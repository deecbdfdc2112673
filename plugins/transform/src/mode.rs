//! The modes and their transformations.

use serde::Deserialize;

use crate::markdown::{RawHtml, to_html};
use crate::{case, slug};

/// The transformation of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    #[default]
    Upper,
    Lower,
    Title,
    Reverse,
    Slug,
    Markdown,
}

/// A transformed text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Transformed {
    Text(String),
    Html(String),
    /// The text contains no letter or digit.
    NothingToSlug,
}

impl Mode {
    /// Transforms a text. Only Markdown uses `raw_html`.
    pub(crate) fn apply(self, text: &str, raw_html: RawHtml) -> Transformed {
        match self {
            Self::Upper => Transformed::Text(text.to_uppercase()),
            Self::Lower => Transformed::Text(text.to_lowercase()),
            Self::Title => Transformed::Text(case::title(text)),
            Self::Reverse => Transformed::Text(case::reverse(text)),
            Self::Slug => slug::slug(text).map_or(Transformed::NothingToSlug, Transformed::Text),
            Self::Markdown => Transformed::Html(to_html(text, raw_html)),
        }
    }

    /// Returns the name in the config.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Upper => "upper",
            Self::Lower => "lower",
            Self::Title => "title",
            Self::Reverse => "reverse",
            Self::Slug => "slug",
            Self::Markdown => "markdown",
        }
    }
}
