//! Finds a plugin's own libraries: those that its library links, directly or not, and that lie in
//! the plugin's folder. Each file is read once, under the same rules as the library.
//!
//! The folder is searched before the directories of the system, whatever the library's own search
//! path, so that a plugin runs with what was installed with it. Parts of the C library are never
//! used from the folder, since a process has one of each.

use std::path::{Path, PathBuf};

use super::candidate::Candidate;
use crate::artifact::digest::{Artifact, Dependencies, Dependency, Link};
use crate::artifact::stage::{Staged, StagingArea};
use crate::artifact::trust::Rules;
use crate::artifact::{locate, trust};
use crate::boundary::probe::needs_only_known;
use crate::boundary::probe::relink::{Links, relinked};
use crate::error::artifact::ArtifactError;
use crate::error::{Error, ErrorKind, LoadStep};

/// Maximum number of libraries of one plugin.
const MAX_FILES: usize = 64;
/// Maximum number of searched directories of one search path.
const MAX_DIRS: usize = 64;

/// Reads the libraries that `library` links in `folder`.
pub(super) fn read(
    candidate: &Candidate,
    folder: &Path,
    library: &Artifact,
    rules: &Rules,
) -> Result<Dependencies, Error> {
    // Errors of the library itself are reported when it is probed.
    let Ok(links) = Links::of(library.bytes()) else { return Ok(Dependencies::default()) };
    let stage = |error| candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error);
    let read_error = |source| stage(ArtifactError::Read { path: folder.to_owned(), source });
    let root = folder.canonicalize().map_err(read_error)?;
    let relative = library.path().strip_prefix(&root).unwrap_or(library.path()).to_owned();
    let mut search = Search { candidate, rules, root, found: Dependencies::default() };
    search.found.library.clone_from(&relative);
    search.found.links = search.follow(&relative, &links)?;
    // Each file is read once, so a loop of libraries ends here.
    let mut number = 0;
    while let Some(file) = search.found.files.get(number) {
        let relative = file.relative.clone();
        let links = Links::of(file.artifact.bytes()).map_err(|error| {
            let message = format!(
                "invalid dependency `{}` of `{}`",
                shown(&relative),
                candidate.place().display()
            );
            let cause = Error::new(ErrorKind::Integrity, message).caused_by(error);
            candidate.failed(LoadStep::Probe, ErrorKind::Integrity).caused_by(cause)
        })?;
        search.found.files[number].links = search.follow(&relative, &links)?;
        number += 1;
    }
    Ok(search.found)
}

/// Writes private copies of a library and its dependencies, which link each other.
pub(super) fn stage(
    area: &StagingArea,
    candidate: &Candidate,
    artifact: &Artifact,
) -> Result<Staged, Error> {
    let failed = |error: ArtifactError| {
        candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error)
    };
    let Dependencies { library, links, files, .. } = artifact.dependencies();
    let name = candidate.manifest.name().as_str();
    if files.is_empty() {
        return area.stage(artifact, name).map_err(failed);
    }
    let mut group = area.group(name).map_err(failed)?;
    let mut copies = vec![group.folder().join(library)];
    copies.extend(files.iter().map(|file| group.folder().join(&file.relative)));
    let path_of = |(name, number): &Link| {
        let path = copies.get(*number).and_then(|path| path.to_str());
        // The loader would expand a `$`.
        let path = path.filter(|path| !path.contains('$')).ok_or_else(|| {
            let message = format!("the private copy of `{name}` has a path that cannot be linked");
            candidate
                .failed(LoadStep::Stage, ErrorKind::Integrity)
                .caused_by(message)
                .with_hint("set another folder with `staging_dir` or `TMPDIR`")
        })?;
        Ok((name.clone(), path.to_owned()))
    };
    let own = (library, artifact, links, false);
    let others = files.iter().map(|file| (&file.relative, &file.artifact, &file.links, true));
    for (relative, artifact, links, is_nameless) in std::iter::once(own).chain(others) {
        let pairs = links.iter().map(path_of).collect::<Result<Vec<_>, Error>>()?;
        let bytes = relinked(artifact.bytes(), &pairs, is_nameless).map_err(|error| {
            let message = format!("`{}`", artifact.path().display());
            let cause = Error::new(ErrorKind::Integrity, message).caused_by(error);
            candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(cause)
        })?;
        group.write(relative, &bytes).map_err(failed)?;
    }
    Ok(group.finish(library, artifact.path().parent()))
}

struct Search<'a> {
    candidate: &'a Candidate,
    rules: &'a Rules,
    /// The canonical path of the plugin's folder.
    root: PathBuf,
    found: Dependencies,
}

