//! The hidden verbs: what this program does in a process of its own, where a crash harms nobody.
//! Each answers with one line of JSON, the last of its stdout.

use hotbay::manifest::Kind;
use serde_json::json;

use crate::args::{Options, Trial};
use crate::failure::{Failure, error_json, short};
use crate::output::Out;
use crate::places::builder;
use crate::start::{GRACE, block_on};
use crate::{Verdict, two_threads};

/// Loads one plugin for real, after those that it requires, and shuts everything down again.
pub(crate) fn load(args: &Trial, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let host =
        builder(options, &options.dirs).plugin_dir(&args.folder).allow_unverified(true).build()?;
    let mut report = block_on(host.load_all());
    // The host makes its folders absolute.
    let own = std::path::absolute(&args.folder).unwrap_or_else(|_| args.folder.clone());
    let refused = report.refused.iter().position(|one| one.folder == own);
    // Without its own error, what it requires failed, which it did not do before.
    let refused = refused.or_else(|| (!report.refused.is_empty()).then_some(0));
    let refused = refused.map(|index| report.refused.swap_remove(index).error);
    // A crash is to happen here; anything else is reported by whoever loads it afterwards.
    for one in host.list().iter().filter(|one| one.manifest.kind() == Kind::Library) {
        if let Ok(plugin) = host.plugin(one.name.as_str()) {
            let _ = two_threads::call(&plugin, None);
        }
    }
    block_on(host.shutdown(GRACE));
    drop(host);
    let problem =
        refused.map(|error| json!({ "short": short(&error), "json": error_json(&error) }));
    out.json_line(&json!({ "problem": problem }))?;
    Ok(Verdict::Well)
}

/// Opens one library and compares its root module with this host's.
pub(crate) fn abi(args: &Trial, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let answer = match hotbay::inspect::abi_report(&builder(options, &[]), &args.folder) {
        Ok(report) => json!({ "report": report }),
        Err(error) => json!({ "problem": error_json(&error) }),
    };
    out.json_line(&answer)?;
    Ok(Verdict::Well)
}
