//! Calls of CRI with fields that its messages in this harness do not have: containerd knows them from its next releases on.

use bytes::{Buf as _, BufMut as _};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A codec of messages that are encoded already.
pub(super) struct Encoded;

impl Codec for Encoded {
    type Decode = Vec<u8>;
    type Decoder = Self;
    type Encode = Vec<u8>;
    type Encoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Error = Status;
    type Item = Vec<u8>;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Error = Status;
    type Item = Vec<u8>;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length).to_vec()))
    }
}
