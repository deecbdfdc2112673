//! Formats surveyed plugins for several verbs.

use hotbay::Error;
use hotbay::inspect::SurveyedPlugin;
use hotbay::manifest::{Isolation, Kind};

use crate::args::Options;
use crate::failure::Failure;
use crate::output::{print_hint, print_message};

/// Returns the plugin's name, or that of its folder if its manifest cannot be read.
pub(crate) fn name(one: &SurveyedPlugin) -> String {
    if let Some(instance) = &one.instance {
        return instance.to_string();
    }
    match (&one.manifest, one.folder.file_name()) {
        (Some(manifest), _) => manifest.name().to_string(),
        (None, Some(name)) => name.to_string_lossy().into_owned(),
        (None, None) => one.folder.display().to_string(),
    }
}

/// Returns the word for what a load would do.
pub(crate) fn state(one: &SurveyedPlugin, is_refused: bool) -> &'static str {
    match is_refused {
        _ if one.is_disabled => "disabled",
        true => "refused",
        false => "ready",
    }
}

/// Returns whether the plugin has a file whose digest its manifest does not state.
pub(crate) fn has_no_digest(one: &SurveyedPlugin) -> bool {
    one.manifest.as_ref().is_some_and(|manifest| manifest.sha256().is_none())
}

pub(crate) fn is_library(one: &SurveyedPlugin) -> bool {
    one.manifest.as_ref().is_some_and(|manifest| manifest.kind() == Kind::Library)
}

/// Returns whether the plugin is a program or an isolated library.
pub(crate) fn runs_in_own_process(one: &SurveyedPlugin) -> bool {
    one.manifest.as_ref().is_some_and(|manifest| {
        manifest.kind() == Kind::Process || manifest.isolation() == Isolation::Process
    })
}

/// Returns the hint for a plugin without a digest.
pub(crate) fn seal_hint(one: &SurveyedPlugin) -> String {
    format!("run `hotbay seal {}`", one.folder.display())
}

/// Prints the hint for one of the plugins in a table.
pub(crate) fn print_hint_for(one: &SurveyedPlugin, hint: Option<&str>) {
    if let Some(hint) = hint {
        print_message(&format!("hint: plugin `{}`: {hint}", name(one)));
    }
}

/// Prints the errors of a survey, unless the JSON document contains them.
pub(crate) fn print_errors(errors: &[Error], options: &Options) {
    if options.json {
        return;
    }
    for error in errors {
        print_message(&format!("error: {}", error.full_message()));
        if let Some(hint) = error.hint() {
            print_hint(hint);
        }
    }
}

/// Prints a failure as a warning.
pub(crate) fn print_warning(failure: &Failure) {
    for line in failure.lines() {
        print_message(&line.replacen("error:", "warning:", 1));
    }
}
