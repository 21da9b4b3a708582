//! One request, from its body to its answer.

use super::gate::{Gate, Passage};
use super::origin::{self, Answer, text};
use crate::format::request::Outgoing;
use crate::format::verdict::{Kind, Verdict};
use crate::format::{Header, Headers, Malformed, names};
use crate::transport::{Failure, Reply};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};

/// How many headers a verdict may have.
const MAX_HEADERS: usize = 256;

/// Marks answers to requests that passed although there was no verdict.
const UNFILTERED: HeaderName = HeaderName::from_static("x-unfiltered");

/// Answers a request.
pub async fn answer(request: Request<Incoming>, gate: &Gate, max_body: usize) -> Answer {
    let (mut parts, body) = request.into_parts();
    let body = match collect(body, max_body).await {
        Ok(body) => body,
        Err(status) => return text(status, ""),
    };
    let passage = gate.judge(&Outgoing::new(&parts, &body)).await;
    let passage = match passage {
        Passage::Judged(reply) => match carry_out(&reply, &mut parts) {
            Ok(Some(answer)) => return answer,
            Ok(None) => return origin::answer(&parts, &body),
            Err(_) => gate.without_verdict(Failure::Broken),
        },
        other => other,
    };
    match passage {
        Passage::Open(failure) => {
            // Nobody has filtered it, whatever it says.
            names::header_name(names::known("x-filtered-by")).map(|name| parts.headers.remove(name));
            let mut answer = origin::answer(&parts, &body);
            answer.headers_mut().insert(UNFILTERED, HeaderValue::from_static(reason(failure)));
            answer
        }
        Passage::Closed(failure) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
        Passage::Free | Passage::Judged(_) => origin::answer(&parts, &body),
    }
}

fn reason(failure: Failure) -> &'static str {
    match failure {
        Failure::Died => "died",
        Failure::Late => "late",
        Failure::Broken => "broken",
        Failure::TooLong => "too long",
    }
}

/// Takes in a body, as it comes.
async fn collect(body: Incoming, max: usize) -> Result<Vec<Bytes>, StatusCode> {
    let mut chunks = Vec::new();
    if body.is_end_stream() {
        return Ok(chunks);
    }
    if body.size_hint().lower() > max as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut body = Limited::new(body, max);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => chunks.extend(frame.into_data().ok()),
            Err(e) if e.is::<LengthLimitError>() => return Err(StatusCode::PAYLOAD_TOO_LARGE),
            Err(_) => return Err(StatusCode::BAD_REQUEST),
        }
    }
    Ok(chunks)
}

/// Does what the verdict says: the answer if there is one, or nothing if the request goes on. Whatever the filter has
/// written there, a verdict that is malformed in any part changes nothing.
fn carry_out(reply: &Reply, parts: &mut Parts) -> Result<Option<Answer>, Malformed> {
    let verdict = Verdict::new(reply.bytes())?;
    if verdict.headers().len() > MAX_HEADERS {
        return Err(Malformed("a verdict with too many headers"));
    }
    let status = || StatusCode::from_u16(verdict.status()).map_err(|_| Malformed("a status that is none"));
    match verdict.kind() {
        Kind::Pass => Ok(None),
        Kind::Rewrite => {
            edit(&mut parts.headers, verdict.headers())?;
            Ok(None)
        }
        Kind::Answer => {
            let status = status()?;
            if !status.is_success()
                && !status.is_redirection()
                && !status.is_client_error()
                && !status.is_server_error()
            {
                return Err(Malformed("a status that ends nothing"));
            }
            let mut answer = Response::new(Full::new(reply.share(verdict.body()?)));
            *answer.status_mut() = status;
            edit(answer.headers_mut(), verdict.headers())?;
            Ok(Some(answer))
        }
        Kind::Block => {
            let status = status()?;
            if !status.is_client_error() && !status.is_server_error() {
                return Err(Malformed("a status that blocks nothing"));
            }
            Ok(Some(text(status, "blocked by the filter\n")))
        }
    }
}

