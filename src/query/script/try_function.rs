//! Tries a function before its design document is saved: compiles it and calls it once, in its own environment and
//! under the usual limits.

use serde_json::value::RawValue;

use super::call::Call;
use super::environments::Key;
use super::failure::mend;
use super::pending::Pending;
use super::scripts::{Scripts, one, size};
use crate::error::Error;

/// Maximum size of the answer in bytes.
const ANSWER: usize = 8 << 20;

impl Scripts {
    /// Tries a function in a worker of `database`. `input` is the argument of `tryFunction` in `sandbox.js`, as JSON.
    /// Returns a JSON object with `ok`, `logs`, and the function's result or its error.
    ///
    /// # Errors
    /// [`Error::Script`] if the function exceeds its time or memory, or no worker becomes free.
    pub fn try_function(&self, database: u64, input: String) -> Pending<Box<RawValue>> {
        self.threads.submit(size(database, [input.len()]), move |seat| {
            let items = [input];
            let call = Call { most_overruns: 1, most_bytes: ANSWER, ..Call::new(&Key::Once, "tryFunction", &items) };
            let answer = mend(&one(seat.call(call)?)?).into_owned();
            RawValue::from_string(answer).map_err(|error| Error::Internal(format!("a script worker's answer: {error}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Limits;
    use super::*;

    #[tokio::test]
    async fn a_function_is_tried_without_being_stored() {
        let scripts = Scripts::new(Limits { threads: 1, ..Limits::default() });
        for (input, expected) in [
            (
                json!({"kind": "map", "source": "function (doc) { log('a'); emit(doc._id); }", "doc": {"_id": "x"}}),
                json!({"ok": true, "rows": [{"key": "x", "value": null}], "total": 1, "logs": ["a"]}),
            ),
            (
                json!({"kind": "map", "source": "function (doc) {\n  doc.a.b;\n}", "doc": {}}),
                json!({"ok": false, "error": "TypeError", "message": "TypeError: cannot read property 'b' of undefined",
                    "line": 2, "column": 3, "logs": []}),
            ),
            (
                json!({"kind": "filter", "source": "(doc) => { emit(; }", "compile": true}),
                json!({"ok": false, "error": "compilation_error",
                    "message": "SyntaxError: unexpected token in expression: ';'", "line": 1, "column": 17, "logs": []}),
            ),
            (
                json!({"kind": "map", "source": "function () { throw [1]; }", "compile": true}),
                json!({"ok": true, "logs": []}),
            ),
        ] {
            let answer = scripts.try_function(1, input.to_string()).await.unwrap();
            assert_eq!(serde_json::from_str::<Value>(answer.get()).unwrap(), expected, "{input}");
        }
    }
}
