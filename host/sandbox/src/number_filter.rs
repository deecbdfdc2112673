//! The part of a filter that decides about system calls by their numbers alone.
//!
//! The kernel runs each new filter once for every number, to find the calls that it always permits.
//! So this part is a binary search. As a list, as `seccompiler` compiles it, it would take a third of
//! a millisecond of each start.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{BpfProgram, sock_filter};

/// The first of the numbers of the x32 ABI, which has the same architecture and other numbers.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Compiles a filter in which the calls of `errors` fail with their error numbers, and those of the
/// x32 ABI, too. About all others, and about the architecture, the program `other` decides.
pub(crate) fn compile(errors: &BTreeMap<u32, i32>, other: BpfProgram) -> io::Result<BpfProgram> {
    // The number is the first field of the data that a filter reads.
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    program.extend(search(&ranges(errors), 0)?);
    program.extend(other);
    Ok(program)
}

/// Numbers from `start` to the start of the next range.
struct Range {
    start: u32,
    /// With which calls fail.
    error: Option<i32>,
}

fn ranges(errors: &BTreeMap<u32, i32>) -> Vec<Range> {
    let mut ranges = vec![Range { start: 0, error: None }];
    for (number, code) in errors {
        ranges.push(Range { start: *number, error: Some(*code) });
        ranges.push(Range { start: number + 1, error: None });
    }
    #[cfg(target_arch = "x86_64")]
    ranges.push(Range { start: X32, error: Some(libc::ENOSYS) });
    // Between two numbers in sequence, and before 0, the range is empty.
    ranges.dedup_by(|later, earlier| {
        let is_empty = later.start == earlier.start;
        if is_empty {
            earlier.error = later.error;
        }
        is_empty
    });
    ranges.dedup_by_key(|range| range.error);
    ranges
}

/// Returns the instructions that find the range of a number. `rest` is the number of those between
/// them and the other program.
fn search(ranges: &[Range], rest: u32) -> io::Result<BpfProgram> {
    let too_long = |_| io::Error::other("a filter of system calls has too many numbers");
    if let [Range { error, .. }] = ranges {
        return Ok(vec![match error {
            Some(code) => instruction(libc::BPF_RET | libc::BPF_K, fail(*code)),
            None => instruction(libc::BPF_JMP | libc::BPF_JA, rest),
        }]);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let mut jump = instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, upper[0].start);
    let upper = search(upper, rest)?;
    let lower = search(lower, rest + u32::try_from(upper.len()).map_err(too_long)?)?;
    jump.jt = u8::try_from(lower.len()).map_err(too_long)?;
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
mod tests {
    use super::*;

    const PERMIT: u32 = libc::SECCOMP_RET_ALLOW;

    fn compiled(errors: &BTreeMap<u32, i32>) -> io::Result<BpfProgram> {
        compile(errors, vec![instruction(libc::BPF_RET | libc::BPF_K, PERMIT)])
    }

    /// Runs a program as the kernel does, and returns its result and the number of instructions.
    fn run(program: &[sock_filter], number: u32) -> (u32, usize) {
        let (mut at, mut count) = (1, 1);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            count += 1;
            at += 1 + match u32::from(code) {
                code if code == libc::BPF_RET | libc::BPF_K => return (k, count),
                code if code == libc::BPF_JMP | libc::BPF_JA => k as usize,
                _ => usize::from(if number >= k { jt } else { jf }),
            };
        }
    }

    #[test]
    fn each_number_has_its_error_and_the_other_program_decides_about_the_rest() {
        let errors = [(0, 1), (1, 1), (2, 38), (7, 1), (9, 38), (10, 1), (435, 38), (450, 1)];
        for errors in [BTreeMap::new(), BTreeMap::from(errors)] {
            let program = compiled(&errors).expect("a program");
            for number in 0..600 {
                let expected = errors.get(&number).map_or(PERMIT, |code: &i32| fail(*code));
                assert_eq!(run(&program, number).0, expected, "{number}");
            }
            #[cfg(target_arch = "x86_64")]
            for number in [X32, X32 + 7, u32::MAX] {
                assert_eq!(run(&program, number).0, fail(libc::ENOSYS), "{number:#x}");
            }
        }
    }

    #[test]
    fn search_is_short_and_too_many_numbers_are_an_error() {
        let errors = |count: u32| (0..count).map(|number| (3 * number, 1)).collect();
        let program = compiled(&errors(120)).expect("a program");
        assert!((0..600).all(|number| run(&program, number).1 <= 11));
        assert!(compiled(&errors(200)).is_err());
    }
}