/// A header that a filter may set or remove.
fn checked(header: &Header<'_>) -> Result<(HeaderName, Option<HeaderValue>), Malformed> {
    let name = match u8::try_from(header.number()) {
        Ok(0) => HeaderName::from_bytes(header.name()?).ok(),
        Ok(number) => names::header_name(number),
        Err(_) => None,
    };
    let name = name.ok_or(Malformed("a name that is none"))?;
    // Where a message ends is between the server and its client.
    if [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(&name) {
        return Err(Malformed("a header that is not the filter's business"));
    }
    let value = header.value()?.map(HeaderValue::from_bytes).transpose();
    Ok((name, value.map_err(|_| Malformed("a value that is none"))?))
}

/// Sets and removes headers: all of them, or none if one is malformed.
fn edit(headers: &mut HeaderMap, mut edits: Headers<'_>) -> Result<(), Malformed> {
    if edits.len() == 1 {
        return edits.try_for_each(|edit| apply(headers, checked(&edit)?));
    }
    let edits = edits.map(|edit| checked(&edit)).collect::<Result<Vec<_>, _>>()?;
    edits.into_iter().try_for_each(|edit| apply(headers, edit))
}

fn apply(headers: &mut HeaderMap, (name, value): (HeaderName, Option<HeaderValue>)) -> Result<(), Malformed> {
    match value {
        Some(value) => headers.try_insert(name, value).map(drop).map_err(|_| Malformed("too many headers")),
        None => {
            headers.remove(name);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::VERSION;
    use crate::format::verdict::Draft;
    use proptest::prelude::*;

    fn reply(payload: &[u8]) -> Reply {
        Reply::new(payload.len(), |to| to.copy_from_slice(payload))
    }

    fn drafted(draft: &Draft) -> Vec<u8> {
        let mut payload = vec![0; draft.size()];
        draft.write(&mut payload);
        payload
    }

    fn parts() -> Parts {
        Request::get("/").header("host", "h").header("x-a", "1").body(()).unwrap().into_parts().0
    }

    fn refused(draft: &Draft) -> bool {
        let mut parts = parts();
        let before = parts.headers.clone();
        carry_out(&reply(&drafted(draft)), &mut parts).is_err() && parts.headers == before
    }

    #[test]
    fn what_is_not_the_filters_business_is_refused() {
        let mut draft = Draft::default();
        for name in ["content-length", "transfer-encoding", "connection", "upgrade", "no name", ""] {
            draft.rewrite();
            draft.remove(b"x-a");
            draft.set(name.as_bytes(), b"1");
            assert!(refused(&draft), "{name}");
        }
        draft.rewrite();
        draft.set(b"x-a", b"2\r\nx-b: 3");
        assert!(refused(&draft));
        for status in [0, 100, 101, 199, 600, 1000] {
            draft.answer(status, &[b"body"]);
            assert!(refused(&draft), "{status}");
            draft.block(status);
            assert!(refused(&draft), "{status}");
        }
        draft.block(200);
        assert!(refused(&draft));
        draft.rewrite();
        (0..=MAX_HEADERS).for_each(|_| draft.set(b"x-a", b"2"));
        assert!(refused(&draft));
    }

    proptest! {
        /// Whatever a filter writes: a verdict is carried out, or nothing happens.
        #[test]
        fn spoilt_verdicts_change_nothing(
            kind in 0u8..4,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            len: prop::sample::Index,
        ) {
            let mut draft = Draft::default();
            draft.answer(200, &[b"some text"]);
            draft.set(b"x-a", b"2");
            draft.remove(b"x-b");
            draft.set(b"x-filtered-by", b"me");
            let mut payload = drafted(&draft);
            for (at, byte) in changes {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            payload[..2].copy_from_slice(&[VERSION, kind]);
            payload.truncate(len.index(payload.len() + 1));
            let mut parts = parts();
            let before = parts.headers.clone();
            if carry_out(&reply(&payload), &mut parts).is_err() {
                prop_assert_eq!(parts.headers, before);
            }
        }
    }
}
