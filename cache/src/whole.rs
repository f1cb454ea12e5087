//! Work that is done as a whole, or not begun.

use tracing::Instrument as _;

/// Does `work` in a task of its own, which goes on when nobody waits for it any more: between two of its steps there is something in
/// the store that only the next step removes.
pub(crate) async fn whole<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work.in_current_span()).await {
        Ok(value) => value,
        // Nobody can abort the task: it has panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
