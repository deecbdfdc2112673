//! `hotbay seal`: digest and length of a library go into its manifest, in one step.
//! Vouches only for bytes that look like a plugin; changes nothing else.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use hotbay::manifest::{Digest, Kind};
use hotbay::{Inspection, LoadStep, Manifest};
use serde_json::{Value, json};

use crate::Verdict;
use crate::args::{Options, Seal};
use crate::failure::Failure;
use crate::output::{Out, say};
use crate::places::builder;

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
                out.line(&format!("{}  {}", text("sha256"), text("library")))?;
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
    let inspection = builder(options, &[]).allow_unverified(true).inspect(folder);
    let not_sealed = |why: &str| {
        let message = format!("`{}` is not sealed", folder.display());
        Failure::new("unsupported", message).because(why)
    };
    let manifest = inspection.surveyed.manifest.clone();
    if manifest.is_some_and(|manifest| manifest.kind() == Kind::Process) {
        return Err(not_sealed("its kind is `process`; only libraries can be sealed"));
    }
    let Inspection {
        surveyed,
        library: Some(library),
        sha256: Some(sha256),
        length: Some(length),
        ..
    } = inspection
    else {
        let problem = inspection.surveyed.problem;
        return Err(problem.map_or_else(|| not_sealed("it has no library"), Failure::from));
    };
    if let Some(problem) = surveyed.problem {
        // The digest that it had is what is replaced.
        match problem.step() {
            Some(LoadStep::Digest) => {}
            Some(LoadStep::Manifest | LoadStep::Stage | LoadStep::Probe) => {
                return Err(problem.into());
            }
            _ => say(&format!("warning: {}", problem.full_message())),
        }
    }
    write(folder, &sha256, length)?;
    let name = surveyed.manifest.as_ref().map(Manifest::name);
    Ok(json!({
        "name": name.map(|name| name.as_str()),
        "folder": folder.display().to_string(),
        "library": library.display().to_string(),
        "sha256": sha256.to_string(),
        "length": length,
    }))
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
