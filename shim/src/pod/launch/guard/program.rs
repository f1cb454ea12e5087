//! Compiles a filter of system calls to the kernel's format, and loads it.
//!
//! A filter is loaded at each start, and most of the cost is the kernel's: it evaluates the filter once for each call number. A linear
//! list takes half a millisecond for that, so this filter is a tree of numbers.

use std::io::{Error, Result};

use nix::libc::{self, sock_filter, sock_fprog};

use super::calls::{Call, Check, OWN};

/// Offsets of a filter's input: the number, the architecture, and the arguments, eight bytes each.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The architecture of this program's calls; others (of 32 bits) have other numbers.
#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xc000_00b7;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;

/// The answer to a call that is not on the list: libraries then use an alternative, if they have one.
pub(super) const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
/// The answer to a listed call with other arguments.
pub(super) const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// Numbers with the same answer, from the first one up to the next range.
struct Range {
    start: u32,
    /// `None` for calls that are not on the list.
    checks: Option<&'static [Check]>,
}

/// Compiles a filter that allows these calls to the process with the pid `own`.
pub(super) fn write(calls: &[Call], own: u32) -> Vec<sock_filter> {
    let mut steps = Steps { reversed: Vec::with_capacity(256), own };
    let answers = Answers {
        allowed: steps.put(RETURN, libc::SECCOMP_RET_ALLOW),
        refused: steps.put(RETURN, REFUSED),
        unknown: steps.put(RETURN, UNKNOWN),
    };
    steps.tree(&ranges(calls), &answers);
    let number = steps.put(LOAD, NUMBER);
    let killed = steps.put(RETURN, libc::SECCOMP_RET_KILL_PROCESS);
    steps.branch(IF_EQUAL, OWN_ARCHITECTURE, number, killed);
    steps.put(LOAD, ARCHITECTURE);
    steps.reversed.reverse();
    steps.reversed
}

/// Loads a filter for all threads of this process. If the container's own filter forbids that, it loads the filter for this thread, from
/// which all others will be made.
///
/// # Errors
/// The kernel's error.
pub(super) fn load(filter: &[sock_filter]) -> Result<()> {
    let length = u16::try_from(filter.len()).map_err(Error::other)?;
    let program = sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    let (set, all) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: the kernel reads the given number of steps, and keeps a copy.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, set, all, &raw const program) };
    if result > 0 {
        return Err(Error::other(format!("thread {result} has filters of its own")));
    }
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the same structure, with the same lifetime.
    if result == 0 || unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } == 0 {
        return Ok(());
    }
    Err(Error::last_os_error())
}

/// Sorts the calls by number, adds the gaps between them, and merges equal neighbours.
fn ranges(calls: &[Call]) -> Vec<Range> {
    let numbers = calls.iter().filter_map(|call| Some((u32::try_from(call.number).ok()?, call.checks)));
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_by_key(|(number, _)| *number);
    let mut ranges = vec![Range { start: 0, checks: None }];
    let mut put = |start: u32, checks: Option<&'static [Check]>| match ranges.last_mut() {
        Some(last) if last.start == start => last.checks = checks,
        Some(last) if last.checks.is_none() && checks.is_none() => {}
        _ => ranges.push(Range { start, checks }),
    };
    for (number, checks) in numbers {
        put(number, Some(checks));
        put(number + 1, None);
    }
    // Two neighbours that are allowed without checks are merged.
    ranges.dedup_by(|next, range| matches!((next.checks, range.checks), (Some([]), Some([]))));
    ranges
}

/// The steps of a filter in reverse order: the targets of a step exist already.
struct Steps {
    reversed: Vec<sock_filter>,
    /// The pid of the process.
    own: u32,
}

/// The index of a step that others jump to.
type Place = usize;

/// The final steps of the filter.
struct Answers {
    allowed: Place,
    refused: Place,
    unknown: Place,
}

impl Steps {
    /// Longest distance of a branch: the limit is 255, and one of its two targets may need an additional jump in between.
    const NEAR: usize = 250;

    /// Finds a number's range by binary search.
    fn tree(&mut self, ranges: &[Range], answers: &Answers) -> Place {
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        match (lower, upper) {
            ([], [range]) => range.checks.map_or(answers.unknown, |checks| self.checks(checks, answers)),
            ([], _) => answers.unknown,
            (_, upper) => {
                let start = upper[0].start;
                let (upper, lower) = (self.tree(upper, answers), self.tree(lower, answers));
                self.branch(IF_AT_LEAST, start, upper, lower)
            }
        }
    }

    /// Compiles the checks of a call's arguments.
    fn checks(&mut self, checks: &[Check], answers: &Answers) -> Place {
        checks.iter().rev().fold(answers.allowed, |passed, check| {
            let values = check.values.iter().map(|value| if *value == OWN { self.own } else { *value });
            let values: Vec<u32> = values.collect();
            let mut otherwise = answers.refused;
            for value in values {
                otherwise = self.branch(IF_EQUAL, value, passed, otherwise);
            }
            if check.mask != u32::MAX {
                self.put(AND, check.mask);
            }
            // Only the lower half of the argument: the kernel reads no more of any argument that is checked.
            self.put(LOAD, ARGUMENTS + 8 * check.argument)
        })
    }

    /// Puts a step before all others.
    fn put(&mut self, code: u32, value: u32) -> Place {
        // Codes have sixteen bits; the constants are wider than necessary.
        self.reversed.push(sock_filter { code: code as u16, jt: 0, jf: 0, k: value });
        self.reversed.len() - 1
    }

    fn branch(&mut self, test: u32, value: u32, then: Place, otherwise: Place) -> Place {
        let (then, otherwise) = (self.near(then), self.near(otherwise));
        let [then, otherwise] = [then, otherwise].map(|place| (self.reversed.len() - 1 - place) as u8);
        self.reversed.push(sock_filter { code: test as u16, jt: then, jf: otherwise, k: value });
        self.reversed.len() - 1
    }

    /// Makes sure that the next step can reach a target.
    fn near(&mut self, place: Place) -> Place {
        match self.reversed.len() - 1 - place {
            far if far > Self::NEAR => self.put(JUMP, far as u32),
            _ => place,
        }
    }
}

#[cfg(test)]
mod tests;
