use super::*;

#[test]
fn parameters() {
    for (value, name, wanted) in [
        ("multipart/related; boundary=abc", "boundary", Some("abc")),
        ("multipart/related;boundary=\"a;b c\"; x=y", "boundary", Some("a;b c")),
        ("multipart/related; x=\"1\"; Boundary=abc", "boundary", Some("abc")),
        ("attachment; filename=\"f.txt\"", "filename", Some("f.txt")),
        ("multipart/related", "boundary", None),
        ("multipart/related; boundary=\"abc", "boundary", None),
        ("a; b", "c", None),
    ] {
        assert_eq!(parameter(value, name).as_deref(), wanted, "{value}");
    }
}

fn head(lines: &[u8]) -> Head {
    Head { lines: Bytes::copy_from_slice(lines), is_expected: false }
}

#[test]
fn headers_of_a_part() {
    use http::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE};
    let headers = head(b"\r\nContent-Type: text/plain\r\ncontent-encoding:y");
    assert_eq!(headers.get(CONTENT_TYPE).unwrap(), "text/plain");
    assert_eq!(headers.get(CONTENT_ENCODING).unwrap(), "y");
    let headers = head(b"\r\nContent-Disposition: attachment; filename=\"\xe9.txt\"");
    assert_eq!(headers.get(CONTENT_DISPOSITION).unwrap(), "attachment; filename=\"é.txt\"");
    assert_eq!(head(b"").get(CONTENT_TYPE), None);
    assert_eq!(head(b"Content-Type: x").get(CONTENT_TYPE), None, "the rest of the delimiter line");
    let headers = head(b"\r\nnonsense\r\n: x\r\n\x01: y\r\nContent-Type: a\nContent-Encoding: gzip\x7f\x00");
    assert_eq!(headers.get(CONTENT_TYPE).unwrap(), "a\nContent-Encoding: gzip\u{7f}\0");
    assert_eq!(headers.get(CONTENT_ENCODING), None, "not in a line of its own");
}

#[test]
fn no_text_ends_a_header() {
    for (text, name, value) in [
        ("a b.txt", "a b.txt", "a b.txt"),
        ("a\"é😀\t\u{85}", "a%22é😀\t\u{85}", "a\"é😀\t\u{85}"),
        ("\0\u{1}\r\n\u{1b}\u{7f}", "%00%01%0D%0A%1B%7F", "%00%01%0D%0A%1B%7F"),
    ] {
        assert_eq!(header_safe(text), name);
        assert_eq!(value_safe(text), value);
    }
    let all: String = (0..=0x9f).filter_map(char::from_u32).collect();
    assert!(http::HeaderValue::from_str(&header_safe(&all)).is_ok());
    assert!(http::HeaderValue::from_str(&value_safe(&all)).is_ok());
}

/// A body in pieces of one size.
struct Pieces(Vec<u8>, usize);

impl Chunks for Pieces {
    type Error = Malformed;