impl Search<'_> {
    /// Finds the libraries that the library at `relative` links.
    fn follow(&mut self, relative: &Path, links: &Links) -> Result<Vec<Link>, Error> {
        let origin = self.root.join(relative);
        let origin = origin.parent().unwrap_or(&self.root).to_owned();
        let mut found = Vec::new();
        for name in &links.needs {
            let Some(path) = self.find(name, &origin, &links.dirs, relative)? else { continue };
            if needs_only_known(std::slice::from_ref(name)).is_ok() {
                self.found.notes.push(format!(
                    "`{name}` in its folder is not used: the process already has a C library"
                ));
                continue;
            }
            found.push((name.clone(), self.file(&path)?));
        }
        Ok(found)
    }

    /// Returns the path in the folder that `name` refers to.
    fn find(
        &mut self,
        name: &str,
        origin: &Path,
        dirs: &[String],
        by: &Path,
    ) -> Result<Option<PathBuf>, Error> {
        let is_known = needs_only_known(&[name.to_owned()]).is_ok();
        let mut paths = Vec::new();
        if name.contains('/') {
            let expanded = expanded(name, origin);
            let is_relative = expanded.is_relative();
            paths.extend([origin.join(&expanded), self.root.join(&expanded)]);
            let found = paths.iter().find_map(|path| self.inside(path));
            if found.is_none() && is_relative {
                let message = format!(
                    "`{}` links `{name}`, a relative path that is not in the plugin's folder",
                    shown(by)
                );
                let failed = self.candidate.failed(LoadStep::Stage, ErrorKind::Integrity);
                let hint = "link it by its name, with `-rpath '$ORIGIN'`";
                return Err(failed.caused_by(message).with_hint(hint));
            }
            return Ok(found);
        }
        for dir in dirs.iter().take(MAX_DIRS) {
            let dir = expanded(dir, origin);
            // A relative one depends on the working directory.
            if dir.is_absolute() {
                paths.push(dir.join(name));
            }
        }
        paths.extend([origin.join(name), self.root.join(name)]);
        let found = paths.iter().find_map(|path| self.inside(path));
        if found.is_none() && !is_known {
            let mut dirs: Vec<_> = paths.iter().filter_map(|path| path.parent()).collect();
            dirs.dedup();
            let dirs: Vec<_> = dirs.iter().map(|dir| format!("`{}`", dir.display())).collect();
            let message = format!(
                "`{}` links `{name}`, which was found neither in {} nor by the system's loader",
                shown(by),
                dirs.join(", ")
            );
            self.found.unresolved.push((name.to_owned(), message));
        }
        Ok(found)
    }

    /// Returns the path relative to the plugin's folder if the file exists in it.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        path.symlink_metadata().ok()?;
        let folder = path.parent()?.canonicalize().ok()?;
        let folder = folder.strip_prefix(&self.root).ok()?;
        Some(folder.join(path.file_name()?))
    }

    /// Returns the number of a file; reads it at the first use.
    fn file(&mut self, path: &Path) -> Result<usize, Error> {
        let failed =
            |error| self.candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error);
        let path = locate::inside(&self.root, &path.to_string_lossy()).map_err(failed)?;
        let relative = path.strip_prefix(&self.root).unwrap_or(&path);
        if relative == self.found.library {
            return Ok(0);
        }
        let known = self.found.files.iter().position(|file| file.relative == relative);
        if let Some(number) = known {
            return Ok(number + 1);
        }
        if self.found.files.len() == MAX_FILES {
            let message = format!("it links more than {MAX_FILES} libraries from its folder");
            let failed = self.candidate.failed(LoadStep::Stage, ErrorKind::Integrity);
            return Err(failed.caused_by(message));
        }
        let files = self.found.files.iter();
        let bytes: u64 = files.map(|file| file.artifact.bytes().len() as u64).sum();
        let max_bytes = self.rules.max_library_bytes.saturating_sub(bytes);
        let trust = self.rules.trust();
        let folder = path.parent().unwrap_or(&self.root);
        trust::check_chain(&self.root, folder, trust).map_err(failed)?;
        let artifact = Artifact::read(&path, max_bytes).map_err(failed)?;
        artifact.check_trust(trust).map_err(failed)?;
        let artifact = self.candidate.signature.expect(artifact).map_err(failed)?;
        let relative = relative.to_owned();
        self.found.files.push(Dependency { relative, artifact, links: Vec::new() });
        Ok(self.found.files.len())
    }
}

/// Expands `$ORIGIN` in a path of a library whose directory is `origin`.
fn expanded(path: &str, origin: &Path) -> PathBuf {
    for word in ["$ORIGIN", "${ORIGIN}"] {
        if let Some(rest) =
            path.strip_prefix(word).filter(|rest| rest.is_empty() || rest.starts_with('/'))
        {
            return origin.join(rest.trim_start_matches('/'));
        }
    }
    PathBuf::from(path)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
