//! The rows that map functions emitted for a batch of documents: the engine's JSON text and the offsets of
//! the rows in it.

use serde::de::IgnoredAny;

use super::failure::mend;

/// The reason of the `InternalError` of a batch whose documents together emit too much.
pub const TOO_LARGE: &str = "the rows of one batch of documents are too large";
/// Maximum size in bytes of the rows of several documents. If a batch exceeds it, the caller maps its
/// documents one by one.
pub const BATCH_LIMIT: usize = 4 << 20;
/// Maximum size in bytes of the rows of one document. Offsets have 32 bits.
pub const DOCUMENT_LIMIT: usize = 32 << 20;
/// Memory of a row in addition to its text, in bytes.
const ROW: usize = size_of::<[u32; 4]>();

/// The rows of a batch. Documents and functions are numbered in the order in which they were passed.
#[derive(Debug, Default)]
pub struct Mapped {
    text: String,
    rows: Vec<[u32; 4]>,
    /// Per document and function: the end of its rows in `rows`, and whether the function threw.
    ends: Vec<(u32, bool)>,
    functions: usize,
    /// Skipped documents in ascending order, and the reasons.
    skipped: Vec<(usize, String)>,
}

impl Mapped {
    pub(in crate::query) fn new(functions: usize) -> Mapped {
        Mapped { functions, ..Mapped::default() }
    }

    /// Number of documents, including skipped ones.
    pub fn documents(&self) -> usize {
        self.ends.len() / self.functions.max(1)
    }

    /// Memory of the rows in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len() + ROW * self.rows.len()
    }

    /// Number of rows in the batch.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Returns the rows that function `function` emitted for document `document`, as JSON texts (key, value).
    /// Returns `None` if the function threw, in which case there are no rows.
    pub fn rows(&self, document: usize, function: usize) -> Option<impl ExactSizeIterator<Item = (&str, &str)>> {
        let at = document * self.functions + function;
        let (end, threw) = *self.ends.get(at)?;
        let start = if at == 0 { 0 } else { self.ends[at - 1].0 };
        let rows = &self.rows[start as usize..end as usize];
        (!threw).then(|| {
            rows.iter().map(|&[a, b, c, d]| (&self.text[a as usize..b as usize], &self.text[c as usize..d as usize]))
        })
    }

    /// Adds the answer for the next document, `[[key, value, ...], null, ...]`. Returns `false` and changes
    /// nothing if it is malformed or too large: the first document alone may have [`DOCUMENT_LIMIT`], several
    /// documents together [`BATCH_LIMIT`].
    pub(in crate::query) fn push(&mut self, answer: &str) -> bool {
        let answer = mend(answer);
        let limit = if self.ends.is_empty() { DOCUMENT_LIMIT } else { BATCH_LIMIT };
        if self.bytes() + answer.len() > limit || serde_json::from_str::<IgnoredAny>(&answer).is_err() {
            return false;
        }
        let before = (self.text.len(), self.rows.len(), self.ends.len());
        self.text.push_str(&answer);
        let whole = self.cut(before.0).is_some() && self.bytes() <= limit;
        if !whole {
            self.text.truncate(before.0);
            self.rows.truncate(before.1);
            self.ends.truncate(before.2);
        }
        whole
    }

    /// Splits the text from `base` on into rows. Returns `None` if it is malformed.
    fn cut(&mut self, base: usize) -> Option<()> {
        let bytes = self.text.as_bytes();
        let offset = |at: usize| at as u32; // below DOCUMENT_LIMIT
        let mut at = base + 1;
        for _ in 0..self.functions {
            let threw = *bytes.get(at)? != b'[';
            if threw {
                at = value_end(bytes, at)?;
            } else {
                at += 1;
                while *bytes.get(at)? != b']' {
                    let key = at;
                    let key_end = value_end(bytes, key)?;
                    let value = key_end + 1;
                    let value_end = value_end(bytes, value)?;
                    self.rows.push([offset(key), offset(key_end), offset(value), offset(value_end)]);
                    at = value_end + usize::from(*bytes.get(value_end)? == b',');
                }
                at += 1;
            }
            self.ends.push((offset(self.rows.len()), threw));
            at += 1; // the comma, or the last bracket
        }
        (at == bytes.len()).then_some(())
    }

    /// Adds the next document as skipped: it has no rows.
    pub(super) fn skip(&mut self, reason: String) {
        self.skipped.push((self.documents(), reason));
        let end = self.rows.len() as u32; // below DOCUMENT_LIMIT
        self.ends.extend(std::iter::repeat_n((end, true), self.functions));
    }

    /// Returns why a document was skipped, or `None` if it was mapped.
    pub fn skipped(&self, document: usize) -> Option<&str> {
        let at = self.skipped.binary_search_by_key(&document, |(skipped, _)| *skipped).ok()?;
        Some(&self.skipped[at].1)
    }
}

