//! Compiles filters of system calls that find the decision about a call by a binary search of its
//! number.
//!
//! The kernel runs each new filter once for every number, to find the calls that it always permits.
//! In a list of all numbers, as `seccompiler` compiles it, this takes a third of a millisecond of
//! each start.

use std::collections::BTreeMap;
use std::num::TryFromIntError;

use seccompiler::{BpfProgram, sock_filter};

/// The first of the numbers of the x32 ABI, which has the same architecture and other numbers.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// The decision about a call.
pub(crate) enum Decision {
    /// The error number with which it fails, also if it is a call of another architecture.
    Fail(i32),
    /// The program that decides by its arguments. It kills processes of other architectures.
    Run(BpfProgram),
}

/// Compiles a filter of these calls. Those of the x32 ABI fail, and `other` decides about the rest.
/// Fails if the search has more instructions than a jump can skip.
pub(crate) fn compile(
    calls: BTreeMap<u32, Decision>,
    other: BpfProgram,
) -> Result<BpfProgram, TryFromIntError> {
    let mut programs = other;
    let mut answers = BTreeMap::new();
    for (number, decision) in calls {
        answers.insert(
            number,
            match decision {
                Decision::Fail(code) => Answer::Fail(code),
                Decision::Run(program) => {
                    let start = programs.len();
                    programs.extend(program);
                    Answer::Run(u32::try_from(start)?)
                }
            },
        );
    }
    // The number is the first field of the data that a filter reads.
    let mut filter = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    filter.extend(search(&ranges(&answers), 0)?);
    filter.extend(programs);
    Ok(filter)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Fail(i32),
    /// The program that begins at this index after the search.
    Run(u32),
}

const OTHER: Answer = Answer::Run(0);

/// Numbers from `start` to the start of the next range.
struct Range {
    start: u32,
    answer: Answer,
}

fn ranges(answers: &BTreeMap<u32, Answer>) -> Vec<Range> {
    let mut ranges = vec![Range { start: 0, answer: OTHER }];
    for (number, answer) in answers {
        ranges.push(Range { start: *number, answer: *answer });
        ranges.push(Range { start: number + 1, answer: OTHER });
    }
    #[cfg(target_arch = "x86_64")]
    ranges.push(Range { start: X32, answer: Answer::Fail(libc::ENOSYS) });
    // Between two numbers in sequence, and before 0, the range is empty.
    ranges.dedup_by(|later, earlier| {
        let is_empty = later.start == earlier.start;
        if is_empty {
            earlier.answer = later.answer;
        }
        is_empty
    });
    ranges.dedup_by_key(|range| range.answer);
    ranges
}

/// Returns the instructions that find the range of a number. `rest` is the number of those between
/// them and the programs.
fn search(ranges: &[Range], rest: u32) -> Result<BpfProgram, TryFromIntError> {
    if let [Range { answer, .. }] = ranges {
        return Ok(vec![match answer {
            Answer::Fail(code) => instruction(libc::BPF_RET | libc::BPF_K, fail(*code)),
            Answer::Run(start) => instruction(libc::BPF_JMP | libc::BPF_JA, rest + start),
        }]);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let mut jump = instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, upper[0].start);
    let upper = search(upper, rest)?;
    let lower = search(lower, rest + u32::try_from(upper.len())?)?;
    jump.jt = u8::try_from(lower.len())?;
    Ok([vec![jump], lower, upper].concat())
}

/// Returns the result of a filter by which a call fails.
fn fail(code: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | code.unsigned_abs()
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a filter as the kernel does, with the words of the data that it reads: the number, the
    /// architecture, two words of an address, and two of each argument. Returns its result and the
    /// number of instructions.
    pub(crate) fn run(filter: &[sock_filter], data: &[u32; 16]) -> (u32, usize) {
        const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
        const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
        const ALWAYS: u32 = libc::BPF_JMP | libc::BPF_JA;
        const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        const GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
        const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
        let (mut at, mut value, mut count) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = filter[at];
            let jump = |holds| usize::from(if holds { jt } else { jf });
            count += 1;
            at += 1;
            match u32::from(code) {
                LOAD => value = data[k as usize / 4],
                RETURN => return (k, count),
                AND => value &= k,
                ALWAYS => at += k as usize,
                EQUAL => at += jump(value == k),
                GREATER => at += jump(value > k),
                AT_LEAST => at += jump(value >= k),
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn run_number(filter: &[sock_filter], number: u32) -> (u32, usize) {
        let mut data = [0; 16];
        data[0] = number;
        run(filter, &data)
    }

    fn result(result: u32) -> BpfProgram {
        vec![instruction(libc::BPF_RET | libc::BPF_K, result)]
    }

    #[test]
    fn filter_runs_the_decision_of_each_number() {
        const OTHER: u32 = 100_000;
        let errors = [(0, 1), (1, 1), (2, 38), (7, 1), (9, 38), (10, 1), (435, 38), (450, 1)];
        let programs = [3, 8, 11, 40, 41, 451];
        for (errors, programs) in [(&errors[..], &programs[..]), (&[], &programs), (&[], &[])] {
            let mut calls = BTreeMap::new();
            let mut expected = BTreeMap::new();
            for (number, code) in errors {
                calls.insert(*number, Decision::Fail(*code));
                expected.insert(*number, fail(*code));
            }
            for number in programs {
                calls.insert(*number, Decision::Run([result(*number), result(0)].concat()));
                expected.insert(*number, *number);
            }
            let filter = compile(calls, result(OTHER)).expect("a filter");
            for number in 0..600 {
                let expected = expected.get(&number).unwrap_or(&OTHER);
                assert_eq!(run_number(&filter, number).0, *expected, "{number}");
            }
            #[cfg(target_arch = "x86_64")]
            for number in [X32, X32 + 7, u32::MAX] {
                assert_eq!(run_number(&filter, number).0, fail(libc::ENOSYS), "{number:#x}");
            }
        }
    }

    fn failing(count: u32) -> BTreeMap<u32, Decision> {
        (0..count).map(|number| (3 * number, Decision::Fail(1))).collect()
    }

    #[test]
    fn search_of_many_numbers_is_short() {
        let filter = compile(failing(120), result(0)).expect("a filter");
        assert!((0..600).all(|number| run_number(&filter, number).1 <= 11));
    }

    #[test]
    fn too_many_numbers_are_an_error() {
        assert!(compile(failing(200), result(0)).is_err());
    }
}
