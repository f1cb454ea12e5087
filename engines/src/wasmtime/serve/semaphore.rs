//! A semaphore that all processes of a server share: an eventfd counts its permits.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

/// A number of permits, shared with the processes that are forked from this one.
pub(super) struct Semaphore {
    /// The eventfd with the number of free permits: each read takes one.
    left: Arc<OwnedFd>,
    /// The queue of this process's waiters; only the first waiter reads the eventfd.
    queue: Mutex<()>,
}

/// A permit, released on drop.
pub(super) struct Permit(Arc<OwnedFd>);

impl Semaphore {
    /// Makes a semaphore with `number` permits.
    ///
    /// # Errors
    /// The eventfd cannot be made.
    pub(super) fn new(number: u32) -> io::Result<Self> {
        let flags = EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Self { left: Arc::new(eventfd(number, flags)?), queue: Mutex::default() })
    }

    /// Takes a permit if one is free and no task of this process waits for one.
    pub(super) fn try_take(&self) -> Option<Permit> {
        let _first = self.queue.try_lock().ok()?;
        self.take_one()
    }

    fn take_one(&self) -> Option<Permit> {
        let one = rustix::io::read(&*self.left, &mut [0; 8]);
        one.is_ok().then(|| Permit(self.left.clone()))
    }

    /// Waits for a permit, in order of arrival among the tasks of this process.
    ///
    /// # Errors
    /// The runtime cannot watch the eventfd.
    pub(super) async fn take(&self) -> io::Result<Permit> {
        let _first = self.queue.lock().await;
        if let Some(permit) = self.take_one() {
            return Ok(permit);
        }
        // Registered only while waiting: each released permit wakes every process that is registered. SAFETY: the descriptor is open, and
        // stays the same as long as it is borrowed.
        let left = unsafe { AsyncFd::<BorrowedFd<'_>>::register_with_interest(self.left.as_fd(), Interest::READABLE) }?;
        loop {
            let mut ready = left.readable().await?;
            if let Some(permit) = self.take_one() {
                return Ok(permit);
            }
            ready.clear_ready();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // The write cannot block: the counter is far below its maximum.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn in_runtime<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    /// The number of permits is limited, and a released permit can be taken again.
    #[test]
    fn permits_are_counted() {
        let semaphore = Semaphore::new(2).unwrap();
        let both = (semaphore.try_take().unwrap(), semaphore.try_take().unwrap());
        assert!(semaphore.try_take().is_none());
        drop(both.0);
        let third = semaphore.try_take().unwrap();
        assert!(semaphore.try_take().is_none());
        drop((both.1, third));
        assert!(semaphore.try_take().is_some());
    }

    /// Waiters get released permits in order of arrival; a cancelled waiter takes none, and no task overtakes a waiter.
    #[test]
    fn permits_are_waited_for() {
        in_runtime(async {
            let semaphore = Arc::new(Semaphore::new(1).unwrap());
            let held = semaphore.try_take().unwrap();
            assert!(timeout(Duration::from_millis(20), semaphore.take()).await.is_err());
            let order = Arc::new(std::sync::Mutex::new(Vec::new()));
            let waiting: Vec<_> = (0..3)
                .map(|number| {
                    let (semaphore, order) = (semaphore.clone(), order.clone());
                    tokio::spawn(async move {
                        let permit = semaphore.take().await.unwrap();
                        order.lock().unwrap().push(number);
                        tokio::task::yield_now().await;
                        drop(permit);
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            drop(held);
            assert!(semaphore.try_take().is_none());
            for waiting in waiting {
                timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
            }
            assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
            assert!(semaphore.try_take().is_some());
        });
    }
}
