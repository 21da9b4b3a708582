//! A request, flat: written by the server, read by the filter.

use super::{Headers, LINE, Line, Malformed, Range, VERSION, names};
use bytemuck::{Pod, Zeroable};
use bytes::Bytes;
use hyper::Version;
use hyper::http::request::Parts;

/// What a request begins with: 40 bytes, then the table of headers.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Head {
    version: u8,
    method: u8,
    /// 0 or 1, of HTTP/1.
    minor: u8,
    unused: u8,
    headers: u32,
    /// Bit n says that there is a header whose name has number n.
    present: u64,
    /// Text of a method that has no number.
    method_text: Range,
    /// Path and query.
    target: Range,
    body: Range,
}

const HEAD: usize = size_of::<Head>();

/// A request that is to be written: to measure first, then to write once, in place.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    parts: &'a Parts,
    body: &'a [Bytes],
    len: usize,
}

impl<'a> Outgoing<'a> {
    /// Measures a request.
    pub fn new(parts: &'a Parts, body: &'a [Bytes]) -> Self {
        let mut len = HEAD + parts.headers.len() * LINE + target(parts).len();
        if names::method_number(parts.method.as_str()) == 0 {
            len += parts.method.as_str().len();
        }
        for (name, value) in &parts.headers {
            if names::number(name.as_str().as_bytes()) == 0 {
                len += name.as_str().len();
            }
            len += value.len();
        }
        len += body.iter().map(Bytes::len).sum::<usize>();
        Self { parts, body, len }
    }

    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Writes it.
    ///
    /// # Panics
    /// If `to` is not of the length asked for, or is longer than 4 GiB.
    pub fn write(&self, to: &mut [u8]) {
        assert_eq!(to.len(), self.len, "the length that was measured");
        assert!(u32::try_from(to.len()).is_ok(), "offsets have 32 bits");
        let count = self.parts.headers.len();
        let (fixed, text) = to.split_at_mut(HEAD + count * LINE);
        let (head, table) = fixed.split_at_mut(HEAD);
        let mut text = Text { at: (HEAD + count * LINE) as u32, to: text };

        let mut present = 0;
        for ((name, value), line) in self.parts.headers.iter().zip(table.chunks_exact_mut(LINE)) {
            let name = name.as_str().as_bytes();
            let number = names::number(name);
            let name = if number == 0 { text.put(name) } else { Range::default() };
            present |= 1 << number;
            let value = text.put(value.as_bytes());
            let entry = Line { number: number.into(), name_len: name.len as u16, name_offset: name.offset, value };
            line.copy_from_slice(bytemuck::bytes_of(&entry));
        }
        let method = names::method_number(self.parts.method.as_str());
        let entry = Head {
            version: VERSION,
            method,
            minor: u8::from(self.parts.version != Version::HTTP_10),
            unused: 0,
            headers: count as u32,
            present: present & !1,
            method_text: if method == 0 { text.put(self.parts.method.as_str().as_bytes()) } else { Range::default() },
            target: text.put(target(self.parts).as_bytes()),
            body: self.body.iter().fold(Range { offset: text.at, len: 0 }, |body, chunk| Range {
                len: body.len + text.put(chunk).len,
                ..body
            }),
        };
        head.copy_from_slice(bytemuck::bytes_of(&entry));
    }
}

fn target(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// What is left to be filled with text.
struct Text<'a> {
    /// Offset of the next byte in the payload.
    at: u32,
    to: &'a mut [u8],
}

impl Text<'_> {
    fn put(&mut self, text: &[u8]) -> Range {
        let (here, rest) = std::mem::take(&mut self.to).split_at_mut(text.len());
        here.copy_from_slice(text);
        self.to = rest;
        let range = Range { offset: self.at, len: text.len() as u32 };
        self.at += range.len;
        range
    }
}

/// A request that has arrived, in place.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    payload: &'a [u8],
    head: Head,
    headers: Headers<'a>,
}

impl<'a> View<'a> {
    /// Looks at the head alone.
    ///
    /// # Errors
    /// The payload is too short, or of another version.
    pub fn new(payload: &'a [u8]) -> Result<Self, Malformed> {
        let head = payload.get(..HEAD).ok_or(Malformed("a request shorter than its head"))?;
        let head: Head = bytemuck::pod_read_unaligned(head);
        if head.version != VERSION {
            return Err(Malformed("a request of another version"));
        }
        Ok(Self { payload, head, headers: Headers::new(payload, HEAD, head.headers)? })
    }

