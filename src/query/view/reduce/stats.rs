//! `_stats`: sum, count, minimum, maximum and sum of squares of numbers, or of arrays of numbers.

use serde_json::{Value, json};

use crate::query::view::number::Num;

/// Member name of a reduction that failed; the query fails with the member's value as the reason.
pub(super) const STATS_FAILED: &str = "stats_error";

#[derive(Debug, Clone)]
pub(super) enum Stats {
    Of { sum: Num, count: Num, min: Num, max: Num, squares: Num },
    Each(Vec<Stats>),
    Failed(String),
}

impl Default for Stats {
    fn default() -> Stats {
        let zero = Num::Int(0);
        Stats::Of { sum: zero, count: zero, min: zero, max: zero, squares: zero }
    }
}

impl Stats {
    /// Parses a row's value: a number, precomputed statistics, or an array of these.
    pub(super) fn read(value: &Value, depth: usize) -> Stats {
        match value {
            Value::Number(number) => {
                let number = Num::read(number);
                Stats::Of { sum: number, count: Num::Int(1), min: number, max: number, squares: number.square() }
            }
            Value::Array(values) if depth < MOST_NESTED => {
                Stats::Each(values.iter().map(|value| Stats::read(value, depth + 1)).collect())
            }
            Value::Object(members) => {
                let get = |name: &str| match members.get(name) {
                    Some(value) => {
                        Num::of(value).ok_or_else(|| format!("non-numeric _stats input received for {name}: {value}"))
                    }
                    None => Err(format!("user _stats input missing required field {name} ({value})")),
                };
                let read = || -> std::result::Result<Stats, String> {
                    let (sum, count) = (get("sum")?, get("count")?);
                    Ok(Stats::Of { sum, count, min: get("min")?, max: get("max")?, squares: get("sumsqr")? })
                };
                read().unwrap_or_else(Stats::Failed)
            }
            other => Stats::Failed(format!(
                "The _stats function requires that map values be numbers or arrays of numbers, not '{other}'"
            )),
        }
    }

    pub(super) fn take(all: &mut Option<Stats>, more: Stats) {
        *all = Some(match all.take() {
            None => more,
            Some(before) => before.with(more),
        });
    }

    fn with(self, other: Stats) -> Stats {
        match (self, other) {
            (Stats::Failed(reason), _) | (_, Stats::Failed(reason)) => Stats::Failed(reason),
            (
                Stats::Of { sum, count, min, max, squares },
                Stats::Of { sum: sum2, count: count2, min: min2, max: max2, squares: squares2 },
            ) => Stats::Of {
                sum: sum.add(sum2),
                count: count.add(count2),
                min: min.min(min2),
                max: max.max(max2),
                squares: squares.add(squares2),
            },
            (Stats::Each(one), Stats::Each(two)) if one.len() == two.len() => {
                Stats::Each(one.into_iter().zip(two).map(|(one, two)| one.with(two)).collect())
            }
            _ => Stats::Failed(
                "The _stats function requires that map values be numbers or arrays of numbers, all of the same shape"
                    .into(),
            ),
        }
    }

    fn to_value(&self) -> std::result::Result<Value, String> {
        match self {
            Stats::Of { sum, count, min, max, squares } => Ok(json!({
                "sum": sum.to_value(),
                "count": count.to_value(),
                "min": min.to_value(),
                "max": max.to_value(),
                "sumsqr": squares.to_value(),
            })),
            Stats::Each(all) => {
                all.iter().map(Stats::to_value).collect::<std::result::Result<Vec<Value>, _>>().map(Value::Array)
            }
            Stats::Failed(reason) => Err(reason.clone()),
        }
    }

    pub(super) fn encode(&self) -> String {
        match self.to_value() {
            Ok(value) => value.to_string(),
            Err(reason) => json!({ STATS_FAILED: reason }).to_string(),
        }
    }

    pub(super) fn decode(reduction: &str) -> Stats {
        let value: Value = serde_json::from_str(reduction).unwrap_or_default();
        match value.get(STATS_FAILED).and_then(Value::as_str) {
            Some(reason) => Stats::Failed(reason.to_owned()),
            None => Stats::read(&value, 0),
        }
    }
}

/// Maximum nesting of the values of `_sum` and `_stats`.
pub(crate) const MOST_NESTED: usize = 64;
