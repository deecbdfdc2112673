//! A private copy of a program, so that each start runs the accepted bytes, whatever happens to the
//! file. The files beside it are linked, so that it finds them. Only their owner and mode are
//! checked, since no digest covers them.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::beside;
use super::digest::Artifact;
use super::stage::{StagingArea, make_usable, write_executable};
use super::trust::{self, Trust};
use crate::error::artifact::ArtifactError;

/// A private copy of a program, in its own folder, which is removed when dropped.
#[derive(Debug)]
pub(crate) struct StagedProgram {
    copy: Mutex<ProgramCopy>,
    area: Weak<StagingArea>,
    /// The canonical path of the plugin's folder.
    folder: PathBuf,
    /// The program's path in it, as in its manifest.
    relative: PathBuf,
    name_hint: String,
    /// The file that was copied, followed by its digest and length.
    original: PathBuf,
    sha256: [u8; 32],
    length: u64,
    trust: Trust,
}

/// The created files.
#[derive(Debug)]
struct ProgramCopy {
    folder: PathBuf,
    path: PathBuf,
    links: Vec<PathBuf>,
}

impl StagedProgram {
    /// Returns the path of the copy, which is executed.
    pub(crate) fn path(&self) -> PathBuf {
        self.lock().path.clone()
    }