    /// The method.
    pub fn method(&self) -> Result<&'a [u8], Malformed> {
        match self.head.method {
            0 => self.head.method_text.of(self.payload),
            number => names::METHODS
                .get(usize::from(number))
                .map(|method| method.as_bytes())
                .ok_or(Malformed("a method of unknown number")),
        }
    }

    /// The minor version of HTTP/1.
    pub fn minor(&self) -> u8 {
        self.head.minor
    }

    /// Path and query.
    pub fn target(&self) -> Result<&'a [u8], Malformed> {
        self.head.target.of(self.payload)
    }

    /// The path without its query.
    pub fn path(&self) -> Result<&'a [u8], Malformed> {
        let target = self.target()?;
        Ok(target.split(|byte| *byte == b'?').next().unwrap_or(target))
    }

    /// The body.
    pub fn body(&self) -> Result<&'a [u8], Malformed> {
        self.head.body.of(self.payload)
    }

    /// All headers, in order.
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// The value of the first header whose name has this number. Where there is none it is one bit that says so.
    pub fn header(&self, number: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.head.present.checked_shr(number.into()).unwrap_or(0) & 1 == 0 {
            return Ok(None);
        }
        let mut named = self.headers().filter(|header| header.number() == u16::from(number));
        named.next().map_or(Ok(None), |header| header.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;
    use proptest::prelude::*;

    fn written(request: Request<()>, body: &[Bytes]) -> Vec<u8> {
        let (parts, ()) = request.into_parts();
        let outgoing = Outgoing::new(&parts, body);
        let mut payload = vec![0xaa; outgoing.size()];
        outgoing.write(&mut payload);
        payload
    }

    fn example() -> Vec<u8> {
        let request = Request::builder()
            .method("BREW")
            .uri("http://pot/tea?milk=no")
            .header("host", "pot")
            .header("x-leaf", "green")
            .header("accept", "")
            .header("accept", "text/plain")
            .body(())
            .unwrap();
        written(request, &[Bytes::from("boiling "), Bytes::from("water")])
    }

    #[test]
    fn what_was_written_is_read() {
        let payload = example();
        let view = View::new(&payload).unwrap();
        assert_eq!((view.method(), view.minor()), (Ok(&b"BREW"[..]), 1));
        assert_eq!(view.target(), Ok(&b"/tea?milk=no"[..]));
        assert_eq!(view.path(), Ok(&b"/tea"[..]));
        assert_eq!(view.body(), Ok(&b"boiling water"[..]));
        assert_eq!(view.header(names::known("host")), Ok(Some(&b"pot"[..])));
        assert_eq!(view.header(names::known("accept")), Ok(Some(&b""[..])));
        assert_eq!(view.header(names::known("cookie")), Ok(None));
        assert_eq!((view.header(0), view.header(64), view.header(255)), (Ok(None), Ok(None), Ok(None)));
        let headers: Vec<_> = view.headers().map(|h| (h.name().unwrap(), h.value().unwrap().unwrap())).collect();
        let expected = [("host", "pot"), ("x-leaf", "green"), ("accept", ""), ("accept", "text/plain")];
        assert_eq!(headers, expected.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    }

    /// The numbers of `docs/http_filter.md`, which others may have built upon.
    #[test]
    fn the_bytes_are_those_of_the_page() {
        let payload = written(Request::get("/a?b").header("host", "h").header("x-y", "z").body(()).unwrap(), &[]);
        let mut expected = vec![1, 1, 1, 0, 2, 0, 0, 0];
        expected.extend((1u64 << 32).to_le_bytes());
        for word in [0u32, 0, 77, 4, 81, 0] {
            expected.extend(word.to_le_bytes());
        }
        expected.extend([32, 0, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0, 1, 0, 0, 0]);
        expected.extend([0, 0, 3, 0, 73, 0, 0, 0, 76, 0, 0, 0, 1, 0, 0, 0]);
        expected.extend(b"hx-yz/a?b");
        assert_eq!(payload, expected);
    }

    fn read_all(payload: &[u8]) -> Result<(), Malformed> {
        let view = View::new(payload)?;
        view.headers().try_for_each(|header| header.name().and(header.value()).map(drop))?;
        view.method().and(view.path()).and(view.body()).and(view.header(1)).map(drop)
    }

    proptest! {
        /// Nothing that a payload says makes its reader leave it.
        #[test]
        fn any_bytes_can_be_read(payload: Vec<u8>) {
            let _ = read_all(&payload);
        }

        #[test]
        fn spoilt_requests_can_be_read(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), len: prop::sample::Index) {
            let mut payload = example();
            for (at, byte) in changes {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            payload.truncate(len.index(payload.len() + 1));
            let _ = read_all(&payload);
        }
    }
}
