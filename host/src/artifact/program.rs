//! A private copy of a program, so that each start runs the accepted bytes, whatever happens to the
//! file. The files beside it are linked, so that it finds them; only their owner and mode are checked,
//! since no digest covers them. Those of a signed plugin are copied too, since its signature does.

use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::{fs, io};

use hotbay_manifest::{MAX_FOLDER_DEPTH, MAX_FOLDER_ENTRIES};

use super::digest::Artifact;
use super::signature::VerifiedList;
use super::stage::{StagingArea, make_usable, write_executable};
use super::trust;
use super::trust::Trust;
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
    /// The files that were signed, if the plugin is.
    signed: Option<Arc<VerifiedList>>,
}

/// The created files.
#[derive(Debug)]
struct ProgramCopy {
    folder: PathBuf,
    path: PathBuf,
    /// The links to other files, or their copies.
    beside: Vec<PathBuf>,
}

impl StagedProgram {
    /// Returns the path of the copy, which is executed.
    pub(crate) fn path(&self) -> PathBuf {
        self.lock().path.clone()
    }

    /// Returns the folder of the copy.
    pub(crate) fn folder(&self) -> PathBuf {
        self.lock().folder.clone()
    }

    /// Returns the digest of the program.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Checks the files beside the program again, and restores the copy if a part of it was
    /// removed. Call it before each start.
    ///
    /// The copy is created from the original file, whose bytes must be the same as before.
    pub(crate) fn ensure_intact(&self) -> Result<(), ArtifactError> {
        check_beside(&self.folder, self.trust)?;
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
        let (folder, relative, signed) = (&self.folder, &self.relative, self.signed.as_deref());
        *copy = ProgramCopy::make(&area, &artifact, folder, relative, &self.name_hint, signed)?;
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
        signed: Option<&VerifiedList>,
    ) -> Result<Self, ArtifactError> {
        let own = area.folder_for(name_hint)?;
        let mut copy = Self { path: own.join(relative), folder: own, beside: Vec::new() };
        match signed {
            Some(signed) => copy.copy_signed(folder, signed)?,
            None => copy.link_all(folder, relative)?,
        }
        write_executable(&copy.path, artifact.bytes())
            .map_err(|source| stage_error(&copy.path, source))?;
        Ok(copy)
    }

    /// Copies the signed files of `from` except the program, and creates the folders of all.
    fn copy_signed(&mut self, from: &Path, signed: &VerifiedList) -> Result<(), ArtifactError> {
        for (relative, file) in signed.files() {
            let (mut folder, mut parts) = (self.folder.clone(), relative.split('/').peekable());
            while let Some(part) = parts.next() {
                folder.push(part);
                if parts.peek().is_some() && !folder.is_dir() {
                    let created = fs::create_dir(&folder).and_then(|()| make_usable(&folder));
                    created.map_err(|source| stage_error(&folder, source))?;
                }
            }
            let to = folder;
            if to == self.path {
                continue;
            }
            let artifact = Artifact::read(&from.join(relative), file.length)?;
            let artifact = artifact.with_signed(*file.sha256.as_bytes());
            artifact.verify_signed()?;
            write_executable(&to, artifact.bytes()).map_err(|source| stage_error(&to, source))?;
            self.beside.push(to);
        }
        Ok(())
    }

    /// Links everything in `folder` except the program, and creates the folders that contain it.
    fn link_all(&mut self, folder: &Path, relative: &Path) -> Result<(), ArtifactError> {
        let (mut from, mut to) = (folder.to_owned(), self.folder.clone());
        let mut parts = relative.components().filter_map(|part| match part {
            Component::Normal(part) => Some(part),
            _ => None,
        });
        let mut part = parts.next();
        while let Some(name) = part {
            let linked = link_beside(&from, &to, name, &mut self.beside);
            linked.map_err(|source| stage_error(&to, source))?;
            part = parts.next();
            (from, to) = (from.join(name), to.join(name));
            if part.is_some() {
                let created = fs::create_dir(&to).and_then(|()| make_usable(&to));
                created.map_err(|source| stage_error(&to, source))?;
            }
        }
        Ok(())
    }

    /// Returns whether all files exist. Other users may have reused the name of a removed folder.
    fn is_complete(&self) -> bool {
        let is_own = |path: &Path| trust::check(path, Trust::default()).is_ok();
        is_own(&self.folder)
            && is_own(&self.path)
            && self.beside.iter().all(|path| path.symlink_metadata().is_ok())
    }
}

impl Drop for ProgramCopy {
    fn drop(&mut self) {
        // The staging area may have removed it, and no one could handle the error.
        let _ = hotbay_sandbox::remove_folder(&self.folder);
    }
}