    async fn chunk(&mut self) -> Result<Option<Bytes>, Malformed> {
        let piece: Vec<u8> = self.0.drain(..self.1.min(self.0.len())).collect();
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

/// Reads the parts of attachments as the readers do: the name that each content belongs to.
async fn read(body: &[u8], size: usize, attachments: &[(&str, &str)]) -> Result<Vec<(String, String)>, Malformed> {
    let mut body = Pieces(body.to_vec(), size);
    let mut parts = Parts::new(&mut body, "b");
    let mut missing = Following::new(attachments.iter().map(|(name, _)| (*name).to_owned()).collect());
    let mut found = Vec::new();
    while let Some(expected) = missing.expected() {
        let (name, content_type) = attachments[expected];
        let head = parts.next_attachment(name, content_type).await?.expect("a part");
        let at = missing.take(&head).expect("one is missing");
        assert_eq!(head.get(http::header::CONTENT_ENCODING), None, "no header comes from a name");
        let mut content = Vec::new();
        while let Some(piece) = parts.content().await? {
            content.extend_from_slice(&piece);
        }
        found.push((attachments[at].0.to_owned(), String::from_utf8(content).unwrap()));
    }
    parts.finish().await?;
    Ok(found)
}

/// The parts as CouchDB writes them, and as settee does.
fn written(attachments: &[(&str, &str)], is_safe: bool) -> Vec<u8> {
    let mut body = "--b".to_owned();
    for (at, (name, content_type)) in attachments.iter().enumerate() {
        let (name, content_type) = match is_safe {
            true => (header_safe(name), value_safe(content_type)),
            false => (Cow::Borrowed(*name), Cow::Borrowed(*content_type)),
        };
        body.push_str(&format!(
            "\r\nContent-Disposition: attachment; filename=\"{name}\"\r\nContent-Type: {content_type}\r\nContent-Length: 2\r\n\r\n#{at}\r\n--b"
        ));
    }
    body.push_str("--");
    body.into_bytes()
}

#[tokio::test]
async fn attachments_have_any_names_and_types() {
    let controls: Vec<String> = (0..=0x9f).filter_map(char::from_u32).map(|one| format!("f{one}g")).collect();
    let odd = [
        "a%00b",
        "a\0b",
        "f\"g",
        "f",
        "f%22g",
        "f\\g",
        "f\\",
        "a; filename=b",
        "b",
        " ",
        "x\r\n",
        "\r\ny\r\n\r\n",
        "f\r\ng",
        "f\r\nContent-Encoding: gzip\r\ng: x",
        "f\r\n\r\ng",
        "f\r",
        "f\n",
        "é😀",
        "#3\r\n--c\r\n",
        "\"\r\n\r\n#",
    ];
    let names: Vec<&str> = controls.iter().map(String::as_str).chain(odd).collect();
    let long = "x\u{1}".repeat(20_000);
    let types: Vec<&str> = names.iter().copied().chain(["", ";", "text/plain; charset=\"utf-8\"", &long]).collect();
    let attachments: Vec<(&str, &str)> = (0..types.len())
        .map(|at| (names.get(at).copied().unwrap_or(["w", "x", "y", "z"][at % 4]), types[at]))
        .collect();
    let wanted: Vec<(String, String)> =
        attachments.iter().enumerate().map(|(at, (name, _))| ((*name).to_owned(), format!("#{at}"))).collect();
    for is_safe in [true, false] {
        for size in [1, 7, 1 << 20] {
            let found = read(&written(&attachments, is_safe), size, &attachments).await.unwrap();
            assert_eq!(found, wanted, "safe: {is_safe}, in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn parts_in_another_order_are_matched_by_name() {
    let (sent, wanted) = ([("c\u{1}", ""), ("b", ""), ("a", "")], [("a", ""), ("b", ""), ("c\u{1}", "")]);
    for is_safe in [true, false] {
        let found = read(&written(&sent, is_safe), 5, &wanted).await.unwrap();
        let of = |name: &str, content: &str| (name.to_owned(), content.to_owned());
        assert_eq!(found, [of("c\u{1}", "#0"), of("b", "#1"), of("a", "#2")]);
    }
    let bare = b"--b\r\n\r\none\r\n--b\r\nnonsense\r\n\r\ntwo\r\n--b--";
    let found = read(bare, 5, &[("a", ""), ("b", "")]).await.unwrap();
    assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn the_headers_of_a_part_are_bounded() {
    let body = [&b"--b\r\nX: "[..], &vec![b'x'; MOST_HEADER_BYTES + 2000], b"\r\n\r\n\r\n--b--"].concat();
    for size in [1000, 1] {
        let mut body = Pieces(body.clone(), size);
        let read = Parts::new(&mut body, "b").next().await;
        assert_eq!(read, Err(malformed("a part's headers are too long")));
    }
    let body =
        [&b"--b\r\nX: "[..], &vec![b'x'; MOST_HEADER_BYTES + MOST_NAME_BYTES + 2000], b"\r\n\r\n\r\n--b--"].concat();
    for content_type in ["x", "\r\n"] {
        let mut body = Pieces(body.clone(), 1000);
        let read = Parts::new(&mut body, "b").next_attachment("n", &content_type.repeat(1 << 20)).await;
        assert_eq!(read, Err(malformed("a part's headers are too long")));
    }
    let name = "\r\n".repeat(100);
    for body in [&b"--b\r\nContent-Disposition: attachment; filename=\"\r\n\r\n"[..], b"--b\r"] {
        let mut body = Pieces(body.to_vec(), 3);
        let read = Parts::new(&mut body, "b").next_attachment(&name, "").await;
        assert_eq!(read, Err(malformed("it ends before its last boundary")));
    }
}
