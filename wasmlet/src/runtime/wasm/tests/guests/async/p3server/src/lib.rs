//! A WASI 0.3 http handler: counts requests of its instance, waits, echoes bodies with trailers, fails on demand.

use std::cell::Cell;

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

wasip3::http::service::export!(Server);

struct Server;

thread_local! {
    static SERVED: Cell<u32> = const { Cell::new(0) };
    static WAITING: Cell<u32> = const { Cell::new(0) };
}

impl wasip3::exports::http::handler::Guest for Server {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let served = SERVED.get() + 1;
        SERVED.set(served);
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/count" => Ok(text(format!("{served}"))),
            "/wait" => {
                WAITING.set(WAITING.get() + 1);
                let millis: u64 = query.parse().unwrap_or(100);
                wasip3::clocks::monotonic_clock::wait_for(millis * 1_000_000).await;
                let together = WAITING.get();
                WAITING.set(together - 1);
                Ok(text(format!("{together} waited together")))
            }
            "/echo" => Ok(echo(request)),
            "/linger" => {
                wit_bindgen::spawn_local(async {
                    wasip3::clocks::monotonic_clock::wait_for(50_000_000).await;
                    loop {
                        std::hint::black_box(());
                    }
                });
                Ok(text("answered".into()))
            }
            "/trap" => panic!("on demand"),
            "/spin" => loop {
                std::hint::black_box(());
            },
            "/error" => Err(ErrorCode::InternalError(Some("on demand".into()))),
            _ => Ok(text("hello from p3\n".into())),
        }
    }
}

fn text(text: String) -> Response {
    let (mut writer, reader) = wit_stream::new();
    let (_trailers, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(reader), no_trailers);
    wit_bindgen::spawn_local(async move {
        writer.write_all(text.into_bytes()).await;
    });
    response
}

/// The body as it comes, then the request's trailers and one of its own: how long the body was.
fn echo(request: Request) -> Response {
    let (_done, done) = wit_future::new(|| Ok(()));
    let (mut incoming, trailers) = Request::consume_body(request, done);
    let (mut writer, reader) = wit_stream::new();
    let (after, after_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(reader), after_reader);
    wit_bindgen::spawn_local(async move {
        let mut total = 0;
        loop {
            let (status, chunk) = incoming.read(Vec::with_capacity(16 * 1024)).await;
            total += chunk.len();
            if !chunk.is_empty() {
                writer.write_all(chunk).await;
            }
            if !matches!(status, wit_bindgen::StreamResult::Complete(_)) {
                break;
            }
        }
        drop(writer);
        let own = match trailers.await {
            Ok(Some(theirs)) => theirs.clone(),
            _ => Fields::new(),
        };
        let _ = own.append("x-length", total.to_string().as_bytes());
        let _ = after.write(Ok(Some(own))).await;
    });
    response
}
