//! Short interleaved samples of several contenders, so that a disturbance affects all of them.

use std::time::{Duration, Instant};

/// A measured operation, which repeats its work as often as requested.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    pub(crate) work: Box<dyn FnMut(u64) + 'a>,
}

/// Nanoseconds per repetition of one contender, by round.
#[derive(Debug)]
pub(crate) struct Samples {
    pub(crate) name: String,
    rounds: Vec<f64>,
}

/// Measures all contenders in turn for `rounds` rounds, each for about `sample` per round.
pub(crate) fn interleaved(
    contenders: &mut [Contender<'_>],
    rounds: usize,
    sample: Duration,
) -> Vec<Samples> {
    let times: Vec<_> =
        contenders.iter_mut().map(|contender| times_in(sample, &mut contender.work)).collect();
    let mut samples: Vec<_> = contenders
        .iter()
        .map(|contender| Samples {
            name: contender.name.clone(),
            rounds: Vec::with_capacity(rounds),
        })
        .collect();
    for _ in 0..rounds {
        for (index, contender) in contenders.iter_mut().enumerate() {
            let took = time(|| (contender.work)(times[index]));
            samples[index].rounds.push(took / times[index] as f64);
        }
    }
    samples
}

impl Samples {
    /// Returns the fastest round: the cost without disturbance.
    pub(crate) fn min(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn median(&self) -> f64 {
        quantile(self.rounds.clone(), 0.5)
    }

    /// Returns the median of the differences to `other` in the same round.
    pub(crate) fn above(&self, other: &Samples) -> f64 {
        let differences = self.rounds.iter().zip(&other.rounds);
        quantile(differences.map(|(own, other)| own - other).collect(), 0.5)
    }
}

/// Returns the nanoseconds that `work` took.
pub(crate) fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64
}

/// Returns the quantile `part` of `values`; NaN if there are none.
pub(crate) fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let index = (last as f64 * part).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// Warms `work` up, and returns how often it runs in about `sample`.
fn times_in(sample: Duration, work: &mut dyn FnMut(u64)) -> u64 {
    work(1000);
    let once = (0..5).map(|_| time(|| work(1000)) / 1000.0).fold(f64::INFINITY, f64::min);
    ((sample.as_nanos() as f64 / once) as u64).max(1)
}
