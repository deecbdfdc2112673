//! What several verbs tell in the same way about plugins that were looked at.

use hotbay::Error;
use hotbay::inspect::SurveyedPlugin;
use hotbay::manifest::Kind;

use crate::args::Options;
use crate::failure::Failure;
use crate::output::say;

/// The plugin's name; that of its folder while its manifest cannot be read.
pub(crate) fn name(one: &SurveyedPlugin) -> String {
    match (&one.manifest, one.folder.file_name()) {
        (Some(manifest), _) => manifest.name().to_string(),
        (None, Some(name)) => name.to_string_lossy().into_owned(),
        (None, None) => one.folder.display().to_string(),
    }
}

/// Whether nothing vouches for the library's bytes.
pub(crate) fn is_unverified(one: &SurveyedPlugin) -> bool {
    let manifest = one.manifest.as_ref();
    manifest.is_some_and(|manifest| manifest.kind() == Kind::Library && manifest.sha256().is_none())
}

/// What was wrong with looking itself; as JSON it stands in the document.
pub(crate) fn tell(problems: &[Error], options: &Options) {
    if options.json {
        return;
    }
    for problem in problems {
        say(&format!("error: {}", problem.full_message()));
    }
}

/// Warnings, for those who ask for a log.
pub(crate) fn warn(failure: &Failure) {
    for line in failure.lines() {
        say(&line.replacen("error:", "warning:", 1));
    }
}