    /// Checks the files beside the program again, and restores the copy if a part of it was
    /// removed. Call it before each start.
    ///
    /// The copy is created from the original file, whose bytes must be the same as before.
    pub(crate) fn ensure_intact(&self) -> Result<(), ArtifactError> {
        beside::check(&self.folder, self.trust)?;
        let mut copy = self.lock();
        if copy.is_complete() {
            return Ok(());
        }
        let changed = || ArtifactError::OriginalChanged { path: self.original.clone() };
        let artifact =
            Artifact::read(&self.original, self.length).map_err(|error| match error {
                ArtifactError::TooLarge { .. } => changed(),
                error => error,
            })?;
        artifact.check_trust(self.trust)?;
        if artifact.sha256() != self.sha256 {
            return Err(changed());
        }
        let lost = || {
            let (path, source) = (copy.path.clone(), io::ErrorKind::NotFound.into());
            ArtifactError::Stage { path, source }
        };
        let area = self.area.upgrade().ok_or_else(lost)?;
        // The drop of the previous copy removes its rest.
        *copy = ProgramCopy::make(&area, &artifact, &self.folder, &self.relative, &self.name_hint)?;
        tracing::warn!(
            "the private copy of `{}` was missing and has been restored; another program may be \
             removing files from the temporary folder",
            self.original.display()
        );
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ProgramCopy> {
        // A panic leaves no partial state.
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProgramCopy {
    fn make(
        area: &StagingArea,
        artifact: &Artifact,
        folder: &Path,
        relative: &Path,
        name_hint: &str,
    ) -> Result<Self, ArtifactError> {
        let error = |path: &Path, source| ArtifactError::Stage { path: path.to_owned(), source };
        let own = area.folder_for(name_hint)?;
        let mut copy = Self { path: own.join(relative), folder: own.clone(), links: Vec::new() };
        let (mut from, mut to) = (folder.to_owned(), own);
        let mut parts = relative.components().filter_map(|part| match part {
            Component::Normal(part) => Some(part),
            _ => None,
        });
        let mut part = parts.next();
        while let Some(name) = part {
            let linked = link_beside(&from, &to, name, &mut copy.links);
            linked.map_err(|source| error(&to, source))?;
            part = parts.next();
            (from, to) = (from.join(name), to.join(name));
            if part.is_some() {
                let created = fs::create_dir(&to).and_then(|()| make_usable(&to));
                created.map_err(|source| error(&to, source))?;
            }
        }
        write_executable(&copy.path, artifact.bytes())
            .map_err(|source| error(&copy.path, source))?;
        Ok(copy)
    }

    /// Returns whether all files exist. Other users may have reused the name of a removed folder.
    fn is_complete(&self) -> bool {
        let is_own = |path: &Path| trust::check(path, Trust::default()).is_ok();
        is_own(&self.folder)
            && is_own(&self.path)
            && self.links.iter().all(|link| link.symlink_metadata().is_ok())
    }
}

impl Drop for ProgramCopy {
    fn drop(&mut self) {
        // The staging area may have removed it, and no one could handle the error.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl StagingArea {
    /// Copies the program `relative` of the plugin in `folder`, whose bytes are those of
    /// `artifact`, and checks all other files in that folder, since they run with it.
    pub(crate) fn stage_program(
        self: &Arc<Self>,
        artifact: &Artifact,
        folder: &Path,
        relative: &Path,
        name_hint: &str,
        trust: Trust,
    ) -> Result<StagedProgram, ArtifactError> {
        let canonical = folder.canonicalize();
        let folder =
            canonical.map_err(|source| ArtifactError::Stage { path: folder.to_owned(), source })?;
        beside::check(&folder, trust)?;
        let copy = ProgramCopy::make(self, artifact, &folder, relative, name_hint)?;
        Ok(StagedProgram {
            copy: Mutex::new(copy),
            area: Arc::downgrade(self),
            folder,
            relative: relative.to_owned(),
            name_hint: name_hint.to_owned(),
            original: artifact.path().to_owned(),
            sha256: artifact.sha256(),
            length: artifact.bytes().len() as u64,
            trust,
        })
    }
}

/// Links all entries of `from` except `except`, and adds the links to `links`.
fn link_beside(
    from: &Path,
    to: &Path,
    except: &std::ffi::OsStr,
    links: &mut Vec<PathBuf>,
) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() != except {
            let link = to.join(entry.file_name());
            symlink(entry.path(), &link)?;
            links.push(link);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::digest::MAX_BYTES;

    #[test]
    fn copied_program_finds_files_beside_it() {
        let plugin = tempfile::tempdir().expect("a folder");
        let at = |name: &str| plugin.path().join(name);
        fs::create_dir(at("bin")).expect("a folder");
        fs::write(at("bin/tool"), "first").expect("a file");
        fs::write(at("bin/helper"), "help").expect("a file");
        fs::write(at("data"), "data").expect("a file");
        let parent = tempfile::tempdir().expect("a folder");
        let area = Arc::new(StagingArea::new(Some(parent.path()), false));
        let artifact = Artifact::read(&at("bin/tool"), MAX_BYTES).expect("the program");
        let staged = area
            .stage_program(
                &artifact,
                plugin.path(),
                Path::new("bin/tool"),
                "tool",
                Trust::default(),
            )
            .expect("a copy");
        fs::write(at("bin/tool"), "second").expect("a file");
        let path = staged.path();
        let beside = |name: &str| fs::read_to_string(path.with_file_name(name)).expect("a file");
        assert_eq!((beside("tool").as_str(), beside("helper").as_str()), ("first", "help"));
        assert_eq!(beside("../data"), "data");
        drop(staged);
        assert!(!path.exists() && at("bin/helper").exists());
    }

    #[test]
    fn removed_copy_is_restored_from_same_bytes_only() {
        let plugin = tempfile::tempdir().expect("a folder");
        let at = |name: &str| plugin.path().join(name);
        let parent = tempfile::tempdir().expect("a folder");
        fs::write(at("tool"), "first").expect("a file");
        fs::write(at("data"), "data").expect("a file");
        let area = Arc::new(StagingArea::new(Some(parent.path()), false));
        let artifact = Artifact::read(&at("tool"), MAX_BYTES).expect("the program");
        let name = Path::new("tool");
        let staged = area
            .stage_program(&artifact, plugin.path(), name, "tool", Trust::default())
            .expect("a copy");
        let first = staged.path();
        staged.ensure_intact().expect("nothing to do");
        assert_eq!(staged.path(), first);
        let area_folder = first.parent().and_then(Path::parent).expect("the area's folder");
        let (area_folder, own) = (area_folder.to_owned(), first.parent().expect("its folder"));
        let remove: [&dyn Fn(); 4] = [
            &|| fs::remove_file(staged.path()).expect("it exists"),
            &|| fs::remove_file(staged.path().with_file_name("data")).expect("it exists"),
            &|| fs::remove_dir_all(staged.path().parent().expect("its folder")).expect("it exists"),
            &|| fs::remove_dir_all(&area_folder).expect("it exists"),
        ];
        for remove in remove {
            remove();
            staged.ensure_intact().expect("a copy again");
            assert_eq!(fs::read_to_string(staged.path()).expect("a file"), "first");
            assert_eq!(fs::read_to_string(staged.path().with_file_name("data")).unwrap(), "data");
        }
        assert!(!own.exists());
        for changed in ["changed", "longer than before"] {
            fs::write(at("tool"), changed).expect("a file");
            staged.ensure_intact().expect("the copy exists");
            fs::remove_file(staged.path()).expect("it exists");
            let error = staged.ensure_intact().expect_err("another build").to_string();
            assert!(error.contains("has changed since"), "{error}");
            fs::write(at("tool"), "first").expect("a file");
            staged.ensure_intact().expect("a copy again");
        }
        drop(staged);
        let staged_files = fs::read_dir(parent.path()).expect("a folder").count();
        drop(area);
        assert!(staged_files <= 1 && fs::read_dir(parent.path()).expect("a folder").count() == 0);
    }
}
