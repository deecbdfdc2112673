//! Links between files of the repository. Links to other places are not checked, since no check depends
//! on the network.

use std::path::{Component, Path};

use pulldown_cmark::{Event, Options, Parser, Tag};

use super::problem::{File, Problem};

/// Checks the Markdown in `files` against all `paths` of the repository.
pub(super) fn check(files: &[File], paths: &[String], problems: &mut Vec<Problem>) {
    for file in files {
        let events = Parser::new_ext(&file.text, Options::all()).into_offset_iter();
        for (event, range) in events {
            let Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) = event
            else {
                continue;
            };
            let Some(target) = target(&file.path, &dest_url) else {
                continue;
            };
            let inside = target.as_ref().is_some_and(|target| exists(target, paths));
            if !inside {
                let line = file.text[..range.start].matches('\n').count() + 1;
                let message =
                    format!("the link to `{dest_url}` does not point to a file in the repository");
                let hint = "fix or remove it".to_owned();
                problems.push(Problem::error(&file.path, line, message, hint));
            }
        }
    }
}

/// Returns the path from the root that a link in `file` names; `None` if it names something else,
/// `Some(None)` if it leads out of the repository.
pub(crate) fn target(file: &str, link: &str) -> Option<Option<String>> {
    let path = link.split(['#', '?']).next().unwrap_or_default().replace("%20", " ");
    // A scheme, such as `https:` or `mailto:`.
    let has_scheme = path.split_once(':').is_some_and(|(scheme, _)| !scheme.contains('/'));
    if path.is_empty() || has_scheme || path.starts_with("//") {
        return None;
    }
    let (folder, path) = match path.strip_prefix('/') {
        Some(path) => (Path::new(""), path),
        None => (Path::new(file).parent().unwrap_or(Path::new("")), path.as_str()),
    };
    Some(resolved(&folder.join(path)))
}

/// Returns the path without `.` and `..`; `None` if it leads out of the root.
fn resolved(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            _ => {}
        }
    }
    Some(parts.join("/"))
}

/// Returns whether the target is a file, or a folder that contains one.
fn exists(target: &str, paths: &[String]) -> bool {
    target.is_empty()
        || paths.iter().any(|path| {
            path.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

#[cfg(test)]
mod tests {
    use super::super::problem::render;
    use super::*;

    fn check(file: &str, text: &str, expected: &[&str]) {
        let paths = ["README.md", "docs/a.md", "docs/b c.md", "host/src/lib.rs"];
        let paths = paths.map(str::to_owned);
        let found = render(|problems| super::check(&[File::new(file, text)], &paths, problems));
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(&format!("error: {file}:{expected}")), "{text}: {found}");
        }
    }

    #[test]
    fn links_to_files_and_folders_are_followed() {
        check("docs/a.md", "[r](../README.md#top) [h](../host/) [b](b%20c.md) ![i](a.md)", &[]);
        check("README.md", "[a](/docs/a.md) [s](#here) [x][a]\n\n[a]: docs/a.md", &[]);
    }

    #[test]
    fn broken_link_is_reported_with_line() {
        check("README.md", "a\n\nb [x](docs/c.md)", &["3: the link to `docs/c.md`"]);
        check("docs/a.md", "[x](README.md)", &["1: the link to `README.md`"]);
        check("docs/a.md", "[x](../../secret)", &["1: the link to `../../secret`"]);
        check("README.md", "[x][y]\n\n[y]: gone.md", &["1: the link to `gone.md`"]);
        check("README.md", "![x](host/sr)", &["1: the link to `host/sr`"]);
    }

    #[test]
    fn non_file_links_are_ignored() {
        check("README.md", "[x](https://e.org/gone.md) <mailto:a@e.org> [y](//e.org/a)", &[]);
        check("README.md", "```md\n[x](gone.md)\n```\n`[x](gone.md)` call[i](\n", &[]);
        check("README.md", "    [x](gone.md)\n\n<!-- [x](gone.md) -->\n", &[]);
    }
}
