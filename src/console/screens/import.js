// Imports documents from a file.

import { h, put } from '../dom.js';
import { databaseHeading } from '../database-tabs.js';
import { importFile } from '../documents/import.js';
import { field } from '../elements/field.js';
import { notice } from '../elements/states.js';
import { bytes, count, plural } from '../format.js';
import { guardLeaving, link } from '../router.js';

export const title = ({ db }) => `Import into ${db}`;
export const styles = ['styles/documents.css'];

export async function show(main, { db }, { signal }) {
  const picker = field({ label: 'File', name: 'file', type: 'file', accept: '.json,.jsonl,.ndjson,.txt,application/json', hint: 'JSON lines (one document a line), a JSON array, {"docs": […]}, or an answer of _all_docs.' });
  const existing = field({ label: 'A document that is here already', name: 'existing', type: 'select', options: [['keep', 'stays as it is'], ['replace', 'is replaced']] });
  const start = h('button', { type: 'button', class: 'primary' }, 'Import');
  const stop = h('button', { type: 'button', hidden: true }, 'Stop');
  const area = h('div', { class: 'stack', role: 'status' });
  start.addEventListener('click', async () => {
    picker.fail();
    const [file] = picker.control.files;
    if (!file) {
      picker.fail('Choose a file first.');
      return;
    }
    const stopping = new AbortController();
    const abort = () => stopping.abort();
    signal.addEventListener('abort', abort, { once: true });
    const release = guardLeaving(() => window.confirm('The import is not finished. Stop it?'), signal);
    stop.onclick = abort;
    start.disabled = true;
    stop.hidden = false;
    await run(db, file, existing.value, area, stopping.signal);
    release();
    start.disabled = false;
    stop.hidden = true;
  });
  const drop = h('section', { class: 'panel' }, picker, existing, h('div', { class: 'row' }, start, stop));
  drop.addEventListener('dragover', (event) => event.preventDefault());
  drop.addEventListener('drop', (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length > 0) picker.control.files = event.dataTransfer.files;
  });
  put(main, databaseHeading(db, 'import'), h('p', { class: 'quiet' }, 'Revision numbers in the file are ignored: each document gets a new revision here. Numbers keep all their digits. To copy a database with its revisions and conflicts, replicate it instead.'), drop, area);
}

async function run(db, file, existing, area, signal) {
  const bar = h('progress', { max: file.size || 1, value: 0, 'aria-label': 'Import' });
  const line = h('p', {}, `Reading ${file.name}, ${bytes(file.size)}…`);
  put(area, bar, line);
  const tell = (done) => {
    bar.value = Math.min(done.bytes, file.size);
    line.textContent = `${count(done.read)} read, ${count(done.written)} written…`;
  };
  try {
    const done = await importFile(db, file, { existing, signal, tell });
    put(area, result(db, done, signal.aborted));
  } catch (error) {
    const stopped = signal.aborted || error.name === 'AbortError';
    put(area, notice(stopped ? 'warning' : 'error', h('span', {}, stopped ? 'The import was stopped. What was written so far stays.' : `${error.reason ?? error.message}`), stopped ? null : h('span', {}, 'What was written before stays. Mend the file and import it again: documents that are here already are left alone.')));
  }
}

function result(db, done, stopped) {
  const words = [plural(done.written, 'document') + ' written', done.skipped ? `${count(done.skipped)} left as they were` : '', done.failed ? `${count(done.failed)} refused` : ''].filter(Boolean).join(', ');
  return notice(done.failed > 0 || stopped ? 'warning' : 'good', h('span', {}, h('strong', {}, stopped ? 'Stopped. ' : 'Done. '), `${words}.`),
    done.errors.length > 0 ? h('ul', { class: 'bulk-list' }, done.errors.map(({ line, id, reason }) => h('li', {}, `Line ${line}${id ? `, ${id}` : ''}: ${reason}`))) : null,
    h('div', { class: 'row' }, h('a', { class: 'button small', href: link('db', db) }, 'Show the documents')));
}
