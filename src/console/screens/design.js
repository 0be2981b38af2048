// One design document: its functions, edited with errors at their line, tried on a document before they are saved.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { databaseHeading } from '../database-tabs.js';
import { BUILT_IN, KINDS, addFunction, blamed, emptyDesign, isTaken, listFunctions, partsOf, removeFunction, same, setPart } from '../design/functions.js';
import { compileError, tryPanel } from '../design/try.js';
import { codeField } from '../elements/code.js';
import { ask, formDialog } from '../elements/dialog.js';
import { field } from '../elements/field.js';
import { empty, notice } from '../elements/states.js';
import { acting, toast } from '../elements/toast.js';
import { parse, write } from '../json.js';
import { go, guardLeaving, link } from '../router.js';

export const title = ({ ddoc }) => `_design/${ddoc}`;
export const styles = ['styles/documents.css'];

export async function show(main, { db, ddoc }, { signal, query, again }) {
  const id = `_design/${ddoc}`;
  const text = await readOrNew(db, id, query.has('new'), signal);
  const doc = parse(text);
  const edit = { db, id, ddoc, doc, saved: write(doc), signal, again, at: null, fields: [], release: null };
  edit.at = listFunctions(doc)[0] ?? null;
  const isNew = !doc.has('_rev');
  edit.list = h('nav', { class: 'function-list panel', 'aria-label': 'Functions' });
  edit.area = h('div', { class: 'stack' });
  edit.bar = saveBar(edit);
  const head = databaseHeading(db, 'design', { title: id, mono: true, tabs: false, crumbs: [['Views and design', link('db', db, 'design')]],
    actions: isNew ? [] : [h('a', { class: 'button', href: link('db', db, 'doc', id) }, 'Edit as JSON'), h('button', { type: 'button', class: 'danger', onclick: () => remove(edit) }, 'Delete')] });
  if (doc.get('language') === 'query') {
    put(main, head, notice('info', h('span', {}, 'This is an index of Mango queries. ', h('a', { href: link('db', db, 'query') }, 'It is made and deleted beside the queries.'))));
    return;
  }
  put(main, head, h('div', { class: 'design-layout' }, edit.list, h('div', { class: 'stack' }, edit.area, edit.bar.box)));
  draw(edit);
}

async function readOrNew(db, id, isNew, signal) {
  try {
    return await api.text(api.docPath(db, id), { signal });
  } catch (error) {
    if (error.status === 404 && isNew) return write(emptyDesign(id));
    throw error;
  }
}

function draw(edit) {
  drawList(edit);
  drawFunction(edit);
  edit.bar.changed();
}

function drawList(edit) {
  const all = listFunctions(edit.doc);
  const groups = Object.entries(KINDS).map(([kind, { label, one }]) => {
    const own = all.filter((each) => each.kind === kind);
    const add = kind === 'validate' && own.length > 0 ? null : h('button', { type: 'button', class: 'plain small', 'aria-label': `Add ${one === 'update' ? 'an' : 'a'} ${one}`, onclick: () => addTo(edit, kind) }, 'Add');
    return h('div', {}, h('div', { class: 'row' }, h('h2', {}, label), add), h('ul', {}, own.map((each) => h('li', {}, h('button', { type: 'button', class: 'plain small', 'aria-current': same(each, edit.at) ? 'true' : null, onclick: () => { edit.at = each; draw(edit); } }, each.name)))));
  });
  put(edit.list, groups);
}

async function addTo(edit, kind) {
  let name = KINDS[kind].member;
  if (kind !== 'validate') {
    const asked = field({ label: 'Name', name: 'name', required: true });
    name = await formDialog({ title: `New ${KINDS[kind].one}`, intro: KINDS[kind].hint, fields: [asked], submit: 'Add', action: async (values) => {
      if (!isTaken(edit.doc, kind, values.name.trim())) return values.name.trim() || false;
      asked.fail('There is one with this name.');
      return false;
    } });
    if (!name) return;
  }
  edit.at = addFunction(edit.doc, kind, name);
  draw(edit);
  edit.fields[0]?.code.control.focus();
}

/** The code of the chosen function, and the panel to try it. */
function drawFunction(edit) {
  edit.fields = [];
  if (!edit.at) {
    put(edit.area, empty({ title: 'No function yet', text: 'Views are indexes that you query by key. Filters choose what a replication sends. A validation refuses writes.', actions: Object.entries(KINDS).map(([kind, { one }]) => h('button', { type: 'button', onclick: () => addTo(edit, kind) }, `Add ${one === 'update' ? 'an' : 'a'} ${one}`)) }));
    return;
  }
  const { kind, name } = edit.at;
  const parts = partsOf(edit.doc, edit.at).map((each) => partField(edit, each));
  edit.fields = parts;
  const rename = kind === 'view' && edit.doc.has('_rev') ? h('a', { class: 'button small', href: link('db', edit.db, 'view', edit.ddoc, name) }, 'Show its rows') : null;
  const drop = h('button', { type: 'button', class: 'small danger', onclick: () => { removeFunction(edit.doc, edit.at); edit.at = listFunctions(edit.doc)[0] ?? null; draw(edit); } }, `Remove this ${KINDS[kind].one}`);
  const sources = () => parts.filter(({ part, code }) => part !== 'reduce' || code.value.trim()).map(({ part, code }) => ({ part, source: code.value, fail: code.fail }));
  put(edit.area, h('section', { class: 'panel', 'aria-label': name }, h('div', { class: 'row apart' }, h('h2', { class: 'mono' }, name), h('div', { class: 'row' }, rename, drop)), h('p', { class: 'hint' }, KINDS[kind].hint), parts.map(({ box }) => box)),
    kind === 'update' ? null : tryPanel({ db: edit.db, kind, parts: sources, design: () => edit.doc, signal: edit.signal }));
}

