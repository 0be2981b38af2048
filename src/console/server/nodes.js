// The servers that share one store: which are there, and whether they agree.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { notice } from '../elements/states.js';
import { dataTable } from '../elements/table.js';
import { count, timeAgo } from '../format.js';

const PATH = '_node/_local/_nodes';

/** Fills `place` where there are several nodes; one alone is not worth a list. Returns a function that reads them again. */
export function nodeList(place, signal) {
  let table = null;
  let unknown = false;
  return async () => {
    if (unknown) return;
    const found = await api.getOrNull(PATH, { signal });
    if (signal.aborted) return;
    unknown = found === null;
    const nodes = found?.nodes ?? [];
    place.hidden = nodes.length < 2;
    if (place.hidden) return;
    const warnings = h('div', { class: 'stack tight' }, advice(nodes).map((text) => notice('warning', text)));
    if (table?.isConnected) {
      table.update(nodes);
      table.previousElementSibling.replaceWith(warnings);
      return;
    }
    table = dataTable({ label: 'List of nodes', columns: COLUMNS, rows: nodes, key: ({ name }) => name });
    put(place, h('h2', {}, 'Nodes'), h('p', { class: 'quiet' }, 'They share one store. Logs, pictures and settings of the start on this page are those of the node that answers you.'), warnings, table);
  };
}

/** What somebody should do. */
function advice(nodes) {
  const gone = nodes.filter(({ alive }) => !alive).map(({ name }) => name);
  const versions = new Set(nodes.filter(({ alive }) => alive).map(({ version }) => version));
  const epochs = new Set(nodes.filter(({ alive }) => alive).map(({ epoch }) => epoch));
  return [
    gone.length > 0 ? `${gone.join(', ')} ${gone.length === 1 ? 'tells' : 'tell'} nothing any more. If it should run, look at its log, and whether it reaches the store.` : null,
    versions.size > 1 ? `The nodes run different versions: ${[...versions].join(', ')}. All need the same one.` : null,
    epochs.size > 1 ? 'Not all nodes have noticed the last failover of the store yet.' : null,
  ].filter(Boolean);
}

const COLUMNS = [
  { label: 'Node', class: 'break', cell: ({ name, this: own }) => [name, own ? [' ', h('span', { class: 'badge' }, 'answers you')] : null] },
  { label: 'State', cell: ({ alive }) => h('span', { class: `badge ${alive ? 'good' : 'error'}` }, alive ? 'running' : 'silent') },
  { label: 'Last heard', cell: ({ last_seen: at }) => timeAgo(at) },
  { label: 'Address', minor: true, class: 'break', cell: ({ address }) => address || '–' },
  { label: 'Version', minor: true, cell: ({ version }) => version || '–' },
  { label: 'Started', minor: true, cell: ({ started }) => timeAgo(started) },
  { label: 'Tasks', minor: true, numeric: true, cell: ({ tasks }) => count(tasks) },
];
