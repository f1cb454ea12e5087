//! eBPF programs for filters of devices: a few instructions, loading, attaching.
//!
//! A program is attached in addition to existing ones (`BPF_F_ALLOW_MULTI`): systemd attaches its own, and all of them must allow an
//! access. A program disappears when its cgroup is removed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::libc;

/// Numbers of the kernel's `enum bpf_cmd`, `bpf_prog_type` and `bpf_attach_type` (`include/uapi/linux/bpf.h`).
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// A register of the eBPF machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
}

/// An instruction, as `struct bpf_insn` lays it out on a little-endian or big-endian machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    fn new(code: u8, to: Register, from: Register, offset: i16, value: i32) -> Self {
        let (low, high) = if cfg!(target_endian = "little") { (to, from) } else { (from, to) };
        Self { code, registers: low as u8 | (high as u8) << 4, offset, value }
    }

    /// Loads a word of 32 bits at `offset` bytes after an address.
    pub(super) fn load(to: Register, address: Register, offset: i16) -> Self {
        Self::new(0x61, to, address, offset, 0)
    }

    pub(super) fn set(to: Register, value: i32) -> Self {
        Self::new(0xb7, to, Register::R0, 0, value)
    }

    pub(super) fn copy(to: Register, from: Register) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }

    pub(super) fn and(to: Register, value: i32) -> Self {
        Self::new(0x57, to, Register::R0, 0, value)
    }

    pub(super) fn shift_right(to: Register, bits: i32) -> Self {
        Self::new(0x77, to, Register::R0, 0, bits)
    }

    /// Jumps unless a register has a value.
    pub(super) fn unless_equal(register: Register, value: i32) -> Self {
        Self::new(0x55, register, Register::R0, 0, value)
    }

    /// Jumps if a register has a value.
    pub(super) fn if_equal(register: Register, value: i32) -> Self {
        Self::new(0x15, register, Register::R0, 0, value)
    }

    /// Jumps unless two registers have the same value.
    pub(super) fn unless_same(one: Register, other: Register) -> Self {
        Self::new(0x5d, one, other, 0, 0)
    }

    /// Ends the program; its result is in the first register.
    pub(super) fn exit() -> Self {
        Self::new(0x95, Register::R0, Register::R0, 0, 0)
    }

    /// Makes a jump skip `instructions` instructions; any other instruction stays as it is.
    pub(super) fn over(mut self, instructions: usize) -> Self {
        if matches!(self.code, 0x15 | 0x55 | 0x5d) {
            self.offset = i16::try_from(instructions).unwrap_or(i16::MAX);
        }
        self
    }
}

/// The part of the kernel's `union bpf_attr` that loads a program.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// The part of the kernel's `union bpf_attr` that attaches a program.
#[repr(C)]
struct Attach {
    cgroup: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

/// Attaches a filter of devices to the folder of a cgroup v2.
///
/// # Errors
/// The system's error.
pub(super) fn attach_device_filter(folder: &Path, program: &[Instruction]) -> io::Result<()> {
    let folder = File::open(folder)?;
    let license = c"Apache-2.0";
    let count = u32::try_from(program.len()).map_err(io::Error::other)?;
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count,
        instructions: program.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: the instructions and the licence live until the call returns, and their number is right.
    let loaded = unsafe { bpf(PROG_LOAD, &load) }?;
    // SAFETY: the kernel has just made this descriptor, and no other value owns it.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach =
        Attach { cgroup: folder.as_raw_fd(), program: loaded.as_raw_fd(), kind: CGROUP_DEVICE, flags: ALLOW_MULTI };
    // SAFETY: the structure contains only numbers.
    unsafe { bpf(PROG_ATTACH, &attach) }.map(|_| ())
}

/// Calls `bpf(2)`.
///
/// # Safety
/// Each address in the structure must be valid for the command.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads one structure of the size given; the caller guarantees the addresses in it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(libc::c_int::try_from(result).unwrap_or(0)) }
}

#[cfg(test)]
impl Instruction {
    /// Runs a program on words of 32 bits, to which the second register points; returns the value of the first register.
    pub(super) fn interpret(program: &[Self], context: &[u32]) -> u64 {
        let mut registers = [0u64; 16];
        let mut at = 0;
        loop {
            let instruction = program[at];
            let (to, from) = (instruction.registers & 15, instruction.registers >> 4);
            let (to, from) = if cfg!(target_endian = "little") { (to, from) } else { (from, to) };
            let (to, from) = (usize::from(to), registers[usize::from(from)]);
            let value = i64::from(instruction.value).cast_unsigned();
            let jump = usize::try_from(instruction.offset).unwrap();
            at += 1;
            match instruction.code {
                0x61 => registers[to] = u64::from(context[jump / 4]),
                0xb7 => registers[to] = value,
                0xbf => registers[to] = from,
                0x57 => registers[to] &= value,
                0x77 => registers[to] >>= value,
                0x55 if registers[to] != value => at += jump,
                0x15 if registers[to] == value => at += jump,
                0x5d if registers[to] != from => at += jump,
                0x55 | 0x15 | 0x5d => {}
                0x95 => return registers[0],
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }
}
