// The devices and apps that sync with this server, live: who, from where, how far, and what was refused.

import { h, put } from '../dom.js';
import * as api from '../api.js';
import { dataTable } from '../elements/table.js';
import { empty, failure, loading } from '../elements/states.js';
import { bytes, count, dateTime, plural, timeAgo } from '../format.js';
import { link } from '../router.js';
import { session } from '../session.js';
import { clientName } from './client-name.js';

const PAGE = 100;

/** Fills `place` and returns a function that reads it again; rows that somebody opened stay open. */
export function deviceList(place, { user, db }, signal) {
  const rows = h('ul', { class: 'plain-list stack' });
  const counts = h('p', { class: 'quiet', role: 'status' });
  const more = h('button', { type: 'button' }, 'Show more');
  const shown = new Map(); // key to {text, element}
  let pages = 1;
  const refresh = async () => {
    if (!place.firstChild) put(place, loading('Looking who syncs…'));
    try {
      const answer = await readPages(pages, { user, db }, signal);
      if (signal.aborted) return;
      if (answer.rows.length === 0) {
        shown.clear();
        put(place, filterNote(user, db), nobody(user ?? db));
        return;
      }
      if (!rows.isConnected) put(place, filterNote(user, db), counts, rows, more);
      counts.textContent = summary(answer);
      more.hidden = !answer.next;
      update(rows, shown, answer.rows);
    } catch (error) {
      if (!signal.aborted) put(place, failure(error, refresh));
    }
  };
  more.addEventListener('click', () => {
    pages += 1;
    refresh();
  });
  return refresh;
}

async function readPages(pages, { user, db }, signal) {
  let bookmark;
  const all = [];
  let answer;
  for (let page = 0; page < pages; page += 1) {
    answer = await api.get('_sync/status', { query: { user, db, limit: PAGE, bookmark }, signal });
    all.push(...answer.rows);
    bookmark = answer.next;
    if (!bookmark) break;
  }
  return { ...answer, rows: all };
}

function filterNote(user, db) {
  if (!user && !db) return null;
  return h('p', {}, `Only ${[user && `of the user ${user}`, db && `of the database ${db}`].filter(Boolean).join(' and ')}. `, h('a', { href: link('sync') }, 'Show all'));
}

function nobody(filtered) {
  return empty({
    title: filtered ? 'Nothing has synced here' : 'No device has synced yet',
    text: 'When an app replicates with this server, it appears here by itself: its user and device, how far it is, and which documents were refused.',
    actions: [h('a', { class: 'button primary', href: link('connect') }, 'Connect an app')],
  });
}

function summary({ rows, since, next }) {
  const online = rows.filter((row) => row.online).length;
  const behind = rows.filter((row) => behindOf(row).number > 0).length;
  return `${count(rows.length)}${next ? '+' : ''} seen since ${dateTime(since)}: ${count(online)} online, ${behind === 0 ? 'none behind' : `${count(behind)} behind`}.`;
}

/** Replaces the rows that changed, keeps the order of the server, and what is open or has the focus. */
function update(list, shown, rows) {
  const keep = new Set();
  let place = list.firstElementChild;
  for (const row of rows) {
    const key = JSON.stringify([row.user, row.device, row.device_name, row.client]);
    keep.add(key);
    const text = JSON.stringify(row);
    let entry = shown.get(key);
    if (!entry) {
      entry = { text, element: deviceRow(row, false) };
      shown.set(key, entry);
    } else if (entry.text !== text) {
      const fresh = deviceRow(row, entry.element.querySelector('details')?.open ?? false);
      if (place === entry.element) place = fresh;
      const focused = places(entry.element).indexOf(document.activeElement);
      entry.element.replaceWith(fresh);
      if (focused >= 0) places(fresh)[focused]?.focus();
      Object.assign(entry, { text, element: fresh });
    }
    if (place === entry.element) place = place.nextElementSibling;
    else list.insertBefore(entry.element, place);
  }
  for (const [key, { element }] of shown) {
    if (keep.has(key)) continue;
    element.remove();
    shown.delete(key);
  }
}

/** What can have the focus in a row. */
const places = (element) => [...element.querySelectorAll('a, summary, [tabindex]')];

/** How far a device is behind in all its databases; `exact` false: at least that much. */
function behindOf({ databases }) {
  const pulled = databases.filter((database) => database.behind !== null && database.behind !== undefined);
  return {
    known: pulled.length > 0,
    number: pulled.reduce((total, { behind }) => total + behind, 0),
    exact: pulled.every((database) => database.behind_exact !== false),
  };
}

const behindText = ({ number, exact }) => (number === 0 ? 'up to date' : `${exact ? '' : 'about '}${plural(number, 'change')} behind`);

