//! Port-forward as WebSocket channels: two for each port, data and errors, that begin with the port's number.

use std::collections::HashMap;

use axum::extract::ws::{Message, WebSocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::idle::Idle;
use super::port_forward::Ports;
use super::upgrade::Refusal;
use crate::server::query::Query;

/// Pieces on their way, each direction of each port.
const QUEUE: usize = 8;
const COPY_BYTES: usize = 32 << 10;
/// A channel's number is one byte.
const PORTS_MAX: usize = 128;

/// `port=80&port=81`, or with commas.
pub fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let bad = |text: &str| (StatusCode::BAD_REQUEST, format!("unable to parse {text:?} as a port"));
    let mut ports = Vec::new();
    for (_, value) in query.iter().filter(|(name, _)| matches!(*name, "port" | "ports")) {
        for text in value.split(',') {
            ports.push(text.parse().ok().filter(|port| *port > 0).ok_or_else(|| bad(text))?);
        }
    }
    if ports.len() > PORTS_MAX {
        return Err((StatusCode::BAD_REQUEST, format!("more than {PORTS_MAX} ports")));
    }
    Ok(ports)
}

/// Until the client goes.
pub async fn serve(socket: WebSocket, ports: Ports, wanted: Vec<u16>, base64: bool, idle: Idle) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut messages) = mpsc::channel::<(u8, Bytes)>(QUEUE);
    let mut inputs = HashMap::new();
    let forwards: Vec<_> = wanted
        .iter()
        .zip((0u8..=u8::MAX).step_by(2))
        .map(|(port, channel)| {
            let (input, pieces) = mpsc::channel(QUEUE);
            inputs.insert(channel, input);
            forward(ports.clone(), *port, channel, pieces, sender.clone())
        })
        .collect();
    drop(sender);
    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            idle.touch();
            let Some((channel, bytes)) = decode(message, base64) else { continue };
            if let Some(input) = inputs.get(&channel)
                && input.send(bytes).await.is_err()
            {
                inputs.remove(&channel);
            }
        }
    };
    let write = async {
        while let Some((channel, bytes)) = messages.recv().await {
            if sink.send(encode(channel, &bytes, base64)).await.is_err() {
                return;
            }
            idle.touch();
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    let work = async { tokio::join!(join_all(forwards), write) };
    tokio::select! {
        () = read => {}
        _ = work => {}
        () = idle.elapsed() => {}
    }
}

async fn forward(
    ports: Ports,
    port: u16,
    channel: u8,
    mut input: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<(u8, Bytes)>,
) {
    let number = Bytes::copy_from_slice(&port.to_le_bytes());
    for channel in [channel, channel + 1] {
        if out.send((channel, number.clone())).await.is_err() {
            return;
        }
    }
    let stream = match ports.connect(port).await {
        Ok(stream) => stream,
        Err(why) => {
            let _ = out.send((channel + 1, why.into())).await;
            return;
        }
    };
    let (mut reading, mut writing) = stream.into_split();
    let up = async {
        while let Some(bytes) = input.recv().await {
            if writing.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::with_capacity(COPY_BYTES);
        loop {
            buffer.reserve(COPY_BYTES);
            match reading.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if out.send((channel, buffer.split().freeze())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

fn encode(channel: u8, bytes: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::Text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(bytes)).into());
    }
    let mut out = BytesMut::with_capacity(bytes.len() + 1);
    out.put_u8(channel);
    out.put_slice(bytes);
    Message::Binary(out.freeze())
}

fn decode(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    let mut bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::from(text),
        _ => return None,
    };
    if bytes.is_empty() {
        return None;
    }
    let channel = *bytes.split_to(1).first()?;
    if !base64 {
        return Some((channel, bytes));
    }
    Some((channel.checked_sub(b'0')?, STANDARD.decode(&bytes).ok()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        for (query, want) in [
            ("port=80&port=81", Some(vec![80, 81])),
            ("port=80,81", Some(vec![80, 81])),
            ("ports=8080", Some(vec![8080])),
            ("", Some(vec![])),
            ("port=0", None),
            ("port=x", None),
            ("port=70000", None),
        ] {
            assert_eq!(ports(&Query::parse(query)).ok(), want, "{query}");
        }
    }
}
