//! What the map functions emitted for a batch of documents, kept as the engine's JSON text and cut into rows by offset.

use super::engine::mend;

/// Bytes of what a batch of several documents may emit; beyond, its documents are to be mapped one by one.
pub const BATCH_LIMIT: usize = 4 << 20;
/// Bytes of what one document may emit. Offsets are 32 bits.
pub const DOCUMENT_LIMIT: usize = 32 << 20;
/// Bytes that a row takes beside its text.
const ROW: usize = size_of::<[u32; 4]>();

/// The rows of a batch. Documents in the order given, functions in the order of the set.
#[derive(Debug, Default)]
pub struct Mapped {
    text: String,
    rows: Vec<[u32; 4]>,
    /// Per document and function: where its rows end in `rows`, and whether the function threw.
    ends: Vec<(u32, bool)>,
    functions: usize,
}

impl Mapped {
    pub(in crate::query) fn new(functions: usize) -> Mapped {
        Mapped { functions, ..Mapped::default() }
    }

    /// How many documents were mapped.
    pub fn documents(&self) -> usize {
        self.ends.len() / self.functions.max(1)
    }

    /// Bytes that the rows take in memory.
    pub fn bytes(&self) -> usize {
        self.text.len() + ROW * self.rows.len()
    }

    /// All rows of the batch.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// The rows that function `function` emitted for document `document`, as JSON texts (key, value); None when the
    /// function threw, which counts as no rows.
    pub fn rows(&self, document: usize, function: usize) -> Option<impl ExactSizeIterator<Item = (&str, &str)>> {
        let at = document * self.functions + function;
        let (end, threw) = *self.ends.get(at)?;
        let start = if at == 0 { 0 } else { self.ends[at - 1].0 };
        let rows = &self.rows[start as usize..end as usize];
        (!threw).then(|| {
            rows.iter().map(|&[a, b, c, d]| (&self.text[a as usize..b as usize], &self.text[c as usize..d as usize]))
        })
    }

    /// Takes up one document's answer, `[[key, value, ...], null, ...]`. False when there is no room for it: the first one of
    /// a batch may have [`DOCUMENT_LIMIT`], several together [`BATCH_LIMIT`].
    pub(in crate::query) fn push(&mut self, answer: &str) -> bool {
        let answer = mend(answer);
        let limit = if self.ends.is_empty() { DOCUMENT_LIMIT } else { BATCH_LIMIT };
        if self.bytes() + answer.len() > limit {
            return false;
        }
        let (base, rows, ends) = (self.text.len(), self.rows.len(), self.ends.len());
        self.text.push_str(&answer);
        let bytes = self.text.as_bytes();
        let offset = |at: usize| at as u32; // below DOCUMENT_LIMIT
        let mut at = base + 1;
        for _ in 0..self.functions {
            let threw = bytes[at] != b'[';
            if threw {
                at = value_end(bytes, at);
            } else {
                at += 1;
                while bytes[at] != b']' {
                    let key = at;
                    let key_end = value_end(bytes, key);
                    let value = key_end + 1;
                    let value_end = value_end(bytes, value);
                    self.rows.push([offset(key), offset(key_end), offset(value), offset(value_end)]);
                    at = value_end + usize::from(bytes[value_end] == b',');
                }
                at += 1;
            }
            self.ends.push((offset(self.rows.len()), threw));
            at += 1; // the comma, or the last bracket
        }
        if self.bytes() > limit {
            self.text.truncate(base);
            self.rows.truncate(rows);
            self.ends.truncate(ends);
            return false;
        }
        true
    }
}

/// The elements of a JSON array, each as its text. `json` is the engine's: valid, without spaces.
pub(super) fn elements(json: &str) -> Vec<&str> {
    let bytes = json.as_bytes();
    let mut all = Vec::new();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b']' {
        let end = value_end(bytes, at);
        all.push(&json[at..end]);
        at = end + usize::from(bytes[end] == b',');
    }
    all
}

/// Where the JSON value that starts at `at` ends. Not recursive: what is nested is counted.
fn value_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    loop {
        match bytes[at] {
            b'"' => at = string_end(bytes, at),
            b'[' | b'{' => {
                depth += 1;
                at += 1;
                continue;
            }
            b']' | b'}' => {
                depth -= 1;
                at += 1;
            }
            b',' | b':' => {
                at += 1;
                continue;
            }
            _ => {
                while !matches!(bytes[at], b',' | b']' | b'}') {
                    at += 1;
                }
            }
        }
        if depth == 0 {
            return at;
        }
    }
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_out_of_the_text() {
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
    fn a_batch_takes_less_than_a_document_alone() {
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
    fn elements_of_an_array() {
        assert_eq!(elements("[]"), Vec::<&str>::new());
        assert_eq!(elements(r#"[1,[2,[3]],{"a":"]"},"x"]"#), vec!["1", "[2,[3]]", r#"{"a":"]"}"#, "\"x\""]);
    }

    #[test]
    fn half_surrogates_are_replaced() {
        assert_eq!(mend(r#""a\ud83d-\\ud83d\udca5\u0001""#), "\"a\u{FFFD}-\\\\ud83d\u{FFFD}\\u0001\"");
        assert_eq!(mend(r#""plain""#), r#""plain""#);
    }
}
