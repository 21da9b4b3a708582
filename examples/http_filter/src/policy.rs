//! What the filter decides: the same code in the server (`--filter inline`) and in the filter process.
//!
//! It looks at a [`View`] in place and notes its verdict in a [`Draft`].

use crate::format::Malformed;
use crate::format::names::known;
use crate::format::request::View;
use crate::format::verdict::Draft;

/// Who may see `/admin`.
const TOKEN: &[u8] = b"Bearer open-sesame";
/// Bodies that contain this go no further.
const FORBIDDEN: &[u8] = b"forbidden words";
/// Headers that outsiders have no say in.
const INTERNAL: &[u8] = b"x-internal-";

/// What the filter calls itself.
pub const NAME: &[u8] = b"example";

/// Decides about a request.
///
/// # Errors
/// The request is malformed; there is then no verdict.
pub fn decide(request: &View<'_>, verdict: &mut Draft) -> Result<(), Malformed> {
    let path = request.path()?;
    if path.starts_with(b"/admin") && request.header(known("authorization"))? != Some(TOKEN) {
        verdict.block(403);
    } else if contains(request.body()?, FORBIDDEN) {
        verdict.block(422);
    } else if path == b"/hello" {
        let who = request.header(known("user-agent"))?.unwrap_or(b"stranger");
        verdict.answer(200, &[b"hello, ", who, b"\n"]);
        verdict.set(b"content-type", b"text/plain");
        verdict.set(b"x-filtered-by", NAME);
    } else {
        verdict.rewrite();
        verdict.set(b"x-filtered-by", NAME);
        for header in request.headers().filter(|header| header.number() == 0) {
            let name = header.name()?;
            if name.starts_with(INTERNAL) {
                verdict.remove(name);
            }
        }
    }
    Ok(())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
