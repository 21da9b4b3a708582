//! A verdict, flat: written by the filter, read by the server.

use super::{Headers, LINE, Line, Malformed, REMOVED, Range, VERSION, names};
use bytemuck::{Pod, Zeroable};

/// What a verdict begins with: 16 bytes, then the table of headers. A verdict that sets one header with a number to a value of
/// up to 8 bytes has 40 bytes, which is what fits the reply itself.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct Head {
    version: u8,
    kind: u8,
    /// Of an answer or a block, else 0.
    status: u16,
    headers: u32,
    body: Range,
}

const HEAD: usize = size_of::<Head>();

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// It goes on as it is.
    #[default]
    Pass = 0,
    /// It goes on with other headers.
    Rewrite = 1,
    /// The filter has answered it.
    Answer = 2,
    /// It is refused.
    Block = 3,
}

/// A verdict that is to be written. Kept for the next request, it allocates nothing.
#[derive(Debug, Default)]
pub struct Draft {
    kind: Kind,
    status: u16,
    /// Offsets count from the end of the table, whose length is not known before it is written.
    lines: Vec<Line>,
    body: Range,
    text: Vec<u8>,
}

impl Draft {
    /// Begins anew, with a request that goes on as it is.
    pub fn pass(&mut self) {
        self.begin(Kind::Pass, 0);
    }

    /// Begins anew, with a request that goes on with the headers that follow.
    pub fn rewrite(&mut self) {
        self.begin(Kind::Rewrite, 0);
    }

    /// Begins anew, with an answer; its headers may follow.
    pub fn answer(&mut self, status: u16, body: &[&[u8]]) {
        self.begin(Kind::Answer, status);
        body.iter().for_each(|part| self.body.len += self.put(part).len);
    }

    /// Begins anew, with a refusal.
    pub fn block(&mut self, status: u16) {
        self.begin(Kind::Block, status);
    }

    /// Sets a header: of the request if it goes on, else of the answer.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let value = self.put(value);
        self.line(name, value);
    }

    /// Removes a header from the request, with all its values.
    pub fn remove(&mut self, name: &[u8]) {
        self.line(name, Range { offset: 0, len: REMOVED });
    }

    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        HEAD + self.lines.len() * LINE + self.text.len()
    }

    /// Writes it.
    ///
    /// # Panics
    /// If `to` is not of the length asked for.
    pub fn write(&self, to: &mut [u8]) {
        assert_eq!(to.len(), self.size(), "the length that was measured");
        let start = (HEAD + self.lines.len() * LINE) as u32;
        let (fixed, text) = to.split_at_mut(start as usize);
        let (head, table) = fixed.split_at_mut(HEAD);
        let body = Range { offset: self.body.offset + start, ..self.body };
        let (kind, count) = (self.kind as u8, self.lines.len() as u32);
        let entry = Head { version: VERSION, kind, status: self.status, headers: count, body };
        head.copy_from_slice(bytemuck::bytes_of(&entry));
        for (mut line, to) in self.lines.iter().copied().zip(table.chunks_exact_mut(LINE)) {
            line.name_offset += start;
            line.value.offset += start;
            to.copy_from_slice(bytemuck::bytes_of(&line));
        }
        text.copy_from_slice(&self.text);
    }

    fn begin(&mut self, kind: Kind, status: u16) {
        (self.kind, self.status, self.body) = (kind, status, Range::default());
        self.lines.clear();
        self.text.clear();
    }

    fn line(&mut self, name: &[u8], value: Range) {
        let number = names::number(name);
        let name = if number == 0 { self.put(name) } else { Range::default() };
        self.lines.push(Line { number: number.into(), name_len: name.len as u16, name_offset: name.offset, value });
    }

    fn put(&mut self, text: &[u8]) -> Range {
        let range = Range { offset: self.text.len() as u32, len: text.len() as u32 };
        self.text.extend_from_slice(text);
        range
    }
}

/// A verdict that has arrived: private memory, but whatever a filter may have written there.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    payload: &'a [u8],
    head: Head,
    kind: Kind,
    headers: Headers<'a>,
}

