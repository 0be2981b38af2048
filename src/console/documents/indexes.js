// Mango indexes: which there are, which one a query would need, and making it.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { ask, formDialog } from '../elements/dialog.js';
import { field } from '../elements/field.js';
import { toast } from '../elements/toast.js';
import { plural } from '../format.js';

const fieldText = (each) => (typeof each === 'string' ? each : Object.entries(each).map(([name, order]) => (order === 'desc' ? `${name} (descending)` : name)).join());

/** The panel with all Mango indexes; `changed` is called after one was made or deleted. */
export function indexPanel(db, indexes, changed) {
  const own = indexes.filter(({ type }) => type !== 'special');
  const remove = async (index) => {
    const yes = await ask({ title: `Delete the index ${index.name}?`, danger: true, confirm: 'Delete', body: 'Queries that used it read every document instead. It can be made again.',
      action: () => api.del(`${api.part(db)}/_index/${api.part(index.ddoc.replace(/^_design\//, ''))}/json/${api.part(index.name)}`) });
    if (yes) changed();
  };
  const list = own.map((index) => h('li', {}, h('span', { class: 'name' }, h('span', { class: 'mono' }, index.def.fields.map(fieldText).join(', ')), h('br'), h('span', { class: 'quiet small-text' }, index.name)),
    h('button', { type: 'button', class: 'plain small', 'aria-label': `Delete the index ${index.name}`, onclick: () => remove(index) }, 'Delete')));
  return h('section', { class: 'panel', 'aria-label': 'Indexes' }, h('h2', {}, 'Indexes'),
    own.length > 0 ? h('ul', { class: 'side-list' }, list) : h('p', { class: 'quiet' }, 'None yet. Without an index a query reads every document.'),
    h('div', { class: 'row' }, h('button', { type: 'button', class: 'small', onclick: () => makeIndex(db, [], changed) }, 'New index')));
}

/** Asks for the fields of a new index and makes it. */
export async function makeIndex(db, fields, changed) {
  const wanted = field({ label: 'Fields', name: 'fields', value: fields.join(', '), required: true, hint: 'In this order, with commas between: first those that the query compares with one value, then ranges and the sort.' });
  const name = field({ label: 'Name', name: 'name', placeholder: 'made from the fields', value: '' });
  const made = await formDialog({ title: 'New index', fields: [wanted, name], submit: 'Make the index', action: async (values) => {
    const list = values.fields.split(',').map((each) => each.trim()).filter(Boolean);
    if (list.length === 0) {
      wanted.fail('Name at least one field.');
      return false;
    }
    const label = values.name.trim() || `by-${list.join('-')}`.slice(0, 60);
    return api.post(`${api.part(db)}/_index`, { index: { fields: list }, name: label, ddoc: label, type: 'json' });
  } });
  if (!made) return;
  toast(made.result === 'exists' ? 'There is such an index already.' : 'The index is made. It is filled at the first query.');
  changed();
}

/** The fields that an index for this query should have, from the plan: equal values first, then the sort, then ranges. */
export function advisedFields(plan) {
  const usable = plan.selector_hints?.find(({ type }) => type === 'json')?.indexable_fields ?? [];
  const equal = usable.filter((name) => isEqual(plan.selector, name));
  const sort = Object.keys(Array.isArray(plan.opts?.sort) ? {} : plan.opts?.sort ?? {});
  return [...new Set([...equal, ...sort, ...usable])].filter((name) => name !== '_id');
}

function isEqual(selector, name) {
  if (selector === null || typeof selector !== 'object') return false;
  if (selector[name]?.$eq !== undefined) return true;
  return Object.values(selector).some((part) => (Array.isArray(part) ? part.some((each) => isEqual(each, name)) : isEqual(part, name)));
}

const NOT_USED = { field_mismatch: 'does not have the fields', sort_order_mismatch: 'has another order', needs_text_search: 'needs text search', is_partial: 'is partial', excluded_by_user: 'was not asked for', less_overlap: 'covers fewer fields', too_many_fields: 'has more fields than needed', alphabetically_comes_after: 'comes later by name', scope_mismatch: 'is of another partition kind' };

/** The plan in words, with a button that makes the index it needs. */
export function planView(db, plan, changed) {
  const { index } = plan;
  const all = !index || index.type === 'special';
  const fields = advisedFields(plan);
  const others = (plan.index_candidates ?? []).filter(({ index: each }) => each.type !== 'special').slice(0, 20);
  return h('section', { class: 'panel plan' }, h('h2', {}, 'Plan'),
    h('p', {}, !index ? 'No index can answer this query: the sort needs one.' : all ? 'This query reads every document of the database.' : ['It uses the index ', h('code', {}, index.name), `, with ${plural(index.def.fields.length, 'field')}: ${index.def.fields.map(fieldText).join(', ')}.`]),
    all && fields.length > 0 ? h('div', { class: 'row' }, h('span', {}, 'An index of ', h('code', {}, fields.join(', ')), ' makes it fast. '), h('button', { type: 'button', class: 'primary small', onclick: () => makeIndex(db, fields, changed) }, 'Make this index')) : null,
    plan.covering ? h('p', {}, 'The index alone has all fields that are asked for; no document is read.') : null,
    others.length > 0 ? h('details', {}, h('summary', {}, `Why not another: ${plural(others.length, 'index', 'indexes')}`), h('ul', { class: 'side-list' }, others.map(({ index: each, analysis }) => h('li', {}, h('code', { class: 'name' }, each.name), h('span', { class: 'quiet' }, (analysis.reasons ?? []).map(({ name }) => NOT_USED[name] ?? name).join(', ')))))) : null,
    put(h('details'), h('summary', {}, 'The whole answer of the server'), h('pre', { class: 'small-text', tabindex: '0' }, JSON.stringify(plan, null, 2))));
}
