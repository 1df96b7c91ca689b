//! A connection against a peer that writes frames by hand.

use std::time::Duration;

use tokio::io::DuplexStream;

use super::super::idle::IDLE_MAX;
use super::*;

struct Peer {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    input: BytesMut,
}

impl Peer {
    fn start() -> (Self, Accept, tokio::task::JoinHandle<()>) {
        let (io, server) = tokio::io::duplex(1 << 16);
        let (accept, work) = connection(server, Idle::new(IDLE_MAX));
        let peer = Peer { io, encoder: Encoder::new(), decoder: Decoder::new(), input: BytesMut::new() };
        (peer, accept, tokio::spawn(work))
    }

    async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        self.encoder.encode(&frame, &mut out);
        self.io.write_all(&out).await.unwrap();
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let headers = Headers(vec![("streamtype".into(), kind.into())]);
        self.send(Frame::Open { stream, fin: false, headers }).await;
    }

    async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        self.send(Frame::Data { stream, fin, bytes: Bytes::copy_from_slice(bytes) }).await;
    }

    /// None: the connection has ended.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_is_opened_answered_written_and_ended() {
    let (mut peer, mut accept, work) = Peer::start();
    peer.open(1, "stdin").await;
    peer.data(1, b"in", true).await;
    let mut stream = accept.recv().await.unwrap();
    assert_eq!((stream.id, stream.headers.get("streamType")), (1, Some("stdin")));
    assert_eq!(stream.input.recv().await.unwrap(), "in");
    assert!(stream.input.recv().await.is_none());
    stream.output.accept().await.unwrap();
    stream.output.write("out".into()).await.unwrap();
    stream.output.finish().await;
    assert!(matches!(peer.next().await.unwrap(), Frame::Reply { stream: 1, .. }));
    assert_eq!(peer.next().await.unwrap(), Frame::Data { stream: 1, fin: false, bytes: "out".into() });
    assert_eq!(peer.next().await.unwrap(), Frame::Data { stream: 1, fin: true, bytes: Bytes::new() });
    peer.send(Frame::Ping(1)).await;
    assert_eq!(peer.next().await.unwrap(), Frame::Ping(1));
    drop((stream, accept));
    assert!(matches!(peer.next().await.unwrap(), Frame::GoAway { .. }));
    assert!(peer.next().await.is_none());
    work.await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_resets_its_streams() {
    let (mut peer, mut accept, work) = Peer::start();
    peer.open(1, "a").await;
    peer.open(3, "b").await;
    let (mut first, second) = (accept.recv().await.unwrap(), accept.recv().await.unwrap());
    peer.send(Frame::Reset { stream: 3, status: STATUS_CANCEL }).await;
    second.output.reset.cancelled().await;
    assert!(!first.output.reset.is_cancelled());
    assert_eq!(second.output.write("x".into()).await, Err(Gone));
    drop(peer);
    work.await.unwrap();
    assert!(first.input.recv().await.is_none());
    assert!(first.output.reset.is_cancelled());
}

#[tokio::test]
async fn windows_count_for_clients_that_keep_them() {
    let (mut peer, mut accept, _work) = Peer::start();
    peer.open(1, "a").await;
    let stream = accept.recv().await.unwrap();
    // Go's client says nothing of windows.
    let much = vec![0; 200 << 10];
    let writing = tokio::spawn({
        let (output, much) = (stream.output.clone(), Bytes::from(much));
        async move { output.write(much).await }
    });
    let mut got = 0;
    while got < 200 << 10 {
        let Some(Frame::Data { bytes, .. }) = peer.next().await else { panic!() };
        got += bytes.len();
    }
    writing.await.unwrap().unwrap();
    peer.open(3, "b").await;
    peer.send(Frame::Settings { initial_window: Some(10) }).await;
    peer.send(Frame::Ping(1)).await;
    assert_eq!(peer.next().await.unwrap(), Frame::Ping(1));
    let stream = accept.recv().await.unwrap();
    let writing = tokio::spawn(async move { stream.output.write(vec![7; 25].into()).await });
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let Some(Frame::Data { bytes, .. }) = peer.next().await else { panic!() };
        sizes.push(bytes.len());
        peer.send(Frame::Window { stream: 3, delta: 10 }).await;
    }
    assert_eq!(sizes, [10, 10, 5]);
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_reader_holds_its_client_back_and_a_lost_one_does_not() {
    let (mut peer, mut accept, _work) = Peer::start();
    peer.open(1, "a").await;
    let mut stream = accept.recv().await.unwrap();
    let piece = [0u8; 1 << 14];
    let all = tokio::time::timeout(Duration::from_millis(300), async {
        for _ in 0..1000 {
            peer.data(1, &piece, false).await;
        }
    });
    assert!(all.await.is_err(), "16 MB were taken without a reader");
    stream.input.close();
    while stream.input.try_recv().is_ok() {}
}

#[tokio::test]
async fn too_many_and_wrong_streams_are_refused() {
    let (mut peer, mut accept, work) = Peer::start();
    let mut held = Vec::new();
    for n in 0..STREAMS_MAX as u32 {
        peer.open(2 * n + 1, "a").await;
        held.push(accept.recv().await.unwrap());
    }
    let next = 2 * STREAMS_MAX as u32 + 1;
    peer.open(next, "a").await;
    assert_eq!(peer.next().await.unwrap(), Frame::Reset { stream: next, status: STATUS_REFUSED });
    held.pop();
    peer.open(next + 2, "a").await;
    assert_eq!(accept.recv().await.unwrap().id, next + 2, "a stream that is over makes room");
    peer.open(1, "again").await;
    assert!(peer.next().await.is_none());
    work.await.unwrap();
    assert!(held.iter().all(|stream| stream.output.reset.is_cancelled()));
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let (_io, server) = tokio::io::duplex(1 << 16);
    let (accept, work) = connection(server, Idle::new(Duration::from_millis(50)));
    work.await;
    drop(accept);
}
