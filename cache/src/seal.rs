//! Seals a file in memory, so that no process can change it any more.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::io::Errno;

/// Time limit for the attempts to seal, and pause between them.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Seals a memfd for good: neither its bytes nor its length change from now on.
///
/// The kernel refuses with EBUSY while a page of the file is in use, even if only the kernel itself scans memory (`memfd_create(2)`,
/// `mm/memfd.c`). That use is short, and this function waits for its end.
///
/// # Errors
/// The file is still mapped writable, or it is no memfd that may be sealed.
pub fn seal(file: impl AsFd) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL) {
            Err(Errno::BUSY) if started.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::ptr;

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    fn memory() -> File {
        let mut memory = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
        memory.write_all(&[1; 8192]).unwrap();
        memory
    }

    /// A sealed file cannot be written to.
    #[test]
    fn sealed_files_do_not_change() {
        let mut memory = memory();
        seal(&memory).unwrap();
        assert!(memory.write_all(b"more").is_err());
        assert!(memory.set_len(0).is_err());
    }

    /// A file that is in use for a moment is sealed as soon as it is free.
    #[test]
    fn busy_files_are_waited_for() {
        let memory = memory();
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping of a file that only this test and the thread below know.
        let mapping = unsafe { mmap(ptr::null_mut(), 4096, flags, MapFlags::SHARED, &memory, 0) }.unwrap() as usize;
        assert!(fcntl_add_seals(&memory, SealFlags::WRITE).is_err(), "a writable mapping keeps it from being sealed");
        let holder = std::thread::spawn(move || {
            std::thread::sleep(PAUSE * 4);
            // SAFETY: this is the mapping made before, and no reference into it exists.
            unsafe { munmap(mapping as *mut _, 4096) }.unwrap();
        });
        seal(&memory).unwrap();
        holder.join().unwrap();
    }
}
