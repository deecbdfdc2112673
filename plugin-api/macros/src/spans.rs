//! Places of generated code, so that the compiler's errors about it are at the author's code.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::ToTokens;

/// Returns the places of the first and the last token.
pub(crate) fn ends(tokens: &impl ToTokens) -> (Span, Span) {
    let mut tokens = tokens.to_token_stream().into_iter();
    let Some(first) = tokens.next() else { return (Span::call_site(), Span::call_site()) };
    let last = tokens.last();
    let end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.span_close(),
        token => token.span(),
    };
    let start = match &first {
        TokenTree::Group(group) => group.span_open(),
        token => token.span(),
    };
    (start, last.as_ref().map_or_else(|| end(&first), end))
}

/// Returns the tokens as if they were at `span`.
pub(crate) fn respanned(tokens: TokenStream, span: Span) -> TokenStream {
    let at = |token| match token {
        TokenTree::Group(group) => {
            let mut moved = Group::new(group.delimiter(), respanned(group.stream(), span));
            moved.set_span(span);
            TokenTree::Group(moved)
        }
        mut token => {
            token.set_span(span);
            token
        }
    };
    tokens.into_iter().map(at).collect()
}
