//! What the map functions emitted for a batch of documents, kept as the engine's JSON text and cut into rows by offset.

use super::engine::mend;

/// Text of one batch beyond which it is refused; offsets are 32 bits.
pub(super) const TEXT_LIMIT: usize = 1 << 30;

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

    /// Takes up one document's answer, `[[key, value, ...], null, ...]`. False when there is no room for it.
    pub(in crate::query) fn push(&mut self, answer: &str) -> bool {
        let answer = mend(answer);
        if self.text.len() + answer.len() > TEXT_LIMIT {
            return false;
        }
        let base = self.text.len();
        self.text.push_str(&answer);
        let bytes = self.text.as_bytes();
        let offset = |at: usize| at as u32; // below TEXT_LIMIT
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
