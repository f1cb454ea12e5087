//! A semaphore that all processes of a server share: the system counts its permits.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

/// A number of permits. Processes that are forked from this one have the same.
pub(super) struct Semaphore {
    /// How many are left: each read takes one of them.
    left: Arc<OwnedFd>,
    /// Those of this process who wait do so one behind the other, and the first of them looks at what is left.
    queue: Mutex<()>,
}

/// A permit, until it is dropped.
pub(super) struct Permit(Arc<OwnedFd>);

impl Semaphore {
    /// Makes so many permits.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(number: u32) -> io::Result<Self> {
        let flags = EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Self { left: Arc::new(eventfd(number, flags)?), queue: Mutex::default() })
    }

    /// Takes a permit if there is one, and nobody of this process waits for it.
    pub(super) fn try_take(&self) -> Option<Permit> {
        let _first = self.queue.try_lock().ok()?;
        self.take_one()
    }

    fn take_one(&self) -> Option<Permit> {
        let one = rustix::io::read(&*self.left, &mut [0; 8]);
        one.is_ok().then(|| Permit(self.left.clone()))
    }

    /// Takes a permit as soon as there is one, after those of this process who have waited for longer.
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn take(&self) -> io::Result<Permit> {
        let _first = self.queue.lock().await;
        if let Some(permit) = self.take_one() {
            return Ok(permit);
        }
        // Not kept: whoever is registered is woken by every permit that anybody gives back.
        // SAFETY: it is one descriptor for as long as it is borrowed, and open.
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
        // It has room for more than were ever taken.
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

    /// There are no more permits than were made, and one that is given back can be taken again.
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

    /// Those who wait get what others give back, in the order in which they came; one that gives up takes nothing along, and nobody overtakes them.
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
