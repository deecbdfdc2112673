//! Dependencies are declared in the root manifest, each with its purpose; members only inherit them.

use toml_edit::{Document, Item, TableLike};

use super::problem::{File, Problem};

/// The tables of a member with dependencies.
const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Checks each `Cargo.toml` among `files`.
pub(super) fn check(files: &[File], problems: &mut Vec<Problem>) {
    for file in files {
        match Document::parse(file.text.as_str()) {
            Ok(document) => {
                let root = document.as_table();
                explained(file, root, problems);
                inherited(file, root, problems);
                let targets = root.get("target").and_then(Item::as_table_like);
                for (_, target) in targets.into_iter().flat_map(TableLike::iter) {
                    if let Some(target) = target.as_table_like() {
                        inherited(file, target, problems);
                    }
                }
            }
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(&file.text, span.start));
                let message = format!("invalid TOML: {}", error.message().replace('\n', ", "));
                problems.push(Problem::error(&file.path, line, message, "fix the syntax"));
            }
        }
    }
}

/// Checks that each shared dependency has a comment with its purpose, except our own crates.
fn explained(file: &File, root: &dyn TableLike, problems: &mut Vec<Problem>) {
    let shared = root.get("workspace").and_then(Item::as_table_like);
    let shared = shared.and_then(|table| table.get("dependencies")).and_then(Item::as_table_like);
    let Some(shared) = shared else { return };
    for (name, item) in shared.iter() {
        let line = line(file, shared, name, item);
        let is_own = item.as_table_like().is_some_and(|table| table.contains_key("path"));
        if !is_own && !has_comment(&file.text, line, item) {
            let message = format!("dependency `{name}` has no comment with its purpose");
            problems.push(Problem::error(&file.path, line, message, "add a comment to its line"));
        }
    }
}

/// Checks that members set no version, branch or registry.
fn inherited(file: &File, table: &dyn TableLike, problems: &mut Vec<Problem>) {
    for dependencies in TABLES.iter().filter_map(|name| table.get(name)?.as_table_like()) {
        for (name, item) in dependencies.iter() {
            let has = |key: &str| item.as_table_like().is_some_and(|table| table.contains_key(key));
            if has("workspace") || (has("path") && !has("version")) {
                continue;
            }
            let line = line(file, dependencies, name, item);
            let message = format!("dependency `{name}` is pinned here");
            let hint = format!(
                "pin it in [workspace.dependencies] of the root manifest, and write `{name}.workspace = \
                 true`"
            );
            problems.push(Problem::error(&file.path, line, message, hint));
        }
    }
}

/// Returns whether the entry has a comment on its last line, or on the line above it.
fn has_comment(text: &str, line: usize, item: &Item) -> bool {
    let end = item.span().map_or(text.len(), |span| span.end);
    let after = text[end..].lines().next().unwrap_or_default();
    let above = line.checked_sub(2).and_then(|above| text.lines().nth(above)).unwrap_or_default();
    after.contains('#') || above.trim_start().starts_with('#')
}

fn line(file: &File, table: &dyn TableLike, name: &str, item: &Item) -> usize {
    let span = table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
    span.map_or(1, |span| line_of(&file.text, span.start))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::super::problem::render;
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let file = File::new("Cargo.toml", text);
        let found = render(|problems| super::check(&[file], problems));
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(&format!("error: Cargo.toml:{expected}")), "{text}: {found}");
        }
    }

    #[test]
    fn shared_dependency_without_comment_is_reported() {
        let silent = |line| format!("{line}: dependency `b` has no comment with its purpose");
        let head = "[workspace.dependencies]\n";
        check(&format!("{head}a = \"1\" # for that\nb = \"1\"\n"), &[&silent(3)]);
        check(&format!("{head}b = {{ version = \"1#\" }}\n# for that\na = \"1\"\n"), &[&silent(2)]);
        check(&format!("{head}b = {{ version = \"1\", features = [\"x\"] }} # for that"), &[]);
        check(&format!("{head}own = {{ path = \"own\" }}\n"), &[]);
        check("[workspace.dependencies.b]\nversion = \"1\"\n", &[&silent(1)]);
        check("# for that\n[workspace.dependencies.b]\nversion = \"1\"\n", &[]);
    }

    #[test]
    fn member_dependency_must_inherit() {
        check(
            "[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"x\"] }\n\
             c = { path = \"../c\" }\n[lints]\nworkspace = true\n[package]\nversion = \"1.0.0\"",
            &[],
        );
        check("[dependencies]\na = \"1\"\n", &["2: dependency `a` is pinned here"]);
        check("[dev-dependencies]\n\na.git = \"https://x\"\n", &["3: dependency `a`"]);
        check("[build-dependencies]\na = { path = \"a\", version = \"1\" }\n", &["2: "]);
        check("[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"\n", &["2: dependency `libc`"]);
    }

    #[test]
    fn broken_manifest_is_reported() {
        check("[package]\na = = b\n", &["2: invalid TOML"]);
    }
}