impl StagingArea {
    /// Copies the program `relative` of the plugin in `folder`, whose bytes are those of
    /// `artifact`, and checks all other files in that folder, since they run with it. Copies those too
    /// if they are signed.
    pub(crate) fn stage_program(
        self: &Arc<Self>,
        artifact: &Artifact,
        folder: &Path,
        relative: &Path,
        name_hint: &str,
        trust: Trust,
        signed: Option<&Arc<VerifiedList>>,
    ) -> Result<StagedProgram, ArtifactError> {
        let canonical = folder.canonicalize();
        let folder =
            canonical.map_err(|source| ArtifactError::Stage { path: folder.to_owned(), source })?;
        check_beside(&folder, trust)?;
        let copy = ProgramCopy::make(
            self,
            artifact,
            &folder,
            relative,
            name_hint,
            signed.map(Arc::as_ref),
        )?;
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
            signed: signed.cloned(),
        })
    }
}

fn stage_error(path: &Path, source: io::Error) -> ArtifactError {
    ArtifactError::Stage { path: path.to_owned(), source }
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

/// Rejects files that users other than root and this one may change, and links that lead out of
/// `folder`, which is a canonical path. Ignores sockets, pipes and devices.
fn check_beside(folder: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let mut entries = 0;
    let mut pending = vec![(folder.to_owned(), 1)];
    while let Some((below, depth)) = pending.pop() {
        let failed = |source| ArtifactError::Read { path: below.clone(), source };
        for entry in fs::read_dir(&below).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            entries += 1;
            if entries > MAX_FOLDER_ENTRIES || depth > MAX_FOLDER_DEPTH {
                let path = folder.to_owned();
                return Err(ArtifactError::TooManyFiles {
                    path,
                    max_entries: MAX_FOLDER_ENTRIES,
                    max_depth: MAX_FOLDER_DEPTH,
                });
            }
            let path = entry.path();
            let metadata = match path.symlink_metadata() {
                Ok(metadata) => metadata,
                // Temporary files come and go.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(ArtifactError::Read { path, source }),
            };
            let kind = metadata.file_type();
            if kind.is_symlink() {
                check_link(folder, &below, path)?;
            } else if kind.is_dir() || kind.is_file() {
                trust::check_metadata(&path, &metadata, trust)?;
                if kind.is_dir() {
                    pending.push((path, depth + 1));
                }
            }
        }
    }
    Ok(())
}

/// Rejects a link out of the folder. Targets inside it are checked on their own.
fn check_link(folder: &Path, below: &Path, link: PathBuf) -> Result<(), ArtifactError> {
    let target = match link.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It dangles: only a target inside the folder can appear safely later.
            let failed = |source| ArtifactError::Read { path: link.clone(), source };
            let target = match link.read_link() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                target => target.map_err(failed)?,
            };
            let is_plain =
                |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
            match target.components().all(is_plain) {
                true => return Ok(()),
                false => below.join(target),
            }
        }
        Err(source) => return Err(ArtifactError::Read { path: link, source }),
    };
    if target.starts_with(folder) && !target.components().any(|part| part == Component::ParentDir) {
        return Ok(());
    }
    Err(ArtifactError::OutsideFolder { link, target, root: folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

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
                None,
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
            .stage_program(&artifact, plugin.path(), name, "tool", Trust::default(), None)
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

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Creates a valid folder with a canonical path.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().canonicalize().unwrap();
        fs::create_dir_all(folder.join("lib/deep")).unwrap();
        for file in ["helper.py", "lib/mod.py", "lib/deep/more.py"] {
            fs::write(folder.join(file), "x").unwrap();
            set_mode(&folder.join(file), 0o644);
        }
        for below in ["lib", "lib/deep"] {
            set_mode(&folder.join(below), 0o755);
        }
        symlink("lib/mod.py", folder.join("inside")).unwrap();
        symlink("nowhere", folder.join("dangling")).unwrap();
        (temporary, folder)
    }

    #[test]
    fn writable_file_is_rejected_at_every_depth() {
        for (changed, mode) in [
            ("helper.py", 0o666),
            ("helper.py", 0o664),
            ("lib/deep/more.py", 0o646),
            ("lib", 0o777),
            ("lib/deep", 0o1777),
        ] {
            let (_temporary, folder) = folder();
            check_beside(&folder, Trust::default()).unwrap();
            set_mode(&folder.join(changed), mode);
            let error = check_beside(&folder, Trust::default()).unwrap_err();
            let hint = error.hint().unwrap_or_default();
            assert!(error.to_string().contains(changed) && hint.contains("chmod go-w"), "{error}");
            check_beside(&folder, Trust { allow_writable_by_others: true }).unwrap();
        }
    }

    #[test]
    fn links_out_of_folder_are_rejected() {
        for target in ["/etc/passwd", "../x", "/nowhere/at/all", "lib/../../x"] {
            let (_temporary, folder) = folder();
            symlink(target, folder.join("lib/link")).unwrap();
            let error = check_beside(&folder, Trust::default()).unwrap_err().to_string();
            assert!(error.contains("lib/link") && error.contains("outside"), "{error}");
        }
    }

    #[test]
    fn nested_folders_are_followed_to_a_limit() {
        let (_temporary, folder) = folder();
        let mut below = folder.clone();
        for _ in 0..=MAX_FOLDER_DEPTH {
            below.push("d");
            fs::create_dir(&below).unwrap();
            set_mode(&below, 0o755);
        }
        let error = check_beside(&folder, Trust::default()).unwrap_err().to_string();
        assert!(error.contains("64"), "{error}");
    }
}
