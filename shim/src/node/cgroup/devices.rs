//! The devices that a container may use, with cgroup v2: the spec's list as a program for the kernel.
//!
//! The list means the same as with cgroup v1 (`devices` in `config-linux.md` of the OCI runtime specification 1.2). A rule for all
//! devices sets the default, and each later rule adds or removes an exception. The devices that runc 1.3 allows to every container come
//! after the list. A list that v1 would obey only in part is refused, as in runc.

use std::collections::BTreeMap;

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::bpf::{Instruction, Register};

/// Access to a device, as in `struct bpf_cgroup_dev_ctx` of the kernel.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;
/// Kinds of devices, as the kernel numbers them.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// Character devices that every container may use: null, zero, full, random, urandom, tty, ptmx, and all pseudo terminals.
const ALWAYS: [(u32, Option<u32>); 8] =
    [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];

/// The reason why a list of devices cannot be enforced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("cannot use rule {rule} for devices: its type must be a, b or c")]
    Kind { rule: String },
    #[error("cannot use rule {rule} for devices: its access {access:?} may have the letters r, w and m only")]
    Access { rule: String, access: String },
    #[error("cannot use rule {rule} for devices: its number is out of range")]
    Number { rule: String },
    #[error("cannot use rule {rule} for devices: it denies a part of the earlier rule {earlier}")]
    Hole { rule: String, earlier: String },
}

/// The devices of one rule; `None` means every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub(super) block: bool,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

/// The access of a container to devices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceRules {
    /// Whether a device without an exception is allowed.
    allowed: bool,
    /// The access that differs from the default.
    exceptions: BTreeMap<Devices, u8>,
}

impl DeviceRules {
    /// Interprets the list of a spec. Without a list, only the devices of every container are allowed.
    ///
    /// # Errors
    /// [`DeviceError`] names the rule.
    pub(crate) fn new(list: &[LinuxDeviceCgroup]) -> Result<Self, DeviceError> {
        let mut rules = Self::default();
        for rule in list {
            rules.add(rule)?;
        }
        for block in [false, true] {
            rules.set(true, Devices { block, major: None, minor: None }, MKNOD)?;
        }
        for (major, minor) in ALWAYS {
            rules.set(true, Devices { block: false, major: Some(major), minor }, ALL)?;
        }
        Ok(rules)
    }

    /// Lists the allowed devices and access of a list that denies by default; `None` if it allows by default.
    pub(super) fn allowances(&self) -> Option<impl Iterator<Item = (Devices, String)> + '_> {
        let entry = |(devices, access): (&Devices, &u8)| (*devices, letters(*access));
        (!self.allowed).then(|| self.exceptions.iter().map(entry))
    }

    fn add(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), DeviceError> {
        let block = match rule.typ() {
            None | Some(LinuxDeviceType::A) => {
                *self = Self { allowed: rule.allow(), exceptions: BTreeMap::new() };
                return Ok(());
            }
            Some(LinuxDeviceType::B) => true,
            // To the kernel an unbuffered character device is a character device.
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => false,
            Some(LinuxDeviceType::P) => return Err(DeviceError::Kind { rule: name(rule) }),
        };
        let number = |number: Option<i64>| match number {
            Some(number) if number >= 0 => {
                i32::try_from(number).map(|number| Some(number.cast_unsigned())).map_err(|_| number)
            }
            _ => Ok(None),
        };
        let failed = |_| DeviceError::Number { rule: name(rule) };
        let (major, minor) = (number(rule.major()).map_err(failed)?, number(rule.minor()).map_err(failed)?);
        let access = bits(rule.access().as_deref().unwrap_or_default());
        let access = access.ok_or_else(|| DeviceError::Access {
            rule: name(rule),
            access: rule.access().clone().unwrap_or_default(),
        })?;
        self.set(rule.allow(), Devices { block, major, minor }, access)
    }

    fn set(&mut self, allow: bool, devices: Devices, access: u8) -> Result<(), DeviceError> {
        if allow != self.allowed {
            *self.exceptions.entry(devices).or_default() |= access;
            return Ok(());
        }
        for earlier in devices.wider() {
            if self.exceptions.get(&earlier).is_some_and(|exception| exception & access != 0) {
                let (rule, earlier) = (devices.name(access), earlier.name(self.exceptions[&earlier]));
                return Err(DeviceError::Hole { rule, earlier });
            }
        }
        if let Some(exception) = self.exceptions.get_mut(&devices) {
            *exception &= !access;
        }
        self.exceptions.retain(|_, access| *access != 0);
        Ok(())
    }

    /// Translates to a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`, whose result is 1 if the access is allowed.
    pub(super) fn program(&self) -> Vec<Instruction> {
        use Register::{R0, R1, R2, R3, R4, R5};
        let answer = |allowed: bool| [Instruction::set(R0, i32::from(allowed)), Instruction::exit()];
        // The kernel passes kind (lower half) and access (upper half) in one word, then major and minor number.
        let mut program = vec![
            Instruction::load(R2, R1, 0),
            Instruction::and(R2, 0xffff),
            Instruction::load(R3, R1, 0),
            Instruction::shift_right(R3, 16),
            Instruction::load(R4, R1, 4),
            Instruction::load(R5, R1, 8),
        ];
        for (devices, access) in &self.exceptions {
            let mut conditions = vec![(Instruction::unless_equal(R2, if devices.block { BLOCK } else { CHARACTER }))];
            conditions.extend(devices.major.map(|major| Instruction::unless_equal(R4, major.cast_signed())));
            conditions.extend(devices.minor.map(|minor| Instruction::unless_equal(R5, minor.cast_signed())));
            conditions.extend([Instruction::copy(R1, R3), Instruction::and(R1, i32::from(*access))]);
            // An allowance must cover the whole request; a denial holds for any part of it.
            conditions.push(if self.allowed { Instruction::if_equal(R1, 0) } else { Instruction::unless_same(R1, R3) });
            let length = conditions.len() + 2;
            let jumps = conditions.into_iter().enumerate().map(|(at, condition)| condition.over(length - at - 1));
            program.extend(jumps);
            program.extend(answer(!self.allowed));
        }
        program.extend(answer(self.allowed));
        program
    }
}

impl Devices {
    /// Lists the larger sets of devices that contain these.
    fn wider(self) -> impl Iterator<Item = Self> {
        [(None, self.minor), (self.major, None), (None, None)]
            .into_iter()
            .map(move |(major, minor)| Self { major, minor, ..self })
            .filter(move |wider| *wider != self)
    }

    fn name(self, access: u8) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        format!("\"{kind} {}:{} {}\"", number(self.major), number(self.minor), letters(access))
    }
}

fn bits(access: &str) -> Option<u8> {
    access.chars().try_fold(0, |bits, letter| match letter {
        'r' => Some(bits | READ),
        'w' => Some(bits | WRITE),
        'm' => Some(bits | MKNOD),
        _ => None,
    })
}

fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .into_iter()
        .filter_map(|(bit, letter)| (access & bit != 0).then_some(letter))
        .collect()
}

/// Writes a rule in the notation of the cgroup file `devices.list`.
fn name(rule: &LinuxDeviceCgroup) -> String {
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        _ => "*".to_owned(),
    };
    let kind = rule.typ().map_or_else(|| "a".to_owned(), |kind| kind.as_str().to_owned());
    let access = rule.access().as_deref().unwrap_or_default();
    format!("\"{kind} {}:{} {access}\"", number(rule.major()), number(rule.minor()))
}

#[cfg(test)]
mod tests;
