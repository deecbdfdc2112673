//! No import cycles between the files of a module: if `a` uses `b`, `b` uses neither `a` nor a file
//! that uses `a`. A name that a module file passes on counts as a use of the file that defines it.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{self, Place, UsedPath};
use super::problem::{File, Problem};
use super::tests_only;

/// A file, the path of its module, and the paths that it uses.
type Used<'a> = (&'a File, Vec<&'a str>, Vec<UsedPath<'a>>);

/// What the parts of one module use of each other: part → used part → where.
type Graph<'a> = BTreeMap<&'a str, BTreeMap<&'a str, (&'a str, usize)>>;

/// The module file itself as a part: what is defined in `mod.rs`.
const ITSELF: &str = "mod";

/// Checks all crates whose files are among `files`.
pub(super) fn check(files: &[File], problems: &mut Vec<Problem>) {
    let for_tests: Vec<_> = files.iter().flat_map(tests_only::files).collect();
    let shipped = files.iter().filter(|file| !tests_only::covers(&for_tests, &file.path));
    let mut crates: BTreeMap<&str, Vec<Used<'_>>> = BTreeMap::new();
    for file in shipped {
        if let Some(Place { root, module }) = Place::of(&file.path) {
            let used = paths::used(file, &module);
            crates.entry(root).or_default().push((file, module, used));
        }
    }
    for files in crates.values() {
        // Modules that have parts: every proper prefix of a module's path.
        let modules: BTreeSet<&[&str]> = files
            .iter()
            .flat_map(|(_, module, _)| (0..module.len()).map(|to| &module[..to]))
            .collect();
        for module in modules {
            for cycle in cycles(&graph(files, module)) {
                problems.push(cycle);
            }
        }
    }
}

/// Returns the uses between the parts of `module`.
fn graph<'a>(files: &'a [Used<'a>], module: &[&str]) -> Graph<'a> {
    let is_inside = |path: &[&str]| path.len() > module.len() && path.starts_with(module);
    let inside = || files.iter().filter(|(_, path, _)| is_inside(path));
    let parts: BTreeSet<&str> = inside().map(|(_, path, _)| path[module.len()]).collect();
    let itself = files.iter().find(|(_, path, _)| *path == module);
    // Names that the module file imports from its parts, and the parts that define them.
    let mut defined_in = BTreeMap::new();
    for used in itself.iter().flat_map(|(_, _, used)| used) {
        if let [part, .., name] = &used.segments[module.len().min(used.segments.len())..]
            && used.segments.starts_with(module)
            && parts.contains(part)
        {
            defined_in.insert(*name, *part);
        }
    }
    let mut graph = Graph::new();
    let members = inside().map(|file| (file.1[module.len()], file));
    let is_root = module.is_empty();
    let members = members.chain(itself.filter(|_| !is_root).map(|file| (ITSELF, file)));
    for (part, (file, _, used)) in members {
        for used in used.iter().filter(|used| is_inside(&used.segments)) {
            let name = used.segments[module.len()];
            let target = match parts.get(name) {
                Some(target) => *target,
                None if is_root => continue,
                None => defined_in.get(name).copied().unwrap_or(ITSELF),
            };
            let is_passed_on = part == ITSELF && used.is_reexport;
            if target != part && !is_passed_on {
                let uses = graph.entry(part).or_default();
                uses.entry(target).or_insert((&file.path, used.line));
            }
        }
    }
    graph
}

/// Returns a problem for each group of parts that use each other.
fn cycles(graph: &Graph<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for &start in graph.keys() {
        if done.contains(start) {
            continue;
        }
        if let Some(cycle) = path_back(graph, start) {
            done.extend(&cycle);
            let next = cycle.get(1).copied().unwrap_or(start);
            let (file, line) = graph[start][next];
            let cycle: Vec<_> =
                cycle.iter().chain([&start]).map(|part| format!("`{part}`")).collect();
            let message = format!("import cycle: {}", cycle.join(" → "));
            let hint = "move what they share into a lower file, or merge the files";
            found.push(Problem::error(file, line, message, hint));
        }
    }
    found
}

/// Returns the shortest cycle through `start`, without its end.
fn path_back<'a>(graph: &Graph<'a>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut paths = std::collections::VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::from([start]);
    while let Some(path) = paths.pop_front() {
        for &next in graph.get(path.last()?).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                return Some(path);
            }
            if seen.insert(next) {
                paths.push_back(path.iter().copied().chain([next]).collect());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::problem::render;
    use super::*;

    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let files: Vec<_> =
            files.iter().map(|(path, text)| File::new(&format!("host/src/{path}"), text)).collect();
        let found = render(|problems| super::check(&files, problems));
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn files_that_use_each_other_are_reported() {
        let a = ("slot/a.rs", "use super::b::B;");
        check(
            &[a, ("slot/b.rs", "\nuse super::a::A;")],
            &["host/src/slot/a.rs:1: import cycle: `a` → `b` → `a`"],
        );
        check(
            &[a, ("slot/b.rs", "use super::c::C;"), ("slot/c.rs", "use crate::slot::a::A;")],
            &["`a` → `b` → `c` → `a`"],
        );
        check(&[a, ("slot/b.rs", "use super::c::C;"), ("slot/c.rs", "")], &[]);
        check(&[a, ("slot/b/d.rs", "use super::super::a::A;")], &["`a` → `b` → `a`"]);
        check(&[("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")], &["`a` → `b`"]);
    }

    #[test]
    fn name_of_module_file_counts_for_its_definition() {
        let b = ("slot/b.rs", "use super::A;");
        let passed_on = ("slot/mod.rs", "mod a; mod b; pub(crate) use a::A; pub(crate) use b::B;");
        check(&[passed_on, ("slot/a.rs", ""), b], &[]);
        check(&[passed_on, ("slot/a.rs", "use super::B;"), b], &["`a` → `b` → `a`"]);
        let defined = ("slot/mod.rs", "mod b; use b::B; struct A(B);");
        check(&[defined, b], &["`b` → `mod` → `b`"]);
        check(&[("slot/mod.rs", "mod b; pub(crate) use b::B; struct A;"), b], &[]);
    }

    #[test]
    fn tests_may_form_cycles() {
        let a = ("slot/a.rs", "use super::b::B;");
        check(&[a, ("slot/b.rs", "#[cfg(test)]\nmod tests { use super::super::a::A; }")], &[]);
    }
}
