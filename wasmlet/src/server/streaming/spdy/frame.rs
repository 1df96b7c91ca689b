//! SPDY/3 frames, read from and written to bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;
use super::headers::{Headers, Reader, Writer};

const VERSION: u16 = 3;
const HEAD: usize = 8;
/// Control frames here are small; data is passed on piece by piece, however long its frame is.
const CONTROL_BYTES_MAX: usize = 64 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FLAG_FIN: u8 = 1;
const SETTINGS_INITIAL_WINDOW: u32 = 7;

pub const STATUS_PROTOCOL_ERROR: u32 = 1;
pub const STATUS_REFUSED: u32 = 3;
pub const STATUS_CANCEL: u32 = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Open {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Reply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    /// The window that streams begin with, where it is among the settings.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway {
        last: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
    },
    Window {
        stream: u32,
        delta: u32,
    },
    /// A piece of data; `fin` with the last piece of a frame that carries it.
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// To be ignored, says the specification.
    Unknown,
}

pub struct Decoder {
    headers: Reader,
    /// What is still to come of a data frame: stream, fin, bytes.
    data: Option<(u32, bool, usize)>,
}

impl Decoder {
    pub fn new() -> Self {
        Decoder { headers: Reader::new(), data: None }
    }

    /// The next frame, or None until there are more bytes.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        if let Some((stream, fin, left)) = self.data {
            if input.is_empty() && left > 0 {
                return Ok(None);
            }
            let bytes = input.split_to(left.min(input.len())).freeze();
            let left = left - bytes.len();
            self.data = (left > 0).then_some((stream, fin, left));
            return Ok(Some(Frame::Data { stream, fin: fin && left == 0, bytes }));
        }
        let Some(head) = input.get(..HEAD) else { return Ok(None) };
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (first, second) = (word(0), word(4));
        let flags = (second >> 24) as u8;
        let length = (second & 0x00ff_ffff) as usize;
        let fin = flags & FLAG_FIN != 0;
        if first & 0x8000_0000 == 0 {
            input.advance(HEAD);
            if length == 0 {
                return Ok(Some(Frame::Data { stream: first, fin, bytes: Bytes::new() }));
            }
            self.data = Some((first, fin, length));
            return self.decode(input);
        }
        if (first >> 16) as u16 & 0x7fff != VERSION {
            return Err(SpdyError::Version);
        }
        if length > CONTROL_BYTES_MAX {
            return Err(SpdyError::TooLarge(length));
        }
        if input.len() < HEAD + length {
            return Ok(None);
        }
        input.advance(HEAD);
        let body = input.split_to(length).freeze();
        self.control(first as u16, fin, body).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, SpdyError> {
        let need = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | HEADERS | PING | SETTINGS => 4,
            RST_STREAM | GOAWAY | WINDOW_UPDATE => 8,
            _ => return Ok(Frame::Unknown),
        };
        if body.len() < need {
            return Err(SpdyError::CutOff);
        }
        let first = body.get_u32();
        let stream = first & 0x7fff_ffff;
        Ok(match kind {
            SYN_STREAM => {
                body.advance(6);
                Frame::Open { stream, fin, headers: self.headers.read(&body)? }
            }
            SYN_REPLY => Frame::Reply { stream, fin, headers: self.headers.read(&body)? },
            HEADERS => {
                // Not asked for, but it belongs to the compression's history.
                self.headers.read(&body)?;
                Frame::Headers { stream, fin }
            }
            RST_STREAM => Frame::Reset { stream, status: body.get_u32() },
            PING => Frame::Ping(first),
            GOAWAY => Frame::GoAway { last: stream },
            WINDOW_UPDATE => Frame::Window { stream, delta: body.get_u32() & 0x7fff_ffff },
            _ => {
                let mut initial_window = None;
                for _ in 0..first {
                    if body.len() < 8 {
                        return Err(SpdyError::CutOff);
                    }
                    let (id, value) = (body.get_u32() & 0x00ff_ffff, body.get_u32());
                    if id == SETTINGS_INITIAL_WINDOW {
                        initial_window = Some(value);
                    }
                }
                Frame::Settings { initial_window }
            }
        })
    }
}

pub struct Encoder(Writer);

