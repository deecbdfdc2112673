//! `hotbay check`: every plugin is loaded for real, asked for its health and shut down. Libraries
//! are called from two threads.
//! What nothing vouches for is loaded in a child first; what failed there is not loaded here.
//! Programs are held against the protocol besides.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use hotbay::inspect::{self, Survey, SurveyedPlugin};
use hotbay::manifest::Kind;
use hotbay::{Events, HostEvent};
use serde_json::{Value, json};

use crate::args::{Check, Options};
use crate::failure::{Failure, error_json};
use crate::input::Input;
use crate::output::{Out, Row, say};
use crate::places::{builder, dirs, told};
use crate::start::{GRACE, block_on};
use crate::steps::Steps;
use crate::vetting::{Refusal, vet};
use crate::{Verdict, report, two_threads};

/// What came of one plugin.
struct Checked<'a> {
    plugin: &'a SurveyedPlugin,
    refusal: Option<Refusal>,
    failures: Vec<String>,
    notes: Vec<String>,
    library: Option<Library>,
    steps: Option<Steps>,
}

/// What became of its library after the shutdown.
enum Library {
    Closed { leaked_bytes: Option<i64> },
    Kept { reason: String },
}

pub(crate) fn check(args: &Check, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let dirs = match args.places.as_slice() {
        [] => dirs(options),
        places => places.to_vec(),
    };
    let Survey { plugins: mut surveyed, errors: problems, .. } =
        inspect::survey(&builder(options, &dirs));
    surveyed.sort_by_cached_key(|one| (report::name(one), one.folder.clone()));
    let sample = Input::of_sample(args.text.as_deref(), args.input.as_deref())?;
    let mut checked = load(&surveyed, options, sample.as_ref())?;
    for one in &mut checked {
        one.hold_against_the_protocol(options, sample.as_ref());
    }
    let passed = checked.iter().filter(|one| one.is_well()).count();
    if options.json {
        let plugins: Vec<_> = checked.iter().map(Checked::json).collect();
        let problems: Vec<_> = problems.iter().map(error_json).collect();
        out.json(&json!({
            "plugins": plugins, "problems": problems,
            "passed": passed, "failed": checked.len() - passed,
        }))?;
    } else if !checked.is_empty() {
        let rows = checked.iter().map(Checked::row).collect();
        out.table(&["NAME", "VERSION", "RESULT", "LIBRARY", "WHAT IS TO BE SAID"], rows)?;
    }
    if !options.json {
        checked.iter().try_for_each(|one| one.tell_steps(out))?;
    }
    // The table comes before what is said of it.
    out.flush()?;
    report::tell(&problems, options);
    match checked.len() {
        0 if dirs.is_empty() => {}
        0 => say(&format!("nothing to check: no plugins in {}", told(&dirs))),
        _ if options.json => {}
        all => say(&format!("{passed} of {all} passed")),
    }
    let is_well = !checked.is_empty() && passed == checked.len() && problems.is_empty();
    match is_well {
        true => Ok(Verdict::Well),
        false => Ok(Verdict::Wrong),
    }
}

fn load<'a>(
    surveyed: &'a [SurveyedPlugin],
    options: &Options,
    sample: Option<&Input>,
) -> Result<Vec<Checked<'a>>, Failure> {
    let refusals = vet(surveyed, options)?;
    let mut checked: Vec<_> = surveyed
        .iter()
        .map(|plugin| Checked::new(plugin, refusals.of(&plugin.folder).cloned()))
        .collect();
    // Each folder is a place of its own, so that exactly these are loaded.
    let folders = checked.iter().filter(|one| one.refusal.is_none());
    let folders: Vec<_> = folders.map(|one| one.plugin.folder.clone()).collect();
    let host = builder(options, &folders).allow_unverified(true).build()?;
    let events = host.events();
    let listener = thread::spawn(move || seen(events));
    let report = block_on(host.load_all());
    for refused in &report.refused {
        for one in &mut checked {
            // The host makes its folders absolute.
            let folder = std::path::absolute(&one.plugin.folder);
            if folder.is_ok_and(|folder| folder == refused.folder) {
                one.refusal = Some(Refusal::from(&refused.error));
            }
        }
    }
    let names: BTreeSet<_> = report.loaded.iter().map(|one| one.name.as_str()).collect();
    for one in checked.iter_mut().filter(|one| one.refusal.is_none()) {
        let name = report::name(one.plugin);
        if !names.contains(name.as_str()) {
            let error = Failure::new("bug", "was neither loaded nor refused");
            one.failures.extend(error.lines());
            continue;
        }
        let health =
            host.plugin(&name).map(|plugin| block_on(async move { plugin.health().await }));
        if let Err(error) = health.and_then(|health| health) {
            one.failures.push(format!("health: {}", error.full_message()));
        } else if let Some(plugin) = host.plugin(&name).ok().filter(|_| one.is_library()) {
            one.failures.extend(two_threads::call(&plugin, sample));
        }
        let loaded = report.loaded.iter().find(|loaded| loaded.name.as_str() == name);
        one.notes.extend(loaded.into_iter().flat_map(|loaded| loaded.notes.clone()));
    }
    block_on(host.shutdown(GRACE));
    drop(host);
    let mut seen = listener.join().unwrap_or_default();
    for one in checked.iter_mut().filter(|one| one.refusal.is_none()) {
        one.add(seen.remove(&report::name(one.plugin)).unwrap_or_default());
    }
    Ok(checked)
}

