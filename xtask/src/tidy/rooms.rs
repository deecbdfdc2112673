//! The order of the host's rooms: an upper room may use a lower one, never the reverse, and
//! rooms of one rank never each other. Looks at paths, not at what they mean.

use std::collections::BTreeSet;

use super::source::{self, Token};
use super::{File, Problem, architecture, tests_only};

/// The crate whose rooms are kept in order.
const SRC: &str = "host/src/";

/// Checks the files of the host among `files`.
pub(super) fn check(files: &[File], order: &[Vec<String>], problems: &mut Vec<Problem>) {
    if order.is_empty() {
        return; // Told already: the list is missing.
    }
    let known: BTreeSet<_> = files.iter().filter_map(|file| room(&file.path)).collect();
    let for_tests: Vec<_> = files.iter().flat_map(tests_only::files).collect();
    for file in files.iter().filter(|file| !tests_only::covers(&for_tests, &file.path)) {
        let Some(own) = room(&file.path) else {
            continue;
        };
        let Some(rank) = rank(order, own) else {
            let what = format!("room `{own}` has no place in the order of rooms");
            let hint = format!("give it one in {}", architecture::FILE);
            problems.push(Problem::error(&file.path, 1, what, hint));
            continue;
        };
        for used in uses(file) {
            if let Some((what, hint)) = judge(order, &known, (own, rank), used.text) {
                problems.push(Problem::error(&file.path, used.line, what, hint));
            }
        }
    }
}

/// What is wrong when the room `own` names `crate::target`, and what to do.
fn judge(
    order: &[Vec<String>],
    known: &BTreeSet<&str>,
    (own, own_rank): (&str, usize),
    target: &str,
) -> Option<(String, String)> {
    match rank(order, target) {
        _ if target == own => None,
        Some(rank) if rank > own_rank => None,
        Some(rank) if rank == own_rank => Some((
            format!("room `{own}` uses its sibling `{target}`"),
            "move what both need into a lower room, or let an upper one pass it".to_owned(),
        )),
        Some(_) => Some((
            format!("room `{own}` uses the upper room `{target}`"),
            "pass it in from above, or move what is needed down".to_owned(),
        )),
        // The front door re-exports from every room: naming it hides which one is meant.
        None if is_front_door(target) => Some((
            format!("room `{own}` uses `crate::{target}` of lib.rs, which is above all rooms"),
            "name the room that it comes from".to_owned(),
        )),
        None if known.contains(target) => Some((
            format!("room `{own}` uses `{target}`, which has no place in the order of rooms"),
            format!("give it one in {}", architecture::FILE),
        )),
        None => None, // A macro, which has no room.
    }
}

fn is_front_door(target: &str) -> bool {
    matches!(target, "*" | "self") || target.starts_with(char::is_uppercase)
}

fn rank(order: &[Vec<String>], room: &str) -> Option<usize> {
    order.iter().position(|rank| rank.iter().any(|name| name == room))
}

/// The room that a file belongs to; none for lib.rs, for bin/ and for other crates.
fn room(path: &str) -> Option<&str> {
    let inside = path.strip_prefix(SRC)?.strip_suffix(".rs")?;
    let room = inside.split('/').next()?;
    (!matches!(room, "lib" | "bin")).then_some(room)
}

/// First segments after the crate's root of all paths in the file that start there.
fn uses(file: &File) -> Vec<Token<'_>> {
    let tokens = tests_only::without(&source::tokens(&file.text));
    // Depth of the module that a file is: `super` as often as this is the crate's root.
    let inside = file.path.strip_prefix(SRC).unwrap_or(&file.path);
    let own_depth = inside.split('/').filter(|part| *part != "mod.rs").count();

    let mut used = Vec::new();
    let (mut braces, mut inline) = (0_usize, Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let before = at.checked_sub(1).map_or("", |at| tokens[at].text);
        match tokens[at].text {
            "{" => braces += 1,
            "}" => {
                braces = braces.saturating_sub(1);
                inline.retain(|depth| *depth < braces + 1);
            }
            "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => {
                inline.push(braces + 1);
            }
            // `pub(in crate::…)` says who may see, not what is used.
            "crate" if before != "in" => used.extend(first_segments(&tokens[at + 1..])),
            "super" if !matches!(before, "in" | "::") => {
                let supers = tokens[at..].chunks(2);
                let supers = supers.take_while(|pair| pair[0].text == "super").count();
                let after = at + supers * 2 - 1;
                if supers == own_depth + inline.len() {
                    used.extend(first_segments(&tokens[after..]));
                }
                at = after - 1;
            }
            _ => {}
        }
        at += 1;
    }
    used
}