impl Encoder {
    pub fn new() -> Self {
        Encoder(Writer::new())
    }

    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Open { stream, fin, headers } => {
                let block = self.0.write(headers);
                control(out, SYN_STREAM, *fin, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::Reply { stream, fin, headers } => {
                let block = self.0.write(headers);
                control(out, SYN_REPLY, *fin, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::Reset { stream, status } => pair(out, RST_STREAM, *stream, *status),
            Frame::GoAway { last } => pair(out, GOAWAY, *last, 0),
            Frame::Window { stream, delta } => pair(out, WINDOW_UPDATE, *stream, *delta),
            Frame::Ping(id) => {
                control(out, PING, false, 4);
                out.put_u32(*id);
            }
            Frame::Settings { initial_window } => {
                let entries: Vec<u32> = initial_window.iter().copied().collect();
                control(out, SETTINGS, false, 4 + 8 * entries.len());
                out.put_u32(entries.len() as u32);
                for value in entries {
                    out.put_u32(SETTINGS_INITIAL_WINDOW);
                    out.put_u32(value);
                }
            }
            Frame::Data { stream, fin, bytes } => {
                out.put_u32(*stream);
                out.put_u32(u32::from(*fin) << 24 | bytes.len() as u32 & 0x00ff_ffff);
                out.put_slice(bytes);
            }
            Frame::Headers { .. } | Frame::Unknown => {}
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(fin) << 24 | length as u32);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(out, kind, false, 8);
    out.put_u32(first);
    out.put_u32(second);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    fn samples() -> Vec<Frame> {
        vec![
            Frame::Open { stream: 1, fin: false, headers: headers(&[("streamtype", "error")]) },
            Frame::Open { stream: 3, fin: true, headers: headers(&[]) },
            Frame::Reply { stream: 1, fin: false, headers: headers(&[("a", "b")]) },
            Frame::Reset { stream: 7, status: STATUS_CANCEL },
            Frame::Settings { initial_window: None },
            Frame::Settings { initial_window: Some(1 << 20) },
            Frame::Ping(9),
            Frame::GoAway { last: 5 },
            Frame::Window { stream: 1, delta: 4096 },
            Frame::Data { stream: 1, fin: false, bytes: "hello".into() },
            Frame::Data { stream: 1, fin: true, bytes: Bytes::new() },
            Frame::Data { stream: 2, fin: true, bytes: "end".into() },
        ]
    }

    #[test]
    fn frames_round_trip() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut bytes = BytesMut::new();
        for frame in samples() {
            encoder.encode(&frame, &mut bytes);
            assert_eq!(decoder.decode(&mut bytes).unwrap(), Some(frame));
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn frames_may_come_byte_by_byte() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut all = BytesMut::new();
        samples().iter().for_each(|frame| encoder.encode(frame, &mut all));
        let (mut input, mut got) = (BytesMut::new(), Vec::new());
        for byte in all {
            input.put_u8(byte);
            while let Some(frame) = decoder.decode(&mut input).unwrap() {
                got.push(frame);
            }
        }
        let data: Vec<u8> = got
            .iter()
            .filter_map(|frame| match frame {
                Frame::Data { bytes, .. } => Some(bytes.to_vec()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(data, b"helloend");
        let fins = got.iter().filter(|f| matches!(f, Frame::Data { fin: true, .. })).count();
        assert_eq!(fins, 2);
        assert_eq!(got.iter().filter(|f| !matches!(f, Frame::Data { .. })).count(), 9);
    }

    #[test]
    fn bad_frames_are_refused() {
        for (bytes, want) in [
            (&[0x80, 2, 0, 1, 0, 0, 0, 0][..], SpdyError::Version),
            (&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], SpdyError::TooLarge(0xff_ffff)),
            (&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0], SpdyError::CutOff),
            (&[0x80, 3, 0, 9, 0, 0, 0, 4, 0, 0, 0, 1], SpdyError::CutOff),
            (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1], SpdyError::CutOff),
        ] {
            assert_eq!(Decoder::new().decode(&mut BytesMut::from(bytes)), Err(want));
        }
        let unknown = &[0x80, 3, 0, 99, 0, 0, 0, 1, 7][..];
        assert_eq!(Decoder::new().decode(&mut BytesMut::from(unknown)), Ok(Some(Frame::Unknown)));
    }
}
