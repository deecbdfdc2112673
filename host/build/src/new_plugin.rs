//! Creates a plugin that builds and passes its test as is. The texts are in `template/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use hotbay_manifest::PluginName;

use crate::cargo::Workspace;
use crate::print::{Hinted, line, quoted};

/// The arguments of `hotbay new` and `cargo xtask new-plugin`.
#[derive(Debug, Args)]
pub struct Options {
    /// The plugin's name: a lower-case letter, then at most 63 of `a-z`, `0-9` and `-`.
    name: String,
    /// The folder to create the plugin in; created if it does not exist.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Creates a program that runs in its own process, instead of a library.
    #[arg(long)]
    process: bool,
    /// The language of the program.
    #[arg(long, requires = "process", default_value = "rust")]
    language: Language,
    /// The folder of a local crate `hotbay-plugin` to link instead of the published one.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

/// A language with an SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// Rust, with the crate `hotbay-plugin`.
    Rust,
    /// Python 3.9 and later, with a copy of the SDK beside the plugin.
    Python,
    /// Node.js 18 and later, with a copy of the SDK beside the plugin.
    Node,
    /// Go 1.19 and later, with a copy of the SDK in the plugin's folder.
    Go,
}

/// The `hotbay-plugin` that a new plugin links.
#[derive(Debug)]
pub struct Sdk<'a> {
    /// Its version.
    pub version: &'a str,
    /// Its folder, if it is not the published one.
    pub path: Option<PathBuf>,
}

/// The kind of artifact that the plugin is built into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Library,
    Process,
    /// A program in another language than Rust.
    Other(Sources),
}

/// The files of a program in another language than Rust, by path in the plugin's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sources {
    /// The files that are filled in: first the program, which the command names unless it is built.
    files: &'static [(&'static str, &'static str)],
    sdk: (&'static str, &'static str),
    /// Whether the program is built, and has the name of the plugin.
    is_built: bool,
    /// The command that runs the test, in the folder of the plugin.
    test_command: &'static str,
}

const PYTHON: Sources = Sources {
    files: &[
        ("plugin.py", include_str!("template/python/plugin.py")),
        ("test_plugin.py", include_str!("template/python/test_plugin.py")),
    ],
    sdk: ("hotbay.py", include_str!("../../../plugin-api/python/hotbay.py")),
    is_built: false,
    test_command: "python3 -m unittest",
};

const NODE: Sources = Sources {
    files: &[
        ("plugin.mjs", include_str!("template/node/plugin.mjs")),
        ("plugin_test.mjs", include_str!("template/node/plugin_test.mjs")),
    ],
    sdk: ("hotbay.mjs", include_str!("../../../plugin-api/node/hotbay.mjs")),
    is_built: false,
    test_command: "node --test",
};

const GO: Sources = Sources {
    files: &[
        ("main.go", include_str!("template/go/main.go")),
        ("main_test.go", include_str!("template/go/main_test.go")),
        ("go.mod", include_str!("template/go/go.mod")),
    ],
    sdk: ("hotbay/hotbay.go", include_str!("../../../plugin-api/go/hotbay.go")),
    is_built: true,
    test_command: "go test ./...",
};

/// The line of the template that exports the library as a plugin.
const EXPORT: &str = "export_plugin!(Greeter);\n\n";

/// The JSON Schema of `plugin.json`, which editors find by `$schema`: a copy in a standalone crate.
const SCHEMA_FILE: &str = "plugin.schema.json";
const MEMBER_SCHEMA: &str = "../../host/manifest/plugin.schema.json";

/// Keywords, crates of the compiler, and the dependencies of the template.
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
    "hotbay-plugin",
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

/// Folders of cargo, whose names it refuses for programs.
const TAKEN_BY_CARGO: &[&str] = &["build", "deps", "examples", "incremental"];

