//! Request lines and Accept headers, split at line ends: whatever comes, an answer and no panic.
#![no_main]

use coracle_apiserver::negotiation::{self, Offer};
use coracle_apiserver::request_info::RequestInfo;
use coracle_apiserver::verbs::options::Query;
use http::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let (path, query, accept) = (lines.next().unwrap_or(""), lines.next(), lines.next());
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let info = RequestInfo::parse(&method, path, query);
        let _ = (info.attributes(), info.is_long_running());
    }
    let query = Query::parse(query.unwrap_or_default());
    let _ = (query.list_options(), query.write_options("v1, Kind=DeleteOptions"));
    for offer in [
        Offer { protobuf: false, list: true, watch: false },
        Offer { protobuf: true, list: false, watch: true },
    ] {
        let _ = negotiation::negotiate(accept, offer);
    }
});
