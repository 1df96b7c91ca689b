//! SPDY/3 header blocks: names and values, compressed in one zlib stream per direction that begins with a dictionary.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// Header blocks of streams here are a few short pairs.
const BLOCK_BYTES_MAX: usize = 64 << 10;
const PAIRS_MAX: usize = 256;

/// The specification's dictionary: each of these words behind its length, then the text as it is.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
}

/// The headers of one stream; names are lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

pub struct Reader(Decompress);

impl Reader {
    pub fn new() -> Self {
        Reader(Decompress::new(true))
    }

    pub fn read(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::with_capacity(1024);
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            match self.0.decompress_vec(block, &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(SpdyError::Headers("the zlib stream ended")),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| SpdyError::Headers("dictionary"))?;
                }
                Err(_) => return Err(SpdyError::Headers("not compressed as it must be")),
            }
            let used = usize::try_from(self.0.total_in() - read).unwrap_or(block.len());
            block = block.get(used..).unwrap_or_default();
            let full = out.len() == out.capacity();
            if block.is_empty() && !full {
                return Ok(out);
            }
            if out.len() >= BLOCK_BYTES_MAX {
                return Err(SpdyError::Headers("too large"));
            }
            if full {
                out.reserve(out.len().max(1024));
            } else if used == 0 && self.0.total_out() == written && block.is_empty() {
                return Ok(out);
            }
        }
    }
}

pub struct Writer(Compress);

impl Writer {
    pub fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // It is the first thing done with the stream, which is when it is allowed.
        let _ = compress.set_dictionary(&dictionary());
        Writer(compress)
    }

    pub fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(headers.0.len() as u32).to_be_bytes());
        for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut rest = plain.as_slice();
        loop {
            let before = self.0.total_in();
            if self.0.compress_vec(rest, &mut out, FlushCompress::Sync).is_err() {
                return out;
            }
            let used = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(used..).unwrap_or_default();
            if rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(256);
        }
    }
}

fn parse(plain: &[u8]) -> Result<Headers, SpdyError> {
    let mut rest = plain;
    let count = number(&mut rest)?;
    if count > PAIRS_MAX {
        return Err(SpdyError::Headers("too many"));
    }
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = text(&mut rest)?;
        headers.0.push((name, text(&mut rest)?));
    }
    Ok(headers)
}

fn number(rest: &mut &[u8]) -> Result<usize, SpdyError> {
    let (head, tail) = rest.split_at_checked(4).ok_or(SpdyError::Headers("cut off"))?;
    *rest = tail;
    Ok(head.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn text(rest: &mut &[u8]) -> Result<String, SpdyError> {
    let length = number(rest)?;
    let (head, tail) = rest.split_at_checked(length).ok_or(SpdyError::Headers("cut off"))?;
    *rest = tail;
    Ok(String::from_utf8_lossy(head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_specifications() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        // Adler-32 of it, as every zlib stream of a SPDY peer names it.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_share_one_compression() {
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        let long = "x".repeat(5000);
        for pairs in [
            vec![("streamtype", "error"), ("port", "80")],
            vec![],
            vec![("streamtype", "data"), ("long", long.as_str())],
            vec![("streamtype", "data"), ("port", "80")],
        ] {
            let headers = Headers(pairs.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect());
            let block = writer.write(&headers);
            assert_eq!(reader.read(&block).unwrap(), headers);
        }
        assert_eq!(Headers(vec![("StreamType".into(), "a".into())]).get("streamtype"), Some("a"));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for bad in [&b"garbage that is no zlib"[..], &[0x78, 0x9c, 0xff, 0xff, 0xff]] {
            assert!(Reader::new().read(bad).is_err());
        }
        for plain in [&[0, 0, 0, 1][..], &[0, 0, 0, 1, 0, 0, 0, 9, b'a'], &[255, 255, 255, 255]] {
            assert!(parse(plain).is_err());
        }
        let mut writer = Writer::new();
        let bomb = writer.write(&Headers(vec![("a".into(), "0".repeat(1 << 20))]));
        assert!(matches!(Reader::new().read(&bomb), Err(SpdyError::Headers("too large"))));
    }
}
