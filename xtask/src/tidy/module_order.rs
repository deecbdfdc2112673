//! The order of the host's modules: an upper module may use a lower one, never the reverse, and modules
//! of one rank never use each other. Checks paths only, without resolving them.

use std::collections::BTreeSet;

use super::paths::{self, Place};
use super::problem::{File, Problem};
use super::{architecture, tests_only};

/// The crate whose modules are checked.
const SRC: &str = "host/src/";

/// Checks the files of the host among `files`.
pub(super) fn check(files: &[File], order: &[Vec<String>], problems: &mut Vec<Problem>) {
    if order.is_empty() {
        return; // The missing list is reported elsewhere.
    }
    let known: BTreeSet<_> = files.iter().filter_map(|file| module(&file.path)).collect();
    let for_tests: Vec<_> = files.iter().flat_map(tests_only::files).collect();
    for file in files.iter().filter(|file| !tests_only::covers(&for_tests, &file.path)) {
        let Some(own) = module(&file.path) else {
            continue;
        };
        let Some(rank) = rank(order, own) else {
            let message = format!("module `{own}` is missing from the order of modules");
            let hint = format!("add it in {}", architecture::FILE);
            problems.push(Problem::error(&file.path, 1, message, hint));
            continue;
        };
        let place = Place::of(&file.path).map(|place| place.module).unwrap_or_default();
        for used in paths::used(file, &place) {
            let target = used.segments.first().copied().unwrap_or("self");
            if let Some((message, hint)) = check_use(order, &known, (own, rank), target) {
                problems.push(Problem::error(&file.path, used.line, message, hint));
            }
        }
    }
}

/// Returns the problem and the hint if the module `own` may not use `crate::target`.
fn check_use(
    order: &[Vec<String>],
    known: &BTreeSet<&str>,
    (own, own_rank): (&str, usize),
    target: &str,
) -> Option<(String, String)> {
    match rank(order, target) {
        _ if target == own => None,
        Some(rank) if rank > own_rank => None,
        Some(rank) if rank == own_rank => Some((
            format!("module `{own}` uses its sibling `{target}`"),
            "move the shared part into a lower module, or pass it in from an upper one".to_owned(),
        )),
        Some(_) => Some((
            format!("module `{own}` uses the upper module `{target}`"),
            "pass it in from above, or move it down".to_owned(),
        )),
        // lib.rs re-exports from every module; a path through it hides the module.
        None if is_crate_root(target) => Some((
            format!("module `{own}` uses `crate::{target}` of lib.rs, which is above all modules"),
            "name the module that defines it".to_owned(),
        )),
        None if known.contains(target) => Some((
            format!("module `{own}` uses `{target}`, which is missing from the order of modules"),
            format!("add it in {}", architecture::FILE),
        )),
        None => None, // A macro, which belongs to no module.
    }
}

fn is_crate_root(target: &str) -> bool {
    matches!(target, "*" | "self") || target.starts_with(char::is_uppercase)
}

fn rank(order: &[Vec<String>], module: &str) -> Option<usize> {
    order.iter().position(|rank| rank.iter().any(|name| name == module))
}

/// Returns the module of a file; `None` for lib.rs and other crates.
fn module(path: &str) -> Option<&str> {
    let place = Place::of(path).filter(|place| place.root == SRC)?;
    place.module.first().copied()
}

#[cfg(test)]
mod tests {
    use super::super::problem::render;
    use super::*;

    fn order() -> Vec<Vec<String>> {
        let ranks: [&[&str]; 5] =
            [&["host"], &["slot"], &["boundary", "metrics"], &["error"], &["id", "sync"]];
        ranks.map(|rank| rank.iter().map(ToString::to_string).collect()).to_vec()
    }

    fn check(path: &str, text: &str, expected: &[&str]) {
        let files = [File::new(path, text), File::new("host/src/attic.rs", "")];
        let found = render(|problems| super::check(&files, &order(), problems));
        let found: Vec<_> =
            found.iter().filter(|line| !line.starts_with("error: host/src/attic.rs")).collect();
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(&format!("error: {path}:{expected}")), "{text}: {found}");
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
        check("host/cli/src/main.rs", "use crate::slot; use hotbay::Host;", &[]);
        check("plugin-api/src/id.rs", "use crate::slot;", &[]);
    }

    #[test]
    fn lower_modules_may_not_use_upper_ones() {
        let up = "module `boundary` uses the upper module `slot`";
        check(IMAGE, "\nuse crate::slot::Slot;", &[&format!("2: {up}")]);
        check(IMAGE, "fn f() {\n  crate::slot::lease();\n}", &[&format!("2: {up}")]);
        check(IMAGE, "use crate::{\n id::{A, B},\n slot::S,\n};", &[&format!("3: {up}")]);
        check(IMAGE, "use super::super::slot::Slot;", &[&format!("1: {up}")]);
        check(IMAGE, "mod a {\n use super::super::super::slot::S;\n}", &[&format!("2: {up}")]);
        check(IMAGE, "macro_rules! m { () => { $crate::slot::S } }", &[&format!("1: {up}")]);
        check("host/src/boundary/mod.rs", "use super::slot;", &[&format!("1: {up}")]);
        check(
            "host/src/id.rs",
            "use super::slot;",
            &["1: module `id` uses the upper module `slot`"],
        );
    }

    #[test]
    fn siblings_may_not_use_each_other() {
        check(IMAGE, "use crate::metrics;", &["1: module `boundary` uses its sibling"]);
        check("host/src/sync.rs", "use crate::id;", &["1: module `sync` uses its sibling `id`"]);
    }

    #[test]
    fn crate_root_and_unknown_modules_may_not_be_used() {
        check(SLOT, "use crate::Error;", &["1: module `slot` uses `crate::Error` of lib.rs"]);
        check(SLOT, "use crate::*;", &["1: module `slot` uses `crate::*` of lib.rs"]);
        check(SLOT, "use super::{self, id};", &["1: module `slot` uses `crate::self` of lib.rs"]);
        check(SLOT, "use crate::attic::A;", &["1: module `slot` uses `attic`, which is missing"]);
        check("host/src/cellar.rs", "", &["1: module `cellar` is missing"]);
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
        let up = "3: module `boundary` uses the upper module `slot`";
        check(IMAGE, "#[cfg(test)]\nuse crate::host::A;\nuse crate::slot::B;", &[up]);
        let parent = File::new("host/src/boundary/mod.rs", "#[cfg(test)]\nmod image;");
        let image = File::new(IMAGE, "use crate::slot::Slot;");
        let none: [String; 0] = [];
        assert_eq!(render(|problems| super::check(&[parent, image], &order(), problems)), none);
    }
}
