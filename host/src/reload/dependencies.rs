//! Finds the libraries that a plugin brings along: what its library links, directly or not, and
//! what lies in the plugin's folder. Each file is read once, under the same rules as the library.
//!
//! The folder comes before the directories of the system, whatever the library's own search path
//! says, so that a plugin runs with what was installed with it. The parts of the C library are
//! never taken from it, since a process has one of each.

use std::path::{Path, PathBuf};

use super::Rules;
use super::candidate::Candidate;
use crate::artifact::dependencies::{Dependencies, Dependency, Link};
use crate::artifact::digest::Artifact;
use crate::artifact::stage::StagingArea;
use crate::artifact::staged::Staged;
use crate::artifact::{locate, trust};
use crate::boundary::probe::needs_only_known;
use crate::boundary::probe::relink::{Links, relinked};
use crate::error::artifact::ArtifactError;
use crate::error::{Error, ErrorKind, LoadStep};

/// Libraries that one plugin may bring along.
const FILES_MAX: usize = 64;
/// Directories of a search path that are looked into.
const DIRS_MAX: usize = 64;

/// Reads what `library` links in `folder`.
pub(super) fn read(
    candidate: &Candidate,
    folder: &Path,
    library: &Artifact,
    rules: &Rules,
) -> Result<Dependencies, Error> {
    // What is wrong with the library itself is reported when it is probed.
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
            let message =
                format!("`{}`, which `{}` links", shown(&relative), candidate.place().display());
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
        // The loader would replace what begins with `$`.
        let path = path.filter(|path| !path.contains('$')).ok_or_else(|| {
            let message = format!(
                "the private copy of `{name}` has a path that cannot be linked; name another \
                 folder by `staging_dir` or TMPDIR"
            );
            candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(message)
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
    /// The plugin's folder, without links.
    root: PathBuf,
    found: Dependencies,
}

impl Search<'_> {
    /// Finds what the library at `relative` links.
    fn follow(&mut self, relative: &Path, links: &Links) -> Result<Vec<Link>, Error> {
        let origin = self.root.join(relative);
        let origin = origin.parent().unwrap_or(&self.root).to_owned();
        let mut found = Vec::new();
        for name in &links.needs {
            let Some(place) = self.place(name, &origin, &links.dirs, relative)? else { continue };
            if needs_only_known(std::slice::from_ref(name)).is_ok() {
                self.found.notes.push(format!(
                    "`{name}` of its folder is not used: it is part of the C library, of which \
                     the process has its own"
                ));
                continue;
            }
            found.push((name.clone(), self.file(&place)?));
        }
        Ok(found)
    }

    /// The path in the folder that `name` stands for.
    fn place(
        &mut self,
        name: &str,
        origin: &Path,
        dirs: &[String],
        by: &Path,
    ) -> Result<Option<PathBuf>, Error> {
        let is_known = needs_only_known(&[name.to_owned()]).is_ok();
        let mut places = Vec::new();
        if name.contains('/') {
            let expanded = expanded(name, origin);
            let is_relative = expanded.is_relative();
            places.extend([origin.join(&expanded), self.root.join(&expanded)]);
            let found = places.iter().find_map(|place| self.inside(place));
            if found.is_none() && is_relative {
                let message = format!(
                    "`{}` links `{name}`, a path that depends on the working directory, and it is \
                     not in the plugin's folder; link it by its name and `-rpath '$ORIGIN'`",
                    shown(by)
                );
                let failed = self.candidate.failed(LoadStep::Stage, ErrorKind::Integrity);
                return Err(failed.caused_by(message));
            }
            return Ok(found);
        }
        for dir in dirs.iter().take(DIRS_MAX) {
            let dir = expanded(dir, origin);
            // A relative one depends on the working directory.
            if dir.is_absolute() {
                places.push(dir.join(name));
            }
        }
        places.extend([origin.join(name), self.root.join(name)]);
        let found = places.iter().find_map(|place| self.inside(place));
        if found.is_none() && !is_known {
            let mut dirs: Vec<_> = places.iter().filter_map(|place| place.parent()).collect();
            dirs.dedup();
            let dirs: Vec<_> = dirs.iter().map(|dir| format!("`{}`", dir.display())).collect();
            let told = format!(
                "`{}` links `{name}`, which is neither in {} nor where the system's loader looks",
                shown(by),
                dirs.join(", ")
            );
            self.found.unresolved.push((name.to_owned(), told));
        }
        Ok(found)
    }

    /// The path below the plugin's folder of something that exists in it.
    fn inside(&self, place: &Path) -> Option<PathBuf> {
        place.symlink_metadata().ok()?;
        let folder = place.parent()?.canonicalize().ok()?;
        let folder = folder.strip_prefix(&self.root).ok()?;
        Some(folder.join(place.file_name()?))
    }

    /// The number of a file, which is read if it was not before.
    fn file(&mut self, place: &Path) -> Result<usize, Error> {
        let failed =
            |error| self.candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error);
        let path = locate::inside(&self.root, &place.to_string_lossy()).map_err(failed)?;
        let relative = path.strip_prefix(&self.root).unwrap_or(&path);
        if relative == self.found.library {
            return Ok(0);
        }
        let known = self.found.files.iter().position(|file| file.relative == relative);
        if let Some(number) = known {
            return Ok(number + 1);
        }
        if self.found.files.len() == FILES_MAX {
            let message = format!("it links more than {FILES_MAX} libraries of its folder");
            let failed = self.candidate.failed(LoadStep::Stage, ErrorKind::Integrity);
            return Err(failed.caused_by(message));
        }
        let files = self.found.files.iter();
        let bytes: u64 = files.map(|file| file.artifact.bytes().len() as u64).sum();
        let bytes_max = self.rules.max_library_bytes.saturating_sub(bytes);
        let trust = self.rules.trust();
        let folder = path.parent().unwrap_or(&self.root);
        trust::check_chain(&self.root, folder, trust).map_err(failed)?;
        let artifact = Artifact::read(&path, bytes_max).map_err(failed)?;
        artifact.check_trust(trust).map_err(failed)?;
        let relative = relative.to_owned();
        self.found.files.push(Dependency { relative, artifact, links: Vec::new() });
        Ok(self.found.files.len())
    }
}

/// A directory or file of a library, whose own directory is `origin`.
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
