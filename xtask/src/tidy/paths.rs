//! The paths that a file uses, as absolute paths inside its crate. Resolves `crate`, `self`, `super`
//! and child modules by their tokens; knows neither macros nor what a path names.

use super::problem::File;
use super::source::{self, Token};
use super::tests_only;

/// A path from the root of the crate, such as `["slot", "Slot"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UsedPath<'a> {
    pub(super) segments: Vec<&'a str>,
    pub(super) line: usize,
    /// Whether it is a public import, which only passes a name on.
    pub(super) is_reexport: bool,
}

/// A file of a crate, by its place among the crate's modules.
pub(super) struct Place<'a> {
    /// The source folder of the crate, with a slash at its end.
    pub(super) root: &'a str,
    /// The path of its module; empty for `lib.rs` and `main.rs`.
    pub(super) module: Vec<&'a str>,
}

impl<'a> Place<'a> {
    /// Returns the place of a file below `src/`; `None` for other files.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let at = path.find("src/")?;
        if at > 0 && !path[..at].ends_with('/') {
            return None;
        }
        let (root, inside) = path.split_at(at + "src/".len());
        let mut module: Vec<_> = inside.strip_suffix(".rs")?.split('/').collect();
        let is_root = matches!(module.as_slice(), ["lib" | "main"]);
        if is_root || module.last() == Some(&"mod") {
            module.pop();
        }
        Some(Self { root, module })
    }
}

/// Returns the paths that the shipped code of `file` uses.
pub(super) fn used<'a>(file: &'a File, module: &[&'a str]) -> Vec<UsedPath<'a>> {
    let tokens = tests_only::without(&source::tokens(&file.text));
    let children = children(&tokens);
    let mut found = Vec::new();
    let (mut braces, mut inline) = (0_usize, Vec::new());
    let (mut in_use, mut is_public) = (false, false);
    let mut at = 0;
    while at < tokens.len() {
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
        let before = at.checked_sub(1).map_or("", text);
        let own = || module.iter().copied().chain(inline.iter().map(|(name, _)| *name));
        match tokens[at].text {
            "{" => braces += 1,
            "}" => {
                braces = braces.saturating_sub(1);
                inline.retain(|(_, depth)| *depth <= braces);
            }
            "mod" if text(at + 2) == "{" => inline.push((text(at + 1), braces + 1)),
            "use" => (in_use, is_public) = (true, matches!(before, "pub" | ")")),
            ";" => in_use = false,
            // `pub(in crate::…)` restricts visibility and uses nothing.
            "crate" | "super" | "self"
                if before != "::" && before != "in" && text(at + 1) == "::" =>
            {
                let mut base: Vec<_> =
                    if text(at) == "crate" { Vec::new() } else { own().collect() };
                while text(at) == "super" {
                    base.pop();
                    at += if text(at + 2) == "super" { 2 } else { 1 };
                }
                at += usize::from(text(at) != "::");
                tree(&tokens, at + 1, &base, is_public && in_use, &mut found);
            }
            name if children.contains(&name)
                && inline.is_empty()
                && !matches!(before, "::" | "mod" | "in" | ".")
                && text(at + 1) == "::" =>
            {
                let base: Vec<_> = own().collect();
                tree(&tokens, at, &base, is_public && in_use, &mut found);
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Returns the modules that are declared in the file without a body.
fn children<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    let declarations = tokens.windows(3);
    let declarations = declarations.filter(|three| three[0].text == "mod" && three[2].text == ";");
    declarations.map(|three| three[1].text).collect()
}

/// Adds the paths of the tree at `at`, and returns the position after it.
fn tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    base: &[&'a str],
    is_reexport: bool,
    found: &mut Vec<UsedPath<'a>>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let line = tokens.get(at).map_or(0, |token| token.line);
    let mut segments = base.to_vec();
    loop {
        if text(at) == "{" {
            at += 1;
            while !matches!(text(at), "}" | "") {
                at = match text(at) {
                    "," => at + 1,
                    _ => tree(tokens, at, &segments, is_reexport, found),
                };
            }
            return at + 1;
        }
        let is_name = text(at).starts_with(|c: char| c == '_' || c == '*' || c.is_alphabetic());
        if !is_name {
            break;
        }
        if text(at) != "self" {
            segments.push(text(at));
        }
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    found.push(UsedPath { segments, line, is_reexport });
    if text(at) == "as" { at + 2 } else { at.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(module: &[&str], text: &str, expected: &[&str]) {
        let file = File::new("host/src/a.rs", text);
        let found: Vec<_> =
            used(&file, module).iter().map(|path| path.segments.join("::")).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn place_is_path_of_module() {
        let check = |path: &str, root: &str, module: &[&str]| {
            let place = Place::of(path).expect("a place");
            assert_eq!((place.root, &*place.module), (root, module));
        };
        check("host/src/lib.rs", "host/src/", &[]);
        check("host/src/slot/mod.rs", "host/src/", &["slot"]);
        check("host/src/slot/health.rs", "host/src/", &["slot", "health"]);
        check("host/cli/src/main.rs", "host/cli/src/", &[]);
        assert!(Place::of("tests/it/main.rs").is_none());
    }

    #[test]
    fn paths_are_absolute() {
        let own = &["slot", "health"];
        check(own, "use crate::{error::E, id};", &["error::E", "id"]);
        check(own, "use super::Slot; use super::super::id;", &["slot::Slot", "id"]);
        check(own, "use self::a::{self, b::*};", &["slot::health::a", "slot::health::a::b::*"]);
        check(
            own,
            "fn f() -> crate::a::B<super::C> { super::d::<E>() }",
            &["a::B", "slot::C", "slot::d"],
        );
        check(own, "mod a { use super::b; } use super::c;", &["slot::health::b", "slot::c"]);
        check(own, "use crate::a::{B as C, D}; pub(in crate::e) fn f() {}", &["a::B", "a::D"]);
    }

    #[test]
    fn child_modules_are_paths_too() {
        let text = "mod a; pub use a::B; fn f() { a::g(); other::a::h(); x.a::<T>() }";
        check(&["slot"], text, &["slot::a::B", "slot::a::g"]);
    }

    #[test]
    fn tests_comments_and_literals_use_nothing() {
        check(&[], "// crate::a\nconst A: &str = \"crate::b\"; #[cfg(test)] use crate::c;", &[]);
    }
}
