//! What answers requests that the filter lets pass: an origin server so small that it is built in.

use crate::format::names;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use std::fmt::Write;

/// An answer of this server.
pub type Answer = Response<Full<Bytes>>;

/// A short answer in plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// Answers a request: `/headers` with the headers that it had when it got here, everything else with what it was. The answer
/// says who has filtered the request.
pub fn answer(parts: &Parts, body: &[Bytes]) -> Answer {
    let mut page = String::with_capacity(64);
    // Writing to a string cannot fail.
    if parts.uri.path() == "/headers" {
        for (name, value) in &parts.headers {
            let _ = writeln!(page, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
    } else {
        let len: usize = body.iter().map(Bytes::len).sum();
        let _ = writeln!(page, "{} {}, {len} bytes of body", parts.method, parts.uri.path());
    }
    let mut answer = text(StatusCode::OK, page);
    if let Some(name) = names::header_name(names::known("x-filtered-by"))
        && let Some(by) = parts.headers.get(&name)
    {
        answer.headers_mut().insert(name, by.clone());
    }
    answer
}
