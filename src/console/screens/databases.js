// All databases that the user may list, with what happens in them now.

import * as api from '../api.js';
import { debounce, h, put } from '../dom.js';
import { field, form } from '../elements/field.js';
import { formDialog } from '../elements/dialog.js';
import { heading } from '../elements/heading.js';
import { failure } from '../elements/states.js';
import { dataTable } from '../elements/table.js';
import { bytes, count, seqNumber, timeAgo } from '../format.js';
import { go, link, rewrite } from '../router.js';
import { isPublic, whoMayRead } from '../security.js';
import { session } from '../session.js';

export const title = 'Databases';
const SIZE = 50;
/** Names that are read at once; with more databases, one searches by the beginning of the name. */
const NAMES = 20_000;

export async function show(main, params, { signal, query }) {
  const content = h('div', { class: 'stack' });
  let stop = new AbortController();
  /** Shows what a search found; what an earlier one began ends. */
  const fill = async (asked) => {
    stop.abort();
    stop = new AbortController();
    const inner = AbortSignal.any([signal, stop.signal]);
    const list = await namesOf(asked.get('search') ?? '', inner);
    if (list) await showList(content, list, asked, inner);
    return list !== null;
  };
  if (!(await fill(query))) {
    put(main, heading({ title }), byName());
    return;
  }
  const actions = session.admin ? [h('button', { type: 'button', class: 'primary', onclick: create }, 'New database')] : [];
  put(main, heading({ title, actions }), h('div', { class: 'row apart' }, searchField(query, fill, content)), content);
  if (session.admin && query.get('new') !== null) {
    rewrite('#/databases');
    create();
  }
}

async function showList(content, list, query, signal) {
  const from = Math.max(0, Number(query.get('from')) || 0);
  const page = { names: list.names.slice(from, from + SIZE), rows: new Map(), security: new Map(), conflicts: new Map() };
  await readInfo(page, page.names, signal);
  const table = databaseTable(page, list, from, query);
  put(content, list.more ? h('p', { class: 'quiet' }, `The first ${count(NAMES)} databases are listed. Search by the beginning of the name to see others.`) : null, table);
  const draw = () => table.update(rowsOf(page));
  table.setAttribute('aria-busy', 'true');
  readDetails(page, signal).then(draw, () => {}).finally(() => table.removeAttribute('aria-busy'));
  if (session.admin) watch(page, draw, signal);
}

/** The names that contain the text: `{names, more}`, or null if the user may not list databases. */
async function namesOf(text, signal) {
  const all = await api.getOrNull('_all_dbs', { query: { limit: NAMES + 1 }, signal });
  if (!all) return null;
  const more = all.length > NAMES;
  const names = more && text ? await api.get('_all_dbs', { query: { start_key: JSON.stringify(text), end_key: JSON.stringify(`${text}\ufff0`), limit: NAMES }, signal }) : all.slice(0, NAMES);
  return { names: text ? names.filter((name) => name.includes(text.toLowerCase())) : names, more, text };
}

async function readInfo(page, keys, signal) {
  if (keys.length === 0) return;
  const now = Date.now();
  for (const row of await api.post('_dbs_info', { keys, last_write: true }, { signal })) {
    const seq = seqNumber(row.info?.update_seq);
    const before = page.rows.get(row.key);
    const changed = before ? seq - before.seq : 0;
    page.rows.set(row.key, {
      name: row.key, info: row.info, seq, at: now,
      rate: changed > 0 ? changed / Math.max(0.5, (now - before.at) / 1000) : 0,
      wrote: row.last_write,
      active: changed > 0 ? now : before?.active,
    });
  }
}

/** What costs a request for each database: who may read; and how many conflicts there are. */
async function readDetails(page, signal) {
  const waiting = [...page.names];
  const worker = async () => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
      page.security.set(name, await api.getOrNull(`${api.part(name)}/_security`, { signal }));
    }
  };
  const conflicts = async () => {
    if (page.names.length === 0) return;
    const found = await api.getOrNull('_conflicts', { query: { start_key: JSON.stringify(page.names[0]), limit: 1000 }, signal });
    if (!found?.rows) return;
    const listed = new Map(found.rows.map((row) => [row.db, row]));
    const last = found.next === null ? null : found.rows.at(-1)?.db;
    for (const name of page.names) if (last === null || name <= last) page.conflicts.set(name, listed.get(name)?.conflicts ?? 0);
  };
  await Promise.all([worker(), worker(), worker(), conflicts()]);
}

const rowsOf = (page) => page.names.map((name) => page.rows.get(name)).filter(Boolean);

