//! The response of `_explain`: the plan, and why each other index was not chosen (CouchDB's
//! `mango_cursor:explain`).

use serde_json::{Map, Value, json};

use super::ranges::indexable_paths;
use super::{Choice, Index, Plan, Standing, Unfit, choose, covers, end_key, start_key};
use crate::error::Result;
use crate::query::mango::request::{Direction, FindRequest};

/// CouchDB's notation for a key above all others.
const HIGHEST: &str = "<MAX>";

/// The response of `_explain`. If no index can serve the request, `index` is null.
pub fn explain(database: &str, indexes: &[Index], database_partitioned: bool, request: &FindRequest) -> Result<Value> {
    let choice = choose(indexes, request)?;
    let plan = choice.plan(request);
    let mut out = Map::new();
    out.insert("dbname".into(), database.into());
    out.insert("index".into(), plan.as_ref().map_or(Value::Null, |plan| plan.index.to_json()));
    out.insert("partitioned".into(), database_partitioned.into());
    out.insert("selector".into(), request.selector.to_json());
    out.insert("opts".into(), request.options_json());
    out.insert("limit".into(), request.limit.into());
    out.insert("skip".into(), request.skip.into());
    out.insert("fields".into(), request.field_names().into());
    out.insert("index_candidates".into(), candidates(&choice, request));
    out.insert("selector_hints".into(), selector_hints(request));
    if let Some(plan) = plan {
        out.insert("mrargs".into(), view_arguments(&plan, request));
        out.insert("covering".into(), plan.covering.into());
    }
    Ok(Value::Object(out))
}

fn view_arguments(plan: &Plan, request: &FindRequest) -> Value {
    let (low, high) = if plan.nothing {
        (Value::Null, Value::Null)
    } else if plan.index.is_all_docs() {
        let single = |keys: Vec<Value>, open: Value| keys.into_iter().next().unwrap_or(open);
        // CouchDB starts at null if no condition narrows `_id`, and at the empty string if one does but has
        // no lower bound.
        let open = if plan.ranges.is_empty() { Value::Null } else { "".into() };
        (single(start_key(&plan.ranges), open), single(end_key(&plan.ranges), HIGHEST.into()))
    } else {
        let mut end = end_key(&plan.ranges);
        end.push(HIGHEST.into());
        (Value::Array(start_key(&plan.ranges)), Value::Array(end))
    };
    let descending = plan.direction == Direction::Descending;
    let (start, end) = if descending { (high, low) } else { (low, high) };
    json!({
        "include_docs": request.r == 1 && !plan.covering,
        "view_type": "map",
        "reduce": false,
        "partition": request.partition,
        "start_key": start,
        "end_key": end,
        "direction": if descending { "rev" } else { "fwd" },
        "stable": request.stable || request.stale,
        "update": request.update && !request.stale,
        "conflicts": if request.conflicts { json!(true) } else { json!("undefined") },
    })
}

fn selector_hints(request: &FindRequest) -> Value {
    let mut indexable: Vec<String> =
        indexable_paths(request.selector.root()).iter().map(|path| path.joined()).collect();
    indexable.sort();
    let mut unindexable = request.selector.field_names();
    unindexable.retain(|name| !indexable.contains(name));
    unindexable.sort();
    unindexable.dedup();
    json!([{"type": "json", "indexable_fields": indexable, "unindexable_fields": unindexable}])
}

/// The indexes that were not chosen, in CouchDB's order (descending by name), with the reason and a rank.
fn candidates(choice: &Choice, request: &FindRequest) -> Value {
    let any = |test: fn(&Standing) -> bool| u64::from(choice.standings.iter().any(|(_, standing)| test(standing)));
    let unfavoured = (choice.ranked.len() as u64).max(1);
    let excluded = unfavoured + any(|standing| *standing == Standing::UnfavouredKind);
    let unusable = excluded + any(|standing| *standing == Standing::Excluded);
    let out_of_scope = unusable + any(|standing| matches!(standing, Standing::Unusable(_)));
    let partial = out_of_scope + any(|standing| *standing == Standing::OutOfScope);
    let widest = choice.ranked.first().map_or(0, |winner| winner.index.columns().len());
    let entries = choice.standings.iter().rev().filter_map(|(index, standing)| {
        let (usable, reason, ranking) = match standing {
            Standing::Partial => (false, "is_partial", partial),
            Standing::OutOfScope => (false, "scope_mismatch", out_of_scope),
            Standing::Unusable(Unfit::NeedsTextSearch) => (false, "needs_text_search", unusable),
            Standing::Unusable(Unfit::FieldMismatch) => (false, "field_mismatch", unusable),
            Standing::Unusable(Unfit::SortOrderMismatch) => (false, "sort_order_mismatch", unusable),
            Standing::Excluded => (true, "excluded_by_user", excluded),
            Standing::UnfavouredKind => (true, "unfavored_type", unfavoured),
            Standing::Contender => {
                let place = choice.ranked.iter().position(|ranked| ranked.index.order() == index.order())?;
                let ranked = &choice.ranked[place];
                let reason = if place == 0 {
                    return None;
                } else if ranked.distance > 0 {
                    "less_overlap"
                } else if index.columns().len() > widest {
                    "too_many_fields"
                } else {
                    "alphabetically_comes_after"
                };
                (true, reason, place as u64)
            }
        };
        let covering = if index.is_all_docs() {
            Value::Null
        } else {
            Value::Bool(request.fields.is_some() && covers(index, request.field_names()))
        };
        Some(json!({
            "index": index.to_json(),
            "analysis": {
                "usable": usable,
                "reasons": [{"name": reason}],
                "ranking": ranking,
                "covering": covering,
            },
        }))
    });
    entries.collect()
}
