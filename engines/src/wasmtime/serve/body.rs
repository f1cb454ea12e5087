//! The body of a response, and the guest that is still writing it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::WasiBody;

use super::work::{Guard, Unfinished, Work};

/// Longest body that is sent in one piece with its length, in bytes. Most responses are shorter, and complete when the guest returns.
const WHOLE: usize = 64 << 10;

/// An error in the middle of a body; it closes the connection.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response.
pub(super) enum Answer {
    /// The body is complete.
    Whole(Full<Bytes>),
    /// The guest is still writing the body, or it is too long for one piece.
    Parts(Parts),
}

/// A body in parts. Polling for the next part runs the guest.
pub(super) struct Parts {
    ready: VecDeque<Frame<Bytes>>,
    body: WasiBody,
    work: Option<Work>,
    guard: Option<Guard>,
    unfinished: Arc<Unfinished>,
}

impl Answer {
    /// Takes the guest's response, and the guest itself if it has not returned.
    pub(super) fn of_guest(
        response: Response<WasiBody>,
        work: Option<Work>,
        guard: Guard,
        unfinished: &Arc<Unfinished>,
    ) -> Response<Self> {
        response.map(|mut body| {
            let mut ready = VecDeque::new();
            if work.is_none() && collect(&mut body, &mut ready) {
                return Self::Whole(Full::new(join(ready)));
            }
            Self::Parts(Parts { ready, body, work, guard: Some(guard), unfinished: unfinished.clone() })
        })
    }

    /// Makes a response of the server itself.
    pub(super) fn text(text: &'static str) -> Self {
        Self::Whole(Full::new(Bytes::from_static(text.as_bytes())))
    }
}

/// Takes the available frames of a body; returns `true` if the body is complete.
fn collect(body: &mut WasiBody, ready: &mut VecDeque<Frame<Bytes>>) -> bool {
    let mut length = 0;
    let mut context = Context::from_waker(Waker::noop());
    while length <= WHOLE {
        match Pin::new(&mut *body).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => {
                let is_data = frame.is_data();
                length += frame.data_ref().map_or(0, Bytes::len);
                ready.push_back(frame);
                if !is_data {
                    return false;
                }
            }
            Poll::Ready(None) => return true,
            // The error occurs again when the rest is polled.
            Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
        }
    }
    false
}

fn join(mut frames: VecDeque<Frame<Bytes>>) -> Bytes {
    let mut data: VecDeque<Bytes> = frames.drain(..).filter_map(|frame| frame.into_data().ok()).collect();
    match data.len() {
        0 | 1 => data.pop_front().unwrap_or_default(),
        _ => data.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>().into(),
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Parts(parts) => parts.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Parts(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Parts(parts) if parts.ready.is_empty() => parts.body.size_hint(),
            Self::Parts(_) => SizeHint::default(),
        }
    }
}

impl Parts {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(work) = &mut self.work
            && let Poll::Ready(result) = work.as_mut().poll(context)
        {
            self.work = None;
            if let Err(error) = result {
                let reason = self.guard.as_ref().map_or_else(String::new, |guard| guard.failed(&error));
                return Poll::Ready(Some(Err(reason.into())));
            }
        }
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(|error| error.to_string().into())
    }
}

impl Drop for Parts {
    /// Lets the guest finish its work after the response, also if no client reads the response any more.
    fn drop(&mut self) {
        if let (Some(work), Some(guard)) = (self.work.take(), self.guard.take()) {
            self.unfinished.clone().go_on(work, guard);
        }
    }
}
