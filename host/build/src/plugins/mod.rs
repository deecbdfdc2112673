//! Builds plugins and installs each with its manifest. A plugin that fails to build does not
//! prevent the others from being built.

mod artifact;
mod changes;
mod go;
mod inputs;
mod install;
pub(crate) mod manifest;
mod rebuild;
mod record;
mod replay;
mod script;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::cargo::{Package, Workspace};
use crate::print::{Hinted, line, message, print_error};
use artifact::{Profile, Target};
use changes::{MadeOf, Watched};
use manifest::{Kind, Manifest};

pub use install::remove_signature;
pub use record::run_as_wrapper;

/// The plugins to build, and the folder to install them in.
#[derive(Debug)]
pub struct Build<'a> {
    /// The folders of plugins, and folders whose subfolders are plugins.
    pub from: Vec<PathBuf>,
    /// Builds only the plugins with these names; all if it is empty.
    pub names: &'a [String],
    /// The folder that gets a folder for each plugin.
    pub out: PathBuf,
    /// The target folder of cargo; that of each crate's workspace if it is `None`.
    pub target: Option<&'a Path>,
    /// Builds optimized and stripped artifacts.
    pub release: bool,
}

/// What a plugin is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    /// The folder has a `Cargo.toml`.
    Crate,
    /// The folder of a process plugin has a `go.mod`.
    GoModule,
    /// Files that are installed as is.
    Script,
}

/// A folder with a `plugin.json`, and a crate, a module of Go, or a script.
struct Source {
    folder: PathBuf,
    /// Name of the plugin, or of its folder while the manifest cannot be read.
    name: String,
    manifest: anyhow::Result<Manifest>,
    code: Code,
}

impl Build<'_> {
    /// Builds and installs the plugins, and prints a line for each.
    ///
    /// # Errors
    ///
    /// The names of the plugins that failed; the reason of each was printed. `from` contains no
    /// plugin, or none of a name in `names`.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        for source in self.sources()? {
            let name = source.name.clone();
            match self.build(source) {
                Ok(built) => line(built)?,
                Err(error) => {
                    print_error(&error.context(format!("plugin `{name}`")));
                    failed.push(name);
                }
            }
        }
        ensure!(failed.is_empty(), "{} failed: {}", count(failed.len()), failed.join(", "));
        Ok(())
    }

    /// Returns the plugins to build.
    fn sources(&self) -> anyhow::Result<Vec<Source>> {
        let mut sources = Vec::new();
        for from in &self.from {
            let from =
                from.canonicalize().with_context(|| format!("cannot read `{}`", from.display()))?;
            match source(from.clone())? {
                Some(source) => sources.push(source),
                None => sources.extend(find(&from)?),
            }
        }
        sources.sort_by(|a, b| (&a.name, &a.folder).cmp(&(&b.name, &b.folder)));
        // Folders may be given twice, or be in another one.
        sources.dedup_by(|a, b| a.folder == b.folder);
        self.check_overwrites(&sources)?;
        chosen(sources, self.names, &self.from)
    }

    /// Fails if a plugin would be installed over the source of another one.
    fn check_overwrites(&self, sources: &[Source]) -> anyhow::Result<()> {
        for source in sources {
            let into = self.out.join(&source.name);
            let real = into.canonicalize().unwrap_or_else(|_| into.clone());
            let is_other = |other: &&Source| other.folder == real && other.folder != source.folder;
            if let Some(other) = sources.iter().find(is_other) {
                let (name, folder) = (&source.name, shown(&other.folder));
                let message = format!("`{name}` would replace the source of `{}`", other.name);
                bail!(Hinted::new(
                    format!("{message} in `{folder}`"),
                    "choose another folder with `--out`"
                ));
            }
        }
        Ok(())
    }

    /// Builds and installs one plugin. Returns the line to print.
    fn build(&self, source: Source) -> anyhow::Result<String> {
        self.build_with(source, |folder, manifest| {
            let (workspace, package) = self.package(folder, manifest)?;
            let profile = if self.release { Profile::Release } else { Profile::Dev };
            let target_dir = self.target.unwrap_or(&workspace.target);
            Ok(artifact::build(target_dir, &package, target(manifest), profile)?.file)
        })
    }

    /// Builds one plugin and installs it; `compile` returns the built file of a crate.
    fn build_with(
        &self,
        source: Source,
        compile: impl FnOnce(&Path, &Manifest) -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<String> {
        let (folder, manifest) = (&source.folder, source.manifest?);
        let (main, beside) = match (&manifest.kind, source.code) {
            (Kind::Process { program }, Code::Script) => {
                script::read(folder, program, &self.installed_in(folder, &manifest.name))?
            }
            (Kind::Process { program }, Code::GoModule) => {
                (go::build(folder, program, self.release)?, Vec::new())
            }
            _ => (read(&manifest, &compile(folder, &manifest)?)?, Vec::new()),
        };
        let into = self.out.join(&manifest.name);
        let installed = install::install(folder, &manifest, &main, &beside, &into)?;
        if installed.lost_signature {
            message(format!(
                "note: {} was signed, and its signature was removed, since its files changed; run \
                 `hotbay sign` again",
                manifest.name
            ));
        }
        Ok(format!(
            "{} {} {}  {}  ({} KiB)",
            if installed.is_new { "built" } else { "unchanged" },
            manifest.name,
            manifest.version,
            shown(&installed.main),
            main.bytes.len().div_ceil(1024),
        ))
    }

    /// Returns the plugin's crate and its workspace.
    fn package(&self, folder: &Path, manifest: &Manifest) -> anyhow::Result<(Workspace, Package)> {
        let cargo_toml = folder.join("Cargo.toml");
        let mut workspace = Workspace::of(&cargo_toml)?;
        let place = workspace.packages.iter().position(|one| one.manifest == cargo_toml);
        let place = place.with_context(|| format!("`{}` has no [package]", shown(&cargo_toml)))?;
        let package = workspace.packages.swap_remove(place);
        agree(manifest, &package, &shown(folder))?;
        Ok((workspace, package))
    }

    /// Returns the folder of installed plugins if it is in `folder`; otherwise that of the plugin.
    fn installed_in(&self, folder: &Path, plugin: &str) -> PathBuf {
        let out = self.out.canonicalize().unwrap_or_else(|_| self.out.clone());
        let is_inside = out != folder && out.starts_with(folder);
        if is_inside { out } else { out.join(plugin) }
    }

    /// Returns the folders that the plugin is built from. While `cargo metadata` fails, those of
    /// linked crates are missing, and the result is `Err`.
    fn watched(&self, source: &Source) -> Result<Watched, Watched> {
        let (plugin, folder) = (source.name.clone(), source.folder.clone());
        if source.code != Code::Crate {
            let installed = self.installed_in(&folder, &plugin);
            return Ok(Watched { plugin, folder, made_of: MadeOf::Files { installed } });
        }
        let cargo_toml = source.folder.join("Cargo.toml");
        let links =
            Workspace::of_silently(&cargo_toml).and_then(|own| own.links_by_path(&cargo_toml));
        let is_complete = links.is_ok();
        let (root, crates) = links.unwrap_or_else(|_| (source.folder.clone(), Vec::new()));
        let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
        let crates = crates.into_iter().map(real).collect();
        let made_of = MadeOf::Crate { crates, root: real(root).join("Cargo.toml") };
        let watched = Watched { plugin, folder, made_of };
        if is_complete { Ok(watched) } else { Err(watched) }
    }
}

