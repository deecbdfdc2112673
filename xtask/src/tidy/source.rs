//! Splits Rust source into tokens with line numbers, without comments and the content of literals.
//! Applies no other grammar, so it never fails.

/// A word (`unsafe`), a number, or a punctuation character (`{`); `::` is one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// From 1.
    pub(super) line: usize,
}

/// The token text of any string or character literal.
const LITERAL: &str = "\"\"";

/// Returns the tokens of `source`.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (length, is_literal) = match first {
            _ if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), None),
            _ if rest.starts_with("/*") => (block_comment(rest), None),
            '"' => (string(rest), Some(true)),
            '\'' => quote(rest),
            'b' | 'c' | 'r' if prefixed(rest).is_some() => {
                (prefixed(rest).unwrap_or(1), Some(true))
            }
            _ if rest.starts_with("::") => (2, Some(false)),
            _ if is_word(first) => {
                let start = if rest.starts_with("r#") { 2 } else { 0 };
                let word = rest[start..].find(|c| !is_word(c)).unwrap_or(rest.len() - start);
                (start + word, Some(false))
            }
            _ if first.is_whitespace() => (first.len_utf8(), None),
            _ => (first.len_utf8(), Some(false)),
        };
        let (text, after) = rest.split_at(length);
        match is_literal {
            Some(true) => tokens.push(Token { text: LITERAL, line }),
            Some(false) => tokens.push(Token { text, line }),
            None => {}
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Returns the length of the comment that `text` starts with; comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Returns the length of the string that `text` starts with, including quotes.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns the length of a character literal, or of the quote of a lifetime.
fn quote(text: &str) -> (usize, Option<bool>) {
    let mut after = text.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), Some(_)) => {
            // The escaped character may be the quote itself.
            let escape = text.char_indices().nth(3).map_or(text.len(), |(at, _)| at);
            let end = text[escape..].find('\'').map_or(text.len(), |at| escape + at + 1);
            (end, Some(true))
        }
        (Some(c), Some('\'')) => (c.len_utf8() + 2, Some(true)),
        _ => (1, Some(false)),
    }
}

/// Returns the length of the prefixed literal (`b""`, `c""`, `r""`, `br#""#`, `b''`, …) that `text`
/// starts with, if any.
fn prefixed(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['"', '#', '\'']))
    })?;
    let rest = &text[prefix.len()..];
    if rest.starts_with('\'') {
        return (prefix == "b").then(|| prefix.len() + quote(rest).0);
    }
    if !prefix.ends_with('r') {
        return rest.starts_with('"').then(|| prefix.len() + string(rest));
    }
    let marks = rest.len() - rest.trim_start_matches('#').len();
    let body = rest[marks..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(prefix.len() + marks + 1 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &[&str]) {
        let found: Vec<_> = tokens(source).iter().map(|token| token.text).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn comments_are_skipped_and_nest() {
        check("a // unsafe\nb /* c /* d */ e */ f //! g", &["a", "b", "f"]);
        check("a /* never closed", &["a"]);
        check("a / b * c", &["a", "/", "b", "*", "c"]);
    }

    #[test]
    fn literals_are_one_token_without_content() {
        let s = LITERAL;
        check(r#"a "unsafe \" b" c"#, &["a", s, "c"]);
        check(r##"r#"unsafe " todo!"# d"##, &[s, "d"]);
        check(r#"b"x" c"y" br"z\" b'\'' cr"" e"#, &[s, s, s, s, s, "e"]);
        check("'a' '\\'' '\\u{1F600}' '\"' f", &[s, s, s, s, "f"]);
        check("\"never closed", &[s]);
    }

    #[test]
    fn lifetimes_and_raw_identifiers_are_not_literals() {
        check("&'a str", &["&", "'", "a", "str"]);
        check("'static: loop", &["'", "static", ":", "loop"]);
        check("r#unsafe br b r", &["r#unsafe", "br", "b", "r"]);
        check("crate::a::{b}", &["crate", "::", "a", "::", "{", "b", "}"]);
        check("unsafe_code", &["unsafe_code"]);
    }

    #[test]
    fn line_numbers_span_comments_and_strings() {
        let tokens = tokens("a\n/* \n */ b \"\n\n\" c");
        let lines: Vec<_> = tokens.iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 3, 5]);
    }
}
