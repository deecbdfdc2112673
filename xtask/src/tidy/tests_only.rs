//! Finds code that is compiled only for tests, so that rules for shipped code can skip it.

use super::problem::File;
use super::source::{self, Token};

/// Words that start an item after its visibility.
const ITEMS: &[&str] = &[
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "unsafe",
    "use",
    "let",
];

/// Returns the tokens without items under `#[cfg(test)]`.
pub(super) fn without<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut kept = Vec::new();
    split(tokens, |part, for_tests| {
        if !for_tests {
            kept.extend_from_slice(part);
        }
    });
    kept
}

/// Returns the paths, without extension, of the modules that `file` declares by `#[cfg(test)] mod name;`.
pub(super) fn files(file: &File) -> Vec<String> {
    let folder = ["/mod.rs", "/lib.rs", "/main.rs", ".rs"]
        .into_iter()
        .find_map(|end| file.path.strip_suffix(end));
    let Some(folder) = folder else {
        return Vec::new();
    };
    let mut files = Vec::new();
    split(&source::tokens(&file.text), |part, for_tests| {
        if let (true, [.., first, name, last]) = (for_tests, part)
            && (first.text, last.text) == ("mod", ";")
        {
            files.push(format!("{folder}/{}", name.text));
        }
    });
    files
}

/// Returns whether `path` is one of the modules in `files`, or inside one.
pub(super) fn covers(files: &[String], path: &str) -> bool {
    files.iter().any(|file| {
        path.strip_prefix(file.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    })
}

/// Passes `tokens` to `each` in parts, with whether the part is only for tests.
fn split<'a>(tokens: &[Token<'a>], mut each: impl FnMut(&[Token<'a>], bool)) {
    let (mut done, mut at) = (0, 0);
    while at < tokens.len() {
        let whole_file = tokens[at..].iter().map(|token| token.text).take(2).eq(["#", "!"]);
        let bracket = at + if whole_file { 2 } else { 1 };
        let is_attribute =
            tokens[at].text == "#" && tokens.get(bracket).is_some_and(|token| token.text == "[");
        if !is_attribute {
            at += 1;
            continue;
        }
        let end = closing(tokens, bracket);
        if !is_test_only(&tokens[bracket..end]) {
            at = end;
            continue;
        }
        let end = if whole_file { tokens.len() } else { item_end(tokens, end) };
        each(&tokens[done..at], false);
        each(&tokens[at..end], true);
        (done, at) = (end, end);
    }
    each(&tokens[done..], false);
}

/// Returns whether the attribute is `cfg(test)` or `cfg(all(test, …))`, not `cfg(any(test, …))` or `cfg(not(test))`.
fn is_test_only(attribute: &[Token<'_>]) -> bool {
    let words: Vec<_> = attribute.iter().map(|token| token.text).collect();
    words.starts_with(&["[", "cfg", "("])
        && words.contains(&"test")
        && !words.contains(&"not")
        && !words.contains(&"any")
}

/// Returns the position after the bracket that closes the one at `open`.
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Returns the end of the item, field or arm at `at`, including its other attributes.
fn item_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    while text(at) == "#" && text(at + 1) == "[" {
        at = closing(tokens, at + 1);
    }
    if text(at) == "pub" {
        at = if text(at + 1) == "(" { closing(tokens, at + 1) } else { at + 1 };
    }
    let is_item = ITEMS.contains(&text(at));
    while at < tokens.len() {
        match text(at) {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            "{" => return closing(tokens, at),
            "(" | "[" => at = closing(tokens, at),
            "}" | ")" | "]" => return at,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let tokens = without(&source::tokens(text));
        let found: Vec<_> = tokens.iter().map(|token| token.text).collect();
        let expected: Vec<_> = source::tokens(expected).iter().map(|token| token.text).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn only_item_below_attribute_is_removed() {
        check("a; #[cfg(test)] mod tests { fn f() { x } } b;", "a; b;");
        check("#[cfg(test)] #[allow(x)] pub(crate) fn f(a: [u8; 3]) -> T<A, B> { x } b;", "b;");
        check("#[cfg(all(test, unix))] use a::B; c;", "c;");
        check("#[cfg(test)] impl<A, B> X for Y { x } b;", "b;");
        check("struct S { #[cfg(test)] pub a: u8, b: u8 }", "struct S { b: u8 }");
        check("struct S { #[cfg(test)] a: u8 } b;", "struct S { } b;");
        check("#[cfg(test)] mod tests; b;", "b;");
        check("#![cfg(test)] a; b;", "");
    }

    #[test]
    fn shipped_code_is_kept() {
        for text in [
            "#[cfg(not(test))] fn f() {}",
            "#[cfg(any(test, feature = \"testing\"))] mod testing {}",
            "#[derive(Debug)] struct S;",
            "#![deny(x)] fn test() {}",
            "a # b",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn test_modules_in_own_files_are_found() {
        let found = files(&File::new("a/src/slot.rs", "#[cfg(test)]\nmod tests;\nmod b;"));
        assert_eq!(found, ["a/src/slot/tests"]);
        let found = files(&File::new("a/src/lib.rs", "#[cfg(test)] mod tests;"));
        assert_eq!(found, ["a/src/tests"]);
        assert!(covers(&found, "a/src/tests.rs"));
        assert!(covers(&found, "a/src/tests/deep.rs"));
        assert!(!covers(&found, "a/src/tests_of_b.rs"));
    }
}
