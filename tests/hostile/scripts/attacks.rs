//! JavaScript functions that use too much time, memory or stack, in as many parts of the engine as known.

/// Function bodies. Each one is slow in a different part of the engine, mostly in native code.
pub const ATTACKS: &[&str] = &[
    // `length` is small at the sandbox's check and huge when the engine reads it.
    "Array.prototype.copyWithin.call(GROWS, 0, 1)",
    "Array.prototype.reverse.call(GROWS)",
    "Array.prototype.unshift.call(GROWS, 1)",
    "Array.prototype.shift.call(GROWS)",
    "Array.prototype.splice.call(GROWS, 0, 1)",
    "Array.prototype.fill.call(GROWS, 1)",
    "Array.prototype.indexOf.call(GROWS, 'none')",
    "Array.prototype.lastIndexOf.call(GROWS, 'none')",
    "Array.prototype.includes.call(GROWS, 'none')",
    "Array.prototype.join.call(GROWS, '')",
    "Array.prototype.sort.call(GROWS)",
    "Array.prototype.concat.call([], Object.defineProperty(GROWS, Symbol.isConcatSpreadable, { value: true }))",
    "Array.prototype.flat.call(GROWS)",
    "Array.prototype.toLocaleString.call(GROWS)",
    "Array.from(GROWS)",
    "String.raw({ raw: { length: 9007199254740991 } })",
    "Reflect.apply(Math.max, null, { length: 4294967295 })",
    "[].reverse.call(new Array(4294967295))",
    "new Array(4294967295).join('x')",
    // Long strings.
    "var s = 'a'.repeat(1 << 24); s.indexOf('a'.repeat(1 << 23) + 'b')",
    "var s = 'a'.repeat(1 << 24); s.lastIndexOf('a'.repeat(1 << 23) + 'b')",
    "var s = 'x'; while (true) s += s",
    "var s = 'x'; while (true) s = s.repeat(2)",
    "'\\u0344'.repeat(1 << 22).normalize('NFD').normalize('NFC')",
    "'x'.padEnd(1 << 29).split('')",
    "('x'.repeat(1 << 20)).replace(/x/g, 'x'.repeat(1 << 10))",
    "encodeURIComponent('\\u20ac'.repeat(1 << 24))",
    // Regular expressions.
    "/(a+)+$/.test('a'.repeat(50) + 'b')",
    "/(?:a|a|a)*$/.test('a'.repeat(50) + 'b')",
    "new RegExp('(' + 'a?'.repeat(3000) + ')'.concat('{1,9}')).test('a'.repeat(3000))",
    // JSON.
    "JSON.parse('['.repeat(1 << 24))",
    "JSON.parse('[' + '{},'.repeat(1 << 22) + '0]')",
    "var o = []; for (var i = 0; i < 1e6; i++) o = [o]; JSON.stringify(o)",
    "JSON.stringify({ toJSON: function () { return { a: this, b: this }; } })",
    "JSON.stringify(new Array(1 << 24))",
    // Native functions that call back into JavaScript.
    "var a = []; for (var i = 0; i < 1e5; i++) a.push(i); while (true) a.sort(function () { return Math.random() - 0.5; })",
    "[1, 2, 3].sort(function f() { return [3, 2, 1].sort(f); })",
    "var p = new Proxy({}, { get: function () { return 9007199254740991; }, has: function () { return true; } }); Array.prototype.includes.call(p, 'none')",
    "var p = new Proxy({}, { ownKeys: function () { while (true); } }); Object.keys(p)",
    "(function f() { f(); })()",
    "(function f() { try { f(); } finally { f(); } })()",
    "Promise.resolve().then(function f() { return Promise.resolve().then(f); })",
    "throw { get error() { while (true); } }",
    "throw { get name() { throw this; }, get stack() { throw this; }, toString: function () { throw this; } }",
    "throw Object.defineProperty(new Error('x'), 'message', { get: function () { return 'x'.repeat(1 << 29); } })",
    "while (true) { try { while (true); } catch (e) {} finally { continue; } }",
    // Memory.
    "var a = []; while (true) a.push({})",
    "var a = []; while (true) a.push(new Uint8Array(1 << 20).fill(1))",
    "new Uint8Array(1 << 31); new ArrayBuffer(1 << 40)",
    "var m = new Map(); for (var i = 0; ; i++) m.set({}, i)",
    "globalThis.kept = globalThis.kept || []; for (var i = 0; i < 40; i++) kept.push('x'.repeat(1 << 20) + i)",
    "globalThis.n = (globalThis.n || 0) + 1; globalThis['kept' + n] = new Uint8Array(30 << 20).fill(n)",
    "Math.max(...new Array(1 << 24))",
    "new Function(new Array(1 << 22).join('a+') + '1')()",
    // Numbers.
    "var n = 3n; while (true) n = n * n",
    "2n ** (1n << 40n)",
    "(10n ** 1000000n).toString()",
    // Log lines.
    "while (true) log('x'.repeat(4000))",
];

