//! A guest's memory, as the functions of WASI read and write it. They touch nothing outside it.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;

use super::Number;
use crate::paths::LONGEST;

/// Maximum number of parts of one read or write: as many as Linux takes.
const PARTS: u32 = 1024;
/// Size of a part's address and length, in bytes.
const PART: u32 = 8;

/// A guest's memory.
pub(crate) struct Memory<'a>(&'a mut [u8]);

impl<'a> Memory<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self(bytes)
    }

    fn range(at: u32, length: u32) -> Range<usize> {
        let at = at as usize;
        at..at.saturating_add(length as usize)
    }

    /// Returns bytes to read.
    pub(super) fn bytes(&self, at: u32, length: u32) -> Result<&[u8], Number> {
        self.0.get(Self::range(at, length)).ok_or(Number::FAULT)
    }

    /// Returns bytes to write to.
    pub(super) fn bytes_mut(&mut self, at: u32, length: u32) -> Result<&mut [u8], Number> {
        self.0.get_mut(Self::range(at, length)).ok_or(Number::FAULT)
    }

    fn array<const N: usize>(&self, at: u32) -> Result<[u8; N], Number> {
        let bytes = self.0.get(at as usize..).and_then(<[u8]>::first_chunk);
        bytes.copied().ok_or(Number::FAULT)
    }

    /// Reads a number of 16 bits.
    pub(super) fn short(&self, at: u32) -> Result<u16, Number> {
        self.array(at).map(u16::from_le_bytes)
    }

    /// Reads a number of 32 bits.
    pub(super) fn word(&self, at: u32) -> Result<u32, Number> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// Reads a number of 64 bits.
    pub(super) fn long(&self, at: u32) -> Result<u64, Number> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// Writes bytes.
    pub(super) fn put(&mut self, at: u32, bytes: &[u8]) -> Result<(), Number> {
        let length = u32::try_from(bytes.len()).map_err(|_| Number::OVERFLOW)?;
        self.bytes_mut(at, length)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Writes a number of 32 bits.
    pub(super) fn put_word(&mut self, at: u32, number: u32) -> Result<(), Number> {
        self.put(at, &number.to_le_bytes())
    }

    /// Writes a count of bytes.
    pub(super) fn put_count(&mut self, at: u32, count: usize) -> Result<(), Number> {
        self.put_word(at, u32::try_from(count).map_err(|_| Number::OVERFLOW)?)
    }

    /// Writes a number of 64 bits.
    pub(super) fn put_long(&mut self, at: u32, number: u64) -> Result<(), Number> {
        self.put(at, &number.to_le_bytes())
    }

    /// Reads a path.
    pub(super) fn path(&self, at: u32, length: u32) -> Result<Vec<u8>, Number> {
        let bytes = self.bytes(at, length)?;
        if bytes.len() > LONGEST {
            return Err(Number::NAMETOOLONG);
        }
        // A name with a zero byte is none; the kernel would take it for the name before that byte.
        if bytes.contains(&0) { Err(Number::ILSEQ) } else { Ok(bytes.to_vec()) }
    }

    /// Finds the parts to read or write one after the other, without the empty ones.
    fn parts(&self, at: u32, count: u32) -> Result<Vec<Range<usize>>, Number> {
        let mut parts = Vec::new();
        for index in 0..count.min(PARTS) {
            let entry = index.checked_mul(PART).and_then(|offset| at.checked_add(offset)).ok_or(Number::FAULT)?;
            let (start, length) = (self.word(entry)?, self.word(entry.checked_add(4).ok_or(Number::FAULT)?)?);
            self.bytes(start, length)?;
            if length > 0 {
                parts.push(Self::range(start, length));
            }
        }
        Ok(parts)
    }

    /// Returns the parts to write to a file, up to so many bytes. The guest calls again for the rest.
    pub(super) fn outgoing(&self, at: u32, count: u32, mut most: usize) -> Result<Vec<IoSlice<'_>>, Number> {
        let parts = self.parts(at, count)?;
        let cut = |part: Range<usize>| {
            let bytes = self.0.get(part)?;
            let bytes = &bytes[..bytes.len().min(most)];
            most -= bytes.len();
            (!bytes.is_empty()).then(|| IoSlice::new(bytes))
        };
        Ok(parts.into_iter().map_while(cut).collect())
    }

    /// Returns the parts to fill from a file: as many of the first as follow each other in memory. The guest asks again
    /// for the rest.
    pub(super) fn incoming(&mut self, at: u32, count: u32) -> Result<Vec<IoSliceMut<'_>>, Number> {
        let parts = self.parts(at, count)?;
        let (mut slices, mut rest, mut passed) = (Vec::new(), &mut *self.0, 0);
        for part in parts {
            if part.start < passed {
                break;
            }
            let (_, from) = rest.split_at_mut(part.start - passed);
            let (slice, behind) = from.split_at_mut(part.len());
            slices.push(IoSliceMut::new(slice));
            (rest, passed) = (behind, part.end);
        }
        Ok(slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each function refuses an access outside the guest's memory.
    #[test]
    fn nothing_outside_is_touched() {
        let mut bytes = [0; 16];
        let mut memory = Memory::new(&mut bytes);
        for (at, length) in [(0, 17), (16, 1), (17, 0), (u32::MAX, 1), (8, u32::MAX)] {
            assert_eq!(memory.bytes(at, length), Err(Number::FAULT), "{at} {length}");
        }
        assert_eq!(memory.word(13), Err(Number::FAULT));
        assert_eq!(memory.put(10, &[0; 7]), Err(Number::FAULT));
        assert_eq!(memory.bytes(16, 0), Ok(&[][..]));
        memory.put_word(0, 14).unwrap();
        memory.put_word(4, 3).unwrap();
        assert_eq!(memory.outgoing(0, 1, 1).unwrap_err(), Number::FAULT);
        assert_eq!(memory.outgoing(u32::MAX, 1, 1).unwrap_err(), Number::FAULT);
    }

    /// A write takes no more bytes than the limit.
    #[test]
    fn writes_are_cut() {
        let mut bytes = [0; 64];
        let mut memory = Memory::new(&mut bytes);
        for (at, word) in [(0, 40), (4, 4), (8, 50), (12, 6)] {
            memory.put_word(at, word).unwrap();
        }
        let lengths = |most| memory.outgoing(0, 2, most).unwrap().iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!((lengths(10), lengths(7), lengths(4)), (vec![4, 6], vec![4, 3], vec![4]));
    }

    /// Further calls fill parts that overlap, or do not follow each other.
    #[test]
    fn parts_are_filled_in_order() {
        for (parts, lengths) in [
            (&[(40, 4), (44, 4)][..], &[4, 4][..]),
            (&[(40, 4), (42, 4)], &[4]),
            (&[(44, 4), (40, 4)], &[4]),
            (&[(40, 0), (50, 2), (60, 4)], &[2, 4]),
        ] {
            let mut bytes = [0; 64];
            let mut memory = Memory::new(&mut bytes);
            for (index, (start, length)) in (0..).zip(parts) {
                memory.put_word(index * 8, *start).unwrap();
                memory.put_word(index * 8 + 4, *length).unwrap();
            }
            let count = u32::try_from(parts.len()).unwrap();
            let found: Vec<usize> = memory.incoming(0, count).unwrap().iter().map(|part| part.len()).collect();
            assert_eq!(found, lengths, "{parts:?}");
        }
    }

    /// `path` refuses a path with a zero byte, and one that is longer than Linux takes.
    #[test]
    fn paths_are_read() {
        let mut bytes = [b'a'; 8192];
        bytes[1] = 0;
        let memory = Memory::new(&mut bytes);
        assert_eq!(memory.path(0, 3), Err(Number::ILSEQ));
        assert_eq!(memory.path(2, 3).unwrap(), b"aaa");
        assert_eq!(memory.path(2, 5000), Err(Number::NAMETOOLONG));
    }
}
