// The attachments of a document: list, preview, download, upload with progress, delete.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { ask, openDialog } from '../elements/dialog.js';
import { toast } from '../elements/toast.js';
import { bytes } from '../format.js';

const TEXT = /^(text\/|application\/(json|javascript|xml|x-ndjson|yaml))/;
const PICTURE = /^image\/(png|jpeg|gif|webp|avif|bmp|x-icon|svg\+xml)$/;
const PREVIEW = 20_000_000;

/** The address of a file; null where a browser cannot ask for it. */
function fileAddress(db, id, name, rev) {
  try {
    return api.address(api.attachmentPath(db, id, name), { rev });
  } catch {
    return null;
  }
}

/**
 * The panel. `doc` is the document as a Map; `changed(rev)` is called after each change; `ready()` says whether
 * attachments can be changed now (not while the text has changes that are not saved).
 */
export function attachmentPanel({ db, id, doc, changed, ready, signal }) {
  const list = [...(doc.get('_attachments') ?? new Map())].filter(([, stub]) => stub instanceof Map).map(([name, stub]) =>
    ({ name, type: String(stub.get('content_type') ?? ''), length: Number(stub.get('length') ?? 0) }));
  const rev = doc.get('_rev');
  const picker = h('input', { type: 'file', multiple: true, class: 'offscreen', tabindex: '-1', 'aria-label': 'Files to attach' });
  const state = h('div', { class: 'stack tight', role: 'status' });
  const send = async (files) => {
    if (!ready()) return;
    const last = await uploadAll({ db, id, rev, files, state, signal });
    if (last) changed(last);
  };
  picker.addEventListener('change', () => send([...picker.files]));
  const drop = h('div', { class: 'drop' }, h('span', { class: 'quiet small-text' }, 'Drop files here, or'),
    h('button', { type: 'button', class: 'small', onclick: () => { if (ready()) picker.click(); } }, 'Choose files'), picker, state);
  drop.addEventListener('dragover', (event) => { event.preventDefault(); drop.classList.add('over'); });
  drop.addEventListener('dragleave', () => drop.classList.remove('over'));
  drop.addEventListener('drop', (event) => { event.preventDefault(); drop.classList.remove('over'); send([...event.dataTransfer.files]); });
  const remove = async ({ name }) => {
    if (!ready()) return;
    let next;
    const yes = await ask({ title: 'Delete this attachment?', body: name, danger: true, confirm: 'Delete', action: async () => {
      next = (await api.del(api.attachmentPath(db, id, name), { query: { rev } })).rev;
    } });
    if (yes) changed(next);
  };
  return h('section', { class: 'panel', 'aria-label': 'Attachments' }, h('h2', {}, `Attachments${list.length > 0 ? ` (${list.length})` : ''}`),
    list.length > 0 ? h('ul', { class: 'side-list' }, list.map((each) => line(db, id, rev, each, remove))) : null, drop);
}

const line = (db, id, rev, each, remove) => h('li', {},
  h('span', { class: 'name' }, each.name, h('br'), h('span', { class: 'quiet small-text' }, `${bytes(each.length)} · ${each.type}`)),
  h('span', { class: 'row' },
    PICTURE.test(each.type) || TEXT.test(each.type) ? h('button', { type: 'button', class: 'plain small', 'aria-label': `Preview ${each.name}`, onclick: () => preview(db, id, rev, each) }, 'Preview') : null,
    h('a', { class: 'button plain small', href: fileAddress(db, id, each.name, rev), download: each.name.split('/').pop(), 'aria-label': `Download ${each.name}` }, 'Download'),
    h('button', { type: 'button', class: 'plain small', 'aria-label': `Delete ${each.name}`, onclick: () => remove(each) }, 'Delete')));

/** Uploads one file after the other; each makes a revision. Resolves to the last revision, undefined if none was made. */
async function uploadAll({ db, id, rev, files, state, signal }) {
  let current = rev;
  let made;
  for (const file of files) {
    const bar = h('progress', { max: 1, value: 0, 'aria-label': `Upload of ${file.name}` });
    const stop = new AbortController();
    signal.addEventListener('abort', () => stop.abort(), { once: true });
    put(state, h('span', { class: 'small-text' }, `${file.name}, ${bytes(file.size)}`), bar, h('button', { type: 'button', class: 'small', onclick: () => stop.abort() }, 'Stop'));
    try {
      const onProgress = (part) => { bar.value = part; };
      const answer = await api.upload(api.attachmentPath(db, id, file.name), file, { query: { rev: current }, signal: stop.signal, onProgress });
      made = answer.rev;
      current = made;
    } catch (error) {
      if (!signal.aborted) toast(error.name === 'AbortError' ? `The upload of ${file.name} was stopped.` : `${file.name} was not saved: ${error.reason ?? error.message}`, { kind: 'error' });
      break;
    }
  }
  put(state);
  return made;
}

/** Shows a picture or a text. A picture is an `<img>`, in which no script of an SVG runs. */
function preview(db, id, rev, { name, type, length }) {
  const area = h('div', { class: 'preview' }, h('p', { class: 'quiet' }, 'Loading…'));
  let address;
  const fill = async () => {
    if (length > PREVIEW) {
      put(area, h('p', {}, `This file has ${bytes(length)}. Download it to see it.`));
      return;
    }
    const blob = await api.blob(api.attachmentPath(db, id, name), { query: { rev }, headers: { Accept: '*/*' } });
    if (PICTURE.test(type)) {
      address = URL.createObjectURL(new Blob([blob], { type }));
      put(area, h('img', { src: address, alt: name }));
    } else {
      const text = await blob.slice(0, 200_000).text();
      put(area, h('pre', { tabindex: '0' }, text), blob.size > 200_000 ? h('p', { class: 'quiet' }, 'The first 200 KB are shown.') : null);
    }
  };
  const shown = openDialog({ title: name, wide: true, fill: () => area });
  fill().catch((error) => put(area, h('p', { role: 'alert' }, error.reason ?? error.message)));
  return shown.finally(() => address && URL.revokeObjectURL(address));
}
