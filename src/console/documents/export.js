// Exports documents as JSON lines: one document a line, with the digits and the order of the stored text.

import * as api from '../api.js';
import { download, h } from '../dom.js';
import { openDialog } from '../elements/dialog.js';
import { field } from '../elements/field.js';
import { count } from '../format.js';
import { parse, write } from '../json.js';

const PAGE = 500;

/** Asks how, and exports the whole database or a range of it. */
export function exportDialog(db, { low, high } = {}) {
  const stop = new AbortController();
  const revisions = field({ label: 'With revision numbers (_rev)', name: 'rev', type: 'checkbox', checked: true, hint: 'For a copy that is read again into this database. Leave it off to fill another one.' });
  const attachments = field({ label: 'With attachments', name: 'attachments', type: 'checkbox', hint: 'As base64 inside the documents. Large files make this slow.' });
  const design = field({ label: 'With design documents', name: 'design', type: 'checkbox', checked: true });
  const state = h('p', { role: 'status', class: 'quiet' });
  const button = h('button', { type: 'button', class: 'primary' }, 'Export');
  return openDialog({ title: 'Export as JSON lines', fill: (close) => {
    button.addEventListener('click', async () => {
      button.disabled = true;
      try {
        const file = await sink(`${db.replaceAll('/', '_')}.jsonl`);
        const options = { revisions: revisions.value, attachments: attachments.value, design: design.value, low, high, signal: stop.signal };
        const total = await exportAll(db, options, file, (done) => { state.textContent = `${count(done)} documents…`; });
        await file.close();
        close(total);
      } catch (error) {
        if (error.name !== 'AbortError') state.textContent = `The export stopped: ${error.reason ?? error.message}`;
        button.disabled = false;
      }
    });
    return [h('p', {}, 'One document a line: the winning revision of each. Conflicts and deleted documents are not in it; a backup has them.'),
      h('div', { class: 'stack tight' }, revisions, attachments, design), state,
      h('div', { class: 'row' }, button, h('button', { type: 'button', onclick: () => { stop.abort(); close(); } }, 'Cancel'))];
  } }).finally(() => stop.abort());
}

/** Where the lines go: a file that the browser writes as they come, or its downloads. */
async function sink(name) {
  if (window.showSaveFilePicker && !navigator.webdriver) {
    const handle = await window.showSaveFilePicker({ suggestedName: name });
    return handle.createWritable();
  }
  const parts = [];
  // The browser keeps large blobs on disk, so the strings need not stay in memory.
  return { write: (text) => { parts.push(new Blob([text])); }, close: () => download(name, new Blob(parts, { type: 'application/x-ndjson' })) };
}

async function exportAll(db, { revisions, attachments, design, low, high, signal }, file, tell) {
  let from = low;
  let done = 0;
  let size = attachments ? 20 : PAGE;
  for (;;) {
    const query = { include_docs: true, attachments: attachments || undefined, limit: size + 1,
      start_key: from === undefined ? undefined : JSON.stringify(from), end_key: high === undefined ? undefined : JSON.stringify(high) };
    const text = await api.textUpTo(size > 1 ? api.MOST_CHARACTERS : Infinity, `${api.part(db)}/_all_docs`, { query, signal });
    if (text === null) {
      size = Math.max(1, Math.floor(size / 4));
      continue;
    }
    const rows = parse(text).get('rows');
    const last = rows.length === query.limit ? rows.pop().get('id') : undefined;
    const docs = rows.map((row) => row.get('doc')).filter((doc) => doc && (design || !doc.get('_id').startsWith('_design/')));
    if (docs.length > 0) await file.write(`${docs.map((doc) => line(doc, revisions, attachments)).join('\n')}\n`);
    done += docs.length;
    tell(done);
    if (last === undefined) return done;
    from = last;
  }
}

/** One document as a line. Stubs of attachments mean nothing elsewhere. */
export function line(doc, revisions = true, attachments = false) {
  const copy = new Map(doc);
  if (!revisions) copy.delete('_rev');
  if (!attachments) copy.delete('_attachments');
  return write(copy);
}

/** Exports documents that are already here. */
export const exportDocs = (name, docs) => download(name, new Blob([`${docs.map((doc) => line(doc)).join('\n')}\n`], { type: 'application/x-ndjson' }));

