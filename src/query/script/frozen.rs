//! Whether map functions could change the document that they are given.
//!
//! CouchDB freezes each document before its map functions see it, so that one cannot change what the next sees. To freeze
//! costs as much as to parse, and nearly every stored map function only reads. So the sources are looked at: only where
//! none of them can write to anything but its own variables is the document left as it is. The reading is coarse on
//! purpose: whatever is not plainly harmless (a method that changes its object, an assignment to a member, a template
//! string, a call by a computed name, ...) counts as a change, and then everything is frozen as in CouchDB.

/// Names that change objects, reach others that do, or run code that is not looked at.
const CHANGING: [&str; 33] = [
    "push",
    "pop",
    "shift",
    "unshift",
    "splice",
    "sort",
    "reverse",
    "fill",
    "copyWithin",
    "set",
    "add",
    "assign",
    "defineProperty",
    "defineProperties",
    "setPrototypeOf",
    "__proto__",
    "__defineGetter__",
    "__defineSetter__",
    "call",
    "apply",
    "bind",
    "constructor",
    "prototype",
    "delete",
    "eval",
    "Function",
    "Reflect",
    "Proxy",
    "require",
    "with",
    "globalThis",
    "arguments",
    "import",
];

/// What `Object` may be used for.
const OBJECT: [&str; 4] = ["keys", "values", "entries", "hasOwn"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Number,
    /// A string or regular expression.
    Literal,
    /// Operators and brackets; those of several letters whole.
    Sign(&'a str),
}

/// Whether no function of these sources can change an object that it did not make.
pub(super) fn only_read(sources: &[String]) -> bool {
    sources.iter().all(|source| tokens(source).is_some_and(|tokens| harmless(&tokens)))
}

fn harmless(tokens: &[Token]) -> bool {
    let at = |index: usize| tokens.get(index).copied();
    let before = |index: usize, steps: usize| index.checked_sub(steps).and_then(at);
    (0..tokens.len()).all(|index| match tokens[index] {
        Token::Word("Object") => {
            matches!((at(index + 1), at(index + 2)), (Some(Token::Sign(".")), Some(Token::Word(name))) if OBJECT.contains(&name))
        }
        // A loop may set nothing but a variable of its own.
        Token::Word("for") => {
            matches!(at(index + 2), Some(Token::Word("var" | "let" | "const") | Token::Sign(";")))
                || matches!((at(index + 2), at(index + 3)), (Some(Token::Word(_)), Some(Token::Word("in" | "of") | Token::Sign("="))))
        }
        Token::Word(word) => !CHANGING.contains(&word),
        Token::Sign("=" | "+=" | "-=" | "*=" | "/=" | "%=" | "**=" | "<<=" | ">>=" | ">>>=" | "&=" | "|=" | "^=" | "&&=" | "||=" | "??=") => {
            is_variable(before(index, 1), before(index, 2))
        }
        Token::Sign("++" | "--") => {
            is_variable(before(index, 1), before(index, 2))
                || matches!(at(index + 1), Some(Token::Word(_)))
                    && !matches!(at(index + 2), Some(Token::Sign("." | "[" | "?." | "(")))
        }
        // A method by a computed name, or whatever an expression gives.
        Token::Sign("(") => !matches!(before(index, 1), Some(Token::Sign("]"))),
        _ => true,
    })
}

/// Whether what stands before an assignment is the name of a variable, not of a member.
fn is_variable(last: Option<Token>, before: Option<Token>) -> bool {
    matches!(last, Some(Token::Word(_))) && !matches!(before, Some(Token::Sign("." | "?.")))
}

/// The tokens of a source; None where reading it would need a real parser.
fn tokens(source: &str) -> Option<Vec<Token<'_>>> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..].iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len() - at);
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at += 2 + source[at + 2..].find("*/")? + 2;
            }
            b'/' => match tokens.last() {
                // After a bracket it may be either.
                Some(Token::Sign(")" | "}")) => return None,
                Some(Token::Word("return" | "typeof" | "case" | "in" | "of" | "else" | "void")) | None => {
                    at = regex_end(bytes, at)?;
                    tokens.push(Token::Literal);
                }
                Some(Token::Word(_) | Token::Number | Token::Literal | Token::Sign("]")) => {
                    at += if bytes.get(at + 1) == Some(&b'=') { 2 } else { 1 };
                    tokens.push(Token::Sign(&source[start..at]));
                }
                Some(Token::Sign(_)) => {
                    at = regex_end(bytes, at)?;
                    tokens.push(Token::Literal);
                }
            },
            quote @ (b'"' | b'\'') => {
                at += 1;
                while *bytes.get(at)? != quote {
                    match bytes[at] {
                        b'\n' => return None,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                at += 1;
                tokens.push(Token::Literal);
            }
            b'0'..=b'9' => {
                while bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_')) {
                    at += 1;
                }
                tokens.push(Token::Number);
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'$' => {
                while bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')) {
                    at += 1;
                }
                tokens.push(Token::Word(&source[start..at]));
            }
            byte if byte.is_ascii_punctuation() && !matches!(byte, b'`' | b'\\' | b'#' | b'@') => {
                const LONG: [&str; 31] = [
                    ">>>=", "...", "===", "!==", "**=", "<<=", ">>=", ">>>", "&&=", "||=", "??=", "=>", "==", "!=",
                    "<=", ">=", "&&", "||", "??", "?.", "++", "--", "+=", "-=", "*=", "%=", "&=", "|=", "^=", "<<",
                    ">>",
                ];
                let long = LONG.iter().find(|sign| bytes[at..].starts_with(sign.as_bytes()));
                at += long.map_or(1, |sign| sign.len());
                tokens.push(Token::Sign(&source[start..at]));
            }
            // Template strings, escaped names, letters beyond ASCII in names.
            _ => return None,
        }
    }
    Some(tokens)
}

