// The design documents of a database, and the state of their indexes.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { databaseHeading } from '../database-tabs.js';
import { formDialog } from '../elements/dialog.js';
import { field } from '../elements/field.js';
import { notice } from '../elements/states.js';
import { dataTable } from '../elements/table.js';
import { acting, toast } from '../elements/toast.js';
import { bytes, count, plural, timeAgo } from '../format.js';
import { go, link } from '../router.js';

export const title = ({ db }) => `Design documents of ${db}`;
export const styles = ['styles/documents.css'];

export async function show(main, { db }, { signal, again }) {
  const path = api.part(db);
  const [{ rows }, indexes] = await Promise.all([
    api.get(`${path}/_design_docs`, { query: { include_docs: true, limit: 1000 }, signal }), readIndexes(db, signal)]);
  const make = h('button', { type: 'button', class: 'primary', onclick: () => create(db) }, 'New design document');
  const designs = rows.map(({ id, doc }) => ({ id, name: id.slice(8), doc, index: indexes.byDesign.get(id) }));
  const orphans = indexes.rows.filter(({ orphan }) => orphan);
  const unused = indexes.rows.filter(({ uses, sizes }) => uses === 0 && sizes.file > 0);
  const table = dataTable({
    label: `Design documents of ${db}`, rows: designs, href: ({ name }) => link('db', db, 'design', name),
    columns: [
      { label: 'Name', cell: ({ name }) => name },
      { label: 'Contains', cell: ({ doc, name }) => contents(db, name, doc) },
      { label: 'Index', numeric: true, minor: true, cell: ({ index }) => bytes(index?.sizes?.file ?? index?.sizes?.active) },
      { label: 'State', cell: ({ index }) => state(index) },
      ...(indexes.since ? [{ label: 'Used', cell: ({ index }) => used(index) }] : []),
    ],
    none: { title: 'No design document yet', text: 'A design document holds views (indexes that you query by key), filters for replication, and the validation of writes.', actions: [h('button', { type: 'button', class: 'primary', onclick: () => create(db) }, 'New design document'), h('a', { class: 'button', href: link('db', db, 'query') }, 'Query with Mango instead')] },
  });
  put(main, databaseHeading(db, 'design', { actions: [make] }),
    orphans.length > 0 ? notice('info', h('span', {}, `${plural(orphans.length, 'index', 'indexes')} of deleted or changed design documents ${orphans.length === 1 ? 'takes' : 'take'} ${bytes(orphans.reduce((sum, each) => sum + (each.sizes?.file ?? 0), 0))}.`), cleanup(db, again)) : null,
    unused.length > 0 ? notice('info', h('span', {}, `Not queried since the server started: ${unused.slice(0, 20).map(({ design, kind, name }) => (kind === 'mango' ? `${name} of ${design}` : design)).join(', ')}${unused.length > 20 ? ` and ${unused.length - 20} more` : ''}.`)) : null,
    table, indexes.since ? h('p', { class: 'hint' }, 'Uses are counted since the server started, ', timeAgo(indexes.since), '.') : null);
  if (designs.some(({ index }) => index?.building)) setTimeout(() => { if (!signal.aborted && !document.querySelector('dialog[open]')) again(); }, 2000);
}

/** The state of all indexes; null for a user who may not see it. */
async function readIndexes(db, signal) {
  const { since, rows } = await api.getOrNull(`${api.part(db)}/_views`, { signal }).catch(() => null) ?? { rows: [] };
  const byDesign = new Map();
  for (const row of rows.filter(({ orphan }) => !orphan)) byDesign.set(row.design, byDesign.has(row.design) ? together(byDesign.get(row.design), row) : row);
  return { since, rows, byDesign };
}

/** What the indexes of one design document have together: one of Mango may define several. */
const together = (a, b) => ({
  sizes: { file: a.sizes.file + b.sizes.file }, pending: Math.max(a.pending, b.pending), building: a.building || b.building,
  uses: a.uses === null || b.uses === null ? null : a.uses + b.uses, last_used: Math.max(a.last_used ?? 0, b.last_used ?? 0) || null,
});

function contents(db, name, doc) {
  if (doc.language === 'query') return h('a', { href: link('db', db, 'query') }, 'Mango index');
  const views = Object.keys(doc.views ?? {}).filter((each) => each !== 'lib');
  const others = [['filters', 'filter'], ['updates', 'update'], ['shows', 'show'], ['lists', 'list']].map(([member, one]) => [Object.keys(doc[member] ?? {}).length, one]).filter(([number]) => number > 0);
  const words = [...others.map(([number, one]) => plural(number, one)), ...(doc.validate_doc_update ? ['validation'] : [])];
  return [h('span', { class: 'row' }, views.slice(0, 12).map((view) => h('a', { href: link('db', db, 'view', name, view), class: 'mono' }, view)), views.length > 12 ? h('span', { class: 'quiet' }, `and ${views.length - 12} more`) : null,
    words.length > 0 ? h('span', { class: 'quiet' }, words.join(', ')) : null)];
}

function state(index) {
  if (!index) return h('span', { class: 'quiet' }, '–');
  if (index.building) return h('span', { class: 'badge accent' }, index.pending > 0 ? `building, ${count(index.pending)} to go` : 'building');
  if (index.pending > 0) return h('span', { class: 'badge', title: 'The next query brings it up to date' }, `${plural(index.pending, 'change')} behind`);
  return h('span', { class: 'badge good' }, 'up to date');
}

function used(index) {
  if (!index || index.uses === null) return h('span', { class: 'quiet' }, '–');
  if (index.uses === 0) return h('span', { class: 'badge warning', title: 'It costs time at each write and space on disk' }, 'never');
  return h('span', {}, `${count(index.uses)}×, `, timeAgo(index.last_used));
}

function cleanup(db, again) {
  const button = h('button', { type: 'button', class: 'small' }, 'Remove them');
  button.addEventListener('click', () => acting(button, async () => {
    await api.post(`${api.part(db)}/_view_cleanup`);
    toast('The unused indexes are removed.');
    again();
  }));
  return h('div', { class: 'row' }, button);
}

async function create(db) {
  const name = field({ label: 'Name', name: 'name', required: true, placeholder: 'app', hint: 'Its id will be _design/ and this name.' });
  const made = await formDialog({ title: 'New design document', fields: [name], submit: 'Go on', action: async (values) => values.name.trim().replace(/^_design\//, '') || false });
  if (made) go(link('db', db, 'design', made, { new: 1 }));
}
