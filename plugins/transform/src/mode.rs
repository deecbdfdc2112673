//! The modes by name, and which piece of work each of them stands for.
//! Nothing here knows how a plugin is called or how errors reach its caller.

use serde::Deserialize;

use crate::markdown::{RawHtml, to_html};
use crate::{case, slug};

/// What is done to the text.
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

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Changed {
    Text(String),
    Html(String),
    /// The text holds nothing that a slug could be made of.
    NothingToSlug,
}

impl Mode {
    /// Does the work; `raw_html` matters to Markdown only.
    pub(crate) fn apply(self, text: &str, raw_html: RawHtml) -> Changed {
        match self {
            Self::Upper => Changed::Text(text.to_uppercase()),
            Self::Lower => Changed::Text(text.to_lowercase()),
            Self::Title => Changed::Text(case::title(text)),
            Self::Reverse => Changed::Text(case::reverse(text)),
            Self::Slug => slug::slug(text).map_or(Changed::NothingToSlug, Changed::Text),
            Self::Markdown => Changed::Html(to_html(text, raw_html)),
        }
    }

    /// Its name in the config.
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
