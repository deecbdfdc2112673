//! `hotbay seal`: writes the digest and length of a library or program into its manifest,
//! atomically. Refuses files that are not plugins.

use std::fs::Permissions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use hotbay::manifest::{Digest, Kind};
use hotbay::{Error, ErrorKind, LoadStep, Manifest, SignaturePolicy};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Status;
use crate::args::{Options, Seal};
use crate::failure::Failure;
use crate::output::{Out, print_message};
use crate::plugin_dirs::builder;
use crate::survey_report::print_warning;

pub(crate) fn seal(args: &Seal, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let mut sealed = Vec::new();
    let mut failed = Vec::new();
    for path in &args.folders {
        let folder = folder_of(path);
        match seal_folder(folder, options) {
            Ok(document) if options.json => sealed.push(document),
            Ok(document) => {
                let text = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
                // The document has one of the two.
                let file = text("library") + &text("program");
                out.line(&format!("{}  {file}", text("sha256")))?;
            }
            Err(failure) if options.json => {
                let folder = folder.display().to_string();
                failed.push(json!({ "folder": folder, "error": failure.json() }));
            }
            Err(failure) => {
                failed.push(Value::Null);
                failure.lines().iter().for_each(|line| print_message(line));
            }
        }
    }
    let status = if failed.is_empty() { Status::Success } else { Status::Failed };
    if options.json {
        out.json(&json!({ "sealed": sealed, "failed": failed }))?;
    }
    Ok(status)
}

/// Returns the folder of a plugin, which may be given as its manifest.
pub(crate) fn folder_of(path: &Path) -> &Path {
    let is_manifest = path.file_name().is_some_and(|name| name == "plugin.json");
    match path.parent() {
        Some(parent) if is_manifest && parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) if is_manifest => parent,
        _ => path,
    }
}

/// Seals the plugin in a folder; returns the document that `--json` prints.
pub(crate) fn seal_folder(folder: &Path, options: &Options) -> Result<Value, Failure> {
    // A signature that exists is not the one of the manifest that this writes.
    let builder = builder(options, &[]).allow_unverified(true).signatures(SignaturePolicy::Off);
    let inspection = hotbay::inspect::plugin(&builder, folder);
    let not_sealed = |reason: &str| {
        let message = format!("`{}` was not sealed", folder.display());
        Failure::new("unsupported", message).because(reason)
    };
    let surveyed = inspection.surveyed;
    let manifest = surveyed.manifest.as_ref();
    let is_process = manifest.is_some_and(|manifest| manifest.kind() == Kind::Process);
    let program = match manifest.filter(|_| is_process) {
        Some(manifest) => Some(read_program(folder, manifest).map_err(|invalid| {
            let failure = not_sealed(&invalid.reason);
            match invalid.hint {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            }
        })?),
        None => None,
    };
    let found = match (program, inspection.library, inspection.sha256, inspection.length) {
        (Some(program), ..) => Some((program.path, program.sha256, program.length)),
        (None, Some(library), Some(sha256), Some(length)) => Some((library, sha256, length)),
        _ => None,
    };
    let Some((file, sha256, length)) = found else {
        let problem = surveyed.problem;
        return Err(
            problem.map_or_else(|| not_sealed("it contains no library"), problem_of(folder))
        );
    };
    if let Some(problem) = surveyed.problem {
        match problem.step() {
            // The plugin may be for another host.
            _ if problem.kind() == ErrorKind::Unsupported => {}
            // The digest is replaced.
            Some(LoadStep::Digest) => {}
            // Another machine may confine it.
            Some(LoadStep::Confine) => {}
            // Another machine may have the runner.
            Some(LoadStep::Launch) if !is_process => {}
            Some(LoadStep::Manifest | LoadStep::Stage | LoadStep::Probe) => {
                return Err(problem_of(folder)(problem));
            }
            _ => print_warning(&Failure::from(problem)),
        }
    }
    write(folder, &sha256, length)?;
    Ok(document(manifest, folder, &file, &sha256, length))
}

