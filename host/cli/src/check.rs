//! `hotbay check`: loads every plugin, checks its health, and shuts it down. Calls libraries from
//! two threads, and tests programs against the protocol.
//!
//! Libraries without a digest are first loaded in a child process; those that fail there are not
//! loaded here.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use hotbay::inspect::{Conformance, ConformanceOutcome, Survey, SurveyedPlugin};
use hotbay::manifest::Kind;
use hotbay::{Error, ErrorKind, Events, HostEvent, LoadStep, inspect};
use serde_json::{Value, json};

use crate::args::{Check, Options};
use crate::failure::{Failure, error_json};
use crate::input::Input;
use crate::output::{Out, Row, Style, print_hint, print_message};
use crate::plugin_dirs::{NO_PLUGINS_HINT, builder, dirs, discovered, quoted};
use crate::start::{GRACE, Needed, block_on};
use crate::trial_loads::Refusal;
use crate::{Status, survey_report, trial_loads};

/// The result of one plugin.
struct Checked<'a> {
    plugin: &'a SurveyedPlugin,
    refusal: Option<Refusal>,
    failures: Vec<String>,
    /// The error of the health check if it panicked, for a panic without an event.
    health_panic: Option<String>,
    notes: Vec<String>,
    library: Option<LibraryState>,
    steps: Option<ConformanceReport>,
}

/// The state of a library after the shutdown.
enum LibraryState {
    Closed { leaked_bytes: Option<i64> },
    Kept { reason: String },
}

pub(crate) fn check(args: &Check, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let dirs = match args.folders.as_slice() {
        [] => dirs(options),
        folders => folders.to_vec(),
    };
    let Survey { plugins: mut surveyed, errors, .. } = inspect::survey(&builder(options, &dirs));
    for one in surveyed.iter().filter(|one| one.is_disabled) {
        let name = survey_report::name(one);
        print_message(&format!("note: plugin `{name}` is disabled, so it is not checked"));
    }
    let found = surveyed.len();
    surveyed.retain(|one| !one.is_disabled);
    surveyed.sort_by_cached_key(|one| (survey_report::name(one), one.folder.clone()));
    let sample = Input::of_sample(args.text.as_deref(), args.input.as_deref())?;
    let mut checked = load(&surveyed, options, sample.as_ref())?;
    for one in checked.iter_mut().filter(|one| one.may_run()) {
        one.check_protocol(options, sample.as_ref());
    }
    let passed = checked.iter().filter(|one| one.has_passed()).count();
    if options.json {
        let plugins: Vec<_> = checked.iter().map(Checked::json).collect();
        let errors: Vec<_> = errors.iter().map(error_json).collect();
        out.json(&json!({
            "plugins": plugins, "problems": errors,
            "passed": passed, "failed": checked.len() - passed,
        }))?;
    } else if !checked.is_empty() {
        let rows = checked.iter().map(Checked::row).collect();
        out.table(&["NAME", "VERSION", "RESULT", "LIBRARY", "NOTES"], rows)?;
    }
    if !options.json {
        checked.iter().try_for_each(|one| one.print_steps(out))?;
    }
    // The table comes before the messages about it.
    out.flush()?;
    if !options.json {
        checked.iter().for_each(Checked::print_hint);
    }
    survey_report::print_errors(&errors, options);
    match checked.len() {
        0 if dirs.is_empty() => print_message("error: nothing to check: no plugin directory"),
        0 if found > 0 => print_message("error: nothing to check: all plugins are disabled"),
        0 => {
            let dirs = quoted(&dirs);
            print_message(&format!("error: nothing to check: no plugins found in {dirs}"));
            print_hint(NO_PLUGINS_HINT);
        }
        _ if options.json => {}
        all => print_message(&format!("{passed} of {all} passed")),
    }
    let all_passed = !checked.is_empty() && passed == checked.len() && errors.is_empty();
    match all_passed {
        true => Ok(Status::Success),
        false => Ok(Status::Failed),
    }
}

