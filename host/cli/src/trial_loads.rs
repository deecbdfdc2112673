//! Loads libraries in a child process, to find those that crash: the loads of `hotbay check`, and the
//! hidden verbs that the child runs. Each verb prints a JSON document on the last line of its stdout.

use std::collections::BTreeMap;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hotbay::inspect::SurveyedPlugin;
use hotbay::manifest::Kind;
use hotbay::{ErrorKind, LoadStep, PluginHandle, PluginName, RefusedPlugin, Reply};
use serde_json::{Value, json};

use crate::args::{Options, Trial};
use crate::child_process::ChildOutcome;
use crate::failure::{Failure, error_json, own_json, short};
use crate::input::Input;
use crate::output::{Out, print_hint, print_message};
use crate::plugin_dirs::{builder, discovered, place, required};
use crate::start::{GRACE, Needed, block_on};
use crate::{Status, child_process, survey_report};

/// The reason a plugin must not be loaded, as text and as JSON.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) short: String,
    pub(crate) json: Value,
    /// The step of the load that failed.
    pub(crate) step: Option<LoadStep>,
}

/// The plugins that must not be loaded, by folder and instance.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<(PathBuf, Option<PluginName>), Refusal>);

impl Refusals {
    pub(crate) fn of(&self, one: &SurveyedPlugin) -> Option<&Refusal> {
        self.0.get(&(one.folder.clone(), one.instance.clone()))
    }

    fn refuse(&mut self, one: &SurveyedPlugin, refusal: Refusal) {
        self.0.insert((one.folder.clone(), one.instance.clone()), refusal);
    }
}

/// Loads each library without a digest in a child process. Requirements come first, so that a
/// plugin is not blamed for the crash of a requirement.
pub(crate) fn run(surveyed: &[SurveyedPlugin], options: &Options) -> Result<Refusals, Failure> {
    let mut refusals = Refusals::default();
    let (mut pending, invalid): (Vec<_>, Vec<_>) = surveyed
        .iter()
        .filter(|one| survey_report::is_library(one) && survey_report::has_no_digest(one))
        .partition(|one| one.problem.is_none());
    for one in invalid {
        refusals.refuse(one, problem_of(one));
    }
    while !pending.is_empty() {
        let places: Vec<_> = pending.iter().map(|one| place(one)).collect();
        let is_next = |one: &SurveyedPlugin| {
            let required = required(one, surveyed);
            required.iter().all(|required| !places.contains(required))
        };
        let (next, later): (Vec<_>, Vec<_>) = pending.iter().partition(|one| is_next(one));
        for &one in &next {
            if let Some(refusal) = trial_load(one, surveyed, &refusals, options)? {
                refusals.refuse(one, refusal);
            }
        }
        // The others form a dependency cycle, which no host loads.
        if next.is_empty() {
            break;
        }
        pending = later;
    }
    Ok(refusals)
}

fn trial_load(
    one: &SurveyedPlugin,
    surveyed: &[SurveyedPlugin],
    refusals: &Refusals,
    options: &Options,
) -> Result<Option<Refusal>, Failure> {
    let required = required(one, surveyed);
    let mut others = surveyed.iter().filter(|other| required.contains(&place(other)));
    if let Some(refused) = others.find(|other| refusals.of(other).is_some()) {
        let name = survey_report::name(refused);
        let reason = format!("requires plugin `{name}`, which cannot be started");
        return Ok(Some(refusal(one, "requires", &reason)));
    }
    if !options.json {
        let name = survey_report::name(one);
        print_message(&format!(
            "note: plugin `{name}` has no digest: loading it in a separate process first"
        ));
        print_hint(&survey_report::seal_hint(one));
    }
    let outcome = child_process::run("trial-load", place(one), &required, options)
        .map_err(|error| Failure::io("cannot start a separate process", &error))?;
    Ok(match outcome {
        ChildOutcome::Failed(reason) => Some(refusal(one, "start", &reason)),
        ChildOutcome::Completed(document) => {
            let short = document["problem"]["short"].as_str();
            short.map(|short| Refusal {
                short: short.to_owned(),
                json: document["problem"]["json"].clone(),
                step: None,
            })
        }
    })
}

