//! A write stream to an ingest: bytes on their way into the store, under a ref that only one writer at a time may hold.

use std::time::Duration;

use containerd_client::services::v1::{AbortRequest, WriteAction, WriteContentRequest, WriteContentResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::link::{ANSWER, Link, within};
use crate::Lease;

/// An open write stream. While it is open, no other writer can use the ref. When this value is dropped or the process ends, the ref is
/// free. The written bytes then wait for a successor or the garbage collector.
pub(super) struct Ingest {
    reference: String,
    requests: mpsc::Sender<WriteContentRequest>,
    responses: Streaming<WriteContentResponse>,
    offset: i64,
}

impl Ingest {
    /// Opens the ingest that `first` names (its action must be `Stat`).
    pub(super) async fn open(link: &Link, lease: Option<&Lease>, first: WriteContentRequest) -> Result<Self, Status> {
        let reference = first.r#ref.clone();
        let (requests, receiver) = mpsc::channel(1);
        // containerd answers the call only after it has the first message.
        requests.try_send(first).map_err(|_| Status::internal("a fresh channel is full"))?;
        let mut client = link.content();
        let request = link.request(ReceiverStream::new(receiver), lease);
        let responses = within(ANSWER, client.write(request)).await?.into_inner();
        let mut ingest = Self { reference, requests, responses, offset: 0 };
        ingest.answer(ANSWER).await?;
        Ok(ingest)
    }

    /// Returns the number of bytes that have been appended.
    pub(super) fn offset(&self) -> i64 {
        self.offset
    }

    /// Appends `data`. The first bytes are written at offset 0, which truncates the bytes of an earlier writer.
    pub(super) async fn append(&mut self, data: Vec<u8>, limit: Duration) -> Result<(), Status> {
        let (action, length) = (WriteAction::Write.into(), i64::try_from(data.len()).unwrap_or(i64::MAX));
        let request = WriteContentRequest { action, offset: self.offset, data, ..Default::default() };
        self.exchange(request, limit).await?;
        self.offset += length;
        Ok(())
    }

    /// Sends one message and waits for its answer.
    pub(super) async fn exchange(
        &mut self,
        request: WriteContentRequest,
        limit: Duration,
    ) -> Result<WriteContentResponse, Status> {
        // If the stream has ended, the answer has the reason.
        let _ = within(limit, async { Ok(self.requests.send(request).await) }).await?;
        self.answer(limit).await
    }

    async fn answer(&mut self, limit: Duration) -> Result<WriteContentResponse, Status> {
        within(limit, self.responses.message()).await?.ok_or_else(|| Status::unavailable("the write stream ended"))
    }

    /// Removes the written bytes while the ref is held, so that they cannot belong to a successor.
    pub(super) async fn abort(&self, link: &Link, lease: Option<&Lease>) -> Result<(), Status> {
        let request = link.request(AbortRequest { r#ref: self.reference.clone() }, lease);
        match within(ANSWER, link.content().abort(request)).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    /// Ends the stream and waits until the ref is free.
    pub(super) async fn close(mut self) {
        drop(self.requests);
        // containerd ends the stream after it has freed the ref; the status does not matter.
        while let Ok(Some(_)) = within(ANSWER, self.responses.message()).await {}
    }
}

/// Makes the message that requests the state of an ingest, which also takes the ref.
pub(super) fn stat(reference: String) -> WriteContentRequest {
    WriteContentRequest { action: WriteAction::Stat.into(), r#ref: reference, ..Default::default() }
}

/// Returns whether another writer holds the ref, in contrast to a containerd that is unavailable.
pub(super) fn is_locked(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().contains("locked")
}