/// Returns what is built of the plugin's crate.
fn target(manifest: &Manifest) -> Target<'_> {
    match &manifest.kind {
        Kind::Library { .. } => Target::Library,
        Kind::Process { program } => Target::Program(stem(program)),
    }
}

fn read(manifest: &Manifest, built: &Path) -> anyhow::Result<install::File> {
    let bytes = fs::read(built)
        .with_context(|| format!("cannot read the built file `{}`", built.display()))?;
    Ok(install::File { name: install::main_file(&manifest.kind), bytes, mode: 0o755 })
}

/// Returns the name of the binary that is installed as `program`, which may end in `.exe`.
fn stem(program: &str) -> &str {
    Path::new(program).file_stem().and_then(|stem| stem.to_str()).unwrap_or(program)
}

/// Compares manifest and crate, since the host compares manifest and stamp at load.
fn agree(manifest: &Manifest, package: &Package, folder: &str) -> anyhow::Result<()> {
    if manifest.package != package.name {
        let field = if manifest.names_package { "package" } else { "name" };
        let message = format!(
            "`{field}` in {folder}/plugin.json is `{}`, but `package.name` in {folder}/Cargo.toml is \
             `{}`",
            manifest.package, package.name
        );
        let hint = format!("set `package` in plugin.json to `{}`", package.name);
        bail!(Hinted::new(message, hint));
    }
    if manifest.version != package.version {
        let message = format!(
            "`version` in {folder}/plugin.json is {}, but the crate's is {} (`package.version` in \
             {folder}/Cargo.toml, which may inherit it)",
            manifest.version, package.version
        );
        let hint = format!("set `version` in plugin.json to {}", package.version);
        bail!(Hinted::new(message, hint));
    }
    Ok(())
}

/// Returns the plugins in the subfolders of `from`.
fn find(from: &Path) -> anyhow::Result<Vec<Source>> {
    let entries =
        fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()))?;
    let mut sources = Vec::new();
    for entry in entries {
        sources.extend(source(entry?.path())?);
    }
    Ok(sources)
}