/// Returns the elements of a JSON array as texts, or nothing if `json` is not an array.
pub(super) fn elements(json: &str) -> Vec<&str> {
    let bytes = json.as_bytes();
    let mut all = Vec::new();
    if serde_json::from_str::<Vec<IgnoredAny>>(json).is_err() {
        return all;
    }
    let mut at = 1;
    while bytes.get(at).is_some_and(|byte| *byte != b']') {
        let Some(end) = value_end(bytes, at) else { break };
        all.push(&json[at..end]);
        at = end + usize::from(bytes.get(end) == Some(&b','));
    }
    all
}

/// Returns the end of the JSON value that starts at `at`, or `None` if it is incomplete. Counts nesting
/// instead of recursing.
fn value_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match *bytes.get(at)? {
            b'"' => at = string_end(bytes, at)?,
            b'[' | b'{' => {
                depth += 1;
                at += 1;
                continue;
            }
            b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' => {
                at += 1;
                continue;
            }
            _ => {
                while !matches!(*bytes.get(at)?, b',' | b']' | b'}') {
                    at += 1;
                }
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    at += 1;
    while *bytes.get(at)? != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    Some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_into_rows() {
        let mut mapped = Mapped::new(3);
        assert!(mapped.push(r#"[["a",1,["x,]",{"y":[]}],null],null,[]]"#));
        assert!(mapped.push(r#"[[],[{"q\"]":1},"\\"],[-1.5e3,true]]"#));
        let of = |doc, fun| mapped.rows(doc, fun).map(|rows| rows.collect::<Vec<_>>());
        assert_eq!(mapped.documents(), 2);
        assert_eq!(mapped.row_count(), 4);
        assert_eq!(of(0, 0), Some(vec![("\"a\"", "1"), (r#"["x,]",{"y":[]}]"#, "null")]));
        assert_eq!(of(0, 1), None);
        assert_eq!(of(0, 2), Some(vec![]));
        assert_eq!(of(1, 0), Some(vec![]));
        assert_eq!(of(1, 1), Some(vec![(r#"{"q\"]":1}"#, r#""\\""#)]));
        assert_eq!(of(1, 2), Some(vec![("-1.5e3", "true")]));
    }

    #[test]
    fn several_documents_have_a_lower_limit_than_one() {
        let of = |rows: usize| format!("[[{}]]", vec!["1,null"; rows].join(","));
        let mut mapped = Mapped::new(1);
        assert!(mapped.push(&of(300_000)), "more than a batch may have, but it is alone");
        let bytes = mapped.bytes();
        assert!(bytes > BATCH_LIMIT && !mapped.push(&of(1)));
        assert_eq!((mapped.documents(), mapped.row_count(), mapped.bytes()), (1, 300_000, bytes));
        assert!(!Mapped::new(1).push(&of(2_000_000)), "rows count, not only their text");
        let mut mapped = Mapped::new(1);
        assert!(mapped.push(&of(1000)) && mapped.push(&of(1000)) && !mapped.push(&of(200_000)) && mapped.push(&of(1)));
        assert_eq!((mapped.documents(), mapped.row_count()), (3, 2001));
    }

    #[test]
    fn elements_splits_an_array() {
        assert_eq!(elements("[]"), Vec::<&str>::new());
        assert_eq!(elements(r#"[1,[2,[3]],{"a":"]"},"x"]"#), vec!["1", "[2,[3]]", r#"{"a":"]"}"#, "\"x\""]);
    }

    #[test]
    fn a_malformed_answer_is_rejected_and_changes_nothing() {
        let mut mapped = Mapped::new(2);
        for answer in [
            "",
            "5",
            "[",
            "[]",
            "{}",
            "[[1,2]]",
            "[[1],[]]",
            "[[1,2],[3]]",
            "[null,null,null]",
            "[[1,2],[]]]",
            "\"\"",
            "[[\"a,1],[]]",
            "[[1,2],[],[]]",
            "null",
            "[null]",
        ] {
            assert!(!mapped.push(answer), "{answer}");
            assert_eq!((mapped.documents(), mapped.row_count()), (0, 0), "{answer}");
        }
        assert!(mapped.push("[[1,2],null]"));
        mapped.skip("out of memory".into());
        assert!(mapped.push("[[],[3,4]]"));
        assert_eq!((mapped.documents(), mapped.row_count()), (3, 2));
        assert!(mapped.rows(1, 0).is_none() && mapped.rows(1, 1).is_none());
        assert_eq!((mapped.skipped(0), mapped.skipped(1), mapped.skipped(2)), (None, Some("out of memory"), None));
    }

    proptest::proptest! {
        /// A compromised worker may answer anything: the answer is rejected, or its rows are JSON.
        #[test]
        fn any_answer_is_rejected_or_contains_valid_rows(answer in "[\\[\\]{}\",:0-9nul\\\\ e-]{0,24}", functions in 0..3usize) {
            let mut mapped = Mapped::new(functions);
            if mapped.push(&answer) {
                for (key, value) in (0..functions).flat_map(|function| mapped.rows(0, function).into_iter().flatten()) {
                    assert!(serde_json::from_str::<IgnoredAny>(key).is_ok(), "{answer}: {key}");
                    assert!(serde_json::from_str::<IgnoredAny>(value).is_ok(), "{answer}: {value}");
                }
            }
        }
    }
}
