//! Waiting for streams and for time to pass.

use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Memory, Number, Wasi, words};
use crate::rights::{FD_READ, FD_WRITE};

/// Size of a subscription and of an event, in bytes.
const SUBSCRIPTION: u32 = 48;
const EVENT: u32 = 32;
/// Kinds of subscriptions and events.
const CLOCK: u8 = 0;
const READ: u8 = 1;
const WRITE: u8 = 2;
/// Clocks that a guest can wait for.
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
/// The flag of a clock by which its time is absolute, not counted from now on.
const ABSOLUTE: u16 = 1;
/// The flag of an event by which the other side is gone.
const HANGUP: u16 = 1;
/// Maximum number of subscriptions of one call.
const MOST: u32 = 1 << 16;

/// A time or a descriptor that a guest waits for.
struct Subscription {
    id: u64,
    kind: u8,
    wait: Wait,
}

enum Wait {
    /// Until this time; `None` is longer than anybody lives.
    Time(Option<Instant>),
    Descriptor(u32),
    /// The guest cannot wait for it.
    Refused(Number),
}

/// An event that the guest gets.
struct Event {
    id: u64,
    kind: u8,
    error: Option<Number>,
    bytes: u64,
    flags: u16,
}

/// `poll_oneoff`
pub(super) fn poll_oneoff(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [wanted, events, count, happened] = words(arguments);
    if count == 0 || count > MOST {
        return Err(Number::INVAL);
    }
    memory.bytes(events, count * EVENT)?;
    let wanted = (0..count).map(|index| wasi.subscription(memory, wanted, index)).collect::<Result<Vec<_>, _>>()?;
    let found = wasi.wait(&wanted)?;
    for (index, event) in (0..).zip(&found) {
        memory.put(events + index * EVENT, &event.written())?;
    }
    memory.put_count(happened, found.len())
}

impl Event {
    fn written(&self) -> [u8; EVENT as usize] {
        let mut bytes = [0; EVENT as usize];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        if let Some(error) = self.error {
            bytes[8..10].copy_from_slice(&error.bytes());
        }
        bytes[10] = self.kind;
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }
}

impl Wasi {
    fn subscription(&self, memory: &Memory<'_>, start: u32, index: u32) -> Result<Subscription, Number> {
        let at = |offset: u32| {
            let place = u64::from(start) + u64::from(index) * u64::from(SUBSCRIPTION) + u64::from(offset);
            u32::try_from(place).map_err(|_| Number::FAULT)
        };
        let kind = memory.bytes(at(8)?, 1)?[0];
        let wait = match kind {
            CLOCK => until(memory.word(at(16)?)?, memory.long(at(24)?)?, memory.short(at(40)?)? & ABSOLUTE != 0),
            READ | WRITE => {
                let fd = memory.word(at(16)?)?;
                let right = if kind == READ { FD_READ } else { FD_WRITE };
                self.table.with(fd, right).map_or_else(Wait::Refused, |_| Wait::Descriptor(fd))
            }
            _ => return Err(Number::INVAL),
        };
        Ok(Subscription { id: memory.long(at(0)?)?, kind, wait })
    }

    /// Waits for the first event, and returns all events that have happened by then.
    fn wait(&self, wanted: &[Subscription]) -> Result<Vec<Event>, Number> {
        let mut waiting = Vec::new();
        for subscription in wanted {
            if let Wait::Descriptor(fd) = subscription.wait {
                let flags = if subscription.kind == READ { PollFlags::IN } else { PollFlags::OUT };
                waiting.push(PollFd::new(self.table.get(fd)?, flags));
            }
        }
        let refused = wanted.iter().any(|subscription| matches!(subscription.wait, Wait::Refused(_)));
        let times = wanted.iter().filter_map(|subscription| match subscription.wait {
            Wait::Time(time) => time,
            _ => None,
        });
        let first = if refused { Some(Instant::now()) } else { times.min() };
        loop {
            let left = first.map(|first| first.saturating_duration_since(Instant::now()));
            let ready = match poll(&mut waiting, left.map(timespec).as_ref()) {
                Err(Errno::INTR) => continue,
                ready => ready?,
            };
            let now = Instant::now();
            if ready > 0 || first.is_some_and(|first| first <= now) {
                return Ok(self.happened(wanted, &waiting, now));
            }
        }
    }

    fn happened(&self, wanted: &[Subscription], waiting: &[PollFd<'_>], now: Instant) -> Vec<Event> {
        let mut polled = waiting.iter();
        let mut events = Vec::new();
        for Subscription { id, kind, wait } in wanted {
            let event = |error, bytes, flags| Event { id: *id, kind: *kind, error, bytes, flags };
            match wait {
                Wait::Refused(error) => events.push(event(Some(*error), 0, 0)),
                Wait::Time(Some(time)) if *time <= now => events.push(event(None, 0, 0)),
                Wait::Time(_) => {}
                Wait::Descriptor(fd) => {
                    let found = polled.next().map_or(PollFlags::empty(), PollFd::revents);
                    if !found.is_empty() {
                        let flags = if found.contains(PollFlags::HUP) { HANGUP } else { 0 };
                        events.push(event(None, if *kind == READ { self.readable(*fd) } else { 1 }, flags));
                    }
                }
            }
        }
        events
    }

    /// Returns the number of bytes that can be read at once. The kernel's number has 32 bits and a sign: a file that is larger, or shorter
    /// than the position in it, has none.
    fn readable(&self, fd: u32) -> u64 {
        let Ok(file) = self.table.get(fd) else { return 0 };
        let bytes = rustix::io::ioctl_fionread(file).ok().and_then(|bytes| u32::try_from(bytes).ok());
        bytes.map_or(1, u64::from)
    }
}

fn until(clock: u32, nanoseconds: u64, absolute: bool) -> Wait {
    let time = Duration::from_nanos(nanoseconds);
    let left = match (clock, absolute) {
        (REALTIME | MONOTONIC, false) => time,
        (REALTIME, true) => {
            time.saturating_sub(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
        }
        (MONOTONIC, true) => time.saturating_sub(super::process::monotonic()),
        _ => return Wait::Refused(Number::NOTSUP),
    };
    Wait::Time(Instant::now().checked_add(left))
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() }
}