function deviceRow(row, open) {
  const state = row.live ? ['good', 'syncing live'] : row.online ? ['good', 'online'] : ['', 'away'];
  const behind = behindOf(row);
  const refused = row.databases.reduce((total, database) => total + (database.refused_total ?? 0), 0);
  const errors = row.databases.reduce((total, database) => total + (database.errors ?? 0), 0);
  const name = clientName(row.device_name || row.client);
  return h('li', { class: 'panel device' },
    h('div', { class: 'row apart' },
      h('div', { class: 'grow' },
        h('b', { class: 'break', title: row.client ?? '' }, name),
        h('p', { class: 'quiet break' }, who(row), row.address ? ` from ${row.address}` : '', ', last seen ', timeAgo(row.last_seen))),
      h('div', { class: 'row' },
        h('span', { class: `badge ${state[0]}` }, state[1]),
        lateCheckpoints(row),
        behind.known ? h('span', { class: `badge ${behind.number > 0 ? 'warning' : 'good'}` }, behindText(behind)) : null,
        refused > 0 ? h('span', { class: 'badge error' }, `${count(refused)} refused`) : null,
        errors > 0 ? h('span', { class: 'badge error' }, plural(errors, 'error')) : null)),
    h('details', { open },
      h('summary', {}, plural(row.databases.length, 'database')),
      databaseTable(row.databases),
      row.databases.map(replications),
      row.databases.map(problems)));
}

/** A badge for the checkpoints that are behind the newest one. */
function lateCheckpoints({ databases }) {
  const late = databases.flatMap(({ replications: list = [] }) => list.slice(1)).filter(({ behind }) => behind > 0).length;
  return late > 0 ? h('span', { class: 'badge warning', title: 'Several devices share this name: see the databases below' }, `${plural(late, 'checkpoint')} behind`) : null;
}

function who({ user, client, device_name: device }) {
  const person = session.admin && user ? h('a', { href: link('users', user) }, user) : user ?? 'without a user';
  return [person, device && client && clientName(client) !== clientName(device) ? ` with ${clientName(client)}` : ''];
}

const DIRECTIONS = { pull: 'receives', push: 'sends', both: 'both ways' };

const quiet = (text) => h('span', { class: 'quiet' }, text);
const COLUMNS = [
  { label: 'Database', cell: ({ db }) => db },
  { label: 'Direction', cell: ({ direction, live }) => `${DIRECTIONS[direction] ?? direction}${live ? ', live' : ''}` },
  { label: 'Checkpoint', minor: true, cell: ({ checkpoint_at: at, checkpoint }) => (at ? h('span', { title: checkpoint ?? '' }, timeAgo(at)) : quiet('none')) },
  { label: 'Behind', cell: ({ behind, behind_exact: exact }) => (behind === null || behind === undefined ? quiet('unknown') : behindText({ number: behind, exact })) },
  { label: 'To the device', minor: true, cell: (row) => `${plural(row.documents_sent, 'document')}, ${bytes(row.bytes_sent)}` },
  { label: 'From the device', minor: true, cell: (row) => `${plural(row.documents_received, 'document')}, ${bytes(row.bytes_received)}` },
];

const databaseTable = (databases) => dataTable({ label: 'Databases of this device', columns: COLUMNS, rows: databases, key: ({ db }) => db, href: ({ db }) => link('db', db) });

/** The checkpoints of one row: several devices may share the row, and an app that was installed again has a new checkpoint. */
function replications({ db, replications: list = [] }) {
  if (list.length < 2) return null;
  const item = ({ checkpoint_at: at, checkpoint_id: id, checkpoint, behind, behind_exact: exact }) => h('li', {},
    h('span', { class: 'grow' }, 'Last checkpoint ', timeAgo(at), ' ', h('code', { class: 'quiet break', title: checkpoint }, id)),
    h('span', { class: `badge ${behind > 0 ? 'warning' : 'good'}` }, behindText({ number: behind, exact })));
  return h('section', { class: 'stack tight', 'aria-label': `Checkpoints of ${db}` },
    h('p', {}, h('strong', {}, `${count(list.length)} checkpoints of ${db}`), h('span', { class: 'quiet' }, ': several devices share this name, or the app was installed again.')),
    h('ul', { class: 'plain-list lines' }, list.map(item)));
}

/** Documents of one database that were refused, with the reason; and its last error. */
function problems({ db, refused = [], refused_total: total = 0, last_error: error }) {
  if (refused.length === 0 && !error) return null;
  return h('section', { class: 'stack tight', 'aria-label': `Problems in ${db}` },
    error ? h('p', {}, h('span', { class: 'badge error' }, String(error.status)), ' ', h('span', { class: 'break' }, error.reason ?? ''), ' ', h('span', { class: 'quiet' }, timeAgo(error.at))) : null,
    refused.length > 0 ? h('p', {}, h('strong', {}, `Refused in ${db}`)) : null,
    h('ul', { class: 'plain-list lines' }, refused.map((row) => h('li', {},
      h('div', { class: 'grow' }, h('a', { class: 'break', href: link('db', db, 'doc', row.id) }, row.id), h('p', { class: 'quiet break' }, `${row.error}: ${row.reason}`),
        h('p', { class: 'quiet' }, row.count > 1 ? `${plural(row.count, 'time')}, last ` : '', timeAgo(row.at)))))),
    total > refused.reduce((sum, row) => sum + row.count, 0) ? h('p', { class: 'quiet' }, `${count(total)} refusals in all; the latest documents are listed.`) : null);
}
