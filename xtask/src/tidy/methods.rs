//! All methods of a type stand in at most two files, so that a reader finds them. Counts inherent
//! `impl` blocks of shipped code; a type is its name inside a top-level module.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::Place;
use super::problem::{File, Problem};
use super::source::{self, Token};
use super::tests_only;

/// Maximum number of files with methods of one type.
const MAX_FILES: usize = 2;

pub(super) fn check(files: &[File], problems: &mut Vec<Problem>) {
    let for_tests: Vec<_> = files.iter().flat_map(tests_only::files).collect();
    let mut types: BTreeMap<(&str, &str, &str), BTreeSet<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| !tests_only::covers(&for_tests, &file.path)) {
        let Some(Place { root, module }) = Place::of(&file.path) else { continue };
        let module = module.first().copied().unwrap_or_default();
        for name in implemented(&tests_only::without(&source::tokens(&file.text))) {
            types.entry((root, module, name)).or_default().insert(&file.path);
        }
    }
    for ((_, _, name), files) in types {
        if let Some(first) = files.first()
            && files.len() > MAX_FILES
        {
            let message =
                format!("`{name}` has methods in {} files: {}", files.len(), list(&files));
            let hint = format!("merge them into at most {MAX_FILES} files, or split the type");
            problems.push(Problem::error(first, 1, message, hint));
        }
    }
}

fn list(files: &BTreeSet<&str>) -> String {
    files.iter().copied().collect::<Vec<_>>().join(", ")
}

/// Returns the types that have inherent `impl` blocks.
fn implemented<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut names = Vec::new();
    for at in 0..tokens.len() {
        // At the start of an item, not `impl Trait` in a type.
        let before = at.checked_sub(1).map_or("", text);
        if text(at) != "impl" || !matches!(before, "" | "}" | ";" | "]" | "unsafe" | "{") {
            continue;
        }
        let mut at = at + 1;
        if text(at) == "<" {
            at = after_generics(tokens, at);
        }
        let mut name = None;
        while !matches!(text(at), "{" | "for" | "where" | "") {
            if text(at) == "<" {
                at = after_generics(tokens, at);
                continue;
            }
            if text(at).starts_with(char::is_alphabetic) {
                name = Some(text(at));
            }
            at += 1;
        }
        if text(at) != "for" {
            names.extend(name);
        }
    }
    names
}

fn after_generics(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "<" => depth += 1,
            // Not the arrow of a function type.
            ">" if tokens[at - 1].text != "-" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::super::problem::render;
    use super::*;

    #[test]
    fn inherent_blocks_are_found() {
        let text = "impl A { fn f() -> impl B { impl C for D {} } } impl<T: Fn() -> u8> E<T> {} \
                    impl fmt::Debug for F {} impl crate::a::G {} #[cfg(test)] impl H {}";
        assert_eq!(implemented(&tests_only::without(&source::tokens(text))), ["A", "E", "G"]);
    }

    #[test]
    fn type_with_methods_in_three_files_is_reported() {
        let file = |name: &str| File::new(&format!("host/src/slot/{name}.rs"), "impl Slot {}");
        let other = File::new("host/src/host/mod.rs", "impl Slot {}");
        let check = |files: &[File]| render(|problems| super::check(files, problems));
        assert!(check(&[file("mod"), file("queueing"), other]).is_empty());
        let found = check(&[file("mod"), file("queueing"), file("pause")]);
        assert!(
            found[0].contains("`Slot` has methods in 3 files: host/src/slot/mod.rs, "),
            "{found:?}"
        );
    }
}