fn load<'a>(
    surveyed: &'a [SurveyedPlugin],
    options: &Options,
    sample: Option<&Input>,
) -> Result<Vec<Checked<'a>>, Failure> {
    let refusals = trial_loads::run(surveyed, options)?;
    let mut checked: Vec<_> =
        surveyed.iter().map(|plugin| Checked::new(plugin, refusals.of(plugin).cloned())).collect();
    let accepted = checked.iter().filter(|one| one.refusal.is_none());
    let accepted =
        accepted.map(|one| discovered(&one.plugin.folder, one.plugin.instance.as_ref())).collect();
    let host = builder(options, &[]).discovery(Needed(accepted)).allow_unverified(true).build()?;
    let events = host.events();
    let listener = thread::spawn(move || collect(events));
    let report = block_on(host.load_all());
    for refused in &report.refused {
        for one in &mut checked {
            // The host makes folders absolute. A folder can have several instances.
            let folder = std::path::absolute(&one.plugin.folder);
            let is_named = refused
                .name
                .as_ref()
                .is_none_or(|name| name.as_str() == survey_report::name(one.plugin));
            if is_named && folder.is_ok_and(|folder| folder == refused.folder) {
                one.refusal = Some(Refusal::from(&refused.error));
            }
        }
    }
    let names: BTreeSet<_> = report.loaded.iter().map(|one| one.name.as_str()).collect();
    for one in checked.iter_mut().filter(|one| one.refusal.is_none()) {
        let name = survey_report::name(one.plugin);
        if !names.contains(name.as_str()) {
            let failure = "the host neither loaded nor refused it; this is a bug in the host";
            one.failures.push(failure.to_owned());
            continue;
        }
        let health =
            host.plugin(&name).map(|plugin| block_on(async move { plugin.health().await }));
        match health.and_then(|health| health) {
            // An event reports the panic too.
            Err(error) if error.kind() == ErrorKind::Panicked => {
                one.health_panic = Some(format!("health: {}", error.full_message()));
            }
            Err(error) => one.failures.push(format!("health: {}", error.full_message())),
            Ok(()) if survey_report::is_library(one.plugin) => {
                let plugin = host.plugin(&name).ok();
                let call = |plugin| trial_loads::call_on_two_threads(&plugin, sample);
                one.failures.extend(plugin.map(call).unwrap_or_default());
            }
            Ok(()) => {}
        }
        let loaded = report.loaded.iter().find(|loaded| loaded.name.as_str() == name);
        one.notes.extend(loaded.into_iter().flat_map(|loaded| loaded.notes.clone()));
    }
    block_on(host.shutdown(GRACE));
    drop(host);
    let mut observed = listener.join().unwrap_or_default();
    for one in checked.iter_mut().filter(|one| one.refusal.is_none()) {
        one.add(observed.remove(&survey_report::name(one.plugin)).unwrap_or_default());
    }
    Ok(checked)
}

/// The content of the events about one plugin.
#[derive(Default)]
struct Observed {
    failures: Vec<String>,
    library: Option<LibraryState>,
}

/// Reads events until the host stops, on a separate thread so that none is missed.
fn collect(mut events: Events) -> BTreeMap<String, Observed> {
    let mut observed: BTreeMap<String, Observed> = BTreeMap::new();
    while let Some(event) = events.next_blocking() {
        match event {
            HostEvent::Faulted { plugin, fault, .. } => {
                observed.entry(plugin.to_string()).or_default().fail(fault.to_string());
            }
            HostEvent::ShutdownFailed { plugin, reason, .. } => {
                let failure = format!("shutdown: {reason}");
                observed.entry(plugin.to_string()).or_default().fail(failure);
            }
            HostEvent::Closed { plugin, leaked_bytes, .. } => {
                observed.entry(plugin.to_string()).or_default().library =
                    Some(LibraryState::Closed { leaked_bytes });
            }
            HostEvent::Kept { plugin, reason, .. } => {
                observed.entry(plugin.to_string()).or_default().library =
                    Some(LibraryState::Kept { reason });
            }
            HostEvent::Stopped => break,
            _ => {}
        }
    }
    observed
}

