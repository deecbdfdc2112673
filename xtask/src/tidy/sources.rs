//! Rules for single source files: the module comment, the length, and forbidden words.

use super::problem::{File, Problem};
use super::source;
use super::{architecture, tests_only};

/// Longer files contain more than one concept.
const MAX_LINES: usize = 800;

/// Shorter files are usually part of another concept; `tidy` prints how many there are.
const FEW_LINES: usize = 80;

/// The folders of the crates that applications and plugins link, or that the command consists of.
const LIBRARIES: &[&str] = &["host/", "plugin-api/"];

/// Tests misbehave on purpose, and are not shipped.
const TESTS: &str = "tests/";

/// Macros that mark unfinished code.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

/// Checks all `files`; `may_contain_unsafe` contains globs with their line numbers.
pub(super) fn check(
    files: &[File],
    may_contain_unsafe: &[(String, usize)],
    problems: &mut Vec<Problem>,
) {
    for file in files {
        opening(file, problems);
        length(file, problems);
        words(file, may_contain_unsafe, problems);
    }
    for (glob, line) in may_contain_unsafe {
        if !files.iter().any(|file| fast_glob::glob_match(glob, &file.path)) {
            let message = format!("no file matches `{glob}`");
            let hint = "remove it from the list of files that may contain `unsafe`";
            problems.push(Problem::warning(architecture::FILE, *line, message, hint));
        }
    }
}

/// Returns the number and the sizes of the libraries' files, without those for tests only.
pub(super) fn summary(files: &[File]) -> String {
    let for_tests: Vec<_> = files.iter().flat_map(tests_only::files).collect();
    let shipped = files.iter().filter(|file| {
        let is_library = LIBRARIES.iter().any(|folder| file.path.starts_with(folder));
        is_library && file.path.contains("src/") && !tests_only::covers(&for_tests, &file.path)
    });
    let mut lines: Vec<_> = shipped.map(|file| file.text.lines().count()).collect();
    lines.sort_unstable();
    let few = lines.iter().filter(|lines| **lines < FEW_LINES).count();
    let median = lines.get(lines.len() / 2).copied().unwrap_or_default();
    format!(
        "files of the libraries: {}, median {median} lines, {few} with fewer than {FEW_LINES}",
        lines.len()
    )
}

fn opening(file: &File, problems: &mut Vec<Problem>) {
    if !file.text.trim_start_matches('\u{feff}').starts_with("//!") {
        let message = "the file does not start with `//!`".to_owned();
        let hint = "describe in the first line what the file does";
        problems.push(Problem::error(&file.path, 1, message, hint));
    }
}

fn length(file: &File, problems: &mut Vec<Problem>) {
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        let message = format!("the file has {lines} lines, more than {MAX_LINES}");
        let hint = "move a concept into its own file";
        problems.push(Problem::error(&file.path, MAX_LINES + 1, message, hint));
    }
}