function databaseTable(page, list, from, query) {
  const search = query.get('search') ?? '';
  const to = (start) => link('databases', { search, from: start || null });
  const reading = (name) => {
    if (!page.security.has(name)) return h('span', { class: 'quiet' }, '…');
    const security = page.security.get(name);
    return isPublic(security) && security ? h('span', { class: 'badge warning', title: 'Without an account too' }, 'Everybody') : whoMayRead(security);
  };
  return dataTable({
    label: 'Databases',
    rows: rowsOf(page),
    key: ({ name }) => name,
    href: ({ name }) => link('db', name),
    columns: [
      { label: 'Name', cell: ({ name }) => name },
      { label: 'Documents', numeric: true, cell: ({ info }) => count(info?.doc_count) },
      { label: 'Size', numeric: true, minor: true, cell: ({ info }) => bytes(info?.sizes?.file ?? info?.sizes?.active) },
      { label: 'Conflicts', numeric: true, cell: ({ name }) => conflictsCell(page, name) },
      { label: 'Last write', minor: true, cell: activity },
      { label: 'Who may read', minor: true, cell: ({ name }) => reading(name) },
    ],
    none: search
      ? { title: 'No database has this in its name', actions: [h('a', { class: 'button', href: '#/databases' }, 'Show all')] }
      : { title: 'No database yet', text: 'A database holds the documents of one app or one user. Devices sync with it.', actions: [h('button', { type: 'button', class: 'primary', onclick: create }, 'New database'), h('a', { class: 'button', href: '#/connect' }, 'Connect an app')] },
    pager: { from: from + 1, shown: page.names.length, total: list.names.length, what: 'databases',
      previous: from > 0 ? to(Math.max(0, from - SIZE)) : null, next: from + SIZE < list.names.length ? to(from + SIZE) : null },
  });
}

function conflictsCell(page, name) {
  const number = page.conflicts.get(name);
  if (!number) return h('span', { class: 'quiet' }, number === 0 ? '0' : '–');
  return h('a', { href: link('conflicts', name), class: 'badge warning' }, count(number));
}

function activity({ rate, active, wrote }) {
  if (rate > 0 && Date.now() - active < 5000) return h('span', { class: 'badge good' }, `${rate < 10 ? rate.toFixed(1) : count(Math.round(rate))} changes/s`);
  return wrote ? timeAgo(wrote) : h('span', { class: 'quiet' }, 'not since the server started');
}

/** Follows `_db_updates`: rows change within a second, new and deleted databases lead to a new list. */
function watch(page, draw, signal) {
  const feed = new EventSource(api.address('_db_updates', { feed: 'eventsource', since: 'now', heartbeat: 20_000 }));
  const changed = new Set();
  const refresh = debounce(() => { if (!signal.aborted && !document.querySelector('dialog[open]')) dispatchEvent(new HashChangeEvent('hashchange')); }, 1000);
  feed.onmessage = (event) => {
    const { db_name: name, type } = JSON.parse(event.data);
    if (type === 'created' || type === 'deleted') refresh();
    else if (page.rows.has(name)) changed.add(name);
  };
  const timer = setInterval(async () => {
    if (document.hidden) return;
    const names = [...changed];
    changed.clear();
    // Rows that were busy a moment ago are read once more, so that their rate falls back to nothing.
    for (const [name, row] of page.rows) if (row.rate > 0 && !names.includes(name)) names.push(name);
    if (names.length === 0) return;
    await readInfo(page, names, signal).then(draw, () => {});
  }, 1000);
  signal.addEventListener('abort', () => {
    feed.close();
    clearInterval(timer);
  });
}

function searchField(query, fill, content) {
  const input = h('input', { type: 'search', placeholder: 'Search by name', 'aria-label': 'Search databases by name', value: query.get('search') ?? '' });
  input.addEventListener('input', debounce(() => {
    const address = link('databases', { search: input.value.trim() });
    rewrite(address);
    fill(new URLSearchParams(address.split('?')[1])).catch((error) => error.name === 'AbortError' || put(content, failure(error)));
  }));
  return input;
}

/** For users who may not list databases: they open one by its name. */
function byName() {
  const name = field({ label: 'Name of a database', name: 'db', required: true, hint: 'Only server admins may list all databases. You can open those that you have a right to.' });
  return h('div', { class: 'panel' }, form({ fields: [name], submit: 'Open', action: async ({ db }) => {
    await api.get(api.part(db.trim()), { again: false });
    go(link('db', db.trim()));
  } }));
}

async function create() {
  const name = field({ label: 'Name', name: 'name', required: true, hint: 'Lower-case letters, digits and _ $ ( ) + - /. The first character is a letter.' });
  const partitioned = field({ label: 'Partitioned', name: 'partitioned', type: 'checkbox', hint: 'Every id then begins with the name of a partition and a colon. This cannot be changed later; leave it off unless your app needs it.' });
  const made = await formDialog({
    title: 'New database',
    intro: 'Only server admins may use it until you name others in its settings.',
    fields: [name, partitioned],
    submit: 'Make the database',
    action: async (values) => {
      const text = values.name.trim();
      if (!/^[a-z][a-z0-9_$()+/-]*$/.test(text)) {
        name.fail('This name is not allowed: lower-case letters, digits and _ $ ( ) + - /, beginning with a letter.');
        return false;
      }
      await api.send('PUT', api.part(text), { query: values.partitioned ? { partitioned: true } : {} });
      return text;
    },
  });
  if (made) go(link('db', made));
}