/// The names after `::`, one or a group of them.
fn first_segments<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut names = Vec::new();
    if tokens.first().is_none_or(|token| token.text != "::") {
        return names;
    }
    let mut depth = 0_usize;
    let mut expected = true;
    for token in &tokens[1..] {
        match token.text {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            "," if depth == 1 => expected = true,
            _ if expected => {
                names.push(*token);
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::told;
    use super::*;

    fn order() -> Vec<Vec<String>> {
        let ranks: [&[&str]; 5] =
            [&["host"], &["slot"], &["boundary", "supervisor"], &["error"], &["id", "sync"]];
        ranks.map(|rank| rank.iter().map(ToString::to_string).collect()).to_vec()
    }

    fn check(path: &str, text: &str, expected: &[&str]) {
        let files = [File::new(path, text), File::new("host/src/attic.rs", "")];
        let found = told(|problems| super::check(&files, &order(), problems));
        let found: Vec<_> =
            found.iter().filter(|line| !line.starts_with("host/src/attic.rs")).collect();
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(&format!("{path}:{expected}")), "{text}: {found}");
        }
    }

    const SLOT: &str = "host/src/slot.rs";
    const IMAGE: &str = "host/src/boundary/image.rs";

    #[test]
    fn upper_modules_may_use_lower_ones() {
        check(SLOT, "use crate::boundary::Image;\nuse crate::{error::E, id};", &[]);
        check(SLOT, "fn f() -> crate::id::Id { super::error::E }", &[]);
        check(IMAGE, "use crate::boundary::root;\nuse super::root;\nuse super::super::id;", &[]);
        check("host/src/lib.rs", "use crate::slot;", &[]);
        check("host/src/bin/hotbay/main.rs", "use crate::slot; use hotbay::Host;", &[]);
        check("plugin-api/src/id.rs", "use crate::slot;", &[]);
    }

    #[test]
    fn lower_modules_may_not_use_upper_ones() {
        let up = "room `boundary` uses the upper room `slot`";
        check(IMAGE, "\nuse crate::slot::Slot;", &[&format!("2: {up}")]);
        check(IMAGE, "fn f() {\n  crate::slot::lease();\n}", &[&format!("2: {up}")]);
        check(IMAGE, "use crate::{\n id::{A, B},\n slot::S,\n};", &[&format!("3: {up}")]);
        check(IMAGE, "use super::super::slot::Slot;", &[&format!("1: {up}")]);
        check(IMAGE, "mod a {\n use super::super::super::slot::S;\n}", &[&format!("2: {up}")]);
        check(IMAGE, "macro_rules! m { () => { $crate::slot::S } }", &[&format!("1: {up}")]);
        check("host/src/boundary/mod.rs", "use super::slot;", &[&format!("1: {up}")]);
        check("host/src/id.rs", "use super::slot;", &["1: room `id` uses the upper room `slot`"]);
    }

    #[test]
    fn siblings_may_not_use_each_other() {
        check(IMAGE, "use crate::supervisor;", &["1: room `boundary` uses its sibling"]);
        check("host/src/sync.rs", "use crate::id;", &["1: room `sync` uses its sibling `id`"]);
    }

    #[test]
    fn crate_root_and_unknown_modules_may_not_be_used() {
        check(SLOT, "use crate::Error;", &["1: room `slot` uses `crate::Error` of lib.rs"]);
        check(SLOT, "use crate::*;", &["1: room `slot` uses `crate::*` of lib.rs"]);
        check(SLOT, "use super::{self, id};", &["1: room `slot` uses `crate::self` of lib.rs"]);
        check(SLOT, "use crate::attic::A;", &["1: room `slot` uses `attic`, which has no place"]);
        check("host/src/cellar.rs", "", &["1: room `cellar` has no place"]);
    }

    #[test]
    fn lookalikes_of_paths_are_ignored() {
        check(IMAGE, "// crate::slot::Slot\n/// [`crate::slot::Slot`]\nfn f() {}", &[]);
        check(IMAGE, "const A: &str = \"crate::slot::Slot\";", &[]);
        check(IMAGE, "pub(in crate::slot) struct A; pub(in super::super::slot) fn f() {}", &[]);
        check(IMAGE, "crate::bug!(\"x\"); use crate::bug;", &[]);
        check(IMAGE, "use abi::slot; use self::slot; fn slot() { slot::a(); }", &[]);
        check(IMAGE, "mod a { use super::slot; } use super::slot;", &[]);
        check(
            IMAGE,
            "mod a { fn f() {} }\nuse super::slot; mod b { use super::super::slot; }",
            &[],
        );
    }

    #[test]
    fn tests_may_use_every_module() {
        check(IMAGE, "#[cfg(test)]\nmod tests { use crate::slot::Slot; use crate::*; }", &[]);
        let up = "3: room `boundary` uses the upper room `slot`";
        check(IMAGE, "#[cfg(test)]\nuse crate::host::A;\nuse crate::slot::B;", &[up]);
        let parent = File::new("host/src/boundary/mod.rs", "#[cfg(test)]\nmod image;");
        let image = File::new(IMAGE, "use crate::slot::Slot;");
        let none: [String; 0] = [];
        assert_eq!(told(|problems| super::check(&[parent, image], &order(), problems)), none);
    }
}
