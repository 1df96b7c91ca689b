//! What a client's bytes can have wrong.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    #[error("not SPDY version 3")]
    Version,
    #[error("a control frame of {0} bytes")]
    TooLarge(usize),
    #[error("a frame that is cut off")]
    CutOff,
    #[error("header block: {0}")]
    Headers(&'static str),
    #[error("stream {0}: a number that must not be used")]
    StreamNumber(u32),
}