fn problem_of(one: &SurveyedPlugin) -> Refusal {
    let problem = one.problem.as_ref();
    problem.map_or_else(|| refusal(one, "bug", "was refused without a reason"), Refusal::from)
}

impl From<&hotbay::Error> for Refusal {
    fn from(error: &hotbay::Error) -> Self {
        Self { short: short(error), json: error_json(error), step: error.step() }
    }
}

/// Creates a refusal with an error of the command.
fn refusal(one: &SurveyedPlugin, kind: &str, reason: &str) -> Refusal {
    let name = survey_report::name(one);
    let mut json = own_json(kind, &format!("plugin `{name}` {reason}"));
    json["plugin"] = name.into();
    Refusal { short: format!("it {reason}"), json, step: None }
}

/// Loads a plugin after its requirements, calls it, and shuts everything down.
pub(crate) fn load(args: &Trial, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let instance_of = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let instance = instance_of(&args.instance);
    let required = args.required.chunks_exact(2).map(|required| {
        discovered(Path::new(&required[0]), instance_of(&required[1].to_string_lossy()))
    });
    let needed =
        Needed(iter::once(discovered(&args.folder, instance.clone())).chain(required).collect());
    let host = builder(options, &[]).discovery(needed).allow_unverified(true).build()?;
    let mut report = block_on(host.load_all());
    // The host makes folders absolute.
    let folder = std::path::absolute(&args.folder).unwrap_or_else(|_| args.folder.clone());
    let is_named = |one: &RefusedPlugin| {
        let name = one.name.as_ref().map(|name| name.as_str());
        instance.is_none() || name == instance.as_deref()
    };
    let refused = report.refused.iter().position(|one| one.folder == folder && is_named(one));
    // If the plugin has no error itself, a requirement failed.
    let refused = refused.or_else(|| (!report.refused.is_empty()).then_some(0));
    let refused = refused.map(|index| report.refused.swap_remove(index).error);
    // Only a crash matters here: `check` reports failures when it loads the plugin itself.
    for one in host.list().iter().filter(|one| one.manifest.kind() == Kind::Library) {
        if let Ok(plugin) = host.plugin(one.name.as_str()) {
            let _ = call_on_two_threads(&plugin, None);
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

/// The time limit of a call. The thread of a call that exceeds it is abandoned.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Calls `plugin` on two threads, one after the other, with the sample or an empty input. Returns
/// the failures; an error that the plugin returns is not one.
///
/// Frees the first reply on the second thread, and the second reply on this one.
pub(crate) fn call_on_two_threads(plugin: &PluginHandle, sample: Option<&Input>) -> Vec<String> {
    let mut failures = Vec::new();
    let mut previous: Option<Reply> = None;
    for _ in 0..2 {
        let (plugin, input) = (plugin.clone(), sample.map_or_else(Input::empty, Input::copy));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let call = thread::spawn(move || {
                let outcome = plugin.call(input.into_request());
                drop(previous);
                outcome
            });
            // The join runs the thread's destructors before the shutdown. They may never return, so
            // the join has a time limit too.
            if let Ok(outcome) = call.join() {
                // The receiver may have timed out.
                let _ = sender.send(outcome);
            }
        });
        previous = match receiver.recv_timeout(TIMEOUT) {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(error)) => {
                failures.extend(failure(&error));
                None
            }
            Err(_) => {
                let limit = TIMEOUT.as_secs();
                failures
                    .push(format!("a call from another thread did not return within {limit} s"));
                return failures;
            }
        };
    }
    failures
}

fn failure(error: &hotbay::Error) -> Option<String> {
    // Panics are reported as events.
    let is_expected = matches!(
        error.kind(),
        ErrorKind::Plugin
            | ErrorKind::InvalidInput
            | ErrorKind::PermissionDenied
            | ErrorKind::Panicked
    );
    (!is_expected).then(|| format!("call: {}", error.full_message()))
}
