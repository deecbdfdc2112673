//! The measured plugins, each built for release by its own cargo call, and folders with their
//! manifests.

use std::env::consts::{DLL_EXTENSION, DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use hotbay::{Host, HostBuilder, PluginHandle};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::process;

/// The libraries, built for release and stripped.
#[derive(Debug)]
pub(crate) struct Fixtures {
    /// With the counting allocator.
    pub(crate) counted: PathBuf,
    /// Without the counting allocator.
    pub(crate) uncounted: PathBuf,
    /// Without hotbay.
    pub(crate) raw: PathBuf,
}

/// The profile with link-time optimization.
pub(crate) const RELEASE: &str = "release";

static PROFILE: OnceLock<String> = OnceLock::new();

/// Sets the cargo profile with which plugins are built.
pub(crate) fn set_profile(profile: &str) {
    PROFILE.get_or_init(|| profile.to_owned());
}

fn profile() -> &'static str {
    PROFILE.get().map_or(RELEASE, String::as_str)
}

/// Returns the title of a table that is measured with several profiles.
pub(crate) fn title(what: &str) -> String {
    match profile() {
        RELEASE => format!("{what}, with link-time optimization"),
        _ => format!("{what}, with cargo's default release profile"),
    }
}

/// Builds what is not built yet.
pub(crate) fn build() -> anyhow::Result<Fixtures> {
    Ok(Fixtures {
        counted: library("bench-echo")?,
        uncounted: library("bench-echo-uncounted")?,
        raw: library("bench-raw")?,
    })
}

/// Builds the library of a plugin.
pub(crate) fn library(package: &str) -> anyhow::Result<PathBuf> {
    let arguments = ["--package", package, "--lib"];
    cargo_build(&arguments, package, &format!(".{DLL_EXTENSION}"))
}

/// Builds the `hotbay` command.
pub(crate) fn command() -> anyhow::Result<PathBuf> {
    let arguments = ["--package", "hotbay-cli", "--bin", "hotbay"];
    cargo_build(&arguments, "hotbay", "hotbay")
}

/// Builds the program that runs isolated libraries.
pub(crate) fn runner() -> anyhow::Result<PathBuf> {
    program("hotbay-runner")
}

/// Builds the program of a plugin.
pub(crate) fn program(package: &str) -> anyhow::Result<PathBuf> {
    cargo_build(&["--package", package, "--bin", package], package, package)
}

/// Runs a release build, and returns the file of `package` whose name has this suffix.
fn cargo_build(arguments: &[&str], package: &str, end: &str) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = process::program(Path::new(&cargo));
    command
        .args(["build", "--profile", profile(), "--quiet"])
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo failed to build `{package}`");
    let text = String::from_utf8(output.stdout)?;
    let expected = package.replace('-', "_");
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let built = messages.filter(|message| {
        let name = message["target"]["name"].as_str();
        name.is_some_and(|name| name.replace('-', "_") == expected)
    });
    let files = built.filter_map(|message| message["filenames"].as_array().cloned());
    files
        .flatten()
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .rfind(|file| file.to_string_lossy().ends_with(end))
        .with_context(|| format!("cargo built no `{end}` of `{package}`"))
}

/// Creates a plugin's folder: a manifest, and a hard link to its library, so that a thousand
/// instances use the space of one.
pub(crate) fn install(
    library: &Library,
    dir: &Path,
    name: &str,
    output: &str,
) -> anyhow::Result<PathBuf> {
    let fields = json!({
        "description": "An instance of the plugin of the benchmarks",
        "config": {"output": output},
        "config_schema": {
            "type": "object",
            "properties": {"output": {"enum": ["in-place", "heap", "panic"]}},
            "additionalProperties": false,
        },
    });
    install_with(library, dir, name, fields)
}

