//! A guest that tries one thing on the network and prints what came of it. Built as samples/tcp-echo is
//! (`samples/build.sh`), into `../netprobe.wasm`.

use std::net::{IpAddr, Ipv6Addr};

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};
use wasip2::io::poll::Pollable;
use wasip2::io::streams::StreamError;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::udp_create_socket::create_udp_socket;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let arg = |at: usize| args.get(at).map(String::as_str).unwrap_or("");
    let port = || arg(3).parse().unwrap_or(0);
    let result = match arg(1) {
        "resolve" => resolve(arg(2)),
        "bind" => bind(arg(2), port()).map(|socket| show(socket.local_address())),
        "connect" => connect(arg(2), port()),
        "loopback" => loopback("0.0.0.0", "127.0.0.1", port()),
        "loopback6" => loopback("::", "::1", port()),
        "udp" => udp(arg(2), port()),
        "ipv6" => create_tcp_socket(IpAddressFamily::Ipv6).map(|_| "created".to_owned()),
        "http" => {
            println!("{}", http(arg(2)));
            return;
        }
        _ => std::process::exit(2),
    };
    match result {
        Ok(text) => println!("{text}"),
        Err(error) => println!("error {}", error.name()),
    }
}

fn address(text: &str, port: u16) -> IpSocketAddress {
    match text.parse() {
        Ok(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
        }
        Ok(IpAddr::V6(ip)) => {
            let [a, b, c, d, e, f, g, h] = ip.segments();
            let address = (a, b, c, d, e, f, g, h);
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
        }
        Err(_) => std::process::exit(2),
    }
}

fn family(text: &str) -> IpAddressFamily {
    if text.contains(':') {
        IpAddressFamily::Ipv6
    } else {
        IpAddressFamily::Ipv4
    }
}

fn six((a, b, c, d, e, f, g, h): (u16, u16, u16, u16, u16, u16, u16, u16)) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, d, e, f, g, h)
}

fn show(address: Result<IpSocketAddress, ErrorCode>) -> String {
    match address {
        Ok(IpSocketAddress::Ipv4(v4)) => {
            let (a, b, c, d) = v4.address;
            format!("{a}.{b}.{c}.{d}:{}", v4.port)
        }
        Ok(IpSocketAddress::Ipv6(v6)) => format!("[{}]:{}", six(v6.address), v6.port),
        Err(error) => error.name().into(),
    }
}

fn finish<T>(ready: &Pollable, step: impl Fn() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
    loop {
        match step() {
            Err(ErrorCode::WouldBlock) => ready.block(),
            done => return done,
        }
    }
}

fn resolve(name: &str) -> Result<String, ErrorCode> {
    let stream = resolve_addresses(&instance_network(), name)?;
    let ready = stream.subscribe();
    let mut found = Vec::new();
    while let Some(address) = finish(&ready, || stream.resolve_next_address())? {
        found.push(match address {
            IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
            IpAddress::Ipv6(address) => six(address).to_string(),
        });
    }
    Ok(found.join(" "))
}

fn bind(ip: &str, port: u16) -> Result<TcpSocket, ErrorCode> {
    let socket = create_tcp_socket(family(ip))?;
    let ready = socket.subscribe();
    socket.start_bind(&instance_network(), address(ip, port))?;
    finish(&ready, || socket.finish_bind())?;
    Ok(socket)
}

/// Says hello and prints both addresses with what came back.
fn connect(ip: &str, port: u16) -> Result<String, ErrorCode> {
    let socket = create_tcp_socket(family(ip))?;
    let ready = socket.subscribe();
    socket.start_connect(&instance_network(), address(ip, port))?;
    let (input, output) = finish(&ready, || socket.finish_connect())?;
    let _ = output.blocking_write_and_flush(b"hello");
    let answer = input.blocking_read(100).unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(format!("{} -> {} {answer}", show(socket.local_address()), show(socket.remote_address())))
}

/// Listens on every address of a family, and reaches itself through its loopback.
fn loopback(any: &str, loopback: &str, port: u16) -> Result<String, ErrorCode> {
    let listener = bind(any, port)?;
    listener.start_listen()?;
    listener.finish_listen()?;
    let socket = create_tcp_socket(family(loopback))?;
    let ready = socket.subscribe();
    socket.start_connect(&instance_network(), address(loopback, port))?;
    let (_input, _output) = finish(&ready, || socket.finish_connect())?;
    let ready = listener.subscribe();
    let (accepted, _in, _out) = finish(&ready, || listener.accept())?;
    Ok(format!("accepted on {}", show(accepted.local_address()).rsplit(':').next().unwrap_or("")))
}

fn udp(ip: &str, port: u16) -> Result<String, ErrorCode> {
    let socket = create_udp_socket(family(ip))?;
    let ready = socket.subscribe();
    let any = if ip.contains(':') { "::" } else { "0.0.0.0" };
    socket.start_bind(&instance_network(), address(any, 0))?;
    finish(&ready, || socket.finish_bind())?;
    let (incoming, outgoing) = socket.stream(None)?;
    let sendable = outgoing.subscribe();
    while outgoing.check_send()? == 0 {
        sendable.block();
    }
    let remote_address = Some(address(ip, port));
    outgoing.send(&[OutgoingDatagram { data: b"ping".to_vec(), remote_address }])?;
    let readable = incoming.subscribe();
    loop {
        let datagrams = incoming.receive(1)?;
        if let Some(datagram) = datagrams.first() {
            let from = show(Ok(datagram.remote_address));
            return Ok(format!("{from} {}", String::from_utf8_lossy(&datagram.data)));
        }
        readable.block();
    }
}

fn http(authority: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some("/hello?x=1"));
    let future = match handle(request, None) {
        Ok(future) => future,
        Err(error) => return format!("error {error:?}"),
    };
    future.subscribe().block();
    let response = match future.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(error))) => return format!("error {error:?}"),
        _ => return "error twice".into(),
    };
    let mut text = format!("{} ", response.status());
    if let Ok(body) = response.consume() {
        if let Ok(stream) = body.stream() {
            loop {
                match stream.blocking_read(4096) {
                    Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                    Err(StreamError::Closed) => break,
                    Err(error) => return format!("error {error:?}"),
                }
            }
        }
    }
    text
}
