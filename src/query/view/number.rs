//! Arithmetic on JSON numbers as reduce functions do it: whole numbers stay whole, as in Erlang.

use serde_json::{Number, Value};

/// A number of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Num {
    Int(i128),
    Float(f64),
}

impl Num {
    pub fn read(number: &Number) -> Num {
        match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Num::Int(whole.into()),
            (None, Some(whole)) => Num::Int(whole.into()),
            (None, None) => Num::Float(number.as_f64().unwrap_or_default()),
        }
    }

    pub fn of(value: &Value) -> Option<Num> {
        value.as_number().map(Num::read)
    }

    fn float(self) -> f64 {
        match self {
            Num::Int(whole) => whole as f64,
            Num::Float(float) => float,
        }
    }

    pub fn add(self, other: Num) -> Num {
        match (self, other) {
            (Num::Int(one), Num::Int(two)) => {
                one.checked_add(two).map_or(Num::Float(one as f64 + two as f64), Num::Int)
            }
            _ => Num::Float(finite(self.float() + other.float())),
        }
    }

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

/// JSON has no infinity: what is too large is as large as can be.
fn finite(float: f64) -> f64 {
    if float.is_nan() { 0.0 } else { float.clamp(f64::MIN, f64::MAX) }
}
