//! Parses documents to JavaScript values that no function can change.
//!
//! CouchDB freezes each document before it calls the map functions, so that a function cannot change what the
//! next function sees, or what it has emitted itself. Parsing a document and then freezing it member by
//! member takes twice as long as parsing it. This parser therefore creates the members read-only:
//!
//! ```text
//! {"_id":"a","n":1}  >  object: define "_id" and "n" as enumerable, read-only  >  prevent extensions
//! ```
//!
//! Documents of one batch usually have the same members. The parser keeps the names of the last document's
//! members, in order, as atoms of the engine. For most members this avoids a lookup.
//!
//! Unusual documents (very deep nesting, an unpaired surrogate, a repeated member) are left to the engine's
//! own parser and then frozen in JavaScript.

use std::borrow::Cow;

use rquickjs::{Array, Ctx, Object, String as Text, Value, qjs};

/// Maximum depth; deeper documents are left to the engine.
const DEEPEST: usize = 64;
/// Maximum number of names kept from the last document.
const NAMES: usize = 256;
/// Property flags: has a value, not configurable, not writable, not enumerable.
const READ_ONLY: u32 =
    qjs::JS_PROP_HAS_VALUE | qjs::JS_PROP_HAS_CONFIGURABLE | qjs::JS_PROP_HAS_WRITABLE | qjs::JS_PROP_HAS_ENUMERABLE;
/// Property flags: as [`READ_ONLY`], but enumerable.
const ENUMERABLE: u32 = READ_ONLY | qjs::JS_PROP_ENUMERABLE;

/// The name of a member, and its atom in the engine.
struct Name<'js> {
    ctx: Ctx<'js>,
    text: String,
    atom: qjs::JSAtom,
}

impl<'js> Name<'js> {
    fn new(ctx: &Ctx<'js>, text: &str) -> Option<Name<'js>> {
        // SAFETY: the engine reads the bytes only during the call. This name owns the returned atom and frees
        // it; 0 means out of memory.
        let atom = unsafe { qjs::JS_NewAtomLen(ctx.as_raw().as_ptr(), text.as_ptr().cast(), text.len() as _) };
        (atom != 0).then(|| Name { ctx: ctx.clone(), text: text.to_owned(), atom })
    }
}

impl Drop for Name<'_> {
    fn drop(&mut self) {
        // SAFETY: the atom is freed once, in the context that created it.
        unsafe { qjs::JS_FreeAtom(self.ctx.as_raw().as_ptr(), self.atom) }
    }
}

/// Parses JSON to frozen values.
pub(super) struct Freezer<'js> {
    ctx: Ctx<'js>,
    /// Names of the last document's members, in the order of the text.
    names: Vec<Name<'js>>,
}

impl<'js> Freezer<'js> {
    pub fn new(ctx: &Ctx<'js>) -> Freezer<'js> {
        Freezer { ctx: ctx.clone(), names: Vec::new() }
    }

    /// Returns the deeply frozen value of `json`, or `None` if it has to be left to the engine's parser.
    pub fn value(&mut self, json: &str) -> Option<Value<'js>> {
        let mut reader = Reader { freezer: self, json, at: 0, named: 0 };
        let value = reader.value(0);
        if value.is_none() {
            // Clears the engine's pending exception, if any (for example out of memory). The engine's parser
            // will raise it again.
            drop(self.ctx.catch());
        }
        value
    }

    fn define(&self, object: &Value<'js>, name: qjs::JSAtom, value: &Value<'js>, flags: u32) -> Option<()> {
        // SAFETY: object and value belong to this context and stay owned by the caller; the atom is alive.
        let done = unsafe {
            qjs::JS_DefineProperty(
                self.ctx.as_raw().as_ptr(),
                object.as_raw(),
                name,
                value.as_raw(),
                qjs::JS_UNDEFINED,
                qjs::JS_UNDEFINED,
                flags as _,
            )
        };
        (done > 0).then_some(())
    }

    /// Prevents the addition of members.
    fn close(&self, object: &Value<'js>) -> Option<()> {
        // SAFETY: the object belongs to this context.
        let done = unsafe { qjs::JS_PreventExtensions(self.ctx.as_raw().as_ptr(), object.as_raw()) };
        (done > 0).then_some(())
    }
}

/// The parser of one document.
struct Reader<'a, 'js> {
    freezer: &'a mut Freezer<'js>,
    json: &'a str,
    at: usize,
    /// Number of members parsed so far.
    named: usize,
}

