//! Chooses the index for a query (CouchDB's `mango_idx`, `mango_cursor` and `mango_cursor_view`).
//!
//! 1. Candidates are all indexes of the query's scope (one partition, or the whole database). An index with a
//!    partial filter is a candidate only if `use_index` names it.
//! 2. An index is usable if every matching document has all fields of the index (other documents are not in the
//!    index) and the index's order satisfies the query's sort, if there is one. `_all_docs` is usable for every query
//!    without a sort.
//! 3. `use_index` selects among the usable indexes. If it names none of them, the query falls back to the
//!    others with a warning, or fails if `allow_fallback` is false.
//! 4. Among the remaining indexes, the winner is the one that narrows the most of the selector's indexable
//!    fields, then the one with the fewest fields, then the first by name. `_all_docs` is the last resort.

pub(crate) mod definition;
pub(crate) mod explain;
pub(crate) mod ranges;

use super::error::mango;
use super::request::{Direction, FindRequest};
use super::selector::condition::{Condition, Node};
use super::selector::{FieldPath, Selector};
use crate::error::Result;

pub use self::definition::{Index, NewIndex, bulk_delete_ids, remove_from};
pub use self::explain::explain;
pub use self::ranges::{High, Low, Range, end_key, field_ranges, start_key};

/// How to answer a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The index to scan.
    pub index: Index,
    /// The ranges of the index's first fields; the remaining fields are not narrowed.
    pub ranges: Vec<Range>,
    /// No document can match, so nothing is read.
    pub nothing: bool,
    /// The direction of the scan.
    pub direction: Direction,
    /// Whether the index's keys contain everything that the query needs, so that no document has to be read.
    pub covering: bool,
}

/// Chooses the index for a request. `indexes` are those of the database's design documents;
/// [`Index::all_docs`] is added automatically.
pub fn plan(indexes: &[Index], database_partitioned: bool, request: &FindRequest) -> Result<Plan> {
    let choice = choose(indexes, request)?;
    if choice.usable().next().is_none() {
        return Err(no_usable_index(database_partitioned, request));
    }
    if request.selector.is_text_search() {
        return Err(mango("no_usable_index", "There is no text index for this selector: $text needs one."));
    }
    choice.plan(request).ok_or_else(|| no_usable_index(database_partitioned, request))
}

fn no_usable_index(database_partitioned: bool, request: &FindRequest) -> crate::error::Error {
    let reason = match (database_partitioned, request.partition.is_some()) {
        (false, _) => "No index exists for this sort, try indexing by the sort fields.",
        (true, true) => "No partitioned index exists for this sort, try indexing by the sort fields.",
        (true, false) => "No global index exists for this sort, try indexing by the sort fields.",
    };
    mango("no_usable_index", reason)
}

/// Why an index cannot serve a query; the reasons that `_explain` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfit {
    NeedsTextSearch,
    FieldMismatch,
    SortOrderMismatch,
}

/// The result of the choice for one index.
#[derive(Debug, Clone, PartialEq)]
enum Standing {
    /// Has a partial filter and is not named by `use_index`.
    Partial,
    /// Has the other scope (one partition or the whole database).
    OutOfScope,
    /// Cannot serve the query.
    Unusable(Unfit),
    /// Usable, but `use_index` names another index.
    Excluded,
    /// Usable, but it is `_all_docs` and an index of another kind is usable too.
    UnfavouredKind,
    /// Takes part in the final ranking.
    Contender,
}

/// An index in the final ranking.
struct Ranked {
    index: Index,
    ranges: Vec<Range>,
    /// Number of the selector's indexable fields that it does not narrow.
    distance: usize,
}

/// The outcome of the choice, with the details that `_explain` shows.
struct Choice {
    standings: Vec<(Index, Standing)>,
    /// The final ranking, best first.
    ranked: Vec<Ranked>,
}

impl Choice {
    fn usable(&self) -> impl Iterator<Item = &Index> {
        self.standings.iter().filter_map(|(index, standing)| {
            matches!(standing, Standing::Excluded | Standing::UnfavouredKind | Standing::Contender).then_some(index)
        })
    }

    fn plan(&self, request: &FindRequest) -> Option<Plan> {
        let winner = self.ranked.first()?;
        let nothing = winner.ranges.first() == Some(&Range::Empty) || is_empty_combination(request.selector.root());
        Some(Plan {
            index: winner.index.clone(),
            ranges: winner.ranges.clone(),
            nothing,
            direction: request.sort.direction,
            covering: covers_request(&winner.index, request),
        })
    }
}

