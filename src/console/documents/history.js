// The revisions of a document: which are still here, what they contain, and how to return to one.

import { h, put } from '../dom.js';
import { openDialog } from '../elements/dialog.js';
import { brief, jsonView } from '../elements/json-view.js';
import { equal } from '../json.js';
import { readDocument } from './document.js';

const SHOWN = 12;
const WORDS = { available: '', missing: 'body compacted', deleted: 'deletion' };

/** The panel of revisions. `current` is the document that is shown; `use(doc)` puts an older one into the editor. */
export function historyPanel({ db, id, revs, current, use }) {
  const list = h('ul', { class: 'side-list' });
  const fill = (shown) => put(list, revs.slice(0, shown).map((each, at) => line({ db, id, each, at, current, use })),
    revs.length > shown ? h('li', {}, h('button', { type: 'button', class: 'small', onclick: () => fill(shown + 100) }, `Show more of ${revs.length}`)) : null);
  fill(SHOWN);
  return h('section', { class: 'panel', 'aria-label': 'Revisions' }, h('h2', {}, `Revisions (${revs.length})`), list,
    h('p', { class: 'hint' }, 'Bodies of old revisions can be read until the database is compacted.'));
}

function line({ db, id, each, at, current, use }) {
  const name = h('span', { class: 'name mono', title: each.rev }, each.rev.length > 20 ? `${each.rev.slice(0, 16)}…` : each.rev);
  const note = WORDS[each.status] ?? '';
  const readable = each.status !== 'missing' && !(at === 0 && each.status === 'available');
  return h('li', {}, name, note ? h('span', { class: 'badge' }, note) : null, at === 0 && each.status === 'available' ? h('span', { class: 'badge accent' }, 'current') : null,
    readable ? h('button', { type: 'button', class: 'plain small', 'aria-label': `Show revision ${each.rev}`, onclick: () => showRevision({ db, id, rev: each.rev, current, use }) }, 'Show') : null);
}

/** Shows one revision, what differs from the present one, and offers to go back to it. */
function showRevision({ db, id, rev, current, use }) {
  const area = h('div', { class: 'stack' }, h('p', { class: 'quiet' }, 'Loading…'));
  return openDialog({ title: `Revision ${rev}`, wide: true, fill: (close) => {
    readDocument(db, id, { rev }).then(({ doc }) => {
      const changes = current ? differences(doc, current) : [];
      put(area, changes.length > 0 ? differenceTable(changes) : current ? h('p', {}, 'It has the same content as the present revision.') : null,
        h('div', { class: 'dialog-json' }, jsonView(doc, { open: 2 })),
        h('div', { class: 'row' }, doc.get('_deleted') === true ? null : h('button', { type: 'button', class: 'primary', onclick: () => { close(); use(doc); } }, current ? 'Put this into the editor' : 'Restore this revision'),
          h('button', { type: 'button', onclick: () => close() }, 'Close')));
    }, (error) => put(area, h('p', { role: 'alert' }, error.status === 404 ? 'Its body is gone: the database was compacted since.' : error.reason ?? error.message)));
    return area;
  } });
}

/** The members that differ: `{name, then, now}`. */
function differences(then, now) {
  const names = new Set([...then.keys(), ...now.keys()]);
  names.delete('_rev');
  return [...names].filter((name) => !equal(then.get(name) ?? null, now.get(name) ?? null) || then.has(name) !== now.has(name))
    .map((name) => ({ name, then: then.get(name), now: now.get(name) }));
}

const differenceTable = (changes) => h('div', { class: 'table-box' }, h('div', { class: 'table-frame', tabindex: '0', role: 'region', 'aria-label': 'What differs' }, h('table', {},
  h('thead', {}, h('tr', {}, ['Member', 'In this revision', 'Now'].map((text) => h('th', { scope: 'col' }, text)))),
  h('tbody', {}, changes.slice(0, 100).map(({ name, then, now }) => h('tr', {}, h('th', { scope: 'row', class: 'mono' }, brief(name, 60)),
    h('td', { class: 'mono' }, then === undefined ? h('span', { class: 'quiet' }, 'not there') : brief(then, 160)), h('td', { class: 'mono' }, now === undefined ? h('span', { class: 'quiet' }, 'not there') : brief(now, 160))))))));
