//! Links of the built book: every relative link leads to a file, and every fragment to an element.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A page: its links, and the ids of its elements.
struct Page {
    links: BTreeSet<String>,
    ids: BTreeSet<String>,
}

/// Returns a message for each broken link in the book.
pub(super) fn check(book: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    list(book, &mut files)?;
    let mut pages = BTreeMap::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "html")) {
        // `print.html` has all pages in one, and `404.html` is served for any path.
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !["print.html", "404.html"].contains(&name) {
            pages.insert(file.clone(), read(&fs::read_to_string(file)?));
        }
    }
    let files: BTreeSet<_> = files.into_iter().collect();
    let mut problems = Vec::new();
    for (file, page) in &pages {
        for link in &page.links {
            if !leads_somewhere(file, link, &files, &pages) {
                let file = file.strip_prefix(book).unwrap_or(file);
                let file = file.to_string_lossy().replace('\\', "/");
                problems.push(format!("{file}: `{link}` leads nowhere"));
            }
        }
    }
    Ok(problems)
}

fn leads_somewhere(
    file: &Path,
    link: &str,
    files: &BTreeSet<PathBuf>,
    pages: &BTreeMap<PathBuf, Page>,
) -> bool {
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    if path.split_once(':').is_some_and(|(scheme, _)| !scheme.contains('/')) {
        return true;
    }
    let mut target = file.to_owned();
    if !path.is_empty() {
        target.pop();
        for part in path.split('/') {
            match part {
                ".." => drop(target.pop()),
                "." => {}
                part => target.push(part.replace("%20", " ")),
            }
        }
    }
    let has = |page: &Page| fragment.is_empty() || page.ids.contains(fragment);
    files.contains(&target) && pages.get(&target).is_none_or(has)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Reads the tags of a page, as mdBook writes them. In text, `<` is escaped.
fn read(html: &str) -> Page {
    let (mut links, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        for (opening, closing) in [("script", "</script>"), ("!--", "-->")] {
            if rest.starts_with(opening) {
                rest = rest.find(closing).map_or("", |end| &rest[end..]);
            }
        }
        let (tag, after) = rest.split_once('>').unwrap_or((rest, ""));
        links.extend(["href", "src"].iter().filter_map(|name| attribute(tag, name)));
        ids.extend(attribute(tag, "id"));
        rest = after;
    }
    Page { links, ids }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, value) = tag.split_once(&format!(" {name}=\""))?;
    Some(value.split('"').next()?.replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_links_of_pages_are_reported() {
        let book = tempfile::tempdir().unwrap();
        let page = r##"<h1 id="top">&lt;a href="x"&gt;</h1><!-- <a href="x"> --><script>"<a href='x'>"</script>
            <a class="b" href="c/d.html#e">d</a> <a href="https://e.org/x">x</a> <a href="#top">t</a>"##;
        fs::write(book.path().join("a.html"), page).unwrap();
        fs::create_dir(book.path().join("c")).unwrap();
        let broken = r##"<a href="../a.html#top">a</a><a href="../a.html#no">n</a><a href="f.html">f</a><p id="e"><img src="g.svg">"##;
        fs::write(book.path().join("c/d.html"), broken).unwrap();
        let found = check(book.path()).unwrap();
        let expected = ["../a.html#no", "f.html", "g.svg"];
        assert_eq!(found, expected.map(|link| format!("c/d.html: `{link}` leads nowhere")));
    }
}
