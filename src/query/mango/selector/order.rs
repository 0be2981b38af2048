//! Compares values in the order of view keys (`docs: ddocs/views/collation`): null, false, true, numbers,
//! strings by Unicode collation, arrays, objects. The result equals comparing the keys of `json::collate`,
//! without building them.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use crate::json::compare_strings;

/// Compares two values in view order.
pub fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => numbers(left, right),
        (Value::String(left), Value::String(right)) => strings(left, right),
        (Value::Array(left), Value::Array(right)) => {
            let unequal = left.iter().zip(right).map(|(left, right)| compare(left, right)).find(|order| order.is_ne());
            unequal.unwrap_or_else(|| left.len().cmp(&right.len()))
        }
        (Value::Object(left), Value::Object(right)) => {
            let mut pairs = left.iter().zip(right);
            let unequal = pairs.find_map(|((left_name, left), (right_name, right))| {
                Some(strings(left_name, right_name).then_with(|| compare(left, right))).filter(|order| order.is_ne())
            });
            unequal.unwrap_or_else(|| left.len().cmp(&right.len()))
        }
        _ => rank(left).cmp(&rank(right)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    }
}

fn numbers(left: &Number, right: &Number) -> Ordering {
    let integer = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let double = |number: &Number| number.as_f64().unwrap_or(0.0);
    match (integer(left), integer(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(left), None) => integer_and_double(left, double(right)),
        (None, Some(right)) => integer_and_double(right, double(left)).reverse(),
        (None, None) => double(left).partial_cmp(&double(right)).unwrap_or(Ordering::Equal),
    }
}

/// Compares an integer of at most 65 bits with a double exactly. If the integer were rounded to a double,
/// different integers would equal the same double, and the order would not be total.
fn integer_and_double(integer: i128, double: f64) -> Ordering {
    // Doubles beyond this bound are beyond all the integers; the whole part of any other double is exact as
    // an i128.
    if double.abs() >= 1e30 {
        return if double > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    let whole = double.floor();
    integer.cmp(&(whole as i128)).then(if double > whole { Ordering::Less } else { Ordering::Equal })
}

fn strings(left: &str, right: &str) -> Ordering {
    if left == right { Ordering::Equal } else { compare_strings(left, right) }
}

/// Whether two values are equal in view order.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        // The collation distinguishes all printable ASCII, so only other strings need it.
        (Value::String(left), Value::String(right)) => {
            let plain = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            left == right || (!(plain(left) && plain(right)) && compare_strings(left, right).is_eq())
        }
        _ => compare(left, right).is_eq(),
    }
}

/// The order that a condition compares by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The order of view keys.
    View,
    /// The order of `_all_docs` and of Erlang: numbers, false, null, true, objects, arrays, strings by bytes.
    /// Only for `_id`.
    Raw,
}

impl Order {
    pub(crate) fn compare(self, left: &Value, right: &Value) -> Ordering {
        match (self, left, right) {
            (Order::View, _, _) => compare(left, right),
            (Order::Raw, Value::String(left), Value::String(right)) => left.cmp(right),
            (Order::Raw, Value::Number(left), Value::Number(right)) => numbers(left, right),
            (Order::Raw, _, _) => raw_rank(left).cmp(&raw_rank(right)).then_with(|| compare(left, right)),
        }
    }

    pub(crate) fn equal(self, left: &Value, right: &Value) -> bool {
        match self {
            Order::View => equal(left, right),
            Order::Raw => self.compare(left, right).is_eq(),
        }
    }
}

fn raw_rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::Bool(false) => 1,
        Value::Null => 2,
        Value::Bool(true) => 3,
        Value::Object(_) => 4,
        Value::Array(_) => 5,
        Value::String(_) => 6,
    }
}
