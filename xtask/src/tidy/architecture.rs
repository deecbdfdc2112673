//! The two lists that `ARCHITECTURE.md` keeps for people and for tidy alike.
//! They stand there and nowhere else, so that text and check cannot differ.

use super::Problem;

/// Where the lists stand.
pub(super) const FILE: &str = "ARCHITECTURE.md";

const ROOMS: &str = "text rooms";
const UNSAFE: &str = "text unsafe";

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Architecture {
    /// The host's rooms, upper ones first; rooms of one rank do not use each other.
    pub(super) rooms: Vec<Vec<String>>,
    /// Globs of the files that may hold `unsafe`, and their lines.
    pub(super) may_hold_unsafe: Vec<(String, usize)>,
}

impl Architecture {
    /// Reads the fences `text rooms` (`a › b | c › d`) and `text unsafe` (a glob a line; what
    /// follows it on the line is for people).
    pub(super) fn read(text: Option<&str>, problems: &mut Vec<Problem>) -> Self {
        let text = text.unwrap_or_default();
        let mut list = |name: &str, shape: &str| {
            let lines = fence(text, name);
            if lines.is_empty() {
                let what = format!("there is no list that starts with ```{name}");
                problems.push(Problem::error(FILE, 1, what, format!("add one: {shape}")));
            }
            lines
        };
        let rooms = list(ROOMS, "`upper › lower | its sibling › lowest`");
        let rooms = rooms.iter().map(|(line, _)| *line).collect::<Vec<_>>().join(" ");
        let globs = list(UNSAFE, "a glob a line, such as `host/src/boundary/**`");
        Self {
            rooms: rooms
                .split('›')
                .map(|rank| rank.split('|').map(|room| room.trim().to_owned()))
                .map(|rank| rank.filter(|room| !room.is_empty()).collect::<Vec<_>>())
                .filter(|rank| !rank.is_empty())
                .collect(),
            may_hold_unsafe: globs
                .into_iter()
                .filter_map(|(text, line)| Some((text.split_whitespace().next()?.to_owned(), line)))
                .collect(),
        }
    }
}

/// The lines between ```` ```name ```` and the next ```` ``` ````, with their numbers.
fn fence<'a>(text: &'a str, name: &str) -> Vec<(&'a str, usize)> {
    let start = format!("```{name}");
    let lines = text.lines().zip(1..);
    let lines = lines.skip_while(|(line, _)| line.trim() != start).skip(1);
    lines.take_while(|(line, _)| !line.trim().starts_with("```")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::told;
    use super::*;

    #[test]
    fn both_lists_are_read() {
        let text =
            "# A\n```text rooms\nhost › a | b ›\nc\n```\n\n```text unsafe\nx/**  why\n\n```\n";
        let found = Architecture::read(Some(text), &mut Vec::new());
        let rooms: &[&[&str]] = &[&["host"], &["a", "b"], &["c"]];
        assert_eq!(found.rooms, rooms);
        assert_eq!(found.may_hold_unsafe, [("x/**".to_owned(), 8)]);
    }

    #[test]
    fn missing_list_is_error() {
        let check = |text| told(|problems| drop(Architecture::read(text, problems)));
        assert_eq!(check(None).len(), 2);
        let found = check(Some("```text rooms\na › b\n```\n```text\nunsafe\n```\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("no list that starts with ```text unsafe"), "{found:?}");
    }
}
