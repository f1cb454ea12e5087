//! A guest's view of its process: arguments, environment, clocks, random bytes.

use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

use super::{Memory, Number, Wasi, longs, low, words};

/// `args_sizes_get`
pub(super) fn args_sizes_get(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    sizes(&wasi.args, memory, arguments)
}

/// `args_get`
pub(super) fn args_get(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    texts(&wasi.args, memory, arguments)
}

/// `environ_sizes_get`
pub(super) fn environ_sizes_get(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    sizes(&wasi.env, memory, arguments)
}

/// `environ_get`
pub(super) fn environ_get(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    texts(&wasi.env, memory, arguments)
}

fn sizes(texts: &[Vec<u8>], memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [count, size] = words(arguments);
    memory.put_count(count, texts.len())?;
    memory.put_count(size, texts.iter().map(Vec::len).sum())
}

fn texts(texts: &[Vec<u8>], memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [mut pointer, mut at] = words(arguments);
    for text in texts {
        memory.put_word(pointer, at)?;
        memory.put(at, text)?;
        pointer = pointer.checked_add(4).ok_or(Number::FAULT)?;
        at = u32::try_from(text.len()).ok().and_then(|length| at.checked_add(length)).ok_or(Number::FAULT)?;
    }
    Ok(())
}

/// `clock_res_get`
pub(super) fn clock_res_get(_: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [id, found] = words(arguments);
    memory.put_long(found, nanoseconds(clock_getres(clock(id)?)))
}

/// `clock_time_get`
pub(super) fn clock_time_get(_: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [id, _, found] = longs(arguments);
    memory.put_long(low(found), nanoseconds(clock_gettime(clock(low(id))?)))
}

fn clock(id: u32) -> Result<ClockId, Number> {
    Ok(match id {
        0 => ClockId::Realtime,
        1 => ClockId::Monotonic,
        2 => ClockId::ProcessCPUTime,
        3 => ClockId::ThreadCPUTime,
        _ => return Err(Number::INVAL),
    })
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Returns the time of the clock that never goes back.
pub(super) fn monotonic() -> Duration {
    Duration::from_nanos(nanoseconds(clock_gettime(ClockId::Monotonic)))
}

/// `random_get`
pub(super) fn random_get(_: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [at, length] = words(arguments);
    getrandom::fill(memory.bytes_mut(at, length)?).map_err(|_| Errno::IO.into())
}

/// `sched_yield`
pub(super) fn sched_yield(_: &mut Wasi, _: &mut Memory<'_>, _: &[u64]) -> Result<(), Number> {
    rustix::thread::sched_yield();
    Ok(())
}

/// `proc_raise`: no guest can send signals.
pub(super) fn raise(_: &mut Wasi, _: &mut Memory<'_>, _: &[u64]) -> Result<(), Number> {
    Err(Number::NOTSUP)
}