/** One code field; a reduce function is chosen from those built in, or written. */
function partField(edit, { part, source }) {
  const at = edit.at;
  const code = codeField({ label: `${part} function of ${at.name}`, value: source, language: 'js', rows: part === 'reduce' ? 3 : 7, most: 26, oninput: () => { setPart(edit.doc, at, part, code.value); edit.bar.changed(); }, save: () => edit.bar.run() });
  if (part !== 'reduce') return { part, code, box: h('div', { class: 'stack tight' }, at.kind === 'view' ? h('p', { class: 'part-name' }, 'Map') : null, code) };
  const present = source === '' ? '' : BUILT_IN.includes(source) ? source : 'own';
  const choice = field({ label: 'Reduce', name: 'reduce', type: 'select', value: present, options: [['', 'None'], ...BUILT_IN, ['own', 'A function of your own']], onchange: () => {
    const value = choice.value === 'own' ? 'function (keys, values, rereduce) {\n  return rereduce ? sum(values) : values.length;\n}' : choice.value;
    code.value = value;
    code.fail();
    code.hidden = choice.value !== 'own';
    setPart(edit.doc, at, 'reduce', value);
    edit.bar.changed();
  } });
  code.hidden = present !== 'own';
  return { part, code, box: h('div', { class: 'stack tight' }, choice, code) };
}

function saveBar(edit) {
  const state = h('span', { class: 'quiet', role: 'status' });
  const save = h('button', { type: 'button', class: 'primary', title: 'Ctrl+S' }, 'Save');
  const undo = h('button', { type: 'button' }, 'Discard changes');
  const isNew = !edit.doc.has('_rev');
  const changed = () => {
    const dirty = write(edit.doc) !== edit.saved;
    save.disabled = !dirty && !isNew;
    undo.disabled = !dirty;
    state.textContent = dirty ? 'Not saved. Saving a changed view builds its index again.' : '';
    if (dirty) edit.release ??= guardLeaving(() => ask({ title: 'Leave without saving?', body: 'Your changes of this design document are not saved.', confirm: 'Leave', danger: true }), edit.signal);
    else { edit.release?.(); edit.release = null; }
  };
  const run = () => acting(save, () => store(edit)).then(() => { if (!edit.signal.aborted) changed(); });
  save.addEventListener('click', run);
  undo.addEventListener('click', () => {
    edit.doc = parse(edit.saved);
    if (!listFunctions(edit.doc).some((each) => same(each, edit.at))) edit.at = listFunctions(edit.doc)[0] ?? null;
    draw(edit);
  });
  return { box: h('div', { class: 'save-bar' }, save, undo, state), changed, run };
}

/** Checks every function, goes to the first that does not compile, or saves. */
async function store(edit) {
  for (const at of listFunctions(edit.doc)) {
    for (const { part, source } of partsOf(edit.doc, at)) {
      if (!source || BUILT_IN.includes(source)) continue;
      const error = await compileError(edit.db, part, source, edit.doc, edit.signal);
      if (error) {
        blame(edit, at, part, error);
        return;
      }
    }
  }
  try {
    await api.send('PUT', api.docPath(edit.db, edit.id), { text: write(edit.doc), signal: edit.signal });
  } catch (error) {
    const known = blamed(error.reason ?? '');
    if (!known) throw error.status === 409 ? new Error('Somebody changed this design document meanwhile. Open it in another window and compare.') : error;
    blame(edit, known.at, known.part, { message: known.message });
    return;
  }
  edit.release?.();
  edit.release = null;
  toast('Saved.');
  if (edit.doc.has('_rev')) edit.again();
  else go(link('db', edit.db, 'design', edit.ddoc), { replace: true });
}

/** Shows an error at the function it is in. */
function blame(edit, at, part, { message, line, column }) {
  if (!same(at, edit.at)) {
    edit.at = at;
    draw(edit);
  }
  const { code } = edit.fields.find((each) => each.part === part) ?? edit.fields[0];
  code.hidden = false;
  code.fail(line ? `Line ${line}: ${message}` : message, line, column);
}

async function remove(edit) {
  const yes = await ask({ title: `Delete ${edit.id}?`, danger: true, confirm: 'Delete', body: 'Its views can no longer be queried, its filters and its validation no longer apply. Apps that use them fail.',
    action: () => api.del(api.docPath(edit.db, edit.id), { query: { rev: edit.doc.get('_rev') } }) });
  if (!yes) return;
  edit.release?.();
  toast('Deleted.');
  go(link('db', edit.db, 'design'));
}