/// Creates a plugin that belongs to no workspace, and prints what to do next.
///
/// # Errors
///
/// If the name is invalid, or the folder exists or cannot be written.
pub fn create(options: &Options, mut sdk: Sdk<'_>) -> anyhow::Result<()> {
    let name = &options.name;
    check_name(name, kind(options))?;
    if let Some(given) = &options.sdk {
        let path = given.canonicalize();
        let path = path.with_context(|| format!("cannot read the SDK `{}`", given.display()))?;
        sdk.path = Some(path);
    }
    let parent = options.path.as_deref().unwrap_or(Path::new(""));
    let folder = parent.join(name);
    let texts = Texts::new(name, kind(options), Some(&sdk), "0.1.0", sdk.version)?;
    write(&folder, &texts)?;
    line(format_args!("created {}", folder.display()))?;
    line("next:")?;
    match kind(options) {
        Kind::Other(sources) => {
            line(format_args!("  (cd {} && {})", quoted(&folder), sources.test_command))?;
        }
        Kind::Library | Kind::Process => {
            let cargo_toml = folder.join("Cargo.toml");
            if let Some(Surrounding { root, folder }) = Surrounding::of(&folder) {
                let (root, folder) = (root.display(), folder.display());
                line(format_args!(
                    "  add `{folder}` to `workspace.exclude` in {root}, or to `members` without \
                     `[workspace]` in {}",
                    cargo_toml.display()
                ))?;
            }
            line(format_args!("  cargo test --manifest-path {}", quoted(&cargo_toml)))?;
        }
    }
    line(format_args!("  hotbay build {}", quoted(&folder)))?;
    line(format_args!("  hotbay call {name} --text you"))
}

/// The workspace of another crate around a new one, which does not exclude it.
struct Surrounding {
    /// Its `Cargo.toml`.
    root: PathBuf,
    /// The new folder in it.
    folder: PathBuf,
}

impl Surrounding {
    fn of(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        folder.ancestors().skip(1).find_map(|parent| {
            let root = parent.join("Cargo.toml");
            let cargo: toml_edit::DocumentMut = fs::read_to_string(&root).ok()?.parse().ok()?;
            let excluded = cargo.get("workspace")?.get("exclude").and_then(|list| list.as_array());
            let folder = folder.strip_prefix(parent).ok()?.to_owned();
            let mut excluded = excluded.into_iter().flatten().filter_map(|one| one.as_str());
            let is_excluded = excluded.any(|excluded| folder.starts_with(excluded));
            (!is_excluded).then_some(Self { root, folder })
        })
    }
}

/// Creates a member of `workspace`, in its folder `plugins`, and prints what to do next. With
/// `--path`, creates a crate that links the SDK of `workspace`.
///
/// # Errors
///
/// The same as [`create`].
pub fn create_in(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let name = &options.name;
    check_name(name, kind(options))?;
    ensure!(workspace.package(name).is_none(), "the workspace already has a crate `{name}`");
    let api = workspace
        .package("hotbay-plugin")
        .context("the workspace has no crate `hotbay-plugin`, which plugins link")?;
    let home = workspace.root.canonicalize()?.join("plugins");
    if let Some(parent) = &options.path
        && parent.canonicalize().ok() != Some(home.clone())
    {
        let is_inside = std::path::absolute(parent)?.starts_with(&workspace.root);
        if is_inside {
            let parent = parent.display();
            let message = format!("`{parent}` is in the workspace, whose plugins are in `plugins`");
            let hint = "omit --path, or choose a folder outside of the workspace";
            bail!(Hinted::new(message, hint));
        }
        let path = api.manifest.parent().map(Path::to_owned);
        return create(options, Sdk { version: &api.version, path });
    }
    // Members inherit the version of the workspace, as this crate does.
    let version = env!("CARGO_PKG_VERSION");
    let texts = Texts::new(name, kind(options), None, version, &api.version)?;
    let folder = home.join(name);
    write(&folder, &texts)?;
    if let Kind::Other(_) = kind(options) {
        exclude(&workspace.root, &format!("plugins/{name}"))?;
    }
    let installed = workspace.target.join("plugins");
    line(format_args!("created {}", workspace.display(&folder)))?;
    line("next:")?;
    match kind(options) {
        Kind::Other(sources) => {
            let folder = workspace.display(&folder);
            line(format_args!("  (cd {folder} && {})", sources.test_command))?;
        }
        Kind::Library | Kind::Process => line(format_args!("  cargo test --package {name}"))?,
    }
    line(format_args!("  cargo xtask build-plugins --plugin {name}"))?;
    line(format_args!(
        "  cargo run --package hotbay-cli -- call {name} --text you --dir '{}'",
        workspace.display(&installed)
    ))
}

