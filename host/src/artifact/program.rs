//! A private copy of a program, so that each start runs the bytes that were accepted, whatever
//! becomes of the file. What lies beside it is linked, so that it finds its own files; that is
//! judged by owner and mode, since no digest covers it.

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

/// A private copy of a program, in a folder of its own that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct StagedProgram {
    copy: Mutex<ProgramCopy>,
    area: Weak<StagingArea>,
    /// The plugin's folder, without links.
    folder: PathBuf,
    /// The program in it, as its manifest names it.
    relative: PathBuf,
    name_hint: String,
    /// The file that was copied, and what was in it.
    original: PathBuf,
    sha256: [u8; 32],
    length: u64,
    trust: Trust,
}

/// The files that were made.
#[derive(Debug)]
struct ProgramCopy {
    folder: PathBuf,
    path: PathBuf,
    links: Vec<PathBuf>,
}

impl StagedProgram {
    /// What is run.
    pub(crate) fn path(&self) -> PathBuf {
        self.lock().path.clone()
    }

    /// To be called before each start: checks what lies beside the program once more, and makes
    /// the copy again if it, or a part of it, was removed.
    ///
    /// It is made from the original file, whose bytes must be those of the first copy.
    pub(crate) fn ensure_intact(&self) -> Result<(), ArtifactError> {
        beside::check(&self.folder, self.trust)?;
        let mut copy = self.lock();
        if copy.is_whole() {
            return Ok(());
        }
        let other = || ArtifactError::OtherBuild { path: self.original.clone() };
        let artifact =
            Artifact::read(&self.original, self.length).map_err(|error| match error {
                ArtifactError::TooLarge { .. } => other(),
                error => error,
            })?;
        artifact.check_trust(self.trust)?;
        if artifact.sha256() != self.sha256 {
            return Err(other());
        }
        let gone = || {
            let (path, source) = (copy.path.clone(), io::ErrorKind::NotFound.into());
            ArtifactError::Stage { path, source }
        };
        let area = self.area.upgrade().ok_or_else(gone)?;
        // What is left of the one before is removed as it is dropped.
        *copy = ProgramCopy::make(&area, &artifact, &self.folder, &self.relative, &self.name_hint)?;
        tracing::warn!(
            "the private copy of `{}` had been removed, and was made again; something removes \
             files from the folder for temporary files",
            self.original.display()
        );
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ProgramCopy> {
        // Nothing is half done when a panic comes by.
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
                let made = fs::create_dir(&to).and_then(|()| make_usable(&to));
                made.map_err(|source| error(&to, source))?;
            }
        }
        write_executable(&copy.path, artifact.bytes())
            .map_err(|source| error(&copy.path, source))?;
        Ok(copy)
    }

    /// Whether all of it is there. Where its folder was removed, others may have taken its name.
    fn is_whole(&self) -> bool {
        let is_own = |path: &Path| trust::check(path, Trust::default()).is_ok();
        is_own(&self.folder)
            && is_own(&self.path)
            && self.links.iter().all(|link| link.symlink_metadata().is_ok())
    }
}

impl Drop for ProgramCopy {
    fn drop(&mut self) {
        // It may have gone with the staging area; there is nobody to tell anyway.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl StagingArea {
    /// Copies the program `relative` of the plugin in `folder`, whose bytes are `artifact`'s, and
    /// judges all that lies in that folder, since it runs with it.
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

/// Links all that lies in `from`, but for `except`, and adds the links to `links`.
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
        let area = Arc::new(StagingArea::new(Some(parent.path()), false));
        let artifact = Artifact::read(&at("bin/tool"), BYTES_MAX).expect("the program");
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
    fn copy_that_vanished_is_made_again_from_the_same_bytes_only() {
        let plugin = tempfile::tempdir().expect("a folder");
        let at = |name: &str| plugin.path().join(name);
        let parent = tempfile::tempdir().expect("a folder");
        fs::write(at("tool"), "first").expect("a file");
        fs::write(at("data"), "data").expect("a file");
        let area = Arc::new(StagingArea::new(Some(parent.path()), false));
        let artifact = Artifact::read(&at("tool"), BYTES_MAX).expect("the program");
        let name = Path::new("tool");
        let staged = area
            .stage_program(&artifact, plugin.path(), name, "tool", Trust::default())
            .expect("a copy");
        let first = staged.path();
        staged.ensure_intact().expect("nothing to do");
        assert_eq!(staged.path(), first);
        let whole_area = first.parent().and_then(Path::parent).expect("the area's folder");
        let (whole_area, own) = (whole_area.to_owned(), first.parent().expect("its folder"));
        let vanish: [&dyn Fn(); 4] = [
            &|| fs::remove_file(staged.path()).expect("there"),
            &|| fs::remove_file(staged.path().with_file_name("data")).expect("there"),
            &|| fs::remove_dir_all(staged.path().parent().expect("its folder")).expect("there"),
            &|| fs::remove_dir_all(&whole_area).expect("there"),
        ];
        for vanish in vanish {
            vanish();
            staged.ensure_intact().expect("a copy again");
            assert_eq!(fs::read_to_string(staged.path()).expect("a file"), "first");
            assert_eq!(fs::read_to_string(staged.path().with_file_name("data")).unwrap(), "data");
        }
        assert!(!own.exists());
        for other in ["other", "longer than before"] {
            fs::write(at("tool"), other).expect("a file");
            staged.ensure_intact().expect("the copy is there");
            fs::remove_file(staged.path()).expect("there");
            let refused = staged.ensure_intact().expect_err("another build").to_string();
            assert!(refused.contains("no longer the loaded build"), "{refused}");
            fs::write(at("tool"), "first").expect("a file");
            staged.ensure_intact().expect("a copy again");
        }
        drop(staged);
        let staged_files = fs::read_dir(parent.path()).expect("a folder").count();
        drop(area);
        assert!(staged_files <= 1 && fs::read_dir(parent.path()).expect("a folder").count() == 0);
    }
}