/// In CouchDB, a selector that is only an empty `$or` or `$and` matches nothing.
fn is_empty_combination(node: &Node) -> bool {
    match node {
        Node::And(nodes) | Node::Or(nodes) => nodes.is_empty(),
        _ => false,
    }
}

/// Determines the standing of every index. Fails only if `use_index` is mandatory and cannot be satisfied.
fn choose(indexes: &[Index], request: &FindRequest) -> Result<Choice> {
    let selector = &request.selector;
    let mut standings: Vec<(Index, Standing)> = Vec::with_capacity(indexes.len() + 1);
    for index in std::iter::once(&Index::all_docs()).chain(indexes) {
        let standing = if index.partial_filter.is_some() && !is_asked_for(index, request) {
            Standing::Partial
        } else if !index.is_all_docs() && index.partitioned != request.partition.is_some() {
            Standing::OutOfScope
        } else if let Some(unfit) = unfit(index, selector, &request.sort.fields) {
            Standing::Unusable(unfit)
        } else {
            Standing::Contender
        };
        standings.push((index.clone(), standing));
    }
    standings.sort_by(|(left, _), (right, _)| left.order().cmp(&right.order()));

    let contenders = |standings: &[(Index, Standing)], test: &dyn Fn(&Index) -> bool| {
        standings.iter().filter(|(index, standing)| *standing == Standing::Contender && test(index)).count()
    };
    let usable = contenders(&standings, &|_| true);
    if usable == 0 {
        return Ok(Choice { standings, ranked: Vec::new() });
    }
    let asked_for = contenders(&standings, &|index| is_asked_for(index, request));
    if asked_for > 0 {
        demote(&mut standings, Standing::Excluded, |index| !is_asked_for(index, request));
    } else if !(request.allow_fallback || (request.use_index.is_empty() && usable > 1)) {
        return Err(no_fallback(request));
    }
    if contenders(&standings, &|index| !index.is_all_docs()) > 0 {
        demote(&mut standings, Standing::UnfavouredKind, Index::is_all_docs);
    }

    let field_ranges = field_ranges(selector.root());
    let mut ranked: Vec<Ranked> = standings
        .iter()
        .filter(|(_, standing)| *standing == Standing::Contender)
        .map(|(index, _)| rank(index, &field_ranges))
        .collect();
    ranked.sort_by(|left, right| {
        let key = |ranked: &Ranked| (ranked.distance, ranked.index.columns().len());
        key(left).cmp(&key(right)).then_with(|| left.index.order().cmp(&right.index.order()))
    });
    Ok(Choice { standings, ranked })
}

fn demote(standings: &mut [(Index, Standing)], to: Standing, test: impl Fn(&Index) -> bool) {
    for (index, standing) in standings {
        if *standing == Standing::Contender && test(index) {
            *standing = to.clone();
        }
    }
}

/// The ranges of an index's leading fields, as many as the selector narrows without a gap.
fn rank(index: &Index, field_ranges: &[(FieldPath, Range)]) -> Ranked {
    let range_of = |path: &FieldPath| field_ranges.iter().find(|(at, _)| at == path).map(|(_, range)| range.clone());
    let ranges: Vec<Range> = index.paths().iter().map_while(range_of).collect();
    let distance = field_ranges.len().saturating_sub(ranges.len());
    Ranked { index: index.clone(), ranges, distance }
}

/// Whether `use_index` names this index.
fn is_asked_for(index: &Index, request: &FindRequest) -> bool {
    let (Some(design), Some(asked)) = (&index.design, request.use_index.first()) else { return false };
    let same_design = design == asked || design.strip_prefix("_design/") == Some(asked);
    same_design && request.use_index.get(1).is_none_or(|name| *name == index.name)
}

fn design_name(name: &str) -> &str {
    name.strip_prefix("_design/").unwrap_or(name)
}

fn no_fallback(request: &FindRequest) -> crate::error::Error {
    let reason = match request.use_index.as_slice() {
        [] => "You must specify an index with the `use_index` parameter.".to_owned(),
        [design] => format!(
            "_design/{} specified by `use_index` could not be found or it is not suitable.",
            design_name(design)
        ),
        [design, name, ..] => format!(
            "_design/{}, {name} specified by `use_index` could not be found or it is not suitable.",
            design_name(design)
        ),
    };
    mango("invalid_index", reason)
}

