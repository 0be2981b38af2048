// The documents of a database, by id: as a table or as JSON.

import * as api from '../api.js';
import { debounce, h, put } from '../dom.js';
import { databaseHeading } from '../database-tabs.js';
import { deleteDocs } from '../documents/bulk.js';
import { exportDialog, exportDocs } from '../documents/export.js';
import { SIZE, commonFields, previousStart, rangeOf, readPage } from '../documents/pages.js';
import { field, form } from '../elements/field.js';
import { brief, jsonView } from '../elements/json-view.js';
import { empty, failure, notice } from '../elements/states.js';
import { dataTable, pager } from '../elements/table.js';
import { count } from '../format.js';
import { go, link, rewrite } from '../router.js';

export const title = ({ db }) => db;
export const styles = ['styles/documents.css'];

/** The address of this screen with some parameters changed; the page starts again unless `from` is given. */
function to(db, query, changes) {
  const kept = Object.fromEntries(['search', 'first', 'last', 'kind', 'as', 'fields', 'from', 'at'].map((name) => [name, query.get(name)]));
  return link('db', db, { ...kept, from: null, at: null, ...changes });
}

export async function show(main, { db }, { signal, query, again }) {
  const content = h('div', { class: 'stack' });
  let stop = new AbortController();
  /** Shows what the parameters name; what an earlier search began ends. */
  const fill = (asked) => {
    stop.abort();
    stop = new AbortController();
    return showList(content, db, asked, AbortSignal.any([signal, stop.signal]), again);
  };
  const docs = await fill(query);
  const exporting = () => exportDialog(db, rangeOf(new URLSearchParams(location.hash.split('?')[1])));
  const head = databaseHeading(db, 'documents', { actions: [
    h('button', { type: 'button', onclick: exporting }, 'Export'), h('a', { class: 'button primary', href: link('db', db, 'new') }, 'New document')] });
  put(main, head, tools(db, query, docs, (asked) => fill(asked).catch((error) => error.name === 'AbortError' || put(content, failure(error)))), content);
}

async function showList(content, db, query, signal, again) {
  const range = rangeOf(query);
  const from = query.get('from') ?? undefined;
  const page = await readPage(db, { ...range, from, signal });
  const docs = page.rows.map((row) => row.get('doc')).filter((doc) => doc instanceof Map);
  const narrowed = Boolean(query.get('search') || query.get('first') || query.get('last'));
  const chosen = h('div', { class: 'chosen', hidden: true });
  const paging = pagerOf(db, query, page, range, from);
  let list;
  if (page.rows.length === 0) list = narrowed ? nothingFound(db, query, range) : nothingYet(db, page);
  else if (query.get('as') === 'json') list = h('div', { class: 'stack tight' }, page.rows.map((row) => card(db, row)), pager(paging));
  else list = table(db, query, page, docs, paging, chosen, again);
  put(content, page.bodies ? null : notice('info', 'The documents of this page are large, so only their ids are shown. Open one to see its content.'), chosen, list);
  return docs;
}

/** Search, kind and form of the list. */
function tools(db, query, docs, fill) {
  const input = h('input', { type: 'search', placeholder: 'Beginning of an id', 'aria-label': 'Search documents by the beginning of their id', value: query.get('search') ?? '' });
  input.addEventListener('input', debounce(() => {
    const address = to(db, query, { search: input.value, first: null, last: null });
    rewrite(address);
    fill(new URLSearchParams(address.split('?')[1]));
  }));
  input.addEventListener('keydown', (event) => { if (event.key === 'Enter') openExact(db, input.value); });
  const as = query.get('as') ?? 'table';
  const kind = query.get('kind') ?? 'all';
  const choice = (name, value, label, current) => h('a', { href: to(db, query, { [name]: value, from: query.get('from'), at: query.get('at') }), 'aria-current': current ? 'true' : null }, label);
  return h('div', { class: 'tools' }, input,
    h('nav', { class: 'segments', 'aria-label': 'Which documents' }, choice('kind', null, 'All', kind === 'all'), choice('kind', 'design', 'Design', kind === 'design')),
    h('nav', { class: 'segments', 'aria-label': 'Form of the list' }, choice('as', null, 'Table', as === 'table'), choice('as', 'json', 'JSON', as === 'json')),
    more(db, query, docs));
}

/** Enter in the search opens the document of exactly this id, if there is one. */
async function openExact(db, id) {
  if (!id) return;
  const found = await api.getOrNull(`${api.part(db)}/_all_docs`, { query: { key: JSON.stringify(id) } }).catch(() => null);
  if (found?.rows.length === 1) go(link('db', db, 'doc', id));
}

