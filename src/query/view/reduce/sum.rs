//! `_sum`: numbers, arrays of numbers, and objects of these (`couch_query_servers:sum_values`).

use serde_json::{Value, json};

use super::stats::MOST_NESTED;
use crate::query::script::{Limits, ReduceLimit};
use crate::query::view::number::Num;

const SUM_ERROR: &str = "The _sum function requires that map values be numbers, arrays of numbers, or objects. Objects \
    cannot be mixed with other data structures. Objects can be arbitrarily nested, provided that the values for all \
    fields are themselves numbers, arrays of numbers, or objects.";

fn sum_error(cause: &Value) -> Value {
    json!({"error": "builtin_reduce_error", "reason": SUM_ERROR, "caused_by": cause})
}

fn is_error(value: &Value) -> bool {
    value.get("error").and_then(Value::as_str) == Some("builtin_reduce_error")
}

/// Returns the sum, or an error if it does not shrink enough compared with its rows (`check_sum_overflow`).
pub(super) fn shrunk(mut sum: Value, read: usize, limits: &Limits, context: &str) -> Value {
    if sum.is_number() || is_error(&sum) {
        return sum;
    }
    sum.sort_all_objects();
    let output = sum.to_string().len();
    let too_large = output > limits.reduce_limit_threshold && output as f64 * limits.reduce_limit_ratio > read as f64;
    if !too_large || limits.reduce_limit == ReduceLimit::Off {
        return sum;
    }
    let reason =
        format!("Reduce output must shrink more rapidly: input size: {read} output size: {output} context: {context}");
    tracing::warn!(target: "settee::script", "builtin_reduce_error: {reason}");
    match limits.reduce_limit {
        ReduceLimit::On => json!({"error": "builtin_reduce_error", "reason": reason}),
        ReduceLimit::Off | ReduceLimit::Log => sum,
    }
}

/// Adds a value like `sum_values`. A sum that is an error stays one.
pub(super) fn add(sum: &mut Value, value: Value) {
    if is_error(sum) {
        return;
    }
    if let Err(error) = add_into(sum, value, 0) {
        *sum = error;
    }
}

/// Adds in place, so that adding many objects costs no more than the total number of their members.
fn add_into(sum: &mut Value, value: Value, depth: usize) -> std::result::Result<(), Value> {
    if depth > MOST_NESTED {
        return Err(sum_error(&Value::Null));
    }
    match (&mut *sum, value) {
        (Value::Number(one), Value::Number(two)) => *sum = Num::read(one).add(Num::read(&two)).to_value(),
        (Value::Array(one), Value::Array(two)) => add_arrays(one, two)?,
        (Value::Array(one), two @ Value::Number(_)) => add_arrays(one, vec![two])?,
        (Value::Number(_), Value::Array(two)) => {
            let mut all = vec![sum.take()];
            add_arrays(&mut all, two)?;
            *sum = Value::Array(all);
        }
        (_, error @ Value::Object(_)) if is_error(&error) => return Err(error),
        (Value::Number(zero), object @ Value::Object(_)) if zero.as_i64() == Some(0) => *sum = object,
        (Value::Object(one), Value::Object(two)) => {
            for (name, value) in two {
                match one.get_mut(&name) {
                    Some(inner) => add_into(inner, value, depth + 1)?,
                    None => {
                        one.insert(name, value);
                    }
                }
            }
        }
        (_, other) => return Err(sum_error(&other)),
    }
    Ok(())
}

fn add_arrays(sums: &mut Vec<Value>, values: Vec<Value>) -> std::result::Result<(), Value> {
    for (at, value) in values.into_iter().enumerate() {
        match sums.get_mut(at) {
            None => sums.push(value),
            Some(sum) => match (Num::of(sum), Num::of(&value)) {
                (Some(one), Some(two)) => *sum = one.add(two).to_value(),
                _ => return Err(sum_error(&Value::Array(vec![value, sum.clone()]))),
            },
        }
    }
    Ok(())
}
