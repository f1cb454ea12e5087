//! Writes a filter of system calls as the kernel wants it, and loads it.
//!
//! A filter is loaded at each start, and most of what that costs is the kernel's: it runs the filter once for each number there
//! is. A list that is gone through from its beginning takes half a millisecond then; so the numbers are in a tree here.

use std::io::{Error, Result};

use nix::libc::{self, sock_filter, sock_fprog};

use super::calls::{Call, Check, OWN};

/// Where the kernel puts what a filter sees: the number, the architecture, and the arguments, eight bytes each.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The architecture of calls that this program makes; others (of 32 bits) have other numbers.
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

/// The answer to a call that is not on the list: libraries take another way then, if they know one.
pub(super) const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
/// The answer to a call that is on the list, but not with these arguments.
pub(super) const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// Numbers from one on to the next one's, that have the same answer.
struct Range {
    start: u32,
    /// `None` for calls that are not on the list.
    checks: Option<&'static [Check]>,
}

/// Writes a filter that allows these calls to the process of that number.
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

/// Loads a filter for all threads of this process; where the container's own filter forbids that, for this thread, of which all others
/// will come.
///
/// # Errors
/// What the kernel says.
pub(super) fn load(filter: &[sock_filter]) -> Result<()> {
    let length = u16::try_from(filter.len()).map_err(Error::other)?;
    let program = sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    let (set, all) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: the kernel reads as many steps as are said to be there, and keeps a copy.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, set, all, &raw const program) };
    if result > 0 {
        return Err(Error::other(format!("thread {result} has filters of its own")));
    }
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: as above.
    if result == 0 || unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } == 0 {
        return Ok(());
    }
    Err(Error::last_os_error())
}

/// Puts the calls in the order of their numbers, with the gaps between them, and together what is alike.
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
    // Two neighbours that are allowed without checks.
    ranges.dedup_by(|next, range| matches!((next.checks, range.checks), (Some([]), Some([]))));
    ranges
}

/// The steps of a filter, the last one first: those that a step may lead to are there already.
struct Steps {
    reversed: Vec<sock_filter>,
    /// The number of the process.
    own: u32,
}

/// A step that others lead to.
type Place = usize;

/// Where the filter ends.
struct Answers {
    allowed: Place,
    refused: Place,
    unknown: Place,
}

impl Steps {
    /// The farthest that a branch reaches is 255; one of its two ways may need a jump of its own in between.
    const NEAR: usize = 250;

    /// Finds a number's range by halves.
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

    /// Goes through what must be so of the arguments.
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
            // The lower half of the argument: the kernel looks at no more of any that is checked.
            self.put(LOAD, ARGUMENTS + 8 * check.argument)
        })
    }

    /// Puts a step before all others.
    fn put(&mut self, code: u32, value: u32) -> Place {
        // Codes have sixteen bits; the constants are wider than they need to be.
        self.reversed.push(sock_filter { code: code as u16, jt: 0, jf: 0, k: value });
        self.reversed.len() - 1
    }

    fn branch(&mut self, test: u32, value: u32, then: Place, otherwise: Place) -> Place {
        let (then, otherwise) = (self.near(then), self.near(otherwise));
        let [then, otherwise] = [then, otherwise].map(|place| (self.reversed.len() - 1 - place) as u8);
        self.reversed.push(sock_filter { code: test as u16, jt: then, jf: otherwise, k: value });
        self.reversed.len() - 1
    }

    /// Makes sure that the next step can lead to a place.
    fn near(&mut self, place: Place) -> Place {
        match self.reversed.len() - 1 - place {
            far if far > Self::NEAR => self.put(JUMP, far as u32),
            _ => place,
        }
    }
}

#[cfg(test)]
mod tests;
