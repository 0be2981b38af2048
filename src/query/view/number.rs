//! Arithmetic on JSON numbers for reduce functions. Integers stay integers, as in Erlang.

use serde_json::{Number, Value};

/// A JSON number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Num {
    /// An integer.
    Int(i128),
    /// Any other number; always finite.
    Float(f64),
}

impl Num {
    /// Converts a JSON number.
    pub fn read(number: &Number) -> Num {
        match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Num::Int(whole.into()),
            (None, Some(whole)) => Num::Int(whole.into()),
            (None, None) => Num::Float(number.as_f64().unwrap_or_default()),
        }
    }

    /// Converts a JSON value; `None` if it is not a number.
    pub fn of(value: &Value) -> Option<Num> {
        value.as_number().map(Num::read)
    }

    fn float(self) -> f64 {
        match self {
            Num::Int(whole) => whole as f64,
            Num::Float(float) => float,
        }
    }

    /// The sum. An integer sum beyond 128 bits becomes a float.
    pub fn add(self, other: Num) -> Num {
        match (self, other) {
            (Num::Int(one), Num::Int(two)) => {
                one.checked_add(two).map_or(Num::Float(one as f64 + two as f64), Num::Int)
            }
            _ => Num::Float(finite(self.float() + other.float())),
        }
    }

    /// The square. An integer square beyond 128 bits becomes a float.
    pub fn square(self) -> Num {
        match self {
            Num::Int(whole) => whole.checked_mul(whole).map_or(Num::Float(whole as f64 * whole as f64), Num::Int),
            Num::Float(float) => Num::Float(finite(float * float)),
        }
    }

    pub fn min(self, other: Num) -> Num {
        if self.less(other) { self } else { other }
    }

    pub fn max(self, other: Num) -> Num {
        if self.less(other) { other } else { self }
    }

    fn less(self, other: Num) -> bool {
        match (self, other) {
            (Num::Int(one), Num::Int(two)) => one <= two,
            _ => self.float() <= other.float(),
        }
    }

    /// The JSON number. An integer beyond 64 bits becomes a float.
    pub fn to_value(self) -> Value {
        match self {
            Num::Int(whole) => match (i64::try_from(whole), u64::try_from(whole)) {
                (Ok(whole), _) => whole.into(),
                (Err(_), Ok(whole)) => whole.into(),
                (Err(_), Err(_)) => (whole as f64).into(),
            },
            Num::Float(float) => float.into(),
        }
    }
}

/// JSON has no infinity, so overflow yields the largest double of the same sign.
fn finite(float: f64) -> f64 {
    if float.is_nan() { 0.0 } else { float.clamp(f64::MIN, f64::MAX) }
}
