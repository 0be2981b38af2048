// Documents in conflict: of all databases, or the list of one database.

import { h, put } from '../dom.js';
import * as api from '../api.js';
import { heading, tabs } from '../elements/heading.js';
import { empty, failure, loading } from '../elements/states.js';
import { count, plural } from '../format.js';
import { link } from '../router.js';

export const title = ({ db }) => (db === undefined ? 'Conflicts' : `Conflicts of ${db}`);
export const styles = ['styles/lists.css', 'styles/conflicts.css'];

/** Databases whose first documents are shown on the overview, and how many of them. */
const PREVIEWED = 10;
const FIRST = 5;
const PAGE = 100;

const address = (...segments) => link('conflicts', ...segments);

export async function show(main, { db }, { signal, query }) {
  const body = h('div', { class: 'stack' });
  const open = async () => {
    put(body, loading('Looking for conflicts…'));
    try {
      const content = db === undefined ? await overview(signal) : await database(db, query?.get('list') === 'deleted', signal);
      if (!signal.aborted) put(body, ...content);
    } catch (error) {
      if (!signal.aborted) put(body, db === undefined && [401, 403].includes(error.status) ? oneDatabase() : failure(error, open));
    }
  };
  put(main,
    heading({
      title: db ?? 'Conflicts',
      crumbs: db === undefined ? [] : [['Conflicts', link('conflicts')]],
      lead: 'Two devices changed the same document without knowing of each other. Nothing is lost: all versions are kept, and every device shows the same one until somebody merges them.',
    }),
    body);
  await open();
}

/** For users who may not ask about all databases. */
function oneDatabase() {
  const name = h('input', { name: 'db', required: true, autocomplete: 'off', spellcheck: 'false' });
  return h('form', { class: 'panel', onsubmit: (event) => {
    event.preventDefault();
    location.hash = address(name.value.trim());
  } },
  h('p', {}, 'Only server admins see the conflicts of all databases. Which of your databases do you want to look at?'),
  h('div', { class: 'row apart' }, h('label', {}, 'Database ', name), h('button', { class: 'primary' }, 'Show its conflicts')));
}

/** Says how far the index is, while a store of an older version is read for the first time. */
function building({ complete, progress }) {
  if (complete) return null;
  return h('p', { class: 'panel', role: 'status' },
    'The index of conflicts is still being built, so these counts can grow. ',
    progress === undefined ? null : h('progress', { max: 100, value: progress, 'aria-label': 'Progress of the index' }, `${progress} %`));
}

async function overview(signal) {
  const answer = await api.get('_conflicts', { query: { limit: 1000 }, signal });
  const rows = answer.rows.filter((row) => row.conflicts > 0 || row.deleted > 0);
  if (rows.length === 0) {
    return [building(answer), empty({
      title: answer.complete ? 'No conflicts' : 'No conflicts so far',
      text: 'Every document of every database has one version. When two devices change the same document while they are apart, it appears here.',
    })];
  }
  rows.sort((a, b) => b.conflicts + b.deleted - a.conflicts - a.deleted);
  const cards = await Promise.all(rows.slice(0, PREVIEWED).map((row) => card(row, signal)));
  return [
    building(answer),
    h('p', {}, `${plural(answer.total, 'document is', 'documents are')} in conflict`, answer.deleted > 0 ? `, and ${plural(answer.deleted, 'was', 'were')} deleted by one device and edited by another.` : '.'),
    ...cards,
    rows.length > PREVIEWED ? h('ul', { class: 'panel plain-list' }, ...rows.slice(PREVIEWED).map((row) => h('li', {}, h('a', { href: address(row.db) }, row.db), ` ${totals(row)}`))) : null,
    answer.next ? h('p', { class: 'quiet' }, 'There are more databases than are shown here.') : null,
  ];
}

function totals({ conflicts, deleted }) {
  const parts = [];
  if (conflicts > 0) parts.push(plural(conflicts, 'conflict', 'conflicts'));
  if (deleted > 0) parts.push(plural(deleted, 'deletion against an edit', 'deletions against edits'));
  return parts.join(', ');
}

async function card(row, signal) {
  const query = { limit: FIRST, ...(row.conflicts > 0 ? {} : { deleted: true }) };
  const { rows } = await api.get(`${api.part(row.db)}/_conflicts`, { query, signal });
  return h('section', { class: 'panel', 'aria-label': `Conflicts of ${row.db}` },
    h('div', { class: 'row apart' }, h('h2', { class: 'break' }, h('a', { href: address(row.db) }, row.db)), h('span', { class: 'quiet' }, totals(row))),
    list(row.db, rows),
    row.conflicts + row.deleted > rows.length ? h('a', { href: address(row.db) }, `All of ${row.db}`) : null);
}

function list(db, rows) {
  return h('ul', { class: 'plain-list lines' }, ...rows.map((row) => item(db, row)));
}

function item(db, { id, conflicts, deleted_conflicts: deleted = [] }) {
  const what = conflicts.length > 0 ? `${conflicts.length + 1} versions` : plural(deleted.length, 'deletion', 'deletions');
  return h('li', {}, h('a', { class: 'break', href: address(db, id) }, id), h('span', { class: 'quiet' }, what));
}

async function database(db, deleted, signal) {
  const path = `${api.part(db)}/_conflicts`;
  const page = (bookmark) => api.get(path, { query: { limit: PAGE, ...(deleted ? { deleted: true } : {}), ...(bookmark ? { bookmark } : {}) }, signal });
  const first = await page();
  const kinds = tabs([
    { label: 'Edited twice', href: address(db), current: !deleted, note: count(first.total_rows) },
    { label: 'Deleted and edited', href: link('conflicts', db, { list: 'deleted' }), current: deleted, note: count(first.deleted_rows) },
  ], 'Kinds of conflicts');
  if (first.rows.length === 0) {
    return [building(first), kinds, empty({
      title: deleted ? 'Nothing was deleted against an edit' : 'No conflicts in this database',
      text: deleted ? 'No document was deleted by one device while another one edited it.' : 'Every document has one version.',
    })];
  }
  const rows = list(db, first.rows);
  const more = h('button', { type: 'button' }, 'Show more');
  let { next } = first;
  more.hidden = !next;
  more.addEventListener('click', async () => {
    more.disabled = true;
    try {
      const answer = await page(next);
      rows.append(...answer.rows.map((row) => item(db, row)));
      ({ next } = answer);
      more.hidden = !next;
    } catch (error) {
      more.after(failure(error));
    }
    more.disabled = false;
  });
  return [building(first), kinds, h('div', { class: 'panel' }, rows, more)];
}