/// Returns the plugin whose sources are in `folder`, if there is one.
fn source(folder: PathBuf) -> anyhow::Result<Option<Source>> {
    let manifest = folder.join("plugin.json");
    if !manifest.is_file() {
        return Ok(None);
    }
    let manifest = fs::read_to_string(&manifest)
        .with_context(|| format!("cannot read `{}`", manifest.display()))
        .and_then(|text| {
            // A build that the host would refuse must not replace one that it loads.
            hotbay_manifest::Manifest::parse(&text, &manifest).map_err(|error| hinted(&error))?;
            Manifest::read(&text).with_context(|| format!("invalid `{}`", manifest.display()))
        });
    let name = match &manifest {
        Ok(manifest) => manifest.name.clone(),
        Err(_) => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let code = match &manifest {
        _ if folder.join("Cargo.toml").is_file() => Code::Crate,
        Ok(Manifest { kind: Kind::Process { .. }, .. }) if go::is_module(&folder) => Code::GoModule,
        _ => Code::Script,
    };
    // A library without a crate was built elsewhere and is used as is.
    let is_built = matches!(&manifest, Ok(Manifest { kind: Kind::Library { .. }, .. }));
    let is_source = code != Code::Script || !is_built;
    Ok(is_source.then_some(Source { folder, name, manifest, code }))
}

fn hinted(error: &hotbay_manifest::ManifestError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => Hinted::new(error.to_string(), hint).into(),
        None => anyhow::Error::msg(error.to_string()),
    }
}

/// Returns the sources with one of `names`; all if it is empty.
fn chosen(sources: Vec<Source>, names: &[String], from: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let from: Vec<_> = from.iter().map(|from| format!("`{}`", from.display())).collect();
    ensure!(
        !sources.is_empty(),
        "no plugin to build in {}: expected a plugin.json beside a Cargo.toml, a go.mod or a script, \
         in the folder or in its subfolders",
        from.join(", ")
    );
    if let Some(unknown) = names.iter().find(|name| sources.iter().all(|s| s.name != **name)) {
        let known: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
        let hint = format!("plugins to build: {}", known.join(", "));
        bail!(Hinted::new(format!("plugin `{unknown}` not found"), hint));
    }
    if let Some(pair) = sources.windows(2).find(|pair| pair[0].name == pair[1].name) {
        bail!(
            "`{}` and `{}` contain plugins with the same name, `{}`",
            pair[0].folder.display(),
            pair[1].folder.display(),
            pair[0].name
        );
    }
    let expected = |source: &Source| names.is_empty() || names.contains(&source.name);
    Ok(sources.into_iter().filter(expected).collect())
}

/// Returns `path` relative to the current folder if it is inside.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn count(plugins: usize) -> String {
    if plugins == 1 { "1 plugin".to_owned() } else { format!("{plugins} plugins") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint_of;

    #[test]
    fn unknown_name_error_lists_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            let at = folder.path().join(name);
            fs::create_dir(&at).unwrap();
            fs::write(at.join("Cargo.toml"), "").unwrap();
            fs::write(at.join("plugin.json"), "{").unwrap();
        }
        fs::create_dir(folder.path().join("no-plugin")).unwrap();
        let mut sources = find(folder.path()).unwrap();
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        let error = chosen(sources, &["c".to_owned()], &[folder.path().to_owned()])
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.to_string(), "plugin `c` not found");
        assert_eq!(hint_of(&error), Some("plugins to build: a, b"));
    }

    fn scripts(root: &Path, folders: &[(&str, &str)]) {
        for (folder, name) in folders {
            let at = root.join(folder);
            fs::create_dir_all(&at).unwrap();
            let manifest = format!(
                r#"{{"name": "{name}", "version": "1.0.0", "api": "^1", "kind": "process", "command": ["x"]}}"#
            );
            fs::write(at.join("plugin.json"), manifest).unwrap();
        }
    }

    fn build_of(from: Vec<PathBuf>, out: PathBuf) -> Build<'static> {
        Build { from, names: &[], out, target: None, release: false }
    }

    #[test]
    fn folder_that_is_given_twice_is_one_plugin() {
        let root = tempfile::tempdir().unwrap();
        scripts(root.path(), &[("a", "a")]);
        let from = vec![root.path().join("a"), root.path().to_owned(), root.path().join("./a")];
        let sources = build_of(from, root.path().join("out")).sources().unwrap();
        assert_eq!(sources.len(), 1);
    }

    #[test]
    fn source_of_another_plugin_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        scripts(root.path(), &[("a", "b"), ("b", "c")]);
        let build = build_of(vec![root.path().to_owned()], root.path().to_owned());
        let error = build.sources().map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("would replace the source of `c`"), "{error}");
        assert_eq!(hint_of(&error), Some("choose another folder with `--out`"));
    }

    #[test]
    fn manifest_and_crate_mismatch_has_hint() {
        let package = Package {
            name: "b".into(),
            version: "0.2.0".into(),
            manifest: "".into(),
            links: vec![],
            is_cdylib: true,
        };
        let check = |text: &str, expected: &str| {
            let manifest = Manifest::read(text).unwrap();
            let error = agree(&manifest, &package, "plugins/b").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            r#"{"name": "a", "version": "0.2.0", "library": "b"}"#,
            "`name` in plugins/b/plugin.json is `a`",
        );
        check(
            r#"{"name": "a", "package": "c", "version": "0.2.0", "library": "b"}"#,
            "`package` in plugins/b/plugin.json is `c`",
        );
        check(
            r#"{"name": "b", "version": "0.1.0", "library": "b"}"#,
            "`version` in plugins/b/plugin.json is 0.1.0, but the crate's is 0.2.0",
        );
    }
}
