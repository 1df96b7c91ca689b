//! Plain requests to the cluster's workloads, one connection each, as a stranger would make them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// A connection with its time limits set.
pub fn tcp_connect(address: &str) -> Result<TcpStream, String> {
    let address: SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let stream = TcpStream::connect_timeout(&address, REQUEST_PATIENCE).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(REQUEST_PATIENCE)).map_err(|error| error.to_string())?;
    stream.set_write_timeout(Some(REQUEST_PATIENCE)).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Status and body of one GET to `ADDRESS:PORT`.
pub fn http_get(address: &str, path: &str) -> Result<(u16, String), String> {
    let mut stream = tcp_connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| error.to_string())?;
    let response = super::https::parse(&answer)?;
    Ok((response.status, response.text()))
}

/// Sends a line to an echo server and reads it back.
pub fn echo(address: &str, line: &[u8]) -> Result<(), String> {
    let mut stream = tcp_connect(address)?;
    stream.write_all(line).map_err(|error| error.to_string())?;
    let mut back = vec![0; line.len()];
    stream.read_exact(&mut back).map_err(|error| error.to_string())?;
    if back == line { Ok(()) } else { Err(format!("sent {line:?}, got {back:?}")) }
}
