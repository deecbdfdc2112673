//! `cargo xtask new-plugin`: writes a plugin that builds and passes its test as it stands.
//! The texts lie in `template/`; this file only chooses and fills them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A lower-case letter, then at most 63 of `a-z`, `0-9` and `-`.
    name: String,
    /// An existing folder to make it in; `plugins` of the workspace if not given.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Makes a program that runs in a process of its own, instead of a library.
    #[arg(long)]
    process: bool,
}

/// What the plugin is built into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Library,
    Process,
}

/// The line by which the template's library is a plugin.
const EXPORT: &str = "export_plugin!(Greeter);\n\n";

const NAME_CHARS_MAX: usize = 64;

/// Keywords, crates that come with the compiler, and what the template itself links.
const TAKEN: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "serde",
    "serde-json",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "union",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let name = &options.name;
    check_name(name)?;
    ensure!(
        workspace.package(name).is_none(),
        "`{name}` is a crate of this workspace already; choose another name"
    );
    let root = workspace.root.canonicalize()?;
    let home = root.join("plugins");
    let parent = options.path.as_ref().unwrap_or(&home);
    let parent = parent
        .canonicalize()
        .with_context(|| format!("there is no folder `{}` to make it in", parent.display()))?;
    let is_member = parent == home;
    ensure!(
        is_member || !parent.starts_with(&root),
        "`{}` lies in the workspace, whose plugins live in `plugins`; leave --path out, or name a \
         folder outside",
        parent.display()
    );

    let folder = parent.join(name);
    let kind = if options.process { Kind::Process } else { Kind::Library };
    let texts = Texts::new(workspace, name, is_member, kind)?;
    write(&folder, &texts)?;

    println!("wrote {}", workspace.told(&folder));
    println!("next:");
    let installed = workspace.target.join("plugins");
    let call = format!(
        "cargo run --package hotbay --features cli -- call {name} --text you --dir '{}'",
        workspace.told(&installed)
    );
    if is_member {
        println!("  cargo test --package {name}");
        println!("  cargo xtask build-plugins --plugin {name}");
    } else {
        println!("  cargo test --manifest-path '{}'", folder.join("Cargo.toml").display());
        println!("  cargo xtask build-plugins --from '{}' --plugin {name}", parent.display());
    }
    println!("  {call}");
    Ok(())
}

