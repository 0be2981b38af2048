// What the server does now, and did in the last hour or day.

import { h, pause, put } from '../dom.js';
import * as api from '../api.js';
import { chart } from '../chart.js';
import { failure, loading } from '../elements/states.js';
import { bytes, count, duration, timeAgo } from '../format.js';
import { nodeList } from './nodes.js';

const NODE = '_node/_local';
/** Milliseconds between two looks at tasks; the pictures are drawn anew at each fifth. */
const EVERY = 2000;
const PERIODS = { hour: 3_600_000, day: 86_400_000 };

export async function fill(body, { signal }) {
  const facts = h('section', { class: 'panel', 'aria-label': 'This server' }, loading());
  const nodes = h('section', { class: 'panel', 'aria-label': 'Nodes', hidden: true });
  const readNodes = nodeList(nodes, signal);
  const pictures = h('div', { class: 'panels charts' }, loading());
  const tasks = h('section', { class: 'panel', 'aria-label': 'Tasks' }, loading());
  let period = 'hour';
  const choice = h('div', { class: 'segments', role: 'group', 'aria-label': 'Period' }, Object.keys(PERIODS).map((name) => h('button', {
    type: 'button', 'aria-pressed': String(name === period),
    onclick: () => {
      period = name;
      for (const button of choice.children) button.setAttribute('aria-pressed', String(button.dataset.period === name));
      draw(pictures, period, signal);
    },
    dataset: { period: name },
  }, `Last ${name}`)));
  put(body, facts, nodes, h('div', { class: 'row apart' }, h('h2', {}, 'Over time'), choice), pictures, tasks);
  await Promise.all([describe(facts, signal), readNodes().catch(() => {}), draw(pictures, period, signal), listTasks(tasks, signal)]);
  watch({ facts, readNodes, pictures, tasks, period: () => period }, signal);
}

async function watch({ facts, readNodes, pictures, tasks, period }, signal) {
  for (let round = 1; ; round += 1) {
    await pause(EVERY, signal);
    if (signal.aborted) return;
    if (document.hidden) continue;
    await listTasks(tasks, signal);
    if (round % 5 === 0 && !pictures.querySelector('details[open], figure:hover')) await draw(pictures, period(), signal);
    if (round % 3 === 0) await readNodes().catch(() => {});
    if (round % 15 === 0) await describe(facts, signal);
  }
}

async function describe(place, signal) {
  try {
    const [root, system] = await Promise.all([api.get('', { signal }), api.get(`${NODE}/_system`, { signal })]);
    if (signal.aborted) return;
    const fact = (name, value) => h('div', {}, h('dt', {}, name), h('dd', {}, value));
    put(place, h('h2', {}, 'This server'), h('dl', { class: 'tiles' },
      fact('Version', `${root.vendor?.name ?? 'settee'} ${root.vendor?.version ?? ''}`),
      fact('Running for', duration(system.uptime * 1000)),
      fact('Memory', bytes(system.memory?.resident)),
      fact('Store', `${system.store?.engine ?? 'unknown'}, ${bytes(system.store?.disk_bytes)}`),
      fact('Open connections', count(system.open_connections))));
  } catch (error) {
    if (!signal.aborted) put(place, failure(error, () => describe(place, signal)));
  }
}

async function draw(place, period, signal) {
  try {
    const { step, samples } = await api.get(`${NODE}/_history`, { query: { period }, signal });
    if (signal.aborted) return;
    const to = samples.at(-1)?.at ?? Date.now();
    // Begins with the first sample, so that a server that has just started does not show an empty picture.
    const first = samples[0] ? samples[0].at - step : to;
    const frame = { from: Math.max(to - PERIODS[period], Math.min(first, to - PERIODS[period] / 12)), to, step };
    put(place, PICTURES.map((picture) => h('section', { class: 'panel' }, chart({ ...frame, ...picture(samples, step) }))));
  } catch (error) {
    if (!signal.aborted) put(place, failure(error, () => draw(place, period, signal)));
  }
}