/// What the events told of one plugin.
#[derive(Default)]
struct Seen {
    failures: Vec<String>,
    library: Option<Library>,
}

/// Listens to the end, so that no event is missed however many plugins there are.
fn seen(mut events: Events) -> BTreeMap<String, Seen> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    while let Some(event) = events.next_blocking() {
        match event {
            HostEvent::Faulted { plugin, fault, .. } => {
                let seen = seen.entry(plugin.to_string()).or_default();
                seen.failures.push(fault.to_string());
            }
            HostEvent::ShutdownFailed { plugin, reason, .. } => {
                let seen = seen.entry(plugin.to_string()).or_default();
                seen.failures.push(format!("shutdown: {reason}"));
            }
            HostEvent::Closed { plugin, leaked_bytes, .. } => {
                seen.entry(plugin.to_string()).or_default().library =
                    Some(Library::Closed { leaked_bytes });
            }
            HostEvent::Kept { plugin, reason, .. } => {
                seen.entry(plugin.to_string()).or_default().library =
                    Some(Library::Kept { reason });
            }
            HostEvent::Stopped => break,
            _ => {}
        }
    }
    seen
}

impl<'a> Checked<'a> {
    fn new(plugin: &'a SurveyedPlugin, refusal: Option<Refusal>) -> Self {
        Self {
            plugin,
            refusal,
            failures: Vec::new(),
            notes: Vec::new(),
            library: None,
            steps: None,
        }
    }

    fn add(&mut self, seen: Seen) {
        if report::is_unverified(self.plugin) {
            let folder = self.plugin.folder.display();
            self.notes.push(format!("no digest; `hotbay seal {folder}` writes it"));
        }
        self.failures.extend(seen.failures);
        self.library = seen.library;
        match &self.library {
            Some(Library::Closed { leaked_bytes: Some(bytes @ 1..) }) => {
                self.notes.push(format!("did not release {bytes} bytes"));
            }
            Some(Library::Kept { reason }) => self.notes.push(format!("kept: {reason}")),
            _ => {}
        }
    }

    fn hold_against_the_protocol(&mut self, options: &Options, sample: Option<&Input>) {
        match Steps::of(self.plugin, options, sample) {
            Ok(steps) => {
                self.failures.extend(steps.iter().filter_map(Steps::failure));
                self.steps = steps;
            }
            // Whoever refused to load it has said the same.
            Err(_) if self.refusal.is_some() => {}
            Err(error) => self.failures.push(error.full_message()),
        }
    }

    fn tell_steps(&self, out: &mut Out) -> Result<(), Failure> {
        match &self.steps {
            Some(steps) => steps.tell(&report::name(self.plugin), out),
            None => Ok(()),
        }
    }

    fn is_library(&self) -> bool {
        let manifest = self.plugin.manifest.as_ref();
        manifest.is_some_and(|manifest| manifest.kind() == Kind::Library)
    }

    fn is_well(&self) -> bool {
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
            Library::Closed { .. } => "closed",
            Library::Kept { .. } => "kept",
        })
    }

    fn row(&self) -> Row {
        let version = self.plugin.manifest.as_ref();
        let version = version.map(|manifest| manifest.version().to_string());
        let refusal = self.refusal.iter().map(|refusal| &refusal.short);
        let said: Vec<_> = refusal.chain(&self.failures).chain(&self.notes).collect();
        let said: Vec<_> = said.into_iter().map(String::as_str).collect();
        Row {
            cells: vec![
                report::name(self.plugin),
                version.unwrap_or_else(|| "-".to_owned()),
                self.result().to_owned(),
                self.library().unwrap_or("-").to_owned(),
                said.join("; ").replace(":\n  ", ": ").replace("\n  ", "; ").replace('\n', "; "),
            ],
            state: 2,
            is_wrong: !self.is_well(),
        }
    }

    fn json(&self) -> Value {
        let manifest = self.plugin.manifest.as_ref();
        let leaked_bytes = match &self.library {
            Some(Library::Closed { leaked_bytes }) => *leaked_bytes,
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
            "library": self.library(),
            "leaked_bytes": leaked_bytes,
            "steps": self.steps.as_ref().map(Steps::json),
        })
    }
}