/// Creates a plugin's folder with more fields of the manifest.
pub(crate) fn install_with(
    library: &Library,
    dir: &Path,
    name: &str,
    mut manifest: Value,
) -> anyhow::Result<PathBuf> {
    let folder = dir.join(name);
    fs::create_dir(&folder)?;
    let stem = library.package.replace('-', "_");
    for (field, value) in [
        ("name", json!(name)),
        ("package", json!(library.package)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("api", json!("^1.0")),
        ("library", json!(stem)),
        ("sha256", json!(library.sha256)),
        ("length", json!(library.length)),
    ] {
        manifest[field] = value;
    }
    fs::write(folder.join("plugin.json"), format!("{manifest:#}"))?;
    let file = folder.join(format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}"));
    fs::hard_link(&library.file, &file)?;
    Ok(folder)
}

/// Creates the folder of a process plugin.
pub(crate) fn install_program(built: &Path, dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    // Cargo names a program after its package.
    let package = built.file_name().context("a program has a name")?.to_string_lossy();
    let folder = dir.join(name);
    fs::create_dir(&folder)?;
    let program = folder.join("program");
    fs::copy(built, &program)?;
    let bytes = fs::read(&program)?;
    let manifest = json!({
        "name": name,
        "package": package,
        "version": env!("CARGO_PKG_VERSION"),
        "api": "^1.0",
        "kind": "process",
        "command": ["program"],
        "description": "A process plugin of the benchmarks",
        "permissions": ["log"],
        "sha256": hex_digest(&bytes),
        "length": bytes.len(),
    });
    fs::write(folder.join("plugin.json"), format!("{manifest:#}"))?;
    Ok(folder)
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A plugin's library, copied into a folder of the benchmark.
#[derive(Debug)]
pub(crate) struct Library {
    package: &'static str,
    pub(crate) file: PathBuf,
    sha256: String,
    pub(crate) length: u64,
}

impl Library {
    /// Copies a library of `package` into `dir`, and computes its digest.
    pub(crate) fn copy(package: &'static str, built: &Path, dir: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(built)?;
        let file = dir.join(format!("{package}{DLL_SUFFIX}"));
        fs::write(&file, &bytes)?;
        Ok(Self { package, file, sha256: hex_digest(&bytes), length: bytes.len() as u64 })
    }
}

/// Creates a temporary folder for libraries and plugins.
pub(crate) fn folder() -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new().prefix("hotbay-bench-").tempdir()?;
    fs::create_dir(dir.path().join("plugins"))?;
    Ok(dir)
}

/// Runs a future to completion.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(future))
}

/// The four plugins whose calls are measured, in a host without quarantine.
pub(crate) struct Echoes {
    pub(crate) host: Host,
    /// Descriptions and handles.
    pub(crate) plugins: Vec<(&'static str, PluginHandle)>,
    dir: tempfile::TempDir,
}

pub(crate) const IN_PLACE: &str = "in place";

impl Echoes {
    pub(crate) fn load(fixtures: &Fixtures) -> anyhow::Result<Self> {
        Self::load_into(fixtures, Host::builder())
    }

    /// Loads like [`load`](Self::load), with a configured host.
    pub(crate) fn load_into(fixtures: &Fixtures, host: HostBuilder) -> anyhow::Result<Self> {
        let dir = folder()?;
        let counted = Library::copy("bench-echo", &fixtures.counted, dir.path())?;
        let plain = Library::copy("bench-echo-uncounted", &fixtures.uncounted, dir.path())?;
        let host = host.quarantine(None).build()?;
        let mut plugins = Vec::new();
        for (what, library, name, output) in [
            (IN_PLACE, &counted, "counted-in-place", "in-place"),
            ("heap, uncounted", &plain, "uncounted-heap", "heap"),
            ("heap, counted", &counted, "counted-heap", "heap"),
        ] {
            let folder = install(library, &dir.path().join("plugins"), name, output)?;
            plugins.push((what, block_on(host.load(folder))??));
        }
        Ok(Self { host, plugins, dir })
    }

    /// Loads the plugin with outputs on the heap once more, with a limit of the memory of its calls.
    pub(crate) fn load_limited(&self, fixtures: &Fixtures) -> anyhow::Result<PluginHandle> {
        let library = Library::copy("bench-echo", &fixtures.counted, self.dir.path())?;
        let fields = json!({
            "config": {"output": "heap"},
            "limits": {"call_memory_bytes": 1 << 20},
        });
        let dir = self.dir.path().join("plugins");
        let folder = install_with(&library, &dir, "limited-heap", fields)?;
        Ok(block_on(self.host.load(folder))??)
    }
}
