//! The clock that interrupts guests which compute. It stops while no request is being answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use wasmtime::Engine;

use super::TICK;

/// Number of ticks without a request after which the clock stops.
const PATIENCE: u32 = 100;

/// Counts requests, and ticks while there are some.
pub(super) struct Ticker {
    state: Arc<State>,
    thread: Thread,
}

#[derive(Default)]
struct State {
    requests: AtomicUsize,
    sleeping: AtomicBool,
    over: AtomicBool,
}

/// A request that is being answered.
pub(super) struct Ticking(Arc<State>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ticker {
    /// Starts the clock's thread.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let own = state.clone();
        let thread = thread::Builder::new().name("ticker".to_owned()).spawn(move || tick(&own, &engine))?;
        Ok(Self { state, thread: thread.thread().clone() })
    }

    /// Keeps the clock running as long as the result lives.
    pub(super) fn begin(&self) -> Ticking {
        self.state.requests.fetch_add(1, Ordering::SeqCst);
        if self.state.sleeping.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
        Ticking(self.state.clone())
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn tick(state: &State, engine: &Engine) {
    let mut idle = 0;
    while !state.over.load(Ordering::SeqCst) {
        if state.requests.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else if idle >= PATIENCE {
            state.sleeping.store(true, Ordering::SeqCst);
            // A request that began in between did not see this thread asleep.
            if state.requests.load(Ordering::SeqCst) == 0 && !state.over.load(Ordering::SeqCst) {
                thread::park();
            }
            state.sleeping.store(false, Ordering::SeqCst);
            idle = 0;
            continue;
        } else {
            idle += 1;
        }
        thread::sleep(TICK);
        engine.increment_epoch();
    }
}