/// Excludes a folder without a `Cargo.toml` from a workspace whose members are `plugins/*`.
fn exclude(root: &Path, folder: &str) -> anyhow::Result<()> {
    let path = root.join("Cargo.toml");
    let change = || -> anyhow::Result<()> {
        let mut cargo: toml_edit::DocumentMut = fs::read_to_string(&path)?.parse()?;
        let excluded = cargo["workspace"]["exclude"].or_insert(toml_edit::Array::new().into());
        excluded.as_array_mut().context("`workspace.exclude` is not a list")?.push(folder);
        Ok(fs::write(&path, cargo.to_string())?)
    };
    change().with_context(|| format!("cannot exclude `{folder}` in `{}`", path.display()))
}

fn kind(options: &Options) -> Kind {
    match options.language {
        _ if !options.process => Kind::Library,
        Language::Rust => Kind::Process,
        Language::Python => Kind::Other(PYTHON),
        Language::Node => Kind::Other(NODE),
        Language::Go => Kind::Other(GO),
    }
}

/// The files of a new plugin, by path in its folder.
struct Texts(Vec<(&'static str, String)>);

impl Texts {
    /// Fills the templates. Without an `sdk`, the crate is a member of hotbay's workspace.
    fn new(
        name: &str,
        kind: Kind,
        sdk: Option<&Sdk<'_>>,
        version: &str,
        api_version: &str,
    ) -> anyhow::Result<Self> {
        let sdk_path = sdk.and_then(|sdk| sdk.path.as_deref());
        let sdk_path = match sdk_path.map(|path| (path, path.to_str())) {
            None => String::new(),
            Some((_, Some(path))) => format!(", path = {}", toml_edit::Value::from(path)),
            Some((path, None)) => bail!("the path `{}` is not UTF-8", path.display()),
        };
        let minor = api_version.rsplit_once('.').map_or("1.0", |(minor, _)| minor);
        let command = match kind {
            Kind::Other(Sources { files: [(program, _), ..], is_built: false, .. }) => program,
            _ => name,
        };
        let values = [
            ("{{name}}", name.to_owned()),
            ("{{command}}", command.to_owned()),
            ("{{library}}", name.replace('-', "_")),
            ("{{version}}", version.to_owned()),
            ("{{schema}}", if sdk.is_some() { SCHEMA_FILE } else { MEMBER_SCHEMA }.to_owned()),
            ("{{api}}", format!("^{minor}")),
            ("{{sdk}}", format!("version = \"{api_version}\"{sdk_path}")),
        ];
        let fill = |text: &str| {
            let fill = |text: String, (key, value): &(&str, String)| text.replace(key, value);
            values.iter().fold(text.to_owned(), fill)
        };
        let cargo = match (kind, sdk) {
            (Kind::Library, None) => Some(include_str!("template/member.toml")),
            (Kind::Library, Some(_)) => Some(include_str!("template/standalone.toml")),
            (Kind::Process, None) => Some(include_str!("template/process-member.toml")),
            (Kind::Process, Some(_)) => Some(include_str!("template/process-standalone.toml")),
            (Kind::Other(_), _) => None,
        };
        let library = include_str!("template/lib.rs");
        let mut texts = vec![("README.md", fill(include_str!("template/README.md")))];
        texts.extend(cargo.map(|cargo| ("Cargo.toml", fill(cargo))));
        if sdk.is_some() {
            let mut ignored = include_str!("template/gitignore").to_owned();
            if let Kind::Other(Sources { is_built: true, .. }) = kind {
                // What `go build` leaves there. The SDK is in a folder of this name.
                if name != "hotbay" {
                    ignored.push_str(&format!("/{name}\n"));
                }
            }
            texts.push((".gitignore", ignored));
            texts.push((SCHEMA_FILE, include_str!("../../manifest/plugin.schema.json").to_owned()));
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
            Kind::Other(sources) => {
                let mut texts = vec![("plugin.json", fill(include_str!("template/process.json")))];
                texts.extend(sources.files.iter().map(|(path, text)| (*path, fill(text))));
                texts.push((sources.sdk.0, sources.sdk.1.to_owned()));
                texts
            }
        });
        Ok(Self(texts))
    }
}

/// Rejects names that the host would reject, or that cannot name a crate.
fn check_name(name: &str, kind: Kind) -> anyhow::Result<()> {
    PluginName::new(name)?;
    if TAKEN.contains(&name) && !matches!(kind, Kind::Other(_)) {
        bail!("`{name}` is not a valid plugin name: Rust or the plugin's code already uses it");
    }
    if matches!(kind, Kind::Other(Sources { is_built: true, .. })) && name == "vendor" {
        bail!("`{name}` is not a valid name of a plugin in Go: it has packages in such a folder");
    }
    if kind == Kind::Process && TAKEN_BY_CARGO.contains(&name) {
        bail!("`{name}` is not a valid program name: cargo has a folder with that name");
    }
    Ok(())
}

fn write(folder: &Path, texts: &Texts) -> anyhow::Result<()> {
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create the folder `{}`", parent.display()))?;
    }
    // Fails if it exists, so that no file of an author is overwritten.
    fs::create_dir(folder)
        .with_context(|| format!("cannot create the folder `{}`", folder.display()))?;
    for (path, text) in &texts.0 {
        let path = folder.join(path);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(&path, text)?;
            if text.starts_with("#!") { make_executable(&path) } else { Ok(()) }
        };
        write().with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut permissions = fs::metadata(path)?.permissions();
    permissions.set_mode(permissions.mode() | 0o111);
    fs::set_permissions(path, permissions)
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(kind: Kind, is_member: bool) -> Texts {
        let sdk = Sdk { version: "1.2.3", path: Some("/w/sdk".into()) };
        let sdk = (!is_member).then_some(&sdk);
        Texts::new("word-count", kind, sdk, "0.1.0", "1.2.3").unwrap()
    }

    #[test]
    fn name_is_valid_for_host_and_rust() {
        for name in ["a", "word-count", "a1-2-", &"a".repeat(64)] {
            assert!(check_name(name, Kind::Process).is_ok(), "{name}");
        }
        for name in ["", "A", "1a", "-a", "a_b", "a b", "ä", "a/b", "..", &"a".repeat(65)] {
            let error = check_name(name, Kind::Library).unwrap_err().to_string();
            assert!(error.contains("is not a valid plugin name"), "{error}");
        }
        for name in ["test", "core", "std", "fn", "proc-macro", "serde-json", "hotbay-plugin"] {
            let error = check_name(name, Kind::Library).unwrap_err().to_string();
            assert!(error.contains("not a valid plugin name"), "{error}");
        }
    }

    #[test]
    fn program_has_no_name_of_a_folder_of_cargo() {
        for name in ["build", "deps", "examples", "incremental"] {
            assert!(check_name(name, Kind::Library).is_ok(), "{name}");
            let error = check_name(name, Kind::Process).unwrap_err().to_string();
            assert!(error.contains("not a valid program name"), "{error}");
        }
    }

    /// Returns the texts of every template.
    fn all() -> Vec<Texts> {
        let others = [PYTHON, NODE, GO].map(Kind::Other);
        [Kind::Library, Kind::Process]
            .into_iter()
            .chain(others)
            .flat_map(|kind| [(kind, true), (kind, false)])
            .map(|(kind, is_member)| texts(kind, is_member))
            .collect()
    }

    fn text<'a>(texts: &'a Texts, path: &str) -> &'a str {
        &texts.0.iter().find(|(found, _)| *found == path).unwrap().1
    }

    #[test]
    fn template_fills_every_placeholder() {
        for (path, text) in all().iter().flat_map(|texts| &texts.0) {
            let is_sdk = [PYTHON, NODE, GO].iter().any(|sources| sources.sdk.0 == *path);
            assert!(is_sdk || !text.contains("{{"), "{path}: {text}");
        }
    }

    #[test]
    fn library_is_exported_and_program_is_served() {
        for texts in all() {
            if texts.0.iter().all(|(path, _)| *path != "Cargo.toml") {
                continue;
            }
            let is_program = texts.0.iter().any(|(path, _)| *path == "src/main.rs");
            assert_eq!(text(&texts, "src/lib.rs").contains("export_plugin!"), !is_program);
            let served = "serve_plugin!(word_count::Greeter);";
            assert!(!is_program || text(&texts, "src/main.rs").contains(served));
        }
    }

    #[test]
    fn manifest_matches_crate() {
        for kind in [Kind::Library, Kind::Process] {
            let texts = texts(kind, false);
            let manifest = text(&texts, "plugin.json");
            let manifest = crate::plugins::manifest::Manifest::read(manifest).unwrap();
            assert_eq!((&*manifest.package, &*manifest.version), ("word-count", "0.1.0"));
            let cargo = toml_edit::Document::parse(text(&texts, "Cargo.toml")).unwrap();
            assert_eq!(cargo["package"]["name"].as_str(), Some("word-count"));
            assert_eq!(cargo["package"]["version"].as_str(), Some("0.1.0"));
            let api = &cargo["dependencies"]["hotbay-plugin"];
            assert_eq!(api["path"].as_str(), Some("/w/sdk"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_program_of_a_script_is_executable() {
        use std::os::unix::fs::PermissionsExt as _;
        for sources in [PYTHON, NODE] {
            let parent = tempfile::tempdir().unwrap();
            let (folder, texts) = (parent.path().join("a"), texts(Kind::Other(sources), false));
            write(&folder, &texts).unwrap();
            for (path, _) in &texts.0 {
                let mode = fs::metadata(folder.join(path)).unwrap().permissions().mode();
                assert_eq!(mode & 0o100 != 0, *path == sources.files[0].0, "{path}");
            }
            let manifest: serde_json::Value =
                serde_json::from_str(text(&texts, "plugin.json")).unwrap();
            assert_eq!(manifest["command"][0], sources.files[0].0);
        }
    }

    #[test]
    fn standalone_crate_ignores_target_and_is_small_in_debug_builds() {
        for kind in [Kind::Library, Kind::Process] {
            let texts = texts(kind, false);
            assert_eq!(text(&texts, ".gitignore"), "/target\n");
            let cargo = toml_edit::Document::parse(text(&texts, "Cargo.toml")).unwrap();
            let debug = &cargo["profile"]["dev"]["debug"];
            assert_eq!(debug.as_str(), Some("line-tables-only"));
        }
    }

    #[test]
    fn script_is_excluded_from_the_workspace() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("Cargo.toml");
        for (before, after) in [
            ("[workspace]\nmembers = []\n", "members = []\nexclude = [\"plugins/a\"]\n"),
            ("[workspace]\nexclude = [\"b\"] # c\n", "exclude = [\"b\", \"plugins/a\"] # c\n"),
        ] {
            fs::write(&path, before).unwrap();
            exclude(root.path(), "plugins/a").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("[workspace]\n{after}"));
        }
        fs::write(&path, "[workspace]\nexclude = 7\n").unwrap();
        let error = format!("{:#}", exclude(root.path(), "plugins/a").unwrap_err());
        assert!(error.contains("cannot exclude `plugins/a`"), "{error}");
    }

    #[test]
    fn existing_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(folder.path(), &texts(Kind::Library, true)).unwrap_err().to_string();
        assert!(error.contains("cannot create the folder"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