fn words(file: &File, may_contain_unsafe: &[(String, usize)], problems: &mut Vec<Problem>) {
    let tokens = source::tokens(&file.text);
    for (at, token) in tokens.iter().enumerate() {
        let is_macro = tokens.get(at + 1).is_some_and(|next| next.text == "!")
            && tokens.get(at + 2).is_some_and(|next| matches!(next.text, "(" | "[" | "{"));
        if is_macro && UNFINISHED.contains(&token.text) {
            let message = format!("`{}!` marks unfinished code", token.text);
            problems.push(Problem::error(&file.path, token.line, message, "finish the code"));
        }
    }

    let is_listed = |(glob, _): &(String, usize)| fast_glob::glob_match(glob, &file.path);
    // A missing list is reported elsewhere.
    if may_contain_unsafe.is_empty()
        || may_contain_unsafe.iter().any(is_listed)
        || file.path.starts_with(TESTS)
    {
        return;
    }
    let lines: Vec<_> =
        tokens.iter().filter(|token| token.text == "unsafe").map(|token| token.line).collect();
    if let [first, rest @ ..] = &*lines {
        let more = if rest.is_empty() { String::new() } else { format!(" ({} more)", rest.len()) };
        let message = format!("`unsafe` in a file that may not contain it{more}");
        let hint = format!(
            "move it into a file that may, or justify this one in the list of {}",
            architecture::FILE
        );
        problems.push(Problem::error(&file.path, *first, message, hint));
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::render;
    use super::*;

    fn check(path: &str, text: &str, expected: &[&str]) {
        let globs =
            [("host/src/boundary/**".to_owned(), 3), ("api/{root,export}.rs".to_owned(), 4)];
        let found = render(|problems| super::check(&[File::new(path, text)], &globs, problems));
        let found: Vec<_> = found
            .iter()
            .filter(|line| !line.contains(architecture::FILE) || line.contains("justify"))
            .collect();
        assert_eq!(found.len(), expected.len(), "{path}: {text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{path}: {text}: {found}");
        }
    }

    #[test]
    fn file_without_module_comment_is_reported() {
        check("a.rs", "//! Does this.\n", &[]);
        check("a.rs", "// Does this.\n", &["a.rs:1: the file does not start with `//!`"]);
        check("tests/fixtures/a/src/lib.rs", "", &["lib.rs:1: the file does not start"]);
    }

    #[test]
    fn long_file_is_reported() {
        let text = |lines: usize| format!("//! a\n{}", "\n".repeat(lines - 1));
        check("a.rs", &text(800), &[]);
        check("a.rs", &text(801), &["error: a.rs:801: the file has 801 lines"]);
    }

    #[test]
    fn summary_counts_shipped_files_of_libraries() {
        let file = |path: &str, lines: usize| File::new(path, &"\n".repeat(lines));
        let files = [
            file("host/src/a.rs", 10),
            file("host/cli/src/b.rs", 100),
            file("plugin-api/src/c.rs", 200),
            file("tests/src/d.rs", 1),
            File::new("host/src/lib.rs", &format!("#[cfg(test)]\nmod e;{}", "\n".repeat(300))),
            file("host/src/e.rs", 1),
        ];
        let expected = "files of the libraries: 4, median 200 lines, 1 with fewer than 80";
        assert_eq!(summary(&files), expected);
    }

    #[test]
    fn unsafe_outside_allowed_modules_is_reported() {
        let text = "//! a\nfn f() { unsafe { g() } }";
        let refused = "2: `unsafe` in a file that may not contain it";
        check("host/src/slot.rs", text, &[refused]);
        check("host/src/slot.rs", &format!("{text}\n{text}"), &[&format!("{refused} (1 more)")]);
        check("host/src/boundary/os/linux.rs", text, &[]);
        check("host/src/boundary.rs", text, &[refused]);
        check("api/export.rs", text, &[]);
        check("api/plugin.rs", text, &[refused]);
        check("tests/fixtures/a/src/lib.rs", text, &[]);
        check("host/src/slot.rs", "//! a\n#[unsafe(no_mangle)]\nfn f() {}", &[refused]);
    }

    #[test]
    fn word_unsafe_alone_is_allowed() {
        let text = "//! unsafe\n#![forbid(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";\n\
                    #[allow(unsafe_op_in_unsafe_fn)] fn unsafe_name() {} /* unsafe */";
        check("host/src/slot.rs", text, &[]);
    }

    #[test]
    fn unfinished_code_is_reported() {
        check("a.rs", "//! a\nfn f() {\n todo!() }", &["a.rs:3: `todo!` marks unfinished code"]);
        check("a.rs", "//! a\ndbg!(x); unimplemented![];", &["`dbg!`", "`unimplemented!`"]);
        check(
            "a.rs",
            "//! todo!()\nfn todo() { if todo != x {} } // dbg!\nlet a = \"todo!()\";",
            &[],
        );
    }

    #[test]
    fn unused_list_entry_is_warning() {
        let globs = [("gone.rs".to_owned(), 7)];
        let found = render(|problems| super::check(&[], &globs, problems));
        assert!(found[0].starts_with("warning: ARCHITECTURE.md:7: no file matches"), "{found:?}");
    }
}
