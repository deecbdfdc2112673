//! The limits that the host checks itself, by samples of what the processes of a program use. Linux
//! only; other systems check nothing.

use std::sync::Arc;
use std::time::Duration;

use hotbay_sandbox::Policy;

use crate::call_time::CallTimes;
use crate::state::{Live, Shared};
use crate::usage::{ProcessTable, Sum};

/// Interval of the samples. Between two of them, a program may exceed its limits.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SampledLimits {
    processes: Option<u64>,
    memory_bytes: Option<u64>,
    call_cpu_time: Option<Duration>,
}

/// Waits until the processes of `live` exceed a limit of their sandbox, and returns the reason. Never
/// returns if there is no such limit. Cancel safe.
pub(crate) async fn exceeded(live: &Arc<Live>, shared: &Shared) -> String {
    let limits = shared.program.sandbox.as_ref().map(SampledLimits::of);
    let Some(limits) = limits.filter(|limits| *limits != SampledLimits::NONE) else {
        return std::future::pending().await;
    };
    let mut times = CallTimes::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let calls = limits.call_cpu_time.map(|_| shared.activity.calls());
        let calls = calls.filter(|calls| calls.running > 0);
        if calls.is_none() {
            times.clear();
            if !limits.has_sum() {
                continue;
            }
        }
        let (sampled, has_calls) = (Arc::clone(live), calls.is_some());
        let sampled = tokio::task::spawn_blocking(move || {
            let (meter, table) = (&sampled.meter, ProcessTable::default());
            let sum = limits.has_sum().then(|| meter.sum(&table));
            (sum, has_calls.then(|| meter.cpu_time(&table)))
        });
        let Ok((sum, cpu)) = sampled.await else { continue };
        if let Some(reason) = sum.and_then(|sum| limits.exceeded_by(sum)) {
            return reason;
        }
        if let (Some(calls), Some(cpu)) = (calls, cpu) {
            let highest = times.sample(calls, cpu.used, &shared.activity.calls());
            if let Some(reason) = limits.exceeded_by_call(highest.saturating_sub(cpu.error)) {
                return reason;
            }
        }
    }
}

impl SampledLimits {
    const NONE: Self = Self { processes: None, memory_bytes: None, call_cpu_time: None };

    fn of(policy: &Policy) -> Self {
        let limits = policy.limits;
        let controllers = policy.cgroup.as_ref().map(|group| group.controllers).unwrap_or_default();
        Self {
            // A single process is a matter of its filter.
            processes: limits.processes.filter(|limit| *limit > 1 && !controllers.pids),
            memory_bytes: limits.memory_bytes.filter(|_| !controllers.memory),
            call_cpu_time: limits.call_cpu_millis.map(Duration::from_millis),
        }
    }

    fn has_sum(&self) -> bool {
        self.processes.is_some() || self.memory_bytes.is_some()
    }

    fn exceeded_by(&self, sum: Sum) -> Option<String> {
        let exceeds = |used: u64, limit: Option<u64>| limit.filter(|limit| used > *limit);
        if let Some(limit) = exceeds(sum.processes, self.processes) {
            return Some(format!(
                "it exceeded its limit `processes`: it had {} processes, {limit} are permitted",
                sum.processes
            ));
        }
        exceeds(sum.memory_bytes, self.memory_bytes).map(|limit| {
            format!(
                "it exceeded its limit `memory_bytes`: its processes used {} bytes, {limit} are \
                 permitted",
                sum.memory_bytes
            )
        })
    }

    fn exceeded_by_call(&self, used: Duration) -> Option<String> {
        self.call_cpu_time.filter(|limit| used > *limit).map(|limit| {
            format!(
                "it exceeded its limit `call_cpu_seconds`: a call used {:.3} s of processor time, \
                 {} s are permitted",
                used.as_secs_f64(),
                limit.as_secs_f64()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceeded_limit_is_named() {
        let limits = SampledLimits {
            processes: Some(2),
            memory_bytes: Some(10),
            call_cpu_time: Some(Duration::from_millis(500)),
        };
        let sum = |processes, memory_bytes| Sum { processes, memory_bytes };
        assert_eq!(limits.exceeded_by(sum(2, 10)), None);
        let reason = |sum| limits.exceeded_by(sum).expect("exceeded");
        assert!(reason(sum(3, 0)).contains("`processes`: it had 3 processes, 2 are permitted"));
        assert!(reason(sum(1, 11)).contains("`memory_bytes`: its processes used 11 bytes"));
        let of_call = |millis| limits.exceeded_by_call(Duration::from_millis(millis));
        assert_eq!(of_call(500), None);
        let reason = of_call(512).expect("exceeded");
        assert!(reason.contains("a call used 0.512 s of processor time, 0.5 s are"), "{reason}");
    }
}
