//! Reads the program of a process plugin: its path, whether it is executable, and its digest. Runs
//! nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hotbay::Manifest;
use hotbay::manifest::Digest;
use sha2::{Digest as _, Sha256};

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
pub(crate) fn read(folder: &Path, manifest: &Manifest) -> Result<ProgramFile, InvalidProgram> {
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
