//! `cargo xtask build-plugins`: builds plugins and installs each with its manifest.
//! A plugin that fails does not keep the others from being built.

mod artifact;
mod changes;
mod install;
pub(crate) mod manifest;
mod script;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::workspace::{Package, Workspace};
use artifact::Target;
use changes::{MadeOf, Watched};
use manifest::{Kind, Manifest};

#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Builds what is to be shipped: optimised and stripped.
    #[arg(long)]
    release: bool,
    /// Builds only this plugin; may be given more than once.
    #[arg(long = "plugin", value_name = "NAME")]
    plugins: Vec<String>,
    /// Where to look for plugins; `plugins` of the workspace if not given.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Where to install them, a folder each; `plugins` of the target folder if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stays up and builds again what changes, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

/// What is built from where to where.
struct Plan<'a> {
    workspace: &'a Workspace,
    options: &'a Options,
    /// The folder whose folders are plugins.
    from: PathBuf,
    out: PathBuf,
}

/// A folder with a `plugin.json`, and a crate or a script.
struct Source {
    folder: PathBuf,
    /// Name of the plugin, or of its folder while the manifest cannot be read.
    name: String,
    manifest: anyhow::Result<Manifest>,
    /// Whether it has a `Cargo.toml`.
    is_crate: bool,
}

/// Builds and installs; returns the folder that holds a folder for each plugin.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<PathBuf> {
    let from = options.from.clone().unwrap_or_else(|| workspace.root.join("plugins"));
    let from = from.canonicalize().with_context(|| format!("cannot read `{}`", from.display()))?;
    let out = match &options.out {
        Some(out) => std::path::absolute(out)?,
        None => workspace.target.join("plugins"),
    };
    let plan = Plan { workspace, options, from, out };
    if options.watch {
        watch::watch(&plan)?;
    } else {
        plan.build_all()?;
    }
    Ok(plan.out)
}

impl Plan<'_> {
    fn build_all(&self) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        for source in self.sources()? {
            let name = source.name.clone();
            match self.build(source) {
                Ok(line) => println!("{line}"),
                Err(error) => {
                    eprintln!("error: plugin `{name}`: {error:#}");
                    failed.push(name);
                }
            }
        }
        ensure!(failed.is_empty(), "{} failed: {}", count(failed.len()), failed.join(", "));
        Ok(())
    }

    /// Those that were asked for, as they are now.
    fn sources(&self) -> anyhow::Result<Vec<Source>> {
        chosen(find(&self.from)?, &self.options.plugins, &self.from)
    }

    /// Builds and installs one plugin; returns the line that tells it.
    fn build(&self, source: Source) -> anyhow::Result<String> {
        let (folder, manifest) = (&source.folder, source.manifest?);
        let (main, beside) = match (&manifest.kind, source.is_crate) {
            (Kind::Process { program }, false) => script::read(folder, program)?,
            _ => (self.compile(folder, &manifest)?, Vec::new()),
        };
        let into = self.out.join(&manifest.name);
        let installed = install::install(folder, &manifest, &main, &beside, &into)?;
        Ok(format!(
            "{} {} {}  {}  ({} KiB)",
            if installed.is_new { "built" } else { "unchanged" },
            manifest.name,
            manifest.version,
            self.workspace.told(&installed.main),
            main.bytes.len().div_ceil(1024),
        ))
    }

    /// Has cargo build the plugin's library or program.
    fn compile(&self, folder: &Path, manifest: &Manifest) -> anyhow::Result<install::File> {
        let workspace = self.workspace;
        let cargo_toml = folder.join("Cargo.toml");
        let own = Workspace::of(&cargo_toml)?;
        let package = own
            .package_at(&cargo_toml)
            .with_context(|| format!("`{}` has no [package]", workspace.told(&cargo_toml)))?;
        agree(manifest, package, &workspace.told(folder).to_string())?;

        let target = match &manifest.kind {
            Kind::Library { .. } => Target::Library,
            Kind::Process { program } => Target::Program(stem(program)),
        };
        let built = artifact::build(workspace, package, target, self.options.release)?;
        let bytes = fs::read(&built)
            .with_context(|| format!("cannot read what cargo built, `{}`", built.display()))?;
        Ok(install::File { name: install::main_file(&manifest.kind), bytes, mode: 0o755 })
    }

    /// Where what the plugin is built from lies; without what it links while cargo cannot tell.
    fn watched(&self, source: &Source) -> Watched {
        let (plugin, folder) = (source.name.clone(), source.folder.clone());
        if !source.is_crate {
            return Watched { plugin, folder, made_of: MadeOf::Script };
        }
        let cargo_toml = source.folder.join("Cargo.toml");
        let links = self.workspace.links_by_path(&cargo_toml);
        let (root, crates) = links.unwrap_or_else(|_| (self.workspace.root.clone(), Vec::new()));
        let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
        let crates = crates.into_iter().map(real).collect();
        let made_of = MadeOf::Crate { crates, root: real(root).join("Cargo.toml") };
        Watched { plugin, folder, made_of }
    }
}

