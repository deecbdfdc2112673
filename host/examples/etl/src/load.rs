//! The path of rows: read in batches, passed through the steps, stored together with the position.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use csv::StringRecord;
use etl_contract::{Outcome, Row, Step};
use hotbay::Host;
use hotbay::contract::Handle;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::store::{Position, Store};

/// Steps and a store, ready to load a file.
pub(crate) struct Load {
    steps: Vec<(String, Handle<dyn Step>)>,
    store: Store,
    batch: usize,
}

/// How a load ended.
#[derive(Debug)]
pub(crate) enum End {
    Complete,
    Stopped,
}

/// What a load has done, including earlier runs.
#[derive(Debug)]
pub(crate) struct Summary {
    in_file: u64,
    before: u64,
    position: Position,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { rows, rejected, .. } = self.position;
        write!(
            f,
            "{rows} of {} rows: {} stored, {rejected} rejected; {} of them in this run",
            self.in_file,
            rows - rejected,
            rows - self.before
        )
    }
}

impl Load {
    pub(crate) fn new(host: &Host, steps: &[String], batch: usize) -> Result<Self, hotbay::Error> {
        let step = |name: &String| Ok((name.clone(), host.contract::<dyn Step>(name)?));
        let steps = steps.iter().map(step).collect::<Result<_, hotbay::Error>>()?;
        Ok(Self { steps, store: Store::new(host.contract("storage")?), batch })
    }

    /// Loads the rows of a file that are not stored yet, until `stop` is set.
    ///
    /// # Errors
    ///
    /// If the file is not valid CSV, a step or the store fails, or the store has rows of another
    /// file. Batches before that are stored.
    pub(crate) fn run(mut self, file: &[u8], stop: &AtomicBool) -> anyhow::Result<(End, Summary)> {
        let digest: String =
            Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut position = self.store.position()?.unwrap_or_else(|| Position::start(&digest));
        ensure!(position.file == digest, "the store has rows of another file");
        let mut reader = reader_of(file);
        let columns = reader.headers()?.clone();
        let in_file = reader_of(file).records().count() as u64;
        let before = position.rows;
        let bar = bar(in_file, before)?;

        let mut records = reader.records().skip(usize::try_from(before)?);
        while !stop.load(Ordering::Relaxed) {
            let batch = records.by_ref().take(self.batch);
            let rows = batch.map(|record| Ok(row_of(&columns, &record?).into()));
            let rows = rows.collect::<Result<Vec<Outcome>, csv::Error>>()?;
            if rows.is_empty() {
                bar.finish_and_clear();
                return Ok((End::Complete, Summary { in_file, before, position }));
            }
            let outcomes = self.process(rows)?;
            position = self.store.save(position, &outcomes)?;
            bar.set_position(position.rows);
            if bar.is_hidden() {
                eprintln!("{} of {in_file} rows", position.rows);
            }
        }
        bar.abandon();
        Ok((End::Stopped, Summary { in_file, before, position }))
    }

    /// Passes rows through all steps, each row until a step rejects it.
    fn process(&self, mut outcomes: Vec<Outcome>) -> anyhow::Result<Vec<Outcome>> {
        for (name, step) in &self.steps {
            let passed =
                outcomes.iter_mut().filter(|outcome| matches!(outcome, Outcome::Passed(_)));
            let passed: Vec<_> = passed.collect();
            let rows = passed.iter().filter_map(|outcome| match outcome {
                Outcome::Passed(row) => Some(row.clone()),
                Outcome::Rejected(_) => None,
            });
            let rows: Vec<_> = rows.collect();
            let results = step.process(&rows).with_context(|| format!("step `{name}` failed"))?;
            ensure!(results.len() == rows.len(), "step `{name}` lost rows");
            for (outcome, result) in passed.into_iter().zip(results) {
                *outcome = match result {
                    Outcome::Rejected(reason) => Outcome::Rejected(format!("{name}: {reason}")),
                    passed => passed,
                };
            }
        }
        Ok(outcomes)
    }
}

/// Returns a progress bar, which is hidden unless stderr is a terminal.
fn bar(in_file: u64, done: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} rows, {eta} left")?;
    let bar = ProgressBar::new(in_file).with_style(style).with_position(done);
    // The rows of earlier runs do not count for the estimate.
    bar.reset_eta();
    Ok(bar)
}

/// Returns a reader that accepts rows with any number of fields.
fn reader_of(file: &[u8]) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().flexible(true).from_reader(file)
}

/// Returns a row, or the reason to reject it.
fn row_of(columns: &StringRecord, record: &StringRecord) -> Result<Row, String> {
    if record.len() != columns.len() {
        return Err(format!("{} fields; expected {}", record.len(), columns.len()));
    }
    let values = columns.iter().map(str::to_owned).zip(record.iter().map(str::to_owned));
    Ok(Row { values: BTreeMap::from_iter(values) })
}