impl Observed {
    /// Adds a failure, once: each call may fail in the same way.
    fn fail(&mut self, failure: String) {
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }
}

impl<'a> Checked<'a> {
    fn new(plugin: &'a SurveyedPlugin, refusal: Option<Refusal>) -> Self {
        Self {
            plugin,
            refusal,
            failures: Vec::new(),
            health_panic: None,
            notes: Vec::new(),
            library: None,
            steps: None,
        }
    }

    fn add(&mut self, observed: Observed) {
        if survey_report::has_no_digest(self.plugin) {
            self.notes.push("plugin.json contains no digest".to_owned());
        }
        match observed.failures.is_empty() {
            true => self.failures.extend(self.health_panic.take()),
            false => self.failures.extend(observed.failures),
        }
        self.library = observed.library.filter(|_| survey_report::is_library(self.plugin));
        match &self.library {
            Some(LibraryState::Closed { leaked_bytes: Some(bytes @ 1..) }) => {
                self.notes.push(format!("it did not release {bytes} bytes"));
            }
            Some(LibraryState::Kept { reason }) => {
                self.notes.push(format!("its library stays mapped: {reason}"))
            }
            _ => {}
        }
    }

    /// Returns whether a host runs the program: it loads it, or refuses it for what it did.
    fn may_run(&self) -> bool {
        let step = match &self.refusal {
            _ if self.plugin.problem.is_some() => return false,
            Some(refusal) => refusal.step,
            None => return true,
        };
        matches!(
            step,
            Some(
                LoadStep::Capabilities
                    | LoadStep::Version
                    | LoadStep::Config
                    | LoadStep::Launch
                    | LoadStep::Location
                    | LoadStep::Ready
                    | LoadStep::Init
                    | LoadStep::Health
            )
        )
    }

    fn check_protocol(&mut self, options: &Options, sample: Option<&Input>) {
        match ConformanceReport::run(self.plugin, options, sample) {
            Ok(steps) => {
                self.failures.extend(steps.iter().filter_map(ConformanceReport::failure));
                self.steps = steps;
            }
            // The refusal has the same reason.
            Err(_) if self.refusal.is_some() => {}
            Err(error) => self.failures.push(error.full_message()),
        }
    }

    fn print_steps(&self, out: &mut Out) -> Result<(), Failure> {
        match &self.steps {
            Some(steps) => steps.print(&survey_report::name(self.plugin), out),
            None => Ok(()),
        }
    }

    /// Returns how to load the plugin, or how to add its digest.
    fn hint(&self) -> Option<String> {
        match &self.refusal {
            Some(refusal) => refusal.json["hint"].as_str().map(str::to_owned),
            None if survey_report::has_no_digest(self.plugin) => {
                Some(survey_report::seal_hint(self.plugin))
            }
            None => None,
        }
    }

    fn print_hint(&self) {
        // The trial load of a library without a digest has printed the hint.
        let is_printed = self.refusal.is_none() && survey_report::is_library(self.plugin);
        if !is_printed {
            survey_report::print_hint_for(self.plugin, self.hint().as_deref());
        }
    }

    fn has_passed(&self) -> bool {
        self.refusal.is_none() && self.failures.is_empty()
    }

