//! A write stream to an ingest: bytes on their way into the store under a ref that one writer at a time may hold.

use std::time::Duration;

use containerd_client::services::v1::{AbortRequest, WriteAction, WriteContentRequest, WriteContentResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::link::{ANSWER, Link, within};
use crate::Lease;

/// An open write stream. While it is open, nobody else can write to the same ref; when this value goes, or the
/// process does, the ref is free and what was written waits there for a successor or the garbage collector.
pub(super) struct Ingest {
    reference: String,
    requests: mpsc::Sender<WriteContentRequest>,
    responses: Streaming<WriteContentResponse>,
    offset: i64,
}

impl Ingest {
    /// Opens the ingest that `first` names (its action is to be `Stat`).
    pub(super) async fn open(link: &Link, lease: Option<&Lease>, first: WriteContentRequest) -> Result<Self, Status> {
        let reference = first.r#ref.clone();
        let (requests, receiver) = mpsc::channel(1);
        // containerd answers the call itself only when it has something to say to the first message.
        requests.try_send(first).map_err(|_| Status::internal("a fresh channel is full"))?;
        let mut client = link.content();
        let request = link.request(ReceiverStream::new(receiver), lease);
        let responses = within(ANSWER, client.write(request)).await?.into_inner();
        let mut ingest = Self { reference, requests, responses, offset: 0 };
        ingest.answer(ANSWER).await?;
        Ok(ingest)
    }

    /// Returns how many bytes have been appended.
    pub(super) fn offset(&self) -> i64 {
        self.offset
    }

    /// Appends `data` to what this stream has written. The first bytes are written at offset 0, which truncates what
    /// an earlier writer may have left.
    pub(super) async fn append(&mut self, data: Vec<u8>, limit: Duration) -> Result<(), Status> {
        let (action, length) = (WriteAction::Write.into(), i64::try_from(data.len()).unwrap_or(i64::MAX));
        let request = WriteContentRequest { action, offset: self.offset, data, ..Default::default() };
        self.exchange(request, limit).await?;
        self.offset += length;
        Ok(())
    }

    /// Sends one message and waits for the answer to it.
    pub(super) async fn exchange(
        &mut self,
        request: WriteContentRequest,
        limit: Duration,
    ) -> Result<WriteContentResponse, Status> {
        // If the stream has ended, the reason comes as the answer.
        let _ = within(limit, async { Ok(self.requests.send(request).await) }).await?;
        self.answer(limit).await
    }

    async fn answer(&mut self, limit: Duration) -> Result<WriteContentResponse, Status> {
        within(limit, self.responses.message()).await?.ok_or_else(|| Status::unavailable("the write stream ended"))
    }

    /// Removes what was written, while the ref is still held, so that it cannot be a successor's bytes.
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
        // The stream's end is sent after the ref is free; how it ended does not matter.
        while let Ok(Some(_)) = within(ANSWER, self.responses.message()).await {}
    }
}

/// Makes the message that asks how far an ingest is, which is also what takes hold of it.
pub(super) fn stat(reference: String) -> WriteContentRequest {
    WriteContentRequest { action: WriteAction::Stat.into(), r#ref: reference, ..Default::default() }
}

/// Says whether somebody else holds the ref, in contrast to a containerd that is not available.
pub(super) fn is_locked(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().contains("locked")
}