fn regex_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut in_class = false;
    loop {
        at += 1;
        match *bytes.get(at)? {
            b'\n' => return None,
            b'\\' => at += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'/' if !in_class => return Some(at + 1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_told_from_changers() {
        for source in [
            "function (doc) { emit(doc._id, doc.a.b[0]); }",
            "function (doc) { if (doc.type === 'post') { emit([doc.user, doc.at], doc.n); } }",
            "function (doc) { for (var i = 0; i < doc.tags.length; i++) { emit(doc.tags[i], i + 1); } }",
            "function (doc) { for (i in doc.tags) emit(doc.tags[i]) } // i.x = 1",
            "doc => Object.keys(doc).forEach(key => emit(key, doc[key] / 2))",
            "function (doc) { var words = doc.text.toLowerCase().split(/[^a-z/]+/); words.forEach(function (word) { emit(word); }); }",
            "function (doc) { let total = 0; total += doc.a; emit('doc.a = 1; \\'', total); }",
            "function (doc) { var a = doc.b ? doc.c : 1, b = /x=\\/y/.test(doc.d); emit(a, b); }",
        ] {
            assert!(only_read(&[source.to_owned()]), "{source}");
        }
        for source in [
            "function (doc) { doc.a = 1; }",
            "function (doc) { doc['a'] = 1; }",
            "function (doc) { doc.a.b += 1; }",
            "function (doc) { doc.a++; }",
            "function (doc) { ++doc.a; }",
            "function (doc) { --doc['a']; }",
            "function (doc) { delete doc.a; }",
            "function (doc) { doc.list.push(1); }",
            "function (doc) { doc.list['push'](1); }",
            "function (doc) { emit(doc.list.sort()); }",
            "function (doc) { Object.assign(doc, {}); }",
            "function (doc) { var O = Object; O.assign(doc, {}); }",
            "function (doc) { [doc.a] = [1]; }",
            "function (doc) { ({a: doc.b} = {a: 1}); }",
            "function (doc) { for (doc.a of [1]) emit(1); }",
            "function (doc) { for (doc['a'] in {b: 1}) emit(1); }",
            "function (doc) { doc.a ??= 1; }",
            "function (doc) { emit(`${doc.a = 1}`); }",
            "function (doc) { if (doc.x) /\"/.test(doc.a = '\"'); }",
            "function (doc) { require('views/lib/x')(doc); }",
            "function (doc) { d\\u006fc.a; }",
            "function (doc) { 'unended }",
        ] {
            assert!(!only_read(&[source.to_owned()]), "{source}");
        }
    }
}
