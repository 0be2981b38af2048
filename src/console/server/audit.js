// The audit log: who signed in, what was refused, and what changed in accounts, rights and settings.

import { debounce, h, put } from '../dom.js';
import * as api from '../api.js';
import { dataTable } from '../elements/table.js';
import { empty, failure, loading } from '../elements/states.js';
import { acting } from '../elements/toast.js';
import { timeAgo } from '../format.js';
import { link } from '../router.js';

const PATH = '_node/_local/_audit';
const PAGE = 100;

const EVENTS = {
  sign_in: 'signed in', sign_in_failed: 'sign-in failed', sign_in_refused: 'sign-in refused', sign_out: 'signed out', device_revoked: 'device signed out',
  denied: 'request refused', security_changed: 'rights of a database changed', database_created: 'database made', database_deleted: 'database deleted',
  config_changed: 'setting changed', admin_changed: 'server admin changed', account_changed: 'account changed', suspicious: 'suspicious',
};
const BAD = new Set(['sign_in_failed', 'sign_in_refused', 'denied', 'suspicious']);
const HOURS = [['', 'any time'], ['1', 'the last hour'], ['24', 'the last day'], ['168', 'the last week']];

export async function fill(body, { signal, query }) {
  const user = h('input', { type: 'search', placeholder: 'User…', 'aria-label': 'User', value: query.get('user') ?? '', spellcheck: false });
  const event = h('select', { 'aria-label': 'Event' }, h('option', { value: '' }, 'every event'), Object.entries(EVENTS).map(([value, text]) => h('option', { value }, text)));
  const since = h('select', { 'aria-label': 'Time' }, HOURS.map(([value, text]) => h('option', { value }, text)));
  const place = h('div', { class: 'stack' }, loading());
  let latest = 0;
  const search = async () => {
    latest += 1;
    const mine = latest;
    const wanted = {
      user: user.value.trim() || undefined, event: event.value || undefined, limit: PAGE,
      from: since.value ? Date.now() - Number(since.value) * 3_600_000 : undefined,
    };
    try {
      const first = await api.get(PATH, { query: wanted, signal });
      if (mine === latest && !signal.aborted) put(place, ...results(first, wanted, signal));
    } catch (error) {
      if (mine === latest && !signal.aborted) put(place, failure(error, search));
    }
  };
  user.addEventListener('input', debounce(search));
  event.addEventListener('change', search);
  since.addEventListener('change', search);
  put(body, h('search', { class: 'row' }, h('span', { class: 'grow' }, user), event, since), place);
  await search();
}

const at = (entry) => entry.at ?? Date.parse(entry.timestamp);

const COLUMNS = [
  { label: 'When', class: 'nowrap', cell: (entry) => timeAgo(at(entry)) },
  { label: 'Who', cell: (entry) => (entry.user ? h('a', { class: 'break', href: link('users', entry.user) }, entry.user) : h('span', { class: 'quiet' }, 'nobody')) },
  { label: 'What', cell: (entry) => [h('span', { class: BAD.has(entry.event) ? 'badge warning' : 'badge' }, EVENTS[entry.event] ?? entry.event), ' ', h('span', { class: 'break' }, [entry.database, entry.subject].filter(Boolean).join(' '))] },
  { label: 'Detail', minor: true, class: 'break', cell: (entry) => entry.detail ?? '' },
  { label: 'From', minor: true, class: 'mono', cell: (entry) => entry.peer ?? '' },
];

function results(first, wanted, signal) {
  const rows = [...first.entries];
  if (rows.length === 0) {
    return [empty({ title: 'Nothing recorded', text: 'No event fits. Sign-ins, refusals and changes of accounts, rights and settings are recorded here as they happen.' })];
  }
  const table = dataTable({ label: 'Audit log', columns: COLUMNS, rows, key: (entry) => entry.number });
  let { next } = first;
  const more = h('button', { type: 'button', hidden: !next }, 'Show more');
  more.addEventListener('click', () => acting(more, async () => {
    const answer = await api.get(PATH, { query: { ...wanted, after: next }, signal });
    rows.push(...answer.entries);
    table.update(rows);
    ({ next } = answer);
    more.hidden = !next;
  }));
  return [table, more];
}