const line = (name, tone, samples, value) => ({ name, tone, points: samples.map((sample) => ({ at: sample.at, value: value(sample) })) });
const rate = (value) => (value >= 10 || value === 0 ? String(Math.round(value)) : value.toFixed(1));
const milliseconds = (value) => (value >= 10_000 ? `${Math.round(value / 1000)} s` : `${value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1)} ms`);
const last = (samples, value, format) => (samples.length === 0 ? '–' : format(value(samples.at(-1)) ?? 0));

/** The pictures; each makes from the samples what `chart` draws. */
const PICTURES = [
  (samples, step) => {
    const value = (sample) => sample.requests / (step / 1000);
    return { title: 'Requests a second', format: rate, now: last(samples, value, rate), series: [line('requests', 'one', samples, value)] };
  },
  (samples) => ({
    title: 'Time of a request', format: milliseconds, now: last(samples, (sample) => sample.latency_mean_ms, milliseconds),
    series: [
      line('mean', 'one', samples, (sample) => sample.latency_mean_ms),
      line('slowest 5 %', 'two', samples, (sample) => sample.latency_p95_ms),
    ],
  }),
  (samples) => ({
    title: 'Refused and failed requests', kind: 'bars', format: (value) => count(Math.round(value)),
    now: count(samples.reduce((sum, sample) => sum + sample.errors_5xx, 0)),
    series: [line('refused (4xx)', 'two', samples, (sample) => sample.errors_4xx), line('failed (5xx)', 'bad', samples, (sample) => sample.errors_5xx)],
  }),
  (samples) => ({ title: 'Memory', format: bytes, unit: 1024, now: last(samples, (sample) => sample.memory, bytes), series: [line('memory', 'one', samples, (sample) => sample.memory)] }),
  (samples) => ({ title: 'Data on disk', format: bytes, unit: 1024, now: last(samples, (sample) => sample.disk, bytes), series: [line('disk', 'one', samples, (sample) => sample.disk)] }),
  (samples) => ({
    title: 'Connections', format: (value) => count(Math.round(value)), now: last(samples, (sample) => sample.connections, count),
    series: [line('open', 'one', samples, (sample) => sample.connections), line('live feeds', 'two', samples, (sample) => sample.feeds)],
  }),
];

const TASKS = {
  indexer: 'Builds an index', view_compaction: 'Compacts an index', database_compaction: 'Compacts a database', replication: 'Replicates',
  backup: 'Backs up', check: 'Checks the data', database_removal: 'Removes a database', attachment_sweep: 'Removes unused attachments',
};

async function listTasks(place, signal) {
  let tasks;
  try {
    tasks = await api.get('_active_tasks', { signal });
  } catch (error) {
    if (!signal.aborted) put(place, h('h2', {}, 'Tasks'), failure(error));
    return;
  }
  if (signal.aborted) return;
  put(place, h('h2', {}, 'Tasks in the background'), tasks.length === 0
    ? h('p', { class: 'quiet' }, 'None now. Builds of indexes, compactions, backups and replications appear here while they run.')
    : h('ul', { class: 'plain-list lines' }, tasks.map(task)));
}

function task(row) {
  const what = TASKS[row.type] ?? row.type.replaceAll('_', ' ');
  const subject = row.type === 'replication' ? `${row.source} → ${row.target}` : [row.database, row.design_document].filter(Boolean).join(', ');
  return h('li', {},
    h('div', { class: 'grow' }, h('b', {}, what), ' ', h('span', { class: 'break' }, subject),
      h('p', { class: 'quiet' }, 'since ', timeAgo(row.started_on * 1000), row.changes_done !== undefined ? `, ${count(row.changes_done)}${row.total_changes ? ` of ${count(row.total_changes)}` : ''} changes` : '')),
    row.progress === undefined || row.progress === null ? null : h('span', { class: 'row' }, h('progress', { max: 100, value: row.progress, 'aria-label': `${what} ${subject}` }), h('span', {}, `${row.progress} %`)));
}