    fn result(&self) -> &'static str {
        match (&self.refusal, self.failures.is_empty()) {
            (Some(_), _) => "refused",
            (None, false) => "failed",
            (None, true) => "passed",
        }
    }

    fn library(&self) -> Option<&'static str> {
        self.library.as_ref().map(|library| match library {
            LibraryState::Closed { .. } => "closed",
            LibraryState::Kept { .. } => "kept",
        })
    }

    fn row(&self) -> Row {
        let version = self.plugin.manifest.as_ref();
        let version = version.map(|manifest| manifest.version().to_string());
        let refusal = self.refusal.iter().map(|refusal| &refusal.short);
        let notes = refusal.chain(&self.failures).chain(&self.notes);
        let notes: Vec<_> = notes.map(String::as_str).collect();
        Row {
            cells: vec![
                survey_report::name(self.plugin),
                version.unwrap_or_else(|| "-".to_owned()),
                self.result().to_owned(),
                self.library().unwrap_or("-").to_owned(),
                notes.join("; ").replace(":\n  ", ": ").replace("\n  ", "; ").replace('\n', "; "),
            ],
            state_column: 2,
            is_error: !self.has_passed(),
        }
    }

    fn json(&self) -> Value {
        let manifest = self.plugin.manifest.as_ref();
        let leaked_bytes = match &self.library {
            Some(LibraryState::Closed { leaked_bytes }) => *leaked_bytes,
            _ => None,
        };
        json!({
            "name": manifest.map(|manifest| manifest.name().as_str()),
            "version": manifest.map(|manifest| manifest.version().to_string()),
            "folder": self.plugin.folder.display().to_string(),
            "result": self.result(),
            "problem": self.refusal.as_ref().map(|refusal| &refusal.json),
            "failures": self.failures,
            "notes": self.notes,
            "hint": self.hint(),
            "library": self.library(),
            "leaked_bytes": leaked_bytes,
            "steps": self.steps.as_ref().map(ConformanceReport::json),
        })
    }
}

/// The protocol steps of one program.
pub(crate) struct ConformanceReport(Conformance);

impl ConformanceReport {
    /// Runs all steps with a program. Returns `None` for other kinds of plugins.
    pub(crate) fn run(
        one: &SurveyedPlugin,
        options: &Options,
        sample: Option<&Input>,
    ) -> Result<Option<Self>, Error> {
        let manifest = one.manifest.as_ref();
        if manifest.is_none_or(|manifest| manifest.kind() != Kind::Process) {
            return Ok(None);
        }
        let builder = builder(options, &[]).allow_unverified(true);
        let sample = sample.map(Input::request);
        hotbay::inspect::check_program(&builder, &one.folder, sample.as_ref())
            .map(|report| Some(Self(report)))
    }

    /// Returns the names of the failed steps as a message.
    pub(crate) fn failure(&self) -> Option<String> {
        let failed: Vec<_> = self.0.failed().map(|step| step.name).collect();
        match failed.as_slice() {
            [] => None,
            [one] => Some(format!("protocol step `{one}` failed")),
            many => Some(format!("protocol steps failed: {}", many.join(", "))),
        }
    }

    pub(crate) fn print(&self, name: &str, out: &mut Out) -> Result<(), Failure> {
        out.line("")?;
        out.line(&format!("protocol conformance of {name}:"))?;
        self.0.steps.iter().try_for_each(|step| {
            let (word, style) = match step.outcome {
                ConformanceOutcome::Passed => ("ok     ", Style::Green),
                ConformanceOutcome::Failed => ("FAILED ", Style::Red),
                _ => ("skipped", Style::Yellow),
            };
            // A message that quotes the program's output has several lines.
            let mut lines = step.message.lines();
            let first = lines.next().unwrap_or_default();
            out.marked_line("  ", (word, style), &format!("  {:<17} {first}", step.name))?;
            let hint = step.hint.as_ref().map(|hint| format!("hint: {hint}"));
            let mut below = lines.chain(hint.as_deref());
            below.try_for_each(|line| out.line(&format!("{:29}{line}", "")))
        })
    }

    pub(crate) fn json(&self) -> Value {
        let steps = self.0.steps.iter().map(|step| {
            json!({
                "name": step.name,
                "outcome": step.outcome.as_str(),
                "message": step.message,
                "hint": step.hint,
            })
        });
        steps.collect()
    }
}