/// The binary that is installed under the name `program`, which may end in `.exe`.
fn stem(program: &str) -> &str {
    Path::new(program).file_stem().and_then(|stem| stem.to_str()).unwrap_or(program)
}

/// The host compares manifest and stamp; a difference is told here, before anything is built.
fn agree(manifest: &Manifest, package: &Package, folder: &str) -> anyhow::Result<()> {
    let field = if manifest.names_package { "package" } else { "name" };
    ensure!(
        manifest.package == package.name,
        "`{field}` in {folder}/plugin.json is `{}`, but `package.name` in {folder}/Cargo.toml is \
         `{}`; set `package` in plugin.json to `{}`",
        manifest.package,
        package.name,
        package.name,
    );
    ensure!(
        manifest.version == package.version,
        "`version` in {folder}/plugin.json is {}, but the crate's is {} (`package.version` in \
         {folder}/Cargo.toml, which may inherit it); set plugin.json to {}",
        manifest.version,
        package.version,
        package.version,
    );
    Ok(())
}

/// All plugins in `from`, by name.
fn find(from: &Path) -> anyhow::Result<Vec<Source>> {
    let entries =
        fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()))?;
    let mut sources = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        let manifest = folder.join("plugin.json");
        if !manifest.is_file() {
            continue;
        }
        let manifest = fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read `{}`", manifest.display()))
            .and_then(|text| {
                Manifest::read(&text).with_context(|| format!("`{}`", manifest.display()))
            });
        let name = match &manifest {
            Ok(manifest) => manifest.name.clone(),
            Err(_) => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let is_crate = folder.join("Cargo.toml").is_file();
        // A library that somebody else built lies there as it is to be used.
        let is_made = matches!(&manifest, Ok(Manifest { kind: Kind::Library { .. }, .. }));
        if is_crate || !is_made {
            sources.push(Source { folder, name, manifest, is_crate });
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sources)
}

/// Those that were asked for; all if none was named.
fn chosen(sources: Vec<Source>, names: &[String], from: &Path) -> anyhow::Result<Vec<Source>> {
    ensure!(
        !sources.is_empty(),
        "`{}` holds no folder with a plugin.json and a Cargo.toml or a script",
        from.display()
    );
    if let Some(unknown) = names.iter().find(|name| sources.iter().all(|s| s.name != **name)) {
        let known: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
        bail!("there is no plugin `{unknown}`; known are {}", known.join(", "));
    }
    if let Some(pair) = sources.windows(2).find(|pair| pair[0].name == pair[1].name) {
        bail!(
            "`{}` and `{}` both name their plugin `{}`; give each a name of its own",
            pair[0].folder.display(),
            pair[1].folder.display(),
            pair[0].name
        );
    }
    let expected = |source: &Source| names.is_empty() || names.contains(&source.name);
    Ok(sources.into_iter().filter(expected).collect())
}

fn count(plugins: usize) -> String {
    if plugins == 1 { "1 plugin".to_owned() } else { format!("{plugins} plugins") }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let sources = find(folder.path()).unwrap();
        let error = chosen(sources, &["c".to_owned()], folder.path()).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "there is no plugin `c`; known are a, b");
    }

    #[test]
    fn manifest_and_crate_mismatch_has_hint() {
        let package = Package {
            name: "b".into(),
            version: "0.2.0".into(),
            manifest: "".into(),
            links: vec![],
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
