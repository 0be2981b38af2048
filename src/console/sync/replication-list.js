// The list of the server's replications, live.

import { h, put } from '../dom.js';
import { dataTable } from '../elements/table.js';
import { empty, failure, loading } from '../elements/states.js';
import { count, plural, timeAgo } from '../format.js';
import { link } from '../router.js';
import { endText, listAll, stateOf } from './replications.js';

/** Fills `place` and returns a function that reads it again. */
export function replicationList(place, signal) {
  let before = '';
  const refresh = async () => {
    if (!place.firstChild) put(place, loading('Reading the replications…'));
    try {
      const { rows, total } = await listAll({ signal });
      const now = JSON.stringify(rows);
      if (now === before || signal.aborted) return;
      before = now;
      put(place, rows.length === 0 ? nothing() : table(rows, total));
    } catch (error) {
      before = '';
      if (!signal.aborted) put(place, failure(error, refresh));
    }
  };
  return refresh;
}

function nothing() {
  return empty({
    title: 'No replications',
    text: 'The server can copy databases from and to other servers by itself: a CouchDB, another settee, or another database here. Once, or for ever.',
    actions: [h('a', { class: 'button primary', href: link('replication', 'new') }, 'Make a replication')],
  });
}

const address = (job) => (job.doc_id
  ? link('replication', job.doc_id, job.database === '_replicator' ? {} : { database: job.database })
  : link('replication', job.id, { job: 1 }));

function table(rows, total) {
  return [
    dataTable({ label: 'Replications', columns: COLUMNS, rows, href: address }),
    total > rows.length ? h('p', { class: 'quiet' }, `The first ${count(rows.length)} of ${count(total)} are shown.`) : null,
  ];
}

const COLUMNS = [
  { label: 'Replication', cell: (job) => [job.doc_id ?? 'one-off', job.database && job.database !== '_replicator' ? h('small', { class: 'quiet' }, ` in ${job.database}`) : null] },
  { label: 'From', class: 'break', cell: (job) => endText(job.source) },
  { label: 'To', class: 'break', cell: (job) => endText(job.target) },
  { label: 'State', cell: state },
  { label: 'Copied', minor: true, numeric: true, cell: copied },
  { label: 'Last change', minor: true, cell: (job) => timeAgo(job.last_updated ? Date.parse(job.last_updated) : null) },
];

function state(job) {
  const { word, tone, what } = stateOf(job);
  return [h('span', { class: `badge ${tone}`, title: what }, word), job.error_count > 1 ? h('small', { class: 'quiet' }, ` ${plural(job.error_count, 'time')}`) : null];
}

function copied({ info }) {
  if (info?.docs_written === undefined) return '–';
  return [count(info.docs_written), info.changes_pending > 0 ? h('small', { class: 'quiet' }, `, ${count(info.changes_pending)} to go`) : null];
}