impl<'a, 'js> Reader<'a, 'js> {
    /// Skips white space and returns the next byte without consuming it.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.json.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        (self.peek()? == expected).then(|| self.at += 1)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.json.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    fn value(&mut self, depth: usize) -> Option<Value<'js>> {
        let ctx = self.freezer.ctx.clone();
        match self.peek()? {
            _ if depth > DEEPEST => None,
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => {
                let text = self.text()?;
                Some(Text::from_str(ctx, &text).ok()?.into_value())
            }
            b't' => self.word("true").map(|()| Value::new_bool(ctx, true)),
            b'f' => self.word("false").map(|()| Value::new_bool(ctx, false)),
            b'n' => self.word("null").map(|()| Value::new_null(ctx)),
            _ => self.number(ctx),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value<'js>> {
        let object = Object::new(self.freezer.ctx.clone()).ok()?.into_value();
        self.at += 1;
        if self.peek()? == b'}' {
            self.at += 1;
        } else {
            loop {
                self.peek()?;
                let text = self.text()?;
                self.take(b':')?;
                let place = self.named;
                self.named += 1;
                let beyond = self.name(place, &text)?;
                let value = self.value(depth + 1)?;
                let atom = beyond.as_ref().or_else(|| self.freezer.names.get(place))?.atom;
                // Fails for a repeated member with another value, because the first one is read-only.
                self.freezer.define(&object, atom, &value, ENUMERABLE)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    b'}' => {
                        self.at += 1;
                        break;
                    }
                    _ => return None,
                }
            }
        }
        self.freezer.close(&object)?;
        Some(object)
    }

    /// Makes `text` the kept name at `place`. Returns the name itself if `place` is beyond the names that are
    /// kept, and `None` on failure.
    fn name(&mut self, place: usize, text: &str) -> Option<Option<Name<'js>>> {
        let names = &mut self.freezer.names;
        if names.get(place).is_some_and(|name| name.text == text) {
            return Some(None);
        }
        let name = Name::new(&self.freezer.ctx, text)?;
        match names.get_mut(place) {
            Some(kept) => *kept = name,
            None if place < NAMES => names.push(name),
            None => return Some(Some(name)),
        }
        Some(None)
    }

    fn array(&mut self, depth: usize) -> Option<Value<'js>> {
        let array = Array::new(self.freezer.ctx.clone()).ok()?.into_value();
        self.at += 1;
        let mut length = 0_u32;
        if self.peek()? == b']' {
            self.at += 1;
        } else {
            loop {
                let value = self.value(depth + 1)?;
                // SAFETY: an atom of an integer below 2^31 is not allocated and must not be freed.
                let atom = unsafe { qjs::JS_NewAtomUInt32(self.freezer.ctx.as_raw().as_ptr(), length) };
                self.freezer.define(&array, atom, &value, ENUMERABLE)?;
                length = length.checked_add(1).filter(|length| *length < 1 << 30)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    b']' => {
                        self.at += 1;
                        break;
                    }
                    _ => return None,
                }
            }
        }
        let count = Value::new_int(self.freezer.ctx.clone(), length as i32);
        self.freezer.define(&array, qjs::JS_ATOM_length as _, &count, READ_ONLY)?;
        self.freezer.close(&array)?;
        Some(array)
    }

    fn number(&mut self, ctx: Ctx<'js>) -> Option<Value<'js>> {
        let rest = &self.json.as_bytes()[self.at..];
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        let text = &self.json[self.at..self.at + length];
        self.at += length;
        match text.parse::<i32>() {
            // Zero becomes a float, because `-0` differs from `0`.
            Ok(number) if number != 0 => Some(Value::new_int(ctx, number)),
            _ => Some(Value::new_float(ctx, text.parse().ok()?)),
        }
    }

    /// Parses a string. The next byte must be its opening quote.
    fn text(&mut self) -> Option<Cow<'a, str>> {
        let bytes = self.json.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        let start = self.at + 1;
        let end = start + memchr::memchr2(b'"', b'\\', &bytes[start..])?;
        if bytes[end] == b'"' {
            self.at = end + 1;
            return self.json.get(start..end).map(Cow::Borrowed);
        }
        let mut out = String::from(self.json.get(start..end)?);
        let mut at = end;
        loop {
            let next = at + memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
            out.push_str(self.json.get(at..next)?);
            at = next + 1;
            if bytes[next] == b'"' {
                self.at = at;
                return Some(Cow::Owned(out));
            }
            let escape = *bytes.get(at)?;
            at += 1;
            out.push(match escape {
                b'"' | b'\\' | b'/' => char::from(escape),
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => {
                    let unit = |at: usize| u32::from_str_radix(self.json.get(at..at + 4)?, 16).ok();
                    let first = unit(at)?;
                    at += 4;
                    match first {
                        0xD800..=0xDBFF if self.json.get(at..at + 2) == Some("\\u") => {
                            let second = unit(at + 2).filter(|second| (0xDC00..=0xDFFF).contains(second))?;
                            at += 6;
                            char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))?
                        }
                        _ => char::from_u32(first)?,
                    }
                }
                _ => return None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use rquickjs::{Context, Function, Runtime};

    use super::*;

    fn with(test: impl for<'js> FnOnce(Ctx<'js>)) {
        let runtime = Runtime::new().unwrap();
        Context::full(&runtime).unwrap().with(test);
    }

    /// Returns whether a value is deeply frozen, and its JSON.
    fn look<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> (bool, String) {
        let source = "(function (value) {
            function whole(value) {
                return typeof value !== 'object' || value === null ||
                    Object.isFrozen(value) && Object.keys(value).every(key => whole(value[key]));
            }
            return [whole(value), Object.is(value, -0) ? '-0' : JSON.stringify(value)];
        })";
        let look: Function = ctx.eval(source).unwrap();
        let seen: Array = look.call((value,)).unwrap();
        (seen.get(0).unwrap(), seen.get(1).unwrap())
    }

    #[test]
    fn documents_equal_those_of_the_engines_parser_and_are_deeply_frozen() {
        with(|ctx| {
            let mut freezer = Freezer::new(&ctx);
            let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
            for json in [
                r#"{}"#,
                r#"{"_id":"a","_rev":"1-x","n":1,"list":[1,[2,{"x":[]}],{}],"o":{"p":{"q":null}},"t":true,"f":false}"#,
                r#"{"_id":"b","_rev":"1-x","m":1,"list":[],"o":{"r":{"q":null}},"length":3}"#,
                r#" { "a" : [ 1 , 2 ] , "b" : { } , "c" : [ ] } "#,
                r#"{"10":1,"2":2,"x":3,"-1":4,"":5,"__proto__":{"y":1},"constructor":2,"4294967295":1}"#,
                r#"[0,-0,1.5,-2e3,1E400,2147483647,2147483648,-2147483648,12345678901234567890,0.1]"#,
                r#"["a\"b\\c\/d\b\f\n\r\t","\u00e9\ud83d\ude00","é😀","\u0000","a\u0041"]"#,
                "-0",
                r#""text""#,
                deep.as_str(),
            ] {
                let value = freezer.value(json).unwrap_or_else(|| panic!("{json}"));
                let own = ctx.json_parse(json).unwrap();
                let (frozen, text) = look(&ctx, value);
                assert!(frozen, "{json}");
                assert_eq!(text, look(&ctx, own).1, "{json}");
            }
        });
    }

    #[test]
    fn unusual_documents_are_left_to_the_engine() {
        with(|ctx| {
            let mut freezer = Freezer::new(&ctx);
            let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
            for json in
                [r#"{"a":1,"a":2}"#, r#""\ud800""#, r#""\ud800\u0041""#, deep.as_str(), "", "{", r#"{"a""#, "[1"]
            {
                assert!(freezer.value(json).is_none(), "{json}");
            }
            assert_eq!(look(&ctx, freezer.value("[1]").unwrap()), (true, "[1]".into()));
        });
    }

    #[test]
    fn frozen_documents_cannot_be_changed() {
        with(|ctx| {
            let document = Freezer::new(&ctx).value(r#"{"a":1,"list":[3,1,2],"none":[],"o":{"p":1}}"#).unwrap();
            let source = "(function (doc) {
                var tries = [
                    () => { doc.a = 2; }, () => { doc.b = 2; }, () => { delete doc.a; }, () => { doc.list.push(1); },
                    () => { doc.list.sort(); }, () => { doc.list[0] = 1; }, () => { doc.list.length = 0; },
                    () => { doc.none.push(1); }, () => { doc.none[0] = 1; }, () => { doc.list.pop(); },
                    () => { doc.o.p++; }, () => { Object.assign(doc.o, {q: 1}); }, () => { doc.__proto__ = {}; },
                    () => { Object.defineProperty(doc, 'a', {value: 2}); }, () => { doc.list.unshift(0); },
                    () => { [1].forEach([]['pu' + 'sh'], doc.list); }, () => { doc.none.length = 1; },
                    () => { Object.setPrototypeOf(doc.list, null); }, () => { doc.list.splice(0, 1); },
                    () => { doc.list.reverse(); }, () => { doc.list.fill(0); }, () => { doc.none.unshift(1); },
                ];
                tries.forEach(attempt => { try { attempt(); } catch (error) {} });
                return JSON.stringify(doc);
            })";
            for strict in ["", "'use strict';"] {
                let attempt: Function = ctx.eval(format!("{strict}{source}")).unwrap();
                let left: String = attempt.call((document.clone(),)).unwrap();
                assert_eq!(left, r#"{"a":1,"list":[3,1,2],"none":[],"o":{"p":1}}"#);
            }
        });
    }
}
