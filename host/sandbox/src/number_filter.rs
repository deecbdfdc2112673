//! A filter of system calls that finds what decides about a call by its number.
//!
//! The kernel runs each new filter once for every number, to find the calls that it always permits.
//! So the number is found by a binary search. In the list that `seccompiler` compiles, it would take
//! a third of a millisecond of each start.

use std::collections::BTreeMap;
use std::io;
use std::num::TryFromIntError;

use seccompiler::{BpfProgram, sock_filter};

/// The first of the numbers of the x32 ABI, which has the same architecture and other numbers.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// What decides about a call.
pub(crate) enum Decision {
    /// It fails with this error number.
    Fail(i32),
    /// A program, which also checks the architecture.
    Run(BpfProgram),
}

/// Compiles a filter of these calls. Those of the x32 ABI fail, and `other` decides about the rest.
pub(crate) fn compile(calls: BTreeMap<u32, Decision>, other: BpfProgram) -> io::Result<BpfProgram> {
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
                    Answer::Run(u32::try_from(start).map_err(too_long)?)
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
fn search(ranges: &[Range], rest: u32) -> io::Result<BpfProgram> {
    if let [Range { answer, .. }] = ranges {
        return Ok(vec![match answer {
            Answer::Fail(code) => instruction(libc::BPF_RET | libc::BPF_K, fail(*code)),
            Answer::Run(start) => instruction(libc::BPF_JMP | libc::BPF_JA, rest + start),
        }]);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let mut jump = instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, upper[0].start);
    let upper = search(upper, rest)?;
    let lower = search(lower, rest + u32::try_from(upper.len()).map_err(too_long)?)?;
    jump.jt = u8::try_from(lower.len()).map_err(too_long)?;
    Ok([vec![jump], lower, upper].concat())
}

fn too_long(_: TryFromIntError) -> io::Error {
    io::Error::other("a filter of system calls is too long")
}

/// Returns the result of a filter by which a call fails.
fn fail(code: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | code.unsigned_abs()
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(result: u32) -> BpfProgram {
        vec![instruction(libc::BPF_RET | libc::BPF_K, result)]
    }

    /// Runs a filter as the kernel does, and returns its result and the number of instructions.
    fn run(filter: &[sock_filter], number: u32) -> (u32, usize) {
        let (mut at, mut count) = (1, 1);
        loop {
            let sock_filter { code, jt, jf, k } = filter[at];
            count += 1;
            at += 1 + match u32::from(code) {
                code if code == libc::BPF_RET | libc::BPF_K => return (k, count),
                code if code == libc::BPF_JMP | libc::BPF_JA => k as usize,
                _ => usize::from(if number >= k { jt } else { jf }),
            };
        }
    }

    #[test]
    fn each_number_has_its_decision_and_the_other_program_decides_about_the_rest() {
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
                assert_eq!(run(&filter, number).0, *expected, "{number}");
            }
            #[cfg(target_arch = "x86_64")]
            for number in [X32, X32 + 7, u32::MAX] {
                assert_eq!(run(&filter, number).0, fail(libc::ENOSYS), "{number:#x}");
            }
        }
    }

    #[test]
    fn search_is_short_and_too_many_numbers_are_an_error() {
        let calls = |count| (0..count).map(|number| (3 * number, Decision::Fail(1))).collect();
        let filter = compile(calls(120), result(0)).expect("a filter");
        assert!((0..600).all(|number| run(&filter, number).1 <= 11));
        assert!(compile(calls(200), result(0)).is_err());
    }
}
