//! Words that STYLE.md rules out in names, comments, documents and messages.

use super::problem::{File, Problem};

/// The document with the rules.
const RULES: &str = "STYLE.md";

/// The files that quote the words.
const QUOTING: [&str; 2] = [RULES, "xtask/src/tidy/language.rs"];

/// Phrases in lower case, and what to write instead.
const PHRASES: &[(&[&str], &str)] = &[
    (
        &["nobody", "somebody", "anybody", "everybody", "whoever"],
        "name the actor: the host, a plugin, the caller, a worker, a process, a timer",
    ),
    (&["tell", "tells", "told"], "write return, report, log, emit, print, or fail with"),
    (&["look at", "looks at", "looked at", "looking at"], "write check, poll, read, or inspect"),
    (&["hold against", "holds against", "held against"], "write validate against, or check"),
    (&["judge", "judges", "judged"], "write check, validate, or decide"),
    (&["mend", "mends", "mended"], "write fix"),
    (&["take back", "takes back", "taken back"], "write cancel, undo, or revert"),
    (&["go home", "goes home"], "write exit, or stop"),
    (&["be late", "is late", "was late", "are late"], "write time out, or exceed the deadline"),
    (
        &["is there", "are there", "was there", "is not there", "are not there", "was not there"],
        "write exists, is missing, not found, or is already registered",
    ),
    (&["is no", "are no", "was no"], "write `is not a …`, or `invalid …`"),
    (&["for ever"], "write forever"),
    (&["of its own", "of their own", "of his own"], "write its own, their own, or separate"),
    (
        &[
            "airlock",
            "airlocks",
            "corridor",
            "corridors",
            "crew",
            "desk",
            "doorbell",
            "doorkeeper",
            "employer",
            "errand",
            "errands",
            "journey",
            "journeys",
            "overseer",
            "puppet",
            "room",
            "rooms",
            "teller",
            "workshop",
        ],
        "use the field's term, such as module, call path, worker, job, or watcher",
    ),
];

/// Continuations that make a phrase acceptable: `is no longer`.
const ACCEPTED: &[&str] = &["longer", "more than", "less than", "later than"];

/// Checks every line of `files`.
pub(super) fn check(files: &[File], problems: &mut Vec<Problem>) {
    for file in files.iter().filter(|file| !QUOTING.contains(&file.path.as_str())) {
        for (number, line) in file.text.lines().enumerate() {
            let line = line.to_lowercase();
            for (phrases, instead) in PHRASES {
                let Some(phrase) = phrases.iter().find(|phrase| contains(&line, phrase)) else {
                    continue;
                };
                let message = format!("`{phrase}` is not allowed in this repository (see {RULES})");
                problems.push(Problem::error(&file.path, number + 1, message, *instead));
            }
        }
    }
}

/// Returns whether `line` contains `phrase` as whole words. `_` separates words. "There is no" is
/// accepted.
fn contains(line: &str, phrase: &str) -> bool {
    let is_inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    line.match_indices(phrase).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + phrase.len()..]);
        let accepted = ACCEPTED.iter().any(|word| after.trim_start().starts_with(word));
        let accepted = accepted || (phrase.ends_with(" no") && before.ends_with("there "));
        !is_inside(before.chars().next_back()) && !is_inside(after.chars().next()) && !accepted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let file = File::new("a.rs", text);
        super::super::problem::render(|problems| check(&[file], problems))
    }

    #[test]
    fn ruled_out_phrase_is_reported_with_its_replacement() {
        for text in ["// Nobody waits", "fn is_told()", "it is no number", "the rooms."] {
            let found = found(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains("a.rs:1") && found[0].contains("hint: "), "{found:?}");
        }
    }

    #[test]
    fn similar_words_are_accepted() {
        for text in [
            "it is no longer loaded",
            "is not",
            "mendacious",
            "bathroom",
            "stall",
            "is nothing",
            "there is no reader",
        ] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
    }
}