/// The files of a new plugin, by path in its folder.
struct Texts(Vec<(&'static str, String)>);

impl Texts {
    fn new(workspace: &Workspace, name: &str, is_member: bool, kind: Kind) -> anyhow::Result<Self> {
        let api = workspace
            .package("hotbay-plugin")
            .context("the workspace has no crate `hotbay-plugin`, which plugins link")?;
        let path = api.manifest.parent().and_then(Path::to_str);
        let path = path.context("the path of `hotbay-plugin` is not UTF-8")?;
        // Members inherit the workspace's version, which is that of xtask too.
        let version = if is_member { env!("CARGO_PKG_VERSION") } else { "0.1.0" };
        let minor = api.version.rsplit_once('.').map_or("1.0", |(minor, _)| minor);
        let values = [
            ("{{name}}", name.to_owned()),
            ("{{library}}", name.replace('-', "_")),
            ("{{version}}", version.to_owned()),
            ("{{api}}", format!("^{minor}")),
            ("{{api-version}}", api.version.clone()),
            ("{{api-path}}", toml_edit::Value::from(path).to_string()),
        ];
        let fill = |text: &str| {
            let fill = |text: String, (key, value): &(&str, String)| text.replace(key, value);
            values.iter().fold(text.to_owned(), fill)
        };
        let cargo = match (kind, is_member) {
            (Kind::Library, true) => include_str!("template/member.toml"),
            (Kind::Library, false) => include_str!("template/standalone.toml"),
            (Kind::Process, true) => include_str!("template/process-member.toml"),
            (Kind::Process, false) => include_str!("template/process-standalone.toml"),
        };
        let library = include_str!("template/lib.rs");
        let mut texts = vec![
            ("Cargo.toml", fill(cargo)),
            ("README.md", fill(include_str!("template/README.md"))),
        ];
        // A member builds into the target folder of its workspace.
        if !is_member {
            texts.push((".gitignore", include_str!("template/gitignore").to_owned()));
        }
        texts.extend(match kind {
            Kind::Library => vec![
                ("plugin.json", fill(include_str!("template/plugin.json"))),
                ("src/lib.rs", fill(library)),
            ],
            Kind::Process => vec![
                ("plugin.json", fill(include_str!("template/process.json"))),
                ("src/lib.rs", fill(&library.replace(EXPORT, ""))),
                ("src/main.rs", fill(include_str!("template/main.rs"))),
            ],
        });
        Ok(Self(texts))
    }
}

/// Refuses names that the host would refuse, or that cannot name a crate.
fn check_name(name: &str) -> anyhow::Result<()> {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
    ensure!(
        starts && rest && name.len() <= NAME_CHARS_MAX,
        "`{name}` is no plugin name; wanted a lower-case letter, then at most 63 of `a-z`, \
         `0-9`, `-`"
    );
    if TAKEN.contains(&name) {
        bail!("`{name}` cannot name a plugin: Rust or the plugin's own code uses that name");
    }
    Ok(())
}

fn write(folder: &Path, texts: &Texts) -> anyhow::Result<()> {
    // Fails if it exists: nothing of an author's is ever overwritten.
    fs::create_dir(folder).with_context(|| {
        format!("cannot make the folder `{}`; choose another name", folder.display())
    })?;
    for (path, text) in &texts.0 {
        let path = folder.join(path);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(&path, text)
        };
        write().with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    fn workspace() -> Workspace {
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            version: version.into(),
            manifest: format!("/w/{name}/Cargo.toml").into(),
            links: Vec::new(),
        };
        Workspace {
            root: "/w".into(),
            target: "/w/target".into(),
            packages: vec![package("hotbay-plugin", "1.2.3")],
        }
    }

    #[test]
    fn a_name_fits_the_host_and_the_language() {
        for name in ["a", "word-count", "a1-2-", &"a".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "A", "1a", "-a", "a_b", "a b", "ä", "a/b", "..", &"a".repeat(65)] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.contains("is no plugin name"), "{error}");
        }
        for name in ["test", "core", "std", "fn", "proc-macro", "serde-json"] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.contains("cannot name a plugin"), "{error}");
        }
    }

    /// The texts of every template.
    fn all() -> Vec<Texts> {
        let kinds = [Kind::Library, Kind::Process].into_iter();
        kinds
            .flat_map(|kind| [(kind, true), (kind, false)])
            .map(|(kind, member)| Texts::new(&workspace(), "word-count", member, kind).unwrap())
            .collect()
    }

    fn text<'a>(texts: &'a Texts, path: &str) -> &'a str {
        &texts.0.iter().find(|(found, _)| *found == path).unwrap().1
    }

    #[test]
    fn every_placeholder_is_filled() {
        for (path, text) in all().iter().flat_map(|texts| &texts.0) {
            assert!(!text.contains("{{"), "{path}: {text}");
        }
    }

    #[test]
    fn a_library_is_exported_and_a_program_served() {
        for texts in all() {
            let is_program = texts.0.iter().any(|(path, _)| *path == "src/main.rs");
            assert_eq!(text(&texts, "src/lib.rs").contains("export_plugin!"), !is_program);
            let served = "serve_plugin!(word_count::Greeter);";
            assert!(!is_program || text(&texts, "src/main.rs").contains(served));
        }
    }

    #[test]
    fn the_manifest_agrees_with_what_it_is_built_from() {
        for kind in [Kind::Library, Kind::Process] {
            let texts = Texts::new(&workspace(), "word-count", false, kind).unwrap();
            let manifest = text(&texts, "plugin.json");
            let manifest = crate::build_plugins::manifest::Manifest::read(manifest).unwrap();
            assert_eq!((&*manifest.package, &*manifest.version), ("word-count", "0.1.0"));
            let cargo = toml_edit::Document::parse(text(&texts, "Cargo.toml")).unwrap();
            assert_eq!(cargo["package"]["name"].as_str(), Some("word-count"));
            assert_eq!(cargo["package"]["version"].as_str(), Some("0.1.0"));
            let api = &cargo["dependencies"]["hotbay-plugin"];
            assert_eq!(api["path"].as_str(), Some("/w/hotbay-plugin"));
        }
    }

    #[test]
    fn standalone_plugin_ignores_target_and_has_small_debug_builds() {
        for kind in [Kind::Library, Kind::Process] {
            let texts = Texts::new(&workspace(), "word-count", false, kind).unwrap();
            assert_eq!(text(&texts, ".gitignore"), "/target\n");
            let cargo = toml_edit::Document::parse(text(&texts, "Cargo.toml")).unwrap();
            assert_eq!(cargo["profile"]["dev"]["debug"].as_str(), Some("line-tables-only"));
        }
    }

    #[test]
    fn an_existing_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let texts = Texts::new(&workspace(), "a", true, Kind::Library).unwrap();
        let error = write(folder.path(), &texts).unwrap_err().to_string();
        assert!(error.contains("choose another name"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