/// Why `index` cannot serve a query with this selector and sort; `None` if it can.
fn unfit(index: &Index, selector: &Selector, sort: &[String]) -> Option<Unfit> {
    if index.is_all_docs() {
        if sort.is_empty() {
            return None;
        }
        let narrows_id = self::ranges::indexable_paths(selector.root()).iter().any(|path| path.joined() == "_id");
        return if !narrows_id {
            Some(Unfit::FieldMismatch)
        } else if !index.columns().starts_with(sort) {
            Some(Unfit::SortOrderMismatch)
        } else {
            None
        };
    }
    if selector.is_text_search() {
        return Some(Unfit::NeedsTextSearch);
    }
    // Every document has `_id` and `_rev`, and a sort excludes documents without its fields.
    let implied = |name: &String| sort.contains(name) || name == "_id" || name == "_rev";
    let required = index.columns().iter().zip(index.paths());
    let mut required: Vec<&FieldPath> = required.filter(|(name, _)| !implied(name)).map(|(_, path)| path).collect();
    remove_required(std::slice::from_ref(selector.root()), &mut required);
    if !required.is_empty() {
        return Some(Unfit::FieldMismatch);
    }
    if !serves_sort(index, sort, selector) {
        return Some(Unfit::SortOrderMismatch);
    }
    None
}

/// Removes from `required` the fields that every document matching all of `nodes` has (CouchDB's
/// `mango_selector:has_required_fields`).
fn remove_required(nodes: &[Node], required: &mut Vec<&FieldPath>) {
    for node in nodes {
        if required.is_empty() {
            return;
        }
        match node {
            Node::And(nodes) => remove_required(nodes, required),
            // Every alternative must require the field.
            Node::Or(nodes) => {
                let mut left: Vec<&FieldPath> = Vec::new();
                for node in nodes {
                    let mut remaining = required.clone();
                    remove_required(std::slice::from_ref(node), &mut remaining);
                    left.extend(remaining);
                }
                required.retain(|path| left.contains(path));
            }
            Node::At(_, Condition::Exists(false)) => {}
            Node::At(at, _) => required.retain(|path| *path != at),
            Node::Empty | Node::Nor(_) | Node::Not(_) | Node::Text(_) => {}
        }
    }
}

/// Whether a scan of the index returns rows in this order: the sort is a prefix of the index's fields, after
/// any leading fields that the selector fixes to one value.
fn serves_sort(index: &Index, sort: &[String], selector: &Selector) -> bool {
    if sort.is_empty() {
        return true;
    }
    let columns = index.columns();
    for (at, (column, path)) in columns.iter().zip(index.paths()).enumerate() {
        if *column == sort[0] {
            return columns[at..].starts_with(sort);
        }
        if !is_constant(selector.root(), path) {
            return false;
        }
    }
    false
}

fn is_constant(node: &Node, path: &FieldPath) -> bool {
    match node {
        Node::And(nodes) => nodes.iter().any(|node| is_constant(node, path)),
        Node::At(at, Condition::Eq(_)) => at == path,
        _ => false,
    }
}

/// Whether the keys of an index contain all of `fields`.
fn covers(index: &Index, fields: &[String]) -> bool {
    !index.is_all_docs() && fields.iter().all(|name| name == "_id" || index.columns().contains(name))
}

fn covers_request(index: &Index, request: &FindRequest) -> bool {
    request.fields.is_some() && covers(index, request.field_names()) && covers(index, &request.selector.field_names())
}

/// The warnings for a response. `examined` and `returned` are numbers of documents.
pub fn warnings(plan: &Plan, request: &FindRequest, examined: u64, returned: u64) -> Vec<String> {
    /// CouchDB's `index_scan_warning_threshold`.
    const THRESHOLD: u64 = 10;
    let mut warnings = Vec::new();
    if !request.use_index.is_empty() && !is_asked_for(&plan.index, request) {
        let design = design_name(&request.use_index[0]);
        warnings.push(match request.use_index.get(1) {
            None => format!("_design/{design} was not used because it does not contain a valid index for this query."),
            Some(name) => {
                format!("_design/{design}, {name} was not used because it is not a valid index for this query.")
            }
        });
    }
    if plan.index.is_all_docs() {
        warnings.push("No matching index found, create an index to optimize query time.".into());
    }
    if examined > THRESHOLD.saturating_mul(returned.max(1)) {
        warnings.push(
            "The number of documents examined is high in proportion to the number of results returned. Consider adding \
             a more specific index to improve this."
                .into(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests;
