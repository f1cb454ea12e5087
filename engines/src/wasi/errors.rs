//! Error numbers of preview 1.

use rustix::io::Errno;

/// An error of preview 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(u16);

impl Number {
    pub(super) const BADF: Self = Self(8);
    pub(super) const FAULT: Self = Self(21);
    pub(super) const ILSEQ: Self = Self(25);
    pub(super) const INVAL: Self = Self(28);
    pub(super) const ISDIR: Self = Self(31);
    pub(super) const NAMETOOLONG: Self = Self(37);
    pub(super) const NOTDIR: Self = Self(54);
    pub(super) const NOTSOCK: Self = Self(57);
    pub(super) const NOTSUP: Self = Self(58);
    pub(super) const OVERFLOW: Self = Self(61);
    pub(super) const ROFS: Self = Self(69);
    pub(super) const NOTCAPABLE: Self = Self(76);

    /// Returns the number's bytes, as an event holds them.
    pub(super) fn bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }
}

impl From<Number> for i32 {
    fn from(number: Number) -> Self {
        number.0.into()
    }
}

impl From<Errno> for Number {
    fn from(error: Errno) -> Self {
        Self(match error {
            Errno::ACCESS => 2,
            Errno::AGAIN => 6,
            Errno::BADF => 8,
            Errno::BUSY => 10,
            Errno::DQUOT => 19,
            Errno::EXIST => 20,
            Errno::FAULT => 21,
            Errno::FBIG => 22,
            Errno::ILSEQ => 25,
            Errno::INTR => 27,
            Errno::INVAL => 28,
            Errno::ISDIR => 31,
            Errno::LOOP => 32,
            Errno::MFILE => 33,
            Errno::MLINK => 34,
            Errno::NAMETOOLONG => 37,
            Errno::NFILE => 41,
            Errno::NODEV => 43,
            Errno::NOENT => 44,
            Errno::NOMEM => 48,
            Errno::NOSPC => 51,
            Errno::NOSYS => 52,
            Errno::NOTDIR => 54,
            Errno::NOTEMPTY => 55,
            Errno::NOTSUP => 58,
            Errno::NOTTY => 59,
            Errno::NXIO => 60,
            Errno::OVERFLOW => 61,
            Errno::PERM => 63,
            Errno::PIPE => 64,
            Errno::ROFS => 69,
            Errno::SPIPE => 70,
            Errno::STALE => 72,
            Errno::TXTBSY => 74,
            Errno::XDEV => 75,
            // No other error is known of these calls; 29 is `EIO`.
            _ => 29,
        })
    }
}
