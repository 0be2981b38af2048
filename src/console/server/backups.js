// Backups: make one now, and see which there are. The check of the data folder.

import { h, pause, put } from '../dom.js';
import * as api from '../api.js';
import { codeBlock } from '../elements/copy.js';
import { dataTable } from '../elements/table.js';
import { failure, loading, notice } from '../elements/states.js';
import { acting, toast } from '../elements/toast.js';
import { bytes, count, dateTime, timeAgo } from '../format.js';

const BACKUPS = '_node/_local/_backups';
const CHECK = '_node/_local/_check';
/** Milliseconds between two looks, while something runs and otherwise. */
const BUSY = 1000;
const IDLE = 10_000;

export async function fill(body, { signal }) {
  const backups = h('section', { class: 'panel', 'aria-label': 'Backups' }, loading());
  const check = h('section', { class: 'panel', 'aria-label': 'Check' }, loading());
  put(body, backups, check);
  const parts = [part(backups, BACKUPS, drawBackups, signal), part(check, CHECK, drawCheck, signal)];
  let running = await Promise.all(parts.map((refresh) => refresh()));
  watch();
  async function watch() {
    for (;;) {
      await pause(running.some(Boolean) ? BUSY : IDLE, signal);
      if (signal.aborted) return;
      if (!document.hidden) running = await Promise.all(parts.map((refresh) => refresh()));
    }
  }
}

/** Returns a function that reads one of the two again, draws it if it changed, and resolves to whether it runs. */
function part(place, path, draw, signal) {
  let before = '';
  const refresh = async () => {
    try {
      const state = await api.get(path, { signal });
      const now = JSON.stringify(state);
      if (now !== before && !signal.aborted) put(place, ...draw(state, refresh));
      before = now;
      return Boolean(state.running);
    } catch (error) {
      before = '';
      if (!signal.aborted) put(place, failure(error, refresh));
      return false;
    }
  };
  return refresh;
}

function progress(running, what) {
  if (!running) return null;
  const known = running.total > 0;
  return h('div', { role: 'status' },
    h('p', {}, `${what} since `, timeAgo(running.started), running.phase ? `: ${running.phase}` : '', known ? `, ${count(running.done)} of ${count(running.total)}` : ''),
    h('progress', { 'aria-label': what, max: 100, ...(known ? { value: Math.min(100, (running.done / running.total) * 100) } : {}) }));
}

const start = (button, path, text, refresh) => acting(button, async () => {
  await api.post(path, {});
  toast(text);
  await refresh();
});

function drawBackups(state, refresh) {
  const button = h('button', { type: 'button', class: 'primary', disabled: Boolean(state.running) }, state.running ? 'Backing up…' : 'Back up now');
  button.addEventListener('click', () => start(button, BACKUPS, 'The backup has begun.', refresh));
  if (!state.folder) {
    return [
      h('h2', {}, 'Backups'),
      h('p', {}, 'No folder for backups is set, so none can be made from here. Set it in the settings file and start the server again. A browser cannot set it: no setting that names a file can be changed over HTTP.'),
      codeBlock('[settee]\nbackup_folder = "/var/backups/settee"', 'Settings file'),
      h('p', { class: 'quiet' }, 'On the machine itself, this works without a setting:'),
      codeBlock('settee backup --help', 'Command'),
    ];
  }
  return [
    h('div', { class: 'row apart' }, h('h2', {}, 'Backups'), button),
    h('p', { class: 'quiet break' }, `In ${state.folder} on the server. Each has all databases, accounts and settings. Let another machine fetch them.`),
    progress(state.running, 'Backing up'),
    state.last_error ? notice('error', h('p', {}, `The last backup failed: ${state.last_error.reason ?? state.last_error}`)) : null,
    state.backups.length === 0
      ? h('p', {}, 'There is no backup yet.')
      : dataTable({
        label: 'List of backups', key: ({ name }) => name, rows: [...state.backups].sort((a, b) => b.at - a.at), columns: [
          { label: 'Name', class: 'mono break', cell: ({ name }) => name },
          { label: 'Made', cell: ({ at }) => timeAgo(at) },
          { label: 'Size', numeric: true, cell: ({ bytes: size }) => bytes(size) },
        ],
      }),
  ];
}

function drawCheck(state, refresh) {
  const button = h('button', { type: 'button', disabled: Boolean(state.running) }, state.running ? 'Checking…' : 'Check now');
  button.addEventListener('click', () => start(button, CHECK, 'The check has begun.', refresh));
  const { last } = state;
  return [
    h('div', { class: 'row apart' }, h('h2', {}, 'Check'), button),
    h('p', { class: 'quiet' }, 'Reads everything that is stored and compares it with its checksums. The server goes on working; it is slower meanwhile.'),
    progress(state.running, 'Checking'),
    last ? lastCheck(last) : h('p', {}, 'Nothing was checked since the server started.'),
  ];
}

function lastCheck(last) {
  if (last.ok) return notice('good', h('p', {}, `Everything was fine on ${dateTime(last.at)}.`));
  const problems = last.problems ?? [];
  return notice('error',
    h('p', {}, `The check of ${dateTime(last.at)} found problems. Make a backup of the folder as it is, then see docs/damage.md.`),
    h('ul', {}, problems.slice(0, 100).map((problem) => h('li', { class: 'break' }, typeof problem === 'string' ? problem : JSON.stringify(problem)))));
}
