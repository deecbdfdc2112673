//! The two lists in `ARCHITECTURE.md` that both readers and `tidy` use, so that the document and the
//! checks cannot differ.

use super::problem::Problem;

/// The file with the lists.
pub(super) const FILE: &str = "ARCHITECTURE.md";

const MODULES: &str = "text modules";
const UNSAFE: &str = "text unsafe";

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Architecture {
    /// The host's modules, upper ones first. Modules of one rank do not use each other.
    pub(super) modules: Vec<Vec<String>>,
    /// Globs of the files that may contain `unsafe`, with their line numbers.
    pub(super) may_contain_unsafe: Vec<(String, usize)>,
}

impl Architecture {
    /// Reads the code blocks `text modules` (`a › b | c › d`) and `text unsafe` (one glob per line; the
    /// rest of the line is a comment).
    pub(super) fn read(text: Option<&str>, problems: &mut Vec<Problem>) -> Self {
        let text = text.unwrap_or_default();
        let mut list = |name: &str, shape: &str| {
            let lines = fence(text, name);
            if lines.is_empty() {
                let message = format!("no code block starts with ```{name}");
                problems.push(Problem::error(FILE, 1, message, format!("add one: {shape}")));
            }
            lines
        };
        let modules = list(MODULES, "`upper › lower | its sibling › lowest`");
        let modules = modules.iter().map(|(line, _)| *line).collect::<Vec<_>>().join(" ");
        let globs = list(UNSAFE, "one glob per line, such as `host/src/boundary/**`");
        Self {
            modules: modules
                .split('›')
                .map(|rank| rank.split('|').map(|module| module.trim().to_owned()))
                .map(|rank| rank.filter(|module| !module.is_empty()).collect::<Vec<_>>())
                .filter(|rank| !rank.is_empty())
                .collect(),
            may_contain_unsafe: globs
                .into_iter()
                .filter_map(|(text, line)| Some((text.split_whitespace().next()?.to_owned(), line)))
                .collect(),
        }
    }
}

/// Returns the lines between ```` ```name ```` and the next ```` ``` ````, with their numbers.
fn fence<'a>(text: &'a str, name: &str) -> Vec<(&'a str, usize)> {
    let start = format!("```{name}");
    let lines = text.lines().zip(1..);
    let lines = lines.skip_while(|(line, _)| line.trim() != start).skip(1);
    lines.take_while(|(line, _)| !line.trim().starts_with("```")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::problem::render;
    use super::*;

    #[test]
    fn both_lists_are_read() {
        let text =
            "# A\n```text modules\nhost › a | b ›\nc\n```\n\n```text unsafe\nx/**  why\n\n```\n";
        let found = Architecture::read(Some(text), &mut Vec::new());
        let modules: &[&[&str]] = &[&["host"], &["a", "b"], &["c"]];
        assert_eq!(found.modules, modules);
        assert_eq!(found.may_contain_unsafe, [("x/**".to_owned(), 8)]);
    }

    #[test]
    fn missing_list_is_error() {
        let check = |text| render(|problems| drop(Architecture::read(text, problems)));
        assert_eq!(check(None).len(), 2);
        let found = check(Some("```text modules\na › b\n```\n```text\nunsafe\n```\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("no code block starts with ```text unsafe"), "{found:?}");
    }
}
