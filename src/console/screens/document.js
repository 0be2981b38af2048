// One document: its text, its attachments, its revisions; or a new one.

import * as api from '../api.js';
import { download, h, put } from '../dom.js';
import { databaseHeading } from '../database-tabs.js';
import { attachmentPanel } from '../documents/attachments.js';
import { LARGE, checkText, deletedRevisions, readDocument, withRev, writeText } from '../documents/document.js';
import { historyPanel } from '../documents/history.js';
import { codeField } from '../elements/code.js';
import { ask, formDialog, openDialog } from '../elements/dialog.js';
import { field } from '../elements/field.js';
import { jsonView } from '../elements/json-view.js';
import { notice } from '../elements/states.js';
import { acting, toast } from '../elements/toast.js';
import { bytes } from '../format.js';
import { write } from '../json.js';
import { go, guardLeaving, link } from '../router.js';

export const title = ({ id, db }) => id ?? `New document in ${db}`;
export const styles = ['styles/documents.css'];

export async function show(main, { db, id }, { signal, query, again }) {
  if (id === undefined) {
    await showNew(main, db, signal);
    return;
  }
  let read;
  try {
    read = await readDocument(db, id, { signal });
  } catch (error) {
    if (error.status !== 404 || !/deleted/.test(error.reason)) throw error;
    await showDeleted(main, db, id, signal, again);
    return;
  }
  const edit = query.get('edit') === 'true' || read.length <= LARGE;
  const screen = { db, id, read, signal, again, main };
  const editor = edit ? editorOf(screen) : null;
  screen.editor = editor;
  put(main, databaseHeading(db, '', { title: id, mono: true, tabs: false, actions: actions(screen) }),
    read.conflicts.length > 0 ? notice('warning', h('span', {}, `This document has ${read.conflicts.length + 1} versions that were written at the same time. You see the winner. `, h('a', { href: link('conflicts', db, id) }, 'Compare and merge them'))) : null,
    h('div', { class: 'doc-layout' }, editor ? editor.box : reader(screen), side(screen)));
}

function actions({ db, id, read }) {
  return [
    h('button', { type: 'button', onclick: () => download(`${id.replaceAll('/', '_')}.json`, new Blob([read.text], { type: 'application/json' })) }, 'Download'),
    id.startsWith('_design/') ? h('a', { class: 'button', href: link('db', db, 'design', id.slice(8)) }, 'Open as design document') : h('button', { type: 'button', onclick: () => duplicate(db, read.doc) }, 'Duplicate'),
    h('button', { type: 'button', class: 'danger', onclick: () => remove(db, id, read.doc.get('_rev')) }, 'Delete'),
  ];
}

/** The code field with its save bar. `dirty()` says whether there are changes that are not saved. */
function editorOf(screen) {
  const { db, id, read, signal, again } = screen;
  let release = null;
  const state = h('span', { class: 'quiet', role: 'status' }, read.doc.get('_rev'));
  const save = h('button', { type: 'button', class: 'primary', disabled: true, title: 'Ctrl+S' }, 'Save');
  const undo = h('button', { type: 'button', disabled: true }, 'Discard changes');
  const changed = () => {
    const dirty = code.value !== read.text;
    save.disabled = !dirty;
    undo.disabled = !dirty;
    state.textContent = dirty ? 'Not saved' : read.doc.get('_rev');
    if (dirty) release ??= guardLeaving(mayLeave, signal);
    else { release?.(); release = null; }
  };
  const run = () => acting(save, async () => {
    const written = await store(screen, code);
    if (!written) return;
    release?.();
    release = null;
    toast(`Saved as revision ${written.rev.split('-')[0]}.`);
    again();
  }).then(() => { if (!signal.aborted) changed(); });
  const code = codeField({ label: `Text of the document ${id}`, value: read.text, rows: 14, oninput: changed, save: () => { if (!save.disabled) run(); } });
  save.addEventListener('click', run);
  undo.addEventListener('click', () => { code.value = read.text; code.fail(); changed(); });
  const box = h('section', { class: 'stack tight', 'aria-label': 'Content' }, code, h('div', { class: 'save-bar' }, save, undo, state));
  return { box, code, changed, dirty: () => release !== null };
}

const mayLeave = () => ask({ title: 'Leave without saving?', body: 'Your changes of this document are not saved.', confirm: 'Leave', danger: true });

/** Checks and writes the text; resolves to the answer, or to null when it was not written. */
async function store(screen, code) {
  let doc;
  try {
    doc = checkText(code.value, screen.id, 'To keep a copy under another id, use “Duplicate”.');
  } catch (error) {
    code.fail(error.message, error.line, error.column);
    return null;
  }
  try {
    return await writeText(screen.db, screen.id, code.value);
  } catch (error) {
    if (error.status === 409) return settle(screen, doc);
    if (error.status === 400 || error.status === 403 || error.status === 413) {
      code.fail(error.reason);
      return null;
    }
    throw error;
  }
}

