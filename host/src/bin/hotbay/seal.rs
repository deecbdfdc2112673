//! `hotbay seal`: digest and length of a library or program go into its manifest, in one step.
//! Vouches only for bytes that look like a plugin; changes nothing else.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use hotbay::manifest::{Digest, Kind};
use hotbay::{Error, ErrorKind, LoadStep, Manifest};
use serde_json::{Value, json};

use crate::Verdict;
use crate::args::{Options, Seal};
use crate::failure::Failure;
use crate::output::{Out, say};
use crate::places::builder;
use crate::program;

pub(crate) fn seal(args: &Seal, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let mut sealed = Vec::new();
    let mut failed = Vec::new();
    for given in &args.folders {
        let is_manifest = given.file_name().is_some_and(|name| name == "plugin.json");
        let folder = match given.parent() {
            Some(parent) if is_manifest && parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) if is_manifest => parent,
            _ => given,
        };
        match seal_one(folder, options) {
            Ok(told) if options.json => sealed.push(told),
            Ok(told) => {
                let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
                // One of the two is there.
                let sealed = text("library") + &text("program");
                out.line(&format!("{}  {sealed}", text("sha256")))?;
            }
            Err(failure) if options.json => {
                let folder = folder.display().to_string();
                failed.push(json!({ "folder": folder, "error": failure.json() }));
            }
            Err(failure) => {
                failed.push(Value::Null);
                failure.lines().iter().for_each(|line| say(line));
            }
        }
    }
    let all_well = failed.is_empty();
    if options.json {
        out.json(&json!({ "sealed": sealed, "failed": failed }))?;
    }
    match all_well {
        true => Ok(Verdict::Well),
        false => Ok(Verdict::Wrong),
    }
}

fn seal_one(folder: &Path, options: &Options) -> Result<Value, Failure> {
    let inspection = hotbay::inspect::plugin(&builder(options, &[]).allow_unverified(true), folder);
    let not_sealed = |why: &str| {
        let message = format!("`{}` was not sealed", folder.display());
        Failure::new("unsupported", message).because(why)
    };
    let surveyed = inspection.surveyed;
    let manifest = surveyed.manifest.as_ref();
    let program = match manifest.filter(|manifest| manifest.kind() == Kind::Process) {
        Some(manifest) => Some(program::read(folder, manifest).map_err(|why| not_sealed(&why))?),
        None => None,
    };
    let found = match (program, inspection.library, inspection.sha256, inspection.length) {
        (Some(program), ..) => Some((program.path, program.sha256, program.length)),
        (None, Some(library), Some(sha256), Some(length)) => Some((library, sha256, length)),
        _ => None,
    };
    let Some((sealed, sha256, length)) = found else {
        let problem = surveyed.problem;
        return Err(problem.map_or_else(|| not_sealed("it has no library"), problem_of(folder)));
    };
    if let Some(problem) = surveyed.problem {
        match problem.step() {
            // What runs it need not be this host.
            _ if problem.kind() == ErrorKind::Unsupported => {}
            // The digest that it had is what is replaced.
            Some(LoadStep::Digest) => {}
            Some(LoadStep::Manifest | LoadStep::Stage | LoadStep::Probe) => {
                return Err(problem_of(folder)(problem));
            }
            _ => say(&format!("warning: {}", problem.full_message())),
        }
    }
    write(folder, &sha256, length)?;
    Ok(told(manifest, folder, &sealed, &sha256, length))
}

fn problem_of(folder: &Path) -> impl Fn(Error) -> Failure {
    move |problem| Failure::titled(format!("`{}` was not sealed", folder.display()), problem)
}

fn told(
    manifest: Option<&Manifest>,
    folder: &Path,
    sealed: &Path,
    sha256: &Digest,
    length: u64,
) -> Value {
    let is_process = manifest.is_some_and(|manifest| manifest.kind() == Kind::Process);
    let mut told = json!({
        "name": manifest.map(|manifest| manifest.name().as_str()),
        "folder": folder.display().to_string(),
        "sha256": sha256.to_string(),
        "length": length,
    });
    let field = if is_process { "program" } else { "library" };
    told[field] = sealed.display().to_string().into();
    told
}

/// Puts the new text in the old one's place, whole or not at all.
fn write(folder: &Path, sha256: &Digest, length: u64) -> Result<(), Failure> {
    let path = folder.join("plugin.json");
    let failed =
        |error: io::Error| Failure::io(format!("cannot write `{}`", path.display()), &error);
    // A link stays one: what it leads to is replaced.
    let target = path.canonicalize().map_err(failed)?;
    let before = fs::read_to_string(&target).map_err(failed)?;
    let after = Manifest::seal_text(&before, sha256, length).map_err(|error| {
        let message = format!("cannot seal `{}`", path.display());
        Failure::new("manifest", message).because(error.to_string())
    })?;
    if after == before {
        return Ok(());
    }
    let replace = || -> io::Result<()> {
        let beside = target.parent().unwrap_or(folder);
        let mut file = tempfile::Builder::new().prefix(".sealing-").tempfile_in(beside)?;
        file.write_all(after.as_bytes())?;
        file.as_file().set_permissions(target.metadata()?.permissions())?;
        file.as_file().sync_all()?;
        file.persist(&target)?;
        Ok(())
    };
    replace().map_err(failed)
}
