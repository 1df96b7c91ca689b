//! A wasi:http component that says which version and which pod answered.

use wasip2::cli::environment::get_environment;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

const VERSION: &str = if cfg!(feature = "v2") { "v2" } else { "v1" };

struct HelloHttp;

wasip2::http::proxy::export!(HelloHttp);

impl Guest for HelloHttp {
    fn handle(request: IncomingRequest, response: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_else(|| "/".into());
        let path = target.split('?').next().unwrap_or("/");
        let environment = get_environment();
        let (status, text) = answer(&request.method(), path, &environment);
        if variable(&environment, "ACCESS_LOG") == Some("1") && path != "/healthz" {
            println!("{VERSION} {status} {target}");
        }
        send(response, status, &text);
    }
}

fn answer(method: &Method, path: &str, environment: &[(String, String)]) -> (u16, String) {
    if !matches!(method, Method::Get | Method::Head) {
        return (405, "method not allowed\n".into());
    }
    match path {
        "/" => {
            let pod = variable(environment, "POD_NAME").unwrap_or("unknown");
            (200, format!("Hello from Coracle! version={VERSION} pod={pod}\n"))
        }
        "/healthz" => (200, "ok\n".into()),
        "/env" => {
            let mut lines: Vec<_> =
                environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            lines.sort();
            (200, lines.concat())
        }
        _ => (404, format!("no such page: {path}\n")),
    }
}

fn variable<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Sends the whole answer; a client that has gone away is not an error of the server.
fn send(outparam: ResponseOutparam, status: u16, text: &str) {
    let headers = Fields::new();
    let _ = headers.append("content-type", b"text/plain; charset=utf-8");
    let _ = headers.append("content-length", text.len().to_string().as_bytes());
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(outparam, Ok(response));
    if let Ok(stream) = body.write() {
        // One call takes at most 4096 bytes.
        for chunk in text.as_bytes().chunks(4096) {
            if stream.blocking_write_and_flush(chunk).is_err() {
                break;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}
