//! The entries in wasmtime's table that a guest's numbers stand for.

use std::mem;

use wasmtime::component::Resource;
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::{Descriptor, Dir};
use wasmtime_wasi::p1::types::Errno;
use wasmtime_wasi::p1::wasi_snapshot_preview1 as wasi;
use wiggle::GuestMemory;

use super::super::super::host::{ModuleHost, Numbers};
use super::super::locate;
use super::{EITHER, FOLDERS, RESULT, errno};
use crate::paths::Follow;

impl Numbers {
    /// Notes the folders that a guest starts with: `count` entries, in this order.
    ///
    /// # Errors
    /// A trap of wasmtime.
    pub(in super::super::super) fn note_folders(host: &mut ModuleHost, count: usize) -> wasmtime::Result<()> {
        // wasmtime makes the entries when a call first asks for one.
        let mut memory = vec![0; RESULT];
        wasi::fd_prestat_get(&mut host.wasi, &mut GuestMemory::Unshared(&mut memory), FOLDERS, 0)?;
        let table = host.wasi.ctx().table;
        let is_folder =
            |entry: &u32| matches!(table.get(&Resource::<Descriptor>::new_borrow(*entry)), Ok(Descriptor::Dir(_)));
        // A few entries for the standard streams come first.
        let last = u32::try_from(count).unwrap_or(u32::MAX).saturating_add(16);
        let entries: Vec<u32> = (0..last).filter(is_folder).collect();
        if entries.len() == count {
            host.numbers.0 = (FOLDERS..).zip(entries).collect();
        }
        Ok(())
    }
}

impl ModuleHost {
    /// Returns the folder that a number stands for.
    pub(super) fn folder(&mut self, fd: i32) -> Option<&Dir> {
        let entry = *self.numbers.0.get(&fd)?;
        match self.wasi.ctx().table.get(&Resource::<Descriptor>::new_borrow(entry)) {
            Ok(Descriptor::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    /// Returns the entry that the next descriptor gets.
    pub(super) fn next_entry(&mut self) -> wasmtime::Result<u32> {
        let table = self.wasi.ctx().table;
        let next = table.push(())?;
        let entry = next.rep();
        table.delete(next)?;
        Ok(entry)
    }

    /// Replaces the entry of a folder by the folder that a path leads to. Returns the former entry and the last name;
    /// `None` if the number is unknown.
    pub(super) fn turn(&mut self, fd: i32, path: &[u8], follow: Follow) -> Option<Result<(Descriptor, String), Errno>> {
        let entry = *self.numbers.0.get(&fd)?;
        let slot = self.wasi.ctx().table.get_mut(&Resource::<Descriptor>::new_borrow(entry)).ok()?;
        let Descriptor::Dir(base) = slot else { return None };
        let Ok(path) = std::str::from_utf8(path) else { return Some(Err(Errno::Ilseq)) };
        Some(match locate(base, path, follow) {
            Ok((dir, name)) => Ok((mem::replace(slot, Descriptor::Dir(dir)), name)),
            Err(error) => Err(errno(error.into())),
        })
    }

    /// Forgets a number that stands for nothing any more.
    pub(super) fn forget(&mut self, fd: i32) {
        self.numbers.0.remove(&fd);
        if fd == EITHER {
            self.working = None;
        }
    }

    /// Restores the entry that [`Self::turn`] has replaced.
    pub(super) fn turn_back(&mut self, fd: i32, descriptor: Descriptor) -> wasmtime::Result<()> {
        if let Some(entry) = self.numbers.0.get(&fd) {
            *self.wasi.ctx().table.get_mut(&Resource::<Descriptor>::new_borrow(*entry))? = descriptor;
        }
        Ok(())
    }
}