impl<'a> Verdict<'a> {
    /// Looks at the head alone.
    ///
    /// # Errors
    /// The payload is too short, of another version, or of no kind that there is.
    pub fn new(payload: &'a [u8]) -> Result<Self, Malformed> {
        let head = payload.get(..HEAD).ok_or(Malformed("a verdict shorter than its head"))?;
        let head: Head = bytemuck::pod_read_unaligned(head);
        if head.version != VERSION {
            return Err(Malformed("a verdict of another version"));
        }
        let kinds = [Kind::Pass, Kind::Rewrite, Kind::Answer, Kind::Block];
        let kind = kinds.into_iter().find(|kind| *kind as u8 == head.kind).ok_or(Malformed("a verdict of no kind"))?;
        Ok(Self { payload, head, kind, headers: Headers::new(payload, HEAD, head.headers)? })
    }

    /// What becomes of the request.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The status of an answer or a block.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// Headers to set or remove, in order.
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// The body of an answer.
    pub fn body(&self) -> Result<&'a [u8], Malformed> {
        self.head.body.of(self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(draft: &Draft) -> Vec<u8> {
        let mut payload = vec![0xaa; draft.size()];
        draft.write(&mut payload);
        payload
    }

    type Edits<'a> = Vec<(&'a [u8], Option<&'a [u8]>)>;

    fn read(payload: &[u8]) -> Result<Edits<'_>, Malformed> {
        let verdict = Verdict::new(payload)?;
        verdict.body()?;
        verdict.headers().map(|header| Ok((header.name()?, header.value()?))).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let mut draft = Draft::default();
        draft.answer(200, &[b"so ", b"be it"]);
        draft.set(b"x-a", b"1");
        draft.set(b"server", b"");
        let payload = written(&draft);
        let verdict = Verdict::new(&payload).unwrap();
        assert_eq!((verdict.kind(), verdict.status()), (Kind::Answer, 200));
        assert_eq!(verdict.body(), Ok(&b"so be it"[..]));
        assert_eq!(read(&payload), Ok(vec![(&b"x-a"[..], Some(&b"1"[..])), (b"server", Some(b""))]));

        draft.rewrite();
        draft.remove(b"x-internal-a");
        draft.set(b"host", b"h");
        assert_eq!(read(&written(&draft)), Ok(vec![(&b"x-internal-a"[..], None), (b"host", Some(&b"h"[..]))]));

        draft.block(403);
        let payload = written(&draft);
        assert_eq!((payload.len(), Verdict::new(&payload).unwrap().status()), (16, 403));
    }

    /// The numbers of `docs/http_filter.md`, which others may have built upon.
    #[test]
    fn the_bytes_are_those_of_the_page() {
        let mut draft = Draft::default();
        draft.rewrite();
        draft.set(b"x-filtered-by", b"example");
        draft.remove(b"x-y");
        let mut expected = vec![1, 1, 0, 0, 2, 0, 0, 0, 48, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([60, 0, 0, 0, 48, 0, 0, 0, 48, 0, 0, 0, 7, 0, 0, 0]);
        expected.extend([0, 0, 3, 0, 55, 0, 0, 0, 48, 0, 0, 0, 255, 255, 255, 255]);
        expected.extend(b"examplex-y");
        assert_eq!(written(&draft), expected);
    }

    #[test]
    fn the_common_rewrite_fits_a_reply() {
        let mut draft = Draft::default();
        draft.rewrite();
        draft.set(b"x-filtered-by", b"8 bytes.");
        assert_eq!(draft.size(), 40);
    }

    proptest! {
        /// Nothing that a payload says makes its reader leave it.
        #[test]
        fn any_bytes_can_be_read(mut payload: Vec<u8>, kind in 0u8..5) {
            let _ = read(&payload);
            if payload.len() >= 2 {
                payload[..2].copy_from_slice(&[VERSION, kind]);
                let _ = read(&payload);
            }
        }
    }
}
