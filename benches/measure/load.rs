//! A cheap HTTPS client for load: one kept connection, answers counted rather than parsed.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

use crate::harness::Https;

const READ_BYTES: usize = 256 * 1024;

const JSON: &str = "content-type: application/json\r\naccept: application/json\r\n";

/// A kept connection: requests go one after the other.
pub struct Kept {
    stream: StreamOwned<ClientConnection, TcpStream>,
    address: String,
    buffer: Vec<u8>,
    filled: usize,
}

/// What is left of an answer when only its size matters.
pub struct Answer {
    pub status: u16,
    pub body_bytes: usize,
}

impl Kept {
    pub fn open(https: &Https) -> Kept {
        Kept {
            stream: https.connect().unwrap(),
            address: https.address().to_owned(),
            buffer: vec![0; READ_BYTES],
            filled: 0,
        }
    }

    pub fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.exchange_as(method, path, JSON, body)
    }

    /// `headers`: the media types in both directions, and whatever else is asked for, each with its line end.
    pub fn exchange_as(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.send(method, path, headers, body);
        let (status, length, head) = self.head();
        match length {
            Some(length) => {
                let mut left = length - self.keep_after(head, length);
                while left > 0 {
                    let read = self.stream.read(&mut self.buffer).unwrap();
                    assert!(read > 0, "{method} {path}: the connection ended");
                    let taken = read.min(left);
                    left -= taken;
                    self.buffer.copy_within(taken..read, 0);
                    self.filled = read - taken;
                }
                Answer { status, body_bytes: length }
            }
            None => {
                self.buffer.copy_within(head..self.filled, 0);
                self.filled -= head;
                let mut total = 0;
                while let Some(chunk) = self.chunk(|bytes| bytes.len()) {
                    total += chunk;
                }
                Answer { status, body_bytes: total }
            }
        }
    }

    /// Starts a watch; its chunks are read with [`Self::chunk`].
    pub fn watch(&mut self, path: &str) {
        self.send("GET", path, JSON, b"");
        let (status, length, head) = self.head();
        assert!(status == 200 && length.is_none(), "{path}: {status}");
        self.buffer.copy_within(head..self.filled, 0);
        self.filled -= head;
    }

    /// The next chunk of a chunked body; None at its end.
    pub fn chunk<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut end = None;
        while end.is_none() {
            end = self.buffer[..self.filled].windows(2).position(|window| window == b"\r\n");
            if end.is_none() {
                self.more();
            }
        }
        let end = end.unwrap();
        let size =
            usize::from_str_radix(std::str::from_utf8(&self.buffer[..end]).unwrap().trim(), 16).unwrap();
        let (first, whole) = (end + 2, end + 2 + size + 2);
        while self.filled < whole {
            self.more();
        }
        let looked = (size > 0).then(|| look(&self.buffer[first..first + size]));
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        looked
    }

    fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{headers}content-length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).unwrap();
        self.stream.flush().unwrap();
    }

    /// Status, content length if there is one, and where the body begins in the buffer.
    fn head(&mut self) -> (u16, Option<usize>, usize) {
        let end = loop {
            let found = self.buffer[..self.filled].windows(4).position(|window| window == b"\r\n\r\n");
            match found {
                Some(at) => break at,
                None => self.more(),
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end]).unwrap();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
        let length = head
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok());
        (status, length, end + 4)
    }

    /// Takes up to `wanted` bytes that stand at `from` in the buffer, keeps what follows; how many were taken.
    fn keep_after(&mut self, from: usize, wanted: usize) -> usize {
        let taken = wanted.min(self.filled - from);
        self.buffer.copy_within(from + taken..self.filled, 0);
        self.filled -= from + taken;
        taken
    }

    fn more(&mut self) {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).unwrap();
        assert!(read > 0, "the connection ended");
        self.filled += read;
    }
}
