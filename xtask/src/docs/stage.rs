//! The sources of the book: the chapters of `docs/src`, whose links to files of the repository become
//! links to pages. In the repository, the same links work as they are.
//!
//! A chapter may be an include of a file, such as a reference; then links to that file lead to the
//! chapter. Every other file that a chapter links becomes a page below `repository/`. On such a page,
//! links to files that are not in the book become text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use pulldown_cmark::{Event, LinkType, Options, Parser, Tag};

use crate::tidy;

/// The folder of the chapters.
const CHAPTERS: &str = "docs/src";
const SUMMARY: &str = "SUMMARY.md";

/// Where links of a text lead.
enum Resolved {
    /// To this page.
    Page(String),
    /// Nowhere in the book.
    Outside,
}

/// Returns the files of the book's sources, by path.
pub(super) fn stage(root: &Path) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).with_context(|| format!("cannot read `{path}`"))
    };
    let summary = read(&format!("{CHAPTERS}/{SUMMARY}"))?;
    let mut files = Vec::new();
    let mut chapters = Vec::new();
    for entry in fs::read_dir(root.join(CHAPTERS))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let is_chapter = name.ends_with(".md") && name != SUMMARY;
        if is_chapter {
            ensure!(
                summary.contains(&format!("({name})")),
                "{CHAPTERS}/{name} is not in {SUMMARY}"
            );
            chapters.push(name);
        } else if path.is_file() && name != SUMMARY {
            files.push((Path::new("src").join(&name), fs::read(&path)?));
        }
    }
    chapters.sort();

    // Each page with the file whose text it is, and the page to which links to a file lead.
    let mut texts = Vec::new();
    let mut pages = BTreeMap::new();
    for name in chapters {
        let path = format!("{CHAPTERS}/{name}");
        let text = read(&path)?;
        pages.insert(path.clone(), name.clone());
        let include = text.trim().strip_prefix("{{#include ");
        let (file, text) = match include.and_then(|rest| rest.strip_suffix("}}")) {
            Some(included) => {
                let file = tidy::link_target(&path, included).flatten();
                let file = file.with_context(|| format!("{path} includes `{included}`"))?;
                let text = read(&file)?;
                pages.insert(file.clone(), name.clone());
                (file, text)
            }
            None => (path, text),
        };
        texts.push((file, name, text));
    }
    let mut linked = BTreeSet::new();
    for (file, _, text) in &texts {
        for target in targets(file, text) {
            let target = file_of(root, &target).with_context(|| format!("a link of {file}"))?;
            if !pages.contains_key(&target) {
                linked.insert(target);
            }
        }
    }
    let mut list = String::new();
    for file in linked {
        let is_markdown = file.ends_with(".md");
        let page = format!("repository/{file}{}", if is_markdown { "" } else { ".md" });
        list += &format!("  - [{file}]({page})\n");
        let text = read(&file)?;
        let text = if is_markdown { text } else { source_page(&file, &text) };
        pages.insert(file.clone(), page.clone());
        texts.push((file, page, text));
    }
    let resolve = |target: &str| {
        let page = file_of(root, target).ok().and_then(|target| pages.get(&target));
        page.map_or(Resolved::Outside, |page| Resolved::Page(page.clone()))
    };
    for (file, page, text) in &texts {
        let text = replace_links(file, page, text, resolve)?;
        files.push((Path::new("src").join(page), text.into_bytes()));
    }
    let summary = format!("{}\n- [Files of the repository]()\n{list}", summary.trim_end());
    files.push((Path::new("src").join(SUMMARY), summary.into_bytes()));
    // The texts are complete, and a `README.md` is not an index here.
    let config = read("docs/book.toml")? + "\n[build]\nuse-default-preprocessors = false\n";
    files.push(("book.toml".into(), config.into_bytes()));
    Ok(files)
}

/// Returns the file that a link to this path opens: for a folder, its README.
fn file_of(root: &Path, target: &str) -> anyhow::Result<String> {
    let path = root.join(target);
    if path.is_file() {
        return Ok(target.to_owned());
    }
    let readme = format!("{target}/README.md");
    if !root.join(&readme).is_file() {
        bail!("`{target}` is not a file, nor a folder with a README.md");
    }
    Ok(readme)
}

