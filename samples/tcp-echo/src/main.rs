//! A TCP server over wasi:sockets that sends back every byte it receives, many connections at a time, at every address of
//! its pod.

use wasip2::io::poll::{poll, Pollable};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

const CONNECTIONS_MAX: usize = 256;
const READ_BYTES_MAX: u64 = 4096;

fn main() {
    let port = std::env::var("PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(7000);
    let four = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (0, 0, 0, 0) });
    let address = (0, 0, 0, 0, 0, 0, 0, 0);
    let six = IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 });
    let mut listeners = Vec::new();
    // A socket of WASI is of one family.
    for (family, any) in [(IpAddressFamily::Ipv4, four), (IpAddressFamily::Ipv6, six)] {
        match listen(family, any) {
            Ok(listener) => listeners.push(listener),
            // The pod has no address of this family.
            Err(ErrorCode::NotSupported) => {}
            Err(error) => {
                eprintln!("tcp-echo: cannot listen on port {port}: {error:?}");
                std::process::exit(1);
            }
        }
    }
    println!("tcp-echo: listening on port {port}");
    serve(&listeners);
}

fn listen(family: IpAddressFamily, any: IpSocketAddress) -> Result<TcpSocket, ErrorCode> {
    let socket = create_tcp_socket(family)?;
    let ready = socket.subscribe();
    socket.start_bind(&instance_network(), any)?;
    finish(&ready, || socket.finish_bind())?;
    socket.start_listen()?;
    finish(&ready, || socket.finish_listen())?;
    drop(ready);
    Ok(socket)
}

fn finish<T>(ready: &Pollable, step: impl Fn() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
    loop {
        match step() {
            Err(ErrorCode::WouldBlock) => ready.block(),
            done => return done,
        }
    }
}

/// One accepted connection. Fields drop in this order: the streams must go before their socket.
struct Connection {
    readable: Pollable,
    writable: Pollable,
    input: InputStream,
    output: OutputStream,
    pending: Vec<u8>,
    _socket: TcpSocket,
}

impl Connection {
    /// Moves what it can; false when the connection is over.
    fn advance(&mut self) -> bool {
        if self.pending.is_empty() {
            match self.input.read(READ_BYTES_MAX) {
                Ok(bytes) => self.pending = bytes,
                Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => return false,
            }
        }
        self.send()
    }

    fn send(&mut self) -> bool {
        while !self.pending.is_empty() {
            let Ok(room) = self.output.check_write() else { return false };
            let length = self.pending.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            if length == 0 {
                return true;
            }
            if self.output.write(&self.pending[..length]).is_err() {
                return false;
            }
            self.pending.drain(..length);
        }
        self.output.flush().is_ok()
    }

    fn interest(&self) -> &Pollable {
        if self.pending.is_empty() {
            &self.readable
        } else {
            &self.writable
        }
    }
}

fn serve(listeners: &[TcpSocket]) {
    let incoming: Vec<Pollable> = listeners.iter().map(TcpSocket::subscribe).collect();
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut waits: Vec<&Pollable> = connections.iter().map(Connection::interest).collect();
        let accepting = connections.len() < CONNECTIONS_MAX;
        if accepting {
            waits.extend(&incoming);
        }
        let known = connections.len();
        let ready = poll(&waits);
        let mut over: Vec<usize> = Vec::new();
        for index in ready.into_iter().map(|index| index as usize) {
            if index < known {
                if !connections[index].advance() {
                    over.push(index);
                }
            } else if !accept(&listeners[index - known], &mut connections) {
                return;
            }
        }
        // From the end, so that the earlier indexes stay true; new connections stand after them all.
        over.sort_unstable();
        for index in over.into_iter().rev() {
            connections.remove(index);
        }
    }
}

/// Takes one waiting connection; false when the listener itself is closed.
fn accept(listener: &TcpSocket, connections: &mut Vec<Connection>) -> bool {
    match listener.accept() {
        Ok((socket, input, output)) => {
            let (readable, writable) = (input.subscribe(), output.subscribe());
            let pending = Vec::new();
            connections.push(Connection { readable, writable, input, output, pending, _socket: socket });
            true
        }
        Err(ErrorCode::ConnectionAborted | ErrorCode::InvalidState) => false,
        Err(_) => true,
    }
}
