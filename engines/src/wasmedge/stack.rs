//! A thread for a guest. Its stack ends in a guard that a guest cannot jump over, and the engine notices when a guest
//! reaches it.
//!
//! Code of WasmEdge's compiler does not probe its stack: a function with many locals could reach over a guard page into
//! the memory behind it. So the guard here is larger than any frame.
//!
//! WasmEdge turns faults of a guest into traps by signal handlers, but runs them on the guest's own stack. The kernel
//! kills a process that has no stack left for them. So, once WasmEdge has installed its handler ([`watch`]), another
//! one takes its place. It has a stack of its own, notes whether the guest's stack was used up, and calls WasmEdge's
//! handler.

use std::ffi::{c_int, c_void};
use std::io::{self, Error};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Larger than any frame: a function may have 50,000 locals of 16 bytes, and 8 MB of code may keep 16 bytes for each 2.
const GUARD: usize = 128 << 20;
/// Stack for the functions of WASI, the thread itself and a signal, in bytes.
const OWN: usize = 256 << 10;
/// Stack of a signal handler, in bytes.
const HANDLER: usize = 64 << 10;

/// Faults that native code may cause on purpose.
const FAULTS: [Signal; 4] = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL];

/// The bounds of the guest's guard.
static GUARDED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
/// The guest has reached the guard.
static REACHED: AtomicBool = AtomicBool::new(false);
/// WasmEdge's handler.
static HANDLE: AtomicUsize = AtomicUsize::new(0);

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Runs `work` on a thread with `stack` bytes of stack, and returns whether it used them up. Only one may run at a
/// time: signal handlers belong to the process.
///
/// # Errors
/// The system refuses the thread or its stack.
pub(super) fn run<T: Send>(stack: usize, work: impl FnOnce() -> T + Send) -> io::Result<(T, bool)> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("guest".to_owned()).stack_size(GUARD + stack + OWN);
        let thread = thread.spawn_scoped(scope, || {
            SigSet::from_iter(FAULTS).thread_unblock().map_err(Error::from)?;
            let guard = Guard::make()?;
            let result = work();
            drop(guard);
            Ok((result, REACHED.load(Ordering::Relaxed)))
        })?;
        thread.join().unwrap_or_else(|_| Err(Error::other("the thread of the guest panicked")))
    })
}

/// Replaces the handler that WasmEdge has installed. Call it where WasmEdge will not install its handler again.
///
/// # Errors
/// The system refuses, or there is no handler.
pub(super) fn watch() -> io::Result<()> {
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
        let action =
            SigAction::new(SigHandler::SigAction(handler), SaFlags::SA_ONSTACK | SaFlags::SA_SIGINFO, SigSet::empty());
        // SAFETY: the handler only reads and writes atomic numbers, and calls the handler before it.
        match unsafe { sigaction(signal, &action) }?.handler() {
            SigHandler::SigAction(before) if before as usize != handler as usize => {
                HANDLE.store(before as usize, Ordering::Relaxed);
            }
            SigHandler::SigAction(_) => {}
            _ => return Err(Error::other("wasmedge handles no faults")),
        }
    }
    Ok(())
}

/// Returns whether the guest has left enough stack for a function of WASI. If not, its stack counts as used up. A fault in such a function
/// would leave it in the middle, with its data half changed.
pub(super) fn has_room() -> bool {
    let here = 0_u8;
    let end = GUARDED[1].load(Ordering::Relaxed);
    let has_room = ptr::from_ref(&here).addr().saturating_sub(end) >= OWN / 2;
    if !has_room {
        REACHED.store(true, Ordering::Relaxed);
    }
    has_room
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes valid facts about the fault.
    let address = unsafe { (*info).si_addr() }.addr();
    let [start, end] = GUARDED.each_ref().map(|bound| bound.load(Ordering::Relaxed));
    if (start..end).contains(&address) {
        REACHED.store(true, Ordering::Relaxed);
    }
    // SAFETY: this handler is in use only after WasmEdge's was stored. WasmEdge's has this type and lives as long as
    // its library.
    let handle = unsafe { std::mem::transmute::<usize, Handler>(HANDLE.load(Ordering::Relaxed)) };
    handle(signal, info, context);
}

/// The guard of a thread's stack, and the stack of its signal handlers.
struct Guard {
    range: Range<usize>,
    _handler: Vec<u8>,
}

impl Guard {
    /// Makes the guard and the signal stack of this thread, which [`run`] must have started.
    fn make() -> io::Result<Self> {
        let start = stack_start()?;
        let guard = Self { range: start..start + GUARD, _handler: vec![0; HANDLER] };
        protect(&guard.range, libc::PROT_NONE)?;
        for (bound, value) in GUARDED.iter().zip([guard.range.start, guard.range.end]) {
            bound.store(value, Ordering::Relaxed);
        }
        REACHED.store(false, Ordering::Relaxed);
        let stack = libc::stack_t { ss_sp: guard._handler.as_ptr().cast_mut().cast(), ss_flags: 0, ss_size: HANDLER };
        // SAFETY: the memory belongs to this thread, and lives until `drop` removes the signal stack.
        if unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } != 0 {
            return Err(Error::last_os_error());
        }
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let stack = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: nothing runs on that stack: a handler has returned, or WasmEdge's has left it for good.
        unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
        // The C library may give this stack to another thread. If it stays closed, that thread ends at once.
        let _ = protect(&self.range, libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// Returns the lowest address of this thread's stack.
fn stack_start() -> io::Result<usize> {
    let (mut start, mut size) = (ptr::null_mut(), 0);
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: the attributes are filled in before they are read, and released after that.
    unsafe {
        match libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) {
            0 => {}
            error => return Err(Error::from_raw_os_error(error)),
        }
        let error = libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if error != 0 {
            return Err(Error::from_raw_os_error(error));
        }
    }
    // Only a thread that `run` has started has so much to spare.
    if size < GUARD + OWN { Err(Error::other("the thread's stack is too small")) } else { Ok(start.addr()) }
}

fn protect(range: &Range<usize>, protection: c_int) -> io::Result<()> {
    // SAFETY: the range is the lower part of a stack, and this thread does not use that much.
    match unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(range.start), range.len(), protection) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
