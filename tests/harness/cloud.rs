//! A cloud in this process that speaks the contract of external providers, and remembers what it was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

/// What there is in it.
#[derive(Default)]
pub struct State {
    /// By node name.
    pub machines: BTreeMap<String, Value>,
    /// By name: the last body.
    pub balancers: BTreeMap<String, Value>,
    pub routes: BTreeMap<String, Value>,
    /// `METHOD PATH` of every call, in order.
    pub calls: Vec<String>,
    /// Methods that are refused, with this message.
    pub refused: BTreeMap<&'static str, String>,
    /// The bearer token that must come.
    pub token: String,
}

pub struct FakeCloud {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl FakeCloud {
    pub fn start(token: &str) -> FakeCloud {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { token: token.into(), ..State::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        FakeCloud { url, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A machine of the given node.
    pub fn machine(&self, node: &str, number: u32) {
        let machine = json!({
            "providerID": format!("fake://machine-{number}"), "instanceType": "small", "zone": "zone-1", "region": "here",
            "addresses": [{"type": "InternalIP", "address": format!("127.0.0.{number}")}, {"type": "ExternalIP", "address": format!("203.0.113.{number}")}],
        });
        self.state().machines.insert(node.into(), machine);
    }

    pub fn called(&self, call: &str) -> usize {
        self.state().calls.iter().filter(|made| made.starts_with(call)).count()
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let (mut length, mut token) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => token = value.trim().trim_start_matches("Bearer ").to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?, words.next()?);
    let (code, answer) = {
        let mut state = state.lock().ok()?;
        answer(&mut state, method, path, &token, body)
    };
    let text = answer.to_string();
    let head = format!(
        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    let mut stream = stream;
    stream.write_all(format!("{head}{text}").as_bytes()).ok()
}

fn answer(state: &mut State, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    state.calls.push(format!("{method} {path}"));
    if token != state.token {
        return (401, json!({"message": "who are you?"}));
    }
    let path = path.split('?').next().unwrap_or_default();
    if path.starts_with("/v1/loadbalancers/")
        && let Some(message) = state.refused.get(method)
    {
        return (422, json!({"message": message}));
    }
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    match (method, parts.as_slice()) {
        ("GET", ["provider"]) => {
            let capabilities =
                json!({"instances": true, "loadBalancers": true, "routes": true, "volumes": true});
            (200, json!({"name": "fake", "capabilities": capabilities}))
        }
        ("POST", ["instances"]) => {
            let found = body["node"]["name"].as_str().and_then(|name| state.machines.get(name));
            (200, json!({"exists": found.is_some(), "instance": found}))
        }
        ("GET", ["loadbalancers", name]) => match state.balancers.contains_key(*name) {
            true => (200, status(state, name)),
            false => (404, Value::Null),
        },
        ("PUT", ["loadbalancers", name] | ["loadbalancers", name, "nodes"]) => {
            state.balancers.insert((*name).into(), body);
            (200, status(state, name))
        }
        ("DELETE", ["loadbalancers", name]) => match state.balancers.remove(*name) {
            Some(_) => (200, json!({})),
            None => (404, Value::Null),
        },
        ("GET", ["routes"]) => {
            let routes: Vec<&Value> = state.routes.values().collect();
            (200, json!({"routes": routes}))
        }
        ("PUT", ["routes", name]) => {
            state.routes.insert((*name).into(), body["route"].clone());
            (200, json!({}))
        }
        ("DELETE", ["routes", name]) => {
            state.routes.remove(*name);
            (200, json!({}))
        }
        ("POST", ["volumes", "labels"]) => match body["volume"]["spec"]["csi"]["driver"].as_str() {
            Some("fake") => (200, json!({"labels": {"topology.kubernetes.io/zone": "zone-1"}})),
            _ => (200, json!({"labels": {}})),
        },
        _ => (404, json!({"message": "no such thing"})),
    }
}

/// Balancers are numbered in the order of their names.
fn status(state: &State, name: &str) -> Value {
    let names: BTreeSet<&String> = state.balancers.keys().collect();
    let number = names.iter().position(|known| *known == name).unwrap_or(0) + 50;
    json!({"status": {"ingress": [{"ip": format!("203.0.113.{number}"), "ipMode": "Proxy"}]}})
}
