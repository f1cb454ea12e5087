//! Runs work to its end, once begun.

use tracing::Instrument as _;

/// Runs `work` in a separate task, which continues if the caller is dropped. Between two steps the store holds objects that only the next
/// step removes.
pub(crate) async fn whole<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work.in_current_span()).await {
        Ok(value) => value,
        // The handle is not shared, so the task was not aborted: it has panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
