//! Headers of a request, as strings. They are validated when the call is made.

use std::borrow::Cow;
use std::fmt;

/// Headers in the order in which they were added.
#[derive(Clone, Default)]
pub(crate) struct Headers(Vec<(Cow<'static, str>, Cow<'static, str>)>);

impl Headers {
    pub(super) fn push(&mut self, name: Cow<'static, str>, value: Cow<'static, str>) {
        self.0.push((name, value));
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// Prints only the names: a value may be a password.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
