//! The hidden verbs, which run in a separate process that may crash. Each prints a JSON document on
//! the last line of its stdout.

use hotbay::manifest::Kind;
use serde_json::json;

use crate::args::{Options, Trial};
use crate::failure::{Failure, error_json, short};
use crate::output::Out;
use crate::plugin_dirs::builder;
use crate::start::{GRACE, block_on};
use crate::{Status, thread_check};

/// Loads a plugin after its requirements, calls it, and shuts everything down.
pub(crate) fn load(args: &Trial, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let host =
        builder(options, &options.dirs).plugin_dir(&args.folder).allow_unverified(true).build()?;
    let mut report = block_on(host.load_all());
    // The host makes folders absolute.
    let folder = std::path::absolute(&args.folder).unwrap_or_else(|_| args.folder.clone());
    let refused = report.refused.iter().position(|one| one.folder == folder);
    // If the plugin has no error itself, a requirement failed.
    let refused = refused.or_else(|| (!report.refused.is_empty()).then_some(0));
    let refused = refused.map(|index| report.refused.swap_remove(index).error);
    // Only a crash matters here: `check` reports failures when it loads the plugin itself.
    for one in host.list().iter().filter(|one| one.manifest.kind() == Kind::Library) {
        if let Ok(plugin) = host.plugin(one.name.as_str()) {
            let _ = thread_check::call_on_two_threads(&plugin, None);
        }
    }
    block_on(host.shutdown(GRACE));
    drop(host);
    let problem =
        refused.map(|error| json!({ "short": short(&error), "json": error_json(&error) }));
    out.json_line(&json!({ "problem": problem }))?;
    Ok(Status::Success)
}

/// Opens a library and compares its root module with this host's.
pub(crate) fn abi(args: &Trial, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let document = match hotbay::inspect::abi_report(&builder(options, &[]), &args.folder) {
        Ok(report) => json!({ "report": report }),
        Err(error) => json!({ "problem": error_json(&error) }),
    };
    out.json_line(&document)?;
    Ok(Status::Success)
}
