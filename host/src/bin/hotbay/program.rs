//! The program of a process plugin as a file that can be sealed: where it lies, whether it may
//! be run, its digest. Runs nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hotbay::Manifest;
use hotbay::manifest::Digest;
use sha2::{Digest as _, Sha256};

/// A program as it lies there now.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) sha256: Digest,
    pub(crate) length: u64,
}

/// Reads the program that the manifest in `folder` names; says why it is none.
pub(crate) fn read(folder: &Path, manifest: &Manifest) -> Result<Program, String> {
    // A manifest without a command is refused before.
    let name = manifest.command().first().map_or("", String::as_str);
    let told = |error: io::Error| format!("its program `{name}`: {error}");
    let path = folder.join(name).canonicalize().map_err(told)?;
    if !path.starts_with(folder.canonicalize().map_err(told)?) {
        return Err(format!(
            "its program `{name}` leads out of the folder, to `{}`",
            path.display()
        ));
    }
    let metadata = path.metadata().map_err(told)?;
    if !metadata.is_file() {
        return Err(format!("its program `{name}` is no file"));
    }
    if !can_run(&metadata) {
        let path = path.display();
        return Err(format!("its program cannot be run; `chmod +x {path}` allows it"));
    }
    let bytes = fs::read(&path).map_err(told)?;
    let sha256 = Digest::new(Sha256::digest(&bytes).into());
    Ok(Program { path, sha256, length: bytes.len() as u64 })
}

#[cfg(unix)]
fn can_run(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn can_run(_: &fs::Metadata) -> bool {
    true
}
