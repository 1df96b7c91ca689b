//! Answers by UDP and TCP, in bounds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_resolver::proto::serialize::binary::{BinEncodable, BinEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tracing::debug;

use super::{Names, Said};

/// Datagrams that are being answered; more are dropped, and their clients ask again.
const DATAGRAMS_MAX: usize = 2_048;
const CONNECTIONS_MAX: usize = 256;
/// A connection without a question for this long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// What a client that does not say how much it takes is sent at most (RFC 1035).
const PLAIN_MAX: u16 = 512;
/// What we send at most in a datagram, and take: no fragments on the way.
const DATAGRAM_BYTES_MAX: u16 = 1_232;

/// Until the socket fails.
pub async fn udp(socket: UdpSocket, names: Names) -> io::Result<()> {
    let socket = Arc::new(socket);
    let permits = Arc::new(Semaphore::new(DATAGRAMS_MAX));
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // What a client that is gone makes of an answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let Some(Ok(question)) = buffer.get(..length).map(Message::from_vec) else { continue };
        let (socket, names) = (socket.clone(), names.clone());
        tokio::spawn(async move {
            let taken = question.edns.as_ref().map_or(PLAIN_MAX, Edns::max_payload);
            let size = taken.clamp(PLAIN_MAX, DATAGRAM_BYTES_MAX);
            if let Some(answer) = respond(&names, question, size).await
                && let Err(error) = socket.send_to(&answer, client).await
            {
                debug!(%client, %error, "an answer was not sent");
            }
            drop(permit);
        });
    }
}

/// Until the listener fails.
pub async fn tcp(listener: TcpListener, names: Names) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, client)) => {
                let names = names.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, names).await {
                        debug!(%client, %error, "a connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                debug!(%error, "accepting failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(mut stream: TcpStream, names: Names) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let length = match tokio::time::timeout(IDLE, stream.read_u16()).await {
            Ok(Ok(length)) => length,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let mut buffer = vec![0; length.into()];
        tokio::time::timeout(IDLE, stream.read_exact(&mut buffer)).await??;
        let question = Message::from_vec(&buffer).map_err(io::Error::other)?;
        let Some(answer) = respond(&names, question, u16::MAX).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut whole = length.to_be_bytes().to_vec();
        whole.extend(answer);
        tokio::time::timeout(IDLE, stream.write_all(&whole)).await??;
    }
}

/// The answer, encoded in no more bytes than that; None where there is to be none.
async fn respond(names: &Names, question: Message, size: u16) -> Option<Vec<u8>> {
    if question.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(question.id, question.op_code);
    answer.metadata = Metadata::response_from_request(&question.metadata);
    answer.metadata.recursion_available = true;
    answer.queries = question.queries.clone();
    if let Some(asked) = &question.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_BYTES_MAX).set_version(0);
        edns.flags_mut().dnssec_ok = asked.flags().dnssec_ok;
        answer.edns = Some(edns);
        if asked.version() > 0 {
            answer.metadata.response_code = ResponseCode::BADVERS;
            return encode(&answer, size);
        }
    }
    match (question.op_code, question.queries.as_slice()) {
        (OpCode::Query, [query]) => {
            let Said { code, authoritative, answers, authorities, additionals } =
                names.say(&query.name, query.query_type, query.query_class).await;
            answer.metadata.response_code = code;
            answer.metadata.authoritative = authoritative;
            answer.answers = answers;
            answer.authorities = authorities;
            answer.additionals = additionals;
        }
        (OpCode::Query, _) => answer.metadata.response_code = ResponseCode::FormErr,
        _ => answer.metadata.response_code = ResponseCode::NotImp,
    }
    encode(&answer, size)
}

/// Cut, and marked so, where it is longer.
fn encode(answer: &Message, size: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(size);
    match answer.emit(&mut encoder) {
        Ok(()) => Some(bytes),
        Err(error) => {
            debug!(%error, "an answer could not be encoded");
            let failed = Message::error_msg(answer.id, answer.op_code, ResponseCode::ServFail);
            failed.to_vec().ok()
        }
    }
}

/// Both sockets at one address.
pub fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = std::net::UdpSocket::bind(address)?;
    // Port 0 became a real one, which both shall have.
    let address = udp.local_addr()?;
    let tcp = std::net::TcpListener::bind(address)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}