/** A range of ids, and which members are columns. */
function more(db, query, docs) {
  const first = field({ label: 'From id', name: 'first', value: query.get('first') ?? '' });
  const last = field({ label: 'To id', name: 'last', value: query.get('last') ?? '' });
  const columns = field({ label: 'Columns', name: 'fields', value: query.get('fields') ?? '', placeholder: commonFields(docs).join(', '), hint: 'Names of members, with commas between.' });
  const content = form({ fields: [first, last, columns], submit: 'Show', action: (values) => go(to(db, query, { ...values, search: null })),
    extra: [h('a', { class: 'button', href: link('db', db) }, 'Reset')] });
  return h('details', { class: 'more-tools', open: ['first', 'last', 'fields'].some((name) => query.get(name)) }, h('summary', {}, 'Range and columns'), content);
}

function table(db, query, page, docs, paging, chosen, again) {
  const own = (query.get('fields') ?? '').split(',').map((name) => name.trim()).filter(Boolean);
  const names = own.length > 0 ? own : commonFields(docs);
  const value = (row, name) => row.get('doc')?.get?.(name);
  const box = dataTable({
    label: `Documents of ${db}`,
    rows: page.rows,
    key: (row) => row.get('id'),
    href: (row) => link('db', db, 'doc', row.get('id')),
    selectable: true,
    onselect: (keys) => showChosen(db, chosen, page.rows.filter((row) => keys.has(row.get('id'))), again),
    columns: [
      { label: 'Id', class: 'mono id', cell: (row) => brief(row.get('id'), 120) },
      ...names.map((name, at) => ({ label: name.length > 40 ? `${name.slice(0, 40)}…` : name, class: 'cut', minor: at > 0, cell: (row) => brief(value(row, name)) })),
      { label: 'Revision', class: 'mono', minor: true, cell: (row) => h('span', { class: 'quiet', title: row.get('value').get('rev') }, revision(row.get('value').get('rev'))) },
    ],
    pager: paging,
  });
  return box;
}

/** "3-abcdef…", short enough for a column. */
const revision = (rev) => rev.replace(/^(\d+-.{6}).*$/, '$1…');

function showChosen(db, bar, rows, again) {
  bar.hidden = rows.length === 0;
  if (bar.hidden) return;
  const docs = rows.map((row) => row.get('doc')).filter(Boolean);
  put(bar, h('span', {}, `${count(rows.length)} chosen`),
    docs.length === rows.length ? h('button', { type: 'button', class: 'small', onclick: () => exportDocs(`${db.replaceAll('/', '_')}-chosen.jsonl`, docs) }, 'Export') : null,
    h('button', { type: 'button', class: 'small danger', onclick: async () => {
      const deleted = await deleteDocs(db, rows.map((row) => ({ id: row.get('id'), rev: row.get('value').get('rev') })));
      if (deleted) again();
    } }, 'Delete'));
}

const card = (db, row) => h('article', { class: 'panel doc-card' },
  h('h2', { class: 'mono' }, h('a', { href: link('db', db, 'doc', row.get('id')) }, brief(row.get('id'), 200))),
  row.get('doc') instanceof Map ? jsonView(row.get('doc'), { open: 1 }) : null);

function pagerOf(db, query, page, range, from) {
  // The server counts the rows before a page only near the start; further on, the address of the page says it.
  const at = page.offset ?? (query.has('at') ? Number(query.get('at')) : null);
  const place = (start, step) => to(db, query, { from: start, at: start === null || at === null ? null : at + step });
  const previous = async () => go(place(await previousStart(db, { ...range, from }), -SIZE));
  const narrowed = range.low !== undefined || range.high !== undefined;
  return { from: narrowed || at === null ? null : at + 1, shown: page.rows.length, total: narrowed ? null : page.total, what: 'documents',
    previous: from === undefined ? null : previous, next: page.next === null ? null : place(page.next, SIZE) };
}

function nothingYet(db, page) {
  if (page.total > 0) return empty({ title: 'No documents here', actions: [h('a', { class: 'button', href: link('db', db) }, 'Show all')] });
  return empty({
    title: 'This database is empty',
    text: 'Documents come from an app that syncs, from a file, or from you.',
    actions: [h('a', { class: 'button primary', href: link('db', db, 'new') }, 'New document'), h('a', { class: 'button', href: link('db', db, 'import') }, 'Import a file'),
      h('a', { class: 'button', href: link('connect', { db }) }, 'Connect an app')],
  });
}

const nothingFound = (db, query, range) => empty({
  title: 'No document in this range',
  text: `${count(SIZE)} ids are shown at a time, in their order. Upper and lower case differ. ${range.low ? `The search begins at “${range.low}”.` : ''}`,
  actions: [h('a', { class: 'button', href: link('db', db) }, 'Show all documents'), h('a', { class: 'button', href: link('db', db, 'query') }, 'Search by content')],
});