/** Somebody else wrote the document meanwhile: shows theirs, and writes over it only when asked to. */
async function settle({ db, id }, doc) {
  const theirs = await readDocument(db, id);
  return openDialog({ title: 'Somebody changed this document meanwhile', wide: true, fill: (close) => {
    const over = h('button', { type: 'button', class: 'danger' }, 'Save mine over it');
    over.addEventListener('click', () => acting(over, async () => close(await writeText(db, id, write(withRev(doc, theirs.doc.get('_rev')), 2)))));
    return [h('p', {}, `This is revision ${theirs.doc.get('_rev')}, which is on the server now. Your text is still in the editor.`),
      h('div', { class: 'dialog-json' }, jsonView(theirs.doc)), h('div', { class: 'row' }, h('button', { type: 'button', onclick: () => close() }, 'Back to the editor'), over)];
  } }).then((answer) => answer ?? null);
}

/** A large document is shown as a tree first; its text is opened only when asked for. */
const reader = ({ db, id, read }) => h('section', { class: 'panel', 'aria-label': 'Content' },
  h('div', { class: 'row apart' }, h('span', { class: 'quiet' }, `This document has ${bytes(read.length)}.`), h('a', { class: 'button small', href: link('db', db, 'doc', id, { edit: true }) }, 'Edit the text')),
  jsonView(read.doc, { open: 1 }));

function side(screen) {
  const { db, id, read, signal, again } = screen;
  const ready = () => {
    if (!screen.editor?.dirty()) return true;
    toast('Save the text first: the attachment makes a new revision.', { kind: 'warning' });
    return false;
  };
  const use = (doc) => {
    if (!screen.editor) return;
    screen.editor.code.value = write(withRev(doc, read.doc.get('_rev')), 2);
    screen.editor.changed();
    screen.editor.code.control.focus();
  };
  return h('div', { class: 'doc-side' },
    attachmentPanel({ db, id, doc: read.doc, signal, ready, changed: () => again() }),
    historyPanel({ db, id, revs: read.revs, current: read.doc, use }));
}

async function remove(db, id, rev) {
  const yes = await ask({ title: 'Delete this document?', danger: true, confirm: 'Delete', body: [h('p', { class: 'mono' }, id), 'Each device that syncs deletes it too. Until the next compaction its last version can be restored here.'],
    action: () => api.del(api.docPath(db, id), { query: { rev } }) });
  if (!yes) return;
  const restore = () => go(link('db', db, 'doc', id));
  toast('Deleted.', { action: { label: 'Show its revisions', onclick: restore } });
  go(link('db', db));
}

async function duplicate(db, doc) {
  const { uuids: [fresh] } = await api.get('_uuids');
  const id = field({ label: 'Id of the copy', name: 'id', value: fresh, required: true });
  const made = await formDialog({ title: 'Duplicate', intro: doc.has('_attachments') ? 'The copy has the same content, without the attachments.' : 'The copy has the same content.', fields: [id], submit: 'Make the copy', action: async (values) => {
    const copy = new Map([['_id', values.id], ...[...doc].filter(([name]) => !name.startsWith('_'))]);
    return (await writeText(db, values.id, write(copy))).id;
  } });
  if (made) go(link('db', db, 'doc', made));
}

async function showNew(main, db, signal) {
  const { uuids: [fresh] } = await api.get('_uuids', { signal });
  const id = field({ label: 'Id', name: 'id', value: fresh, hint: 'Any text; it cannot be changed later. This one was made by the server.' });
  id.classList.add('id-field');
  const save = h('button', { type: 'button', class: 'primary', title: 'Ctrl+S' }, 'Make the document');
  const begin = '{\n  \n}';
  const run = () => acting(save, async () => {
    id.fail();
    if (!id.value) {
      id.fail('A document needs an id.');
      return;
    }
    try {
      checkText(code.value, id.value, 'The id is the one in the field above: remove the member, or make both the same.');
    } catch (error) {
      code.fail(error.message, error.line, error.column);
      return;
    }
    try {
      await writeText(db, id.value, code.value);
    } catch (error) {
      if (error.status === 409) id.fail('There is a document with this id already.');
      else code.fail(error.reason ?? error.message);
      return;
    }
    release?.();
    toast('Made.');
    go(link('db', db, 'doc', id.value));
  });
  let release = null;
  const code = codeField({ label: 'Text of the new document', value: begin, rows: 14, oninput: () => { release ??= guardLeaving(mayLeave, signal); }, save: run });
  save.addEventListener('click', run);
  put(main, databaseHeading(db, '', { title: 'New document', tabs: false }), id, code, h('div', { class: 'row' }, save, h('a', { class: 'button', href: link('db', db) }, 'Cancel')));
  code.control.setSelectionRange(4, 4);
  code.control.focus();
}

/** A deleted document: its revisions, of which one can be restored. */
async function showDeleted(main, db, id, signal, again) {
  const revs = await deletedRevisions(db, id, signal);
  const use = async (doc) => {
    try {
      await writeText(db, id, write(withRev(new Map([...doc].filter(([name]) => name !== '_attachments')), null)));
      toast(doc.has('_attachments') ? 'Restored, without its attachments.' : 'Restored.');
      again();
    } catch (error) {
      toast(error.reason ?? error.message, { kind: 'error' });
    }
  };
  put(main, databaseHeading(db, '', { title: id, mono: true, tabs: false }),
    notice('warning', h('span', {}, 'This document is deleted. Its deletion syncs like any other change.')),
    historyPanel({ db, id, revs, current: null, use }));
}