fn problem_of(folder: &Path) -> impl Fn(Error) -> Failure {
    move |problem| Failure::titled(format!("`{}` was not sealed", folder.display()), problem)
}

fn document(
    manifest: Option<&Manifest>,
    folder: &Path,
    file: &Path,
    sha256: &Digest,
    length: u64,
) -> Value {
    let is_process = manifest.is_some_and(|manifest| manifest.kind() == Kind::Process);
    let mut document = json!({
        "name": manifest.map(|manifest| manifest.name().as_str()),
        "folder": folder.display().to_string(),
        "sha256": sha256.to_string(),
        "length": length,
    });
    let field = if is_process { "program" } else { "library" };
    document[field] = file.display().to_string().into();
    document
}

/// Replaces the manifest atomically.
fn write(folder: &Path, sha256: &Digest, length: u64) -> Result<(), Failure> {
    let path = folder.join("plugin.json");
    let failed =
        |error: io::Error| Failure::io(format!("cannot write `{}`", path.display()), &error);
    // Keeps a symbolic link: replaces its target.
    let target = path.canonicalize().map_err(failed)?;
    let before = fs::read_to_string(&target).map_err(failed)?;
    let after = Manifest::seal_text(&before, sha256, length).map_err(|error| {
        let message = format!("cannot seal `{}`", path.display());
        Failure::new("manifest", message).because(error.to_string())
    })?;
    if after == before {
        return Ok(());
    }
    let is_removed = hotbay_build::plugins::remove_signature(folder).map_err(|error| {
        Failure::new("io", format!("cannot seal `{}`", path.display()))
            .because(format!("{error:#}"))
    })?;
    if is_removed {
        print_message(&format!(
            "note: the signature of `{}` was removed, since its manifest changed; run `hotbay sign` \
             again",
            folder.display()
        ));
    }
    let permissions = target.metadata().map_err(failed)?.permissions();
    write_atomically(&target, after.as_bytes(), Some(permissions)).map_err(failed)
}

/// Replaces a file atomically, or creates it so that only this user can write to it.
pub(crate) fn write_atomically(
    path: &Path,
    bytes: &[u8],
    permissions: Option<Permissions>,
) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".sealing-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    if let Some(permissions) = permissions.or_else(readable_by_all) {
        file.as_file().set_permissions(permissions)?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(unix)]
fn readable_by_all() -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_all() -> Option<Permissions> {
    None
}

/// A program as found on disk.
#[derive(Debug)]
pub(crate) struct ProgramFile {
    pub(crate) path: PathBuf,
    pub(crate) sha256: Digest,
    pub(crate) length: u64,
}

/// The reason a program cannot be used.
#[derive(Debug)]
pub(crate) struct InvalidProgram {
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
}

/// Reads the program that the manifest in `folder` names.
fn read_program(folder: &Path, manifest: &Manifest) -> Result<ProgramFile, InvalidProgram> {
    // A manifest without a command was refused before.
    let name = manifest.command().first().map_or("", String::as_str);
    let invalid = |reason: String| InvalidProgram { reason, hint: None };
    let failed = |error: io::Error| invalid(format!("cannot read program `{name}`: {error}"));
    let path = folder.join(name).canonicalize().map_err(failed)?;
    if !path.starts_with(folder.canonicalize().map_err(failed)?) {
        let path = path.display();
        return Err(invalid(format!("program `{name}` is outside the plugin's folder: `{path}`")));
    }
    let metadata = path.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(invalid(format!("program `{name}` is not a file")));
    }
    if !is_executable(&metadata) {
        let reason = format!("program `{name}` is not executable");
        return Err(InvalidProgram {
            reason,
            hint: Some(format!("run `chmod +x {}`", path.display())),
        });
    }
    let bytes = fs::read(&path).map_err(failed)?;
    let sha256 = Digest::new(Sha256::digest(&bytes).into());
    Ok(ProgramFile { path, sha256, length: bytes.len() as u64 })
}

#[cfg(unix)]
fn is_executable(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    true
}