/// Returns the paths in the repository to which a file links.
fn targets(file: &str, text: &str) -> Vec<String> {
    let links = Parser::new_ext(text, Options::all()).filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. }) => tidy::link_target(file, &dest_url).flatten(),
        _ => None,
    });
    links.collect()
}

/// Replaces the links of `file`, which is `page` in the book.
fn replace_links(
    file: &str,
    page: &str,
    text: &str,
    resolve: impl Fn(&str) -> Resolved,
) -> anyhow::Result<String> {
    let mut replaced = String::new();
    let mut end = 0;
    for (event, range) in Parser::new_ext(text, Options::all()).into_offset_iter() {
        let Event::Start(Tag::Link { dest_url, link_type, .. }) = event else {
            continue;
        };
        let Some(target) = tidy::link_target(file, &dest_url) else {
            check_url(&dest_url).with_context(|| format!("a link of {file}"))?;
            continue;
        };
        ensure!(link_type == LinkType::Inline, "{file}: write the link to `{dest_url}` inline");
        let link = &text[range.clone()];
        let at = link.rfind("](").with_context(|| format!("{file}: `{link}` is not a link"))?;
        let fragment = dest_url.split_once('#').map(|(_, fragment)| format!("#{fragment}"));
        let to = target.map_or(Resolved::Outside, |target| resolve(&target));
        replaced += &text[end..range.start];
        replaced += &match to {
            Resolved::Page(target) => {
                let up = "../".repeat(page.matches('/').count());
                format!("{}]({up}{target}{})", &link[..at], fragment.unwrap_or_default())
            }
            Resolved::Outside => link[1..at].to_owned(),
        };
        end = range.end;
    }
    Ok(replaced + &text[end..])
}

/// Checks the syntax of a link that leaves the repository. No check depends on the network.
fn check_url(url: &str) -> anyhow::Result<()> {
    if url.starts_with('#') || url.starts_with("mailto:") {
        return Ok(());
    }
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '#', '?']).next()).unwrap_or_default();
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
    ensure!(!host.is_empty() && host.chars().all(is_valid), "`{url}` is not a valid URL");
    Ok(())
}

/// Returns a page that shows a file which is not Markdown.
fn source_page(file: &str, text: &str) -> String {
    let language = match file.rsplit('.').next() {
        Some("rs") => "rust",
        Some("mjs" | "js") => "js",
        Some("py") => "python",
        Some("toml") => "toml",
        Some("json") => "json",
        _ => "text",
    };
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("# {file}\n\n{fence}{language}\n{}\n{fence}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(page: &str, text: &str, expected: &str) {
        let resolve = |target: &str| match target {
            "docs/src/b.md" => Resolved::Page("b.md".to_owned()),
            "host/src/lib.rs" => Resolved::Page("repository/host/src/lib.rs.md".to_owned()),
            _ => Resolved::Outside,
        };
        let found = replace_links("docs/src/a.md", page, text, resolve).unwrap();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn links_lead_to_pages_of_the_book() {
        check("a.md", "x [b](b.md#c) y", "x [b](b.md#c) y");
        check("a.md", "[`l`](../../host/src/lib.rs)", "[`l`](repository/host/src/lib.rs.md)");
        check("repository/d/a.md", "[b](b.md)", "[b](../../b.md)");
        check(
            "a.md",
            "[s](#here) [u](https://e.org/a) `[b](x)`",
            "[s](#here) [u](https://e.org/a) `[b](x)`",
        );
        check("a.md", "see [the *file*](../../Cargo.toml).", "see the *file*.");
    }

    #[test]
    fn invalid_url_is_refused() {
        for url in ["https:///a", "https://e org", "ftp://e.org", "//e.org"] {
            assert!(check_url(url).is_err(), "{url}");
        }
        assert!(check_url("https://docs.rs/hotbay#a").is_ok());
    }

    #[test]
    fn source_with_fences_is_shown_whole() {
        let page = source_page("a/b.rs", "//! ```\n//! ```\n");
        assert_eq!(page, "# a/b.rs\n\n````rust\n//! ```\n//! ```\n````\n");
    }
}
