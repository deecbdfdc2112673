//! Frames: what a connection carries after it was upgraded. A frame is its length (4 bytes, little
//! endian, without themselves), a head in postcard, and a body up to its end. A request is answered
//! by one reply before the next one.

use serde::{Deserialize, Serialize};

/// The name of the protocol in the header `Upgrade`.
pub const UPGRADE: &str = "hotbay-frames/1";

/// The largest frame of a request. Larger ones are sent over HTTP.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Bytes of the length before a frame.
pub const LENGTH_BYTES: usize = 4;

/// The head of a request: a call of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead<'a> {
    /// The number of the call.
    pub call_id: u64,
    /// Milliseconds until the deadline.
    pub deadline_ms: Option<u64>,
    /// The ids of trace and span, and the flags.
    pub trace: Option<([u8; 16], [u8; 8], u8)>,
    /// The hash of the signature of a contract's method.
    pub contract_hash: Option<u64>,
    /// The name of the endpoint.
    pub endpoint: &'a str,
    /// The media type of the body.
    pub content_type: &'a str,
}

/// The head of a reply, which means the same as a response over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyHead<'a> {
    /// The number of the call.
    pub call_id: u64,
    /// The status of HTTP.
    pub status: u16,
    /// The media type of the body; empty without a body.
    pub content_type: &'a str,
}

/// Bytes that a buffer offers for a read.
const READ_BYTES: usize = 16 << 10;

/// The largest buffer that is kept between two calls.
pub const MAX_KEPT_BYTES: usize = 64 << 10;

/// Appends a frame without its body, of which it has the length.
///
/// # Errors
///
/// Fails if the frame is longer than its length can state.
pub fn write_head<H: Serialize>(
    frame: &mut Vec<u8>,
    head: &H,
    body_bytes: usize,
) -> Result<(), TooLong> {
    let start = frame.len();
    frame.extend_from_slice(&[0; LENGTH_BYTES]);
    *frame = postcard::to_extend(head, std::mem::take(frame)).map_err(|_| TooLong)?;
    let length = (frame.len() - start - LENGTH_BYTES).saturating_add(body_bytes);
    let length = u32::try_from(length).map_err(|_| TooLong)?;
    frame[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// A frame that is too long for its length, or for its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// What was received of frames.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    /// Its end is space for the next read.
    bytes: Vec<u8>,
    /// Bytes at the start that were received.
    filled: usize,
    /// Bytes at the start that were taken.
    taken: usize,
}

impl FrameBuffer {
    /// Creates a buffer that has received these bytes.
    pub fn new(received: &[u8]) -> Self {
        Self { bytes: received.to_vec(), filled: received.len(), taken: 0 }
    }

    /// Returns whether a whole frame was received, after those that were taken.
    ///
    /// # Errors
    ///
    /// Fails if the frame has more bytes than this, without those of its length.
    pub fn has_frame(&self, max_bytes: usize) -> Result<bool, TooLong> {
        match self.length() {
            Some(length) if length > max_bytes => Err(TooLong),
            Some(length) => Ok(self.filled - self.taken >= LENGTH_BYTES + length),
            None => Ok(false),
        }
    }

    /// Takes the next frame, which was received, and returns it without its length.
    ///
    /// # Panics
    ///
    /// If the frame is incomplete.
    pub fn take_frame(&mut self) -> &[u8] {
        let start = self.taken + LENGTH_BYTES;
        let end = start + self.length().expect("a frame");
        assert!(end <= self.filled, "the frame is incomplete");
        self.taken = end;
        &self.bytes[start..end]
    }

    /// Returns space for a read. Frames that were taken are removed.
    pub fn spare(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        if self.bytes.len() < self.filled + READ_BYTES {
            // Doubled, so that a large frame is copied few times.
            self.bytes.resize(self.filled * 2 + READ_BYTES, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// Records that a read has filled so many bytes of the space.
    pub fn fill(&mut self, count: usize) {
        self.filled = self.bytes.len().min(self.filled + count);
    }

    /// Releases the memory of a large frame that was taken. Call it before a long wait.
    pub fn release(&mut self) {
        if self.is_empty() && self.bytes.len() > MAX_KEPT_BYTES {
            *self = Self::default();
        }
    }

    /// Returns whether no byte of a next frame was received.
    pub fn is_empty(&self) -> bool {
        self.filled == self.taken
    }

    /// Returns the length of the next frame, if that was received.
    fn length(&self) -> Option<usize> {
        let (length, _) = self.bytes[self.taken..self.filled].split_first_chunk()?;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    }
}

/// Splits a frame, without its length, into head and body; `None` if the head is invalid.
pub fn split<'f, H: Deserialize<'f>>(frame: &'f [u8]) -> Option<(H, &'f [u8])> {
    postcard::take_from_bytes(frame).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: RequestHead<'_> = RequestHead {
        call_id: 7,
        deadline_ms: Some(1000),
        trace: Some(([1; 16], [2; 8], 1)),
        contract_hash: None,
        endpoint: "execute",
        content_type: "text/plain",
    };

    fn frame_with(body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_head(&mut frame, &REQUEST, body.len()).unwrap();
        frame.extend_from_slice(body);
        frame
    }

    /// Receives bytes in reads of at most `count` bytes; returns the bodies of all frames.
    fn receive(mut bytes: &[u8], count: usize) -> Vec<Vec<u8>> {
        let (mut buffer, mut bodies) = (FrameBuffer::default(), Vec::new());
        loop {
            while buffer.has_frame(usize::MAX).unwrap() {
                let (head, body) = split::<RequestHead<'_>>(buffer.take_frame()).unwrap();
                assert_eq!(head, REQUEST);
                bodies.push(body.to_vec());
            }
            buffer.release();
            let spare = buffer.spare();
            let (now, later) = bytes.split_at(count.min(bytes.len()).min(spare.len()));
            if now.is_empty() {
                assert!(buffer.is_empty());
                return bodies;
            }
            spare[..now.len()].copy_from_slice(now);
            buffer.fill(now.len());
            bytes = later;
        }
    }

    #[test]
    fn frames_are_received_whatever_a_read_returns() {
        let large = vec![3; 3 * MAX_KEPT_BYTES];
        let bodies = [&b"one"[..], b"", &large, b"four"];
        let bytes = bodies.map(frame_with).concat();
        for count in [1, 3, 4, 5, 1000, READ_BYTES, usize::MAX] {
            assert_eq!(receive(&bytes, count), bodies, "{count}");
        }
    }

    #[test]
    fn invalid_frames_are_rejected() {
        let frame = frame_with(b"body");
        let buffer = FrameBuffer::new(&frame);
        assert_eq!(buffer.has_frame(frame.len() - LENGTH_BYTES), Ok(true));
        assert_eq!(buffer.has_frame(frame.len() - LENGTH_BYTES - 1), Err(TooLong));
        assert_eq!(FrameBuffer::new(&frame[..frame.len() - 1]).has_frame(1000), Ok(false));
        assert_eq!(split::<RequestHead<'_>>(&frame[LENGTH_BYTES..20]), None);
        assert_eq!(write_head(&mut Vec::new(), &REQUEST, usize::MAX), Err(TooLong));
    }
}