/// An object whose `length` is 3 at the first read and huge at every later read.
pub const GROWS: &str =
    "(function () { var n = 0; return { get length() { return n++ ? 9007199254740991 : 3; } }; })()";

/// Returns the source of a function with the body `attack`, with `GROWS` replaced by the object.
pub fn function(attack: &str) -> String {
    format!("function (doc, req) {{ {}; }}", attack.replace("GROWS", GROWS))
}

/// Generates random functions from expensive pieces; holds the state of the random number generator
/// (xorshift), not 0.
pub struct Random(pub u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// Generates the source of a function.
    pub fn function(&mut self) -> String {
        let statements: Vec<String> = (0..1 + self.below(4)).map(|_| self.statement(0)).collect();
        format!(
            "function (doc, req) {{ var a = [], o = {{}}, s = 'ab', n = 1; {} emit(1, s); return [null, 'x']; }}",
            statements.join(" ")
        )
    }

    fn statement(&mut self, depth: usize) -> String {
        let deep = depth > 2;
        match self.below(if deep { 6 } else { 12 }) {
            0 => format!("a.push({});", self.value(depth)),
            1 => format!("s = String({}).slice(0, 1 << {});", self.value(depth), self.below(27)),
            2 => format!("s += s + {};", self.value(depth)),
            3 => format!("globalThis.g{} = {};", self.below(3), self.value(depth)),
            4 => format!("emit({}, {});", self.value(depth), self.value(depth)),
            5 => format!("{};", ATTACKS[self.below(ATTACKS.len())].replace("GROWS", GROWS)),
            6 => format!(
                "for (var i{depth} = 0; i{depth} < {}; i{depth}++) {{ {} }}",
                self.number(),
                self.statement(depth + 1)
            ),
            7 => format!("try {{ {} }} catch (e) {{ {} }}", self.statement(depth + 1), self.statement(depth + 1)),
            8 => format!("try {{ {} }} finally {{ {} }}", self.statement(depth + 1), self.statement(depth + 1)),
            9 => format!("Promise.resolve().then(function f() {{ {} return f; }});", self.statement(depth + 1)),
            10 => format!("(function f(x) {{ {} if (x) f(x - 1); }})({});", self.statement(depth + 1), self.number()),
            _ => format!("throw {};", self.value(depth)),
        }
    }

    fn number(&mut self) -> &'static str {
        self.one(&["3", "1000", "1e5", "1 << 24", "4294967295", "9007199254740991", "Infinity", "NaN", "-1"])
    }

    fn value(&mut self, depth: usize) -> String {
        if depth > 3 {
            return self.one(&["a", "o", "s", "doc", "req", "null", "GROWS"]).replace("GROWS", GROWS);
        }
        let inner = |random: &mut Random| random.value(depth + 1);
        match self.below(12) {
            0 => self.number().into(),
            1 => format!("[{}, {}]", inner(self), inner(self)),
            2 => format!("new Array({})", self.number()),
            3 => format!("'x'.repeat({})", self.number()),
            4 => {
                let method = self.one(&[
                    "reverse",
                    "fill",
                    "copyWithin",
                    "unshift",
                    "splice",
                    "join",
                    "sort",
                    "indexOf",
                    "concat",
                    "flat",
                    "map",
                    "slice",
                    "at",
                    "includes",
                    "with",
                    "toSorted",
                    "toSpliced",
                    "keys",
                    "lastIndexOf",
                ]);
                format!("Array.prototype.{method}.call({}, {}, {})", inner(self), inner(self), inner(self))
            }
            5 => {
                let method = self.one(&[
                    "indexOf",
                    "split",
                    "replace",
                    "match",
                    "padStart",
                    "repeat",
                    "localeCompare",
                    "normalize",
                    "matchAll",
                    "replaceAll",
                    "lastIndexOf",
                    "toUpperCase",
                    "trim",
                    "codePointAt",
                ]);
                format!("String.prototype.{method}.call({}, {})", inner(self), inner(self))
            }
            6 => format!(
                "{{ get length() {{ return {}; }}, toString: function () {{ return {}; }} }}",
                self.number(),
                inner(self)
            ),
            7 => format!("new Proxy({{}}, {{ get: function (t, k) {{ return {}; }} }})", inner(self)),
            8 => format!("JSON.{}({})", self.one(&["parse", "stringify"]), inner(self)),
            9 => format!("new RegExp({})", inner(self)),
            10 => format!(
                "new {}({})",
                self.one(&["Uint8Array", "Float64Array", "Map", "Set", "Date", "Error", "ArrayBuffer"]),
                inner(self)
            ),
            _ => format!(
                "Object.{}({})",
                self.one(&["keys", "freeze", "entries", "assign", "create", "getOwnPropertyNames"]),
                inner(self)
            ),
        }
    }
}
