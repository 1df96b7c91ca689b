//! A WASI 0.3 command that tries one thing and prints what came of it.

use std::net::{IpAddr, Ipv6Addr};

use wasip3::http::types::{Fields, Request, Scheme};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
    UdpSocket,
};
use wasip3::{wit_bindgen, wit_future, wit_stream};

wasip3::cli::command::export!(Probe);

struct Probe;

impl wasip3::exports::cli::run::Guest for Probe {
    async fn run() -> Result<(), ()> {
        let args: Vec<String> = wasip3::cli::environment::get_arguments();
        let arg = |at: usize| args.get(at).map(String::as_str).unwrap_or("");
        let port = || arg(3).parse().unwrap_or(0);
        let result = match arg(1) {
            "hello" => Ok(format!("hello {}", arg(2))),
            "fail" => return Err(()),
            "resolve" => Ok(resolve(arg(2)).await),
            "bind" => bind(arg(2), port()).map(|socket| show(socket.get_local_address())),
            "connect" => connect(arg(2), port()).await,
            "listen" => listen(arg(2), port()).await,
            "loopback" => loopback("0.0.0.0", "127.0.0.1", port()).await,
            "loopback6" => loopback("::", "::1", port()).await,
            "udp" => udp(arg(2), port()).await,
            "flood" => Ok(flood()),
            "ipv6" => TcpSocket::create(IpAddressFamily::Ipv6).map(|_| "created".to_owned()),
            "http" => Ok(http(arg(2)).await),
            _ => return Err(()),
        };
        say(match result {
            Ok(text) => text,
            Err(error) => format!("error {error:?}"),
        })
        .await;
        Ok(())
    }
}

async fn say(text: String) {
    let (mut writer, reader) = wit_stream::new();
    let written = wasip3::cli::stdout::write_via_stream(reader);
    wit_bindgen::spawn_local(async move {
        writer.write_all(format!("{text}\n").into_bytes()).await;
    });
    let _ = written.await;
}

fn address(text: &str, port: u16) -> IpSocketAddress {
    match text.parse().expect("an address") {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h] = ip.segments();
            let address = (a, b, c, d, e, f, g, h);
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
        }
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
        Err(error) => format!("{error:?}"),
    }
}

async fn resolve(name: &str) -> String {
    match resolve_addresses(name.to_owned()).await {
        Ok(addresses) => {
            let shown = addresses.iter().map(|address| match address {
                IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
                IpAddress::Ipv6(address) => six(*address).to_string(),
            });
            shown.collect::<Vec<_>>().join(" ")
        }
        Err(error) => format!("error {error:?}"),
    }
}

fn bind(ip: &str, port: u16) -> Result<TcpSocket, ErrorCode> {
    let socket = TcpSocket::create(family(ip))?;
    socket.bind(address(ip, port))?;
    Ok(socket)
}

/// Says hello and prints both addresses with what came back.
async fn connect(ip: &str, port: u16) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(family(ip))?;
    socket.connect(address(ip, port)).await?;
    let (mut writer, reader) = wit_stream::new();
    let sent = socket.send(reader);
    writer.write_all(b"hello".to_vec()).await;
    let (mut incoming, _) = socket.receive();
    let (_, answer) = incoming.read(Vec::with_capacity(100)).await;
    let (local, remote) = (show(socket.get_local_address()), show(socket.get_remote_address()));
    drop(writer);
    let _ = sent.await;
    Ok(format!("{local} -> {remote} {}", String::from_utf8_lossy(&answer)))
}

/// Echoes to every connection until there are no more.
async fn listen(ip: &str, port: u16) -> Result<String, ErrorCode> {
    let listener = bind(ip, port)?;
    let mut connections = listener.listen()?;
    say(format!("listening on {}", show(listener.get_local_address()))).await;
    let mut count = 0;
    while let Some(socket) = connections.next().await {
        count += 1;
        wit_bindgen::spawn_local(async move {
            let (incoming, _) = socket.receive();
            let _ = socket.send(incoming).await;
        });
    }
    Ok(format!("no more connections after {count}"))
}

/// Listens on every address of a family, and reaches itself through its loopback.
async fn loopback(any: &str, loopback: &str, port: u16) -> Result<String, ErrorCode> {
    let listener = bind(any, port)?;
    let mut connections = listener.listen()?;
    let socket = TcpSocket::create(family(loopback))?;
    socket.connect(address(loopback, port)).await?;
    let accepted = connections.next().await.ok_or(ErrorCode::ConnectionAborted)?;
    Ok(format!("accepted on {}", show(accepted.get_local_address()).rsplit(':').next().unwrap_or("")))
}

async fn udp(ip: &str, port: u16) -> Result<String, ErrorCode> {
    let socket = UdpSocket::create(family(ip))?;
    socket.bind(address(if ip.contains(':') { "::" } else { "0.0.0.0" }, 0))?;
    socket.send(b"ping".to_vec(), Some(address(ip, port))).await?;
    let (data, from) = socket.receive().await?;
    let connected = UdpSocket::create(family(ip))?;
    connected.connect(address(ip, port))?;
    connected.send(b"bye".to_vec(), None).await?;
    let peer = show(connected.get_remote_address());
    Ok(format!("{} {} {peer}", show(Ok(from)), String::from_utf8_lossy(&data)))
}

/// As many sockets as it is given.
fn flood() -> String {
    let mut sockets = Vec::new();
    loop {
        match TcpSocket::create(IpAddressFamily::Ipv4) {
            Ok(socket) => sockets.push(socket),
            Err(error) => return format!("{} sockets, then {error:?}", sockets.len()),
        }
    }
}

async fn http(authority: &str) -> String {
    let (_trailers, no_trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers, None);
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some("/hello?x=1"));
    let response = match wasip3::http::client::send(request).await {
        Ok(response) => response,
        Err(error) => return format!("error {error:?}"),
    };
    let status = response.get_status_code();
    let (_done, done) = wit_future::new(|| Ok(()));
    let (body, _trailers) = wasip3::http::types::Response::consume_body(response, done);
    format!("{status} {}", String::from_utf8_lossy(&body.collect().await))
}
