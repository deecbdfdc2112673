//! A private copy of a program, so that each start runs the bytes that were accepted, whatever
//! becomes of the file. What lies beside it is linked, so that it finds its own files.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use super::digest::Artifact;
use super::stage::{StagingArea, make_usable, write_executable};
use crate::error::artifact::ArtifactError;

/// A private copy of a program, in a folder of its own that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct StagedProgram {
    folder: PathBuf,
    path: PathBuf,
}

impl StagedProgram {
    /// What is run.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StagedProgram {
    fn drop(&mut self) {
        // It may have gone with the staging area; there is nobody to tell anyway.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl StagingArea {
    /// Copies the program `relative` of the plugin in `folder`, whose bytes are `artifact`'s.
    pub(crate) fn stage_program(
        &self,
        artifact: &Artifact,
        folder: &Path,
        relative: &Path,
        name_hint: &str,
    ) -> Result<StagedProgram, ArtifactError> {
        let error = |path: &Path, source| ArtifactError::Stage { path: path.to_owned(), source };
        let own = self.folder_for(name_hint)?;
        let staged = StagedProgram { path: own.join(relative), folder: own.clone() };
        let folder = folder.canonicalize().map_err(|source| error(folder, source))?;
        let (mut from, mut to) = (folder, own);
        let mut parts = relative.components().filter_map(|part| match part {
            Component::Normal(part) => Some(part),
            _ => None,
        });
        let mut part = parts.next();
        while let Some(name) = part {
            link_beside(&from, &to, name).map_err(|source| error(&to, source))?;
            part = parts.next();
            (from, to) = (from.join(name), to.join(name));
            if part.is_some() {
                let made = fs::create_dir(&to).and_then(|()| make_usable(&to));
                made.map_err(|source| error(&to, source))?;
            }
        }
        write_executable(&staged.path, artifact.bytes())
            .map_err(|source| error(&staged.path, source))?;
        Ok(staged)
    }
}

/// Links all that lies in `from`, but for `except`.
fn link_beside(from: &Path, to: &Path, except: &std::ffi::OsStr) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() != except {
            symlink(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::digest::BYTES_MAX;

    #[test]
    fn a_program_is_copied_and_finds_what_lies_beside_it() {
        let plugin = tempfile::tempdir().expect("a folder");
        let at = |name: &str| plugin.path().join(name);
        fs::create_dir(at("bin")).expect("a folder");
        fs::write(at("bin/tool"), "first").expect("a file");
        fs::write(at("bin/helper"), "help").expect("a file");
        fs::write(at("data"), "data").expect("a file");
        let parent = tempfile::tempdir().expect("a folder");
        let area = StagingArea::new(Some(parent.path()), false);
        let artifact = Artifact::read(&at("bin/tool"), BYTES_MAX).expect("the program");
        let staged = area
            .stage_program(&artifact, plugin.path(), Path::new("bin/tool"), "tool")
            .expect("a copy");
        fs::write(at("bin/tool"), "second").expect("a file");
        let path = staged.path().to_owned();
        let beside = |name: &str| fs::read_to_string(path.with_file_name(name)).expect("a file");
        assert_eq!((beside("tool").as_str(), beside("helper").as_str()), ("first", "help"));
        assert_eq!(beside("../data"), "data");
        drop(staged);
        assert!(!path.exists() && at("bin/helper").exists());
    }
}
