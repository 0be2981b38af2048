// One document in conflict: its versions side by side, a choice for each field, and the merged document before it is
// saved. conflict/merge.js decides what needs a choice, conflict/load.js reads and writes.

import { h, put } from '../dom.js';
import { heading } from '../elements/heading.js';
import { failure, loading, empty } from '../elements/states.js';
import { toast } from '../elements/toast.js';
import { ask } from '../elements/dialog.js';
import { bytes, plural } from '../format.js';
import { link } from '../router.js';
import { write } from '../json.js';
import { fieldChoice, sideName, valueView } from '../conflict/field-choice.js';
import { attachmentAsBase64, load, Refused, save, settleDeletion } from '../conflict/load.js';
import { chosen, fields, merge, merged, MISSING, takeSide, undecided, UNKNOWN } from '../conflict/merge.js';
import { attachmentsOf, bodyOf, lengthOf, mergedAttachments } from '../conflict/revisions.js';

export const title = ({ id }) => `${id} in conflict`;
export const styles = ['styles/lists.css', 'styles/conflicts.css'];

/** Fields that are shown at once; a document may have ten thousand. */
const SHOWN = 100;
/** Characters of the preview. */
const PREVIEW = 200_000;
/** Attachments of other versions have to be loaded and sent again; more than this asks first. */
const LARGE = 20 * 1024 * 1024;

export async function show(main, { db, id }, { signal }) {
  const body = h('div', { class: 'stack' });
  put(main, header(db, id), body);
  const open = async () => {
    put(body, loading('Reading the versions…'));
    try {
      const document = await load(db, id, { signal });
      if (!signal.aborted) put(body, ...content(document, open));
    } catch (error) {
      if (!signal.aborted) put(body, failure(error, open));
    }
  };
  await open();
}

const listAddress = (db) => link('conflicts', db);

function header(db, id) {
  return heading({ title: id, mono: true, crumbs: [['Conflicts', link('conflicts')], [db, listAddress(db)]] });
}

function content(document, open) {
  const { db, id, sides, deletions } = document;
  if (sides.length === 0) {
    return [empty({
      title: 'This document is deleted',
      text: 'No version of it is live, so there is nothing to merge.',
      actions: [h('a', { class: 'button', href: listAddress(db) }, `Conflicts of ${db}`)],
    })];
  }
  if (sides.length > 1) return [...mergeView(document, open), records(document)];
  if (deletions.length > 0) return [deletionView(document, open), records(document)];
  return [
    empty({
      title: 'No conflict here',
      text: 'This document has one version. Every device shows it, or will after its next sync.',
      actions: [
        h('a', { class: 'button', href: listAddress(db) }, `Other conflicts of ${db}`),
        h('a', { class: 'button', href: link('db', db, 'doc', id) }, 'Open the document'),
      ],
    }),
    records(document),
  ];
}

/** The versions by name, with their revisions. */
function versionList({ sides, more, ancestor }) {
  const rows = sides.map((side, index) => h('li', {}, h('b', {}, sideName(index)), ' ', h('code', {}, side.get('_rev')),
    index === 0 ? h('small', {}, ' every device shows this one now') : null));
  const before = ancestor.body === UNKNOWN
    ? 'What the document was before is not known any more: compaction removed it. Everything that differs needs a decision.'
    : 'Before: the last version that all of them come from.';
  return h('div', { class: 'panel' },
    h('ul', { class: 'plain-list' }, ...rows),
    more > 0 ? h('p', {}, `${plural(more, 'more version waits', 'more versions wait')} for the next round, when these are merged.`) : null,
    h('p', { class: 'quiet' }, before));
}

function mergeView(document, open) {
  const { sides, ancestor } = document;
  const node = merge(ancestor.body, sides.map(bodyOf));
  const files = mergeFiles(document);
  const status = h('p', { role: 'status', class: 'merge-status' });
  const preview = h('pre', { class: 'preview', tabindex: '0', 'aria-label': 'The merged document' });
  const button = h('button', { type: 'button', class: 'primary' }, 'Save the merged document');
  const left = () => undecided(node).length + undecided(files).length;
  const refresh = () => {
    const open = left();
    status.textContent = open === 0 ? 'Everything is decided.' : `${plural(open, 'field needs', 'fields need')} your decision.`;
    button.disabled = open > 0;
    const text = previewText(node, files, document);
    preview.textContent = text.length > PREVIEW ? `${text.slice(0, PREVIEW)}\n… ${(text.length - PREVIEW).toLocaleString()} more characters` : text;
  };
  button.addEventListener('click', () => saveMerged(document, node, files, button, open));
  const list = fieldLists(node, files, document, refresh);
  const take = (index) => h('button', { type: 'button', onclick: () => {
    takeSide(node, index, { all: true });
    takeSide(files, index, { all: true });
    list.draw();
    refresh();
  } }, `All from ${sideName(index).slice(-1)}`);
  refresh();
  return [
    versionList(document),
    h('div', { class: 'merge' },
      h('section', { class: 'merge-fields', 'aria-label': 'Fields' },
        h('div', { class: 'row apart' }, status, h('div', { class: 'row' }, ...sides.map((_, index) => take(index)))),
        list.element),
      h('section', { class: 'merge-result', 'aria-label': 'Result' },
        h('h2', {}, 'The merged document'), preview, button,
        h('p', { class: 'quiet' }, 'Saving writes it as the next version, and closes the other versions. Their content stays readable here as the record.'))),
  ];
}

/** Attachments merge like fields: what counts is their digest and type. */
function mergeFiles({ sides, ancestor }) {
  const names = (document) => new Map([...attachmentsOf(document)].map(([name, stub]) => [name, `${stub.get('digest')} ${stub.get('content_type')}`]));
  const base = ancestor.document ? names(ancestor.document) : UNKNOWN;
  return merge(ancestor.body === UNKNOWN ? UNKNOWN : base, sides.map(names));
}

function describeFile(field, document) {
  return (value) => {
    if (typeof value === 'symbol') return valueView(value);
    const index = field.values.indexOf(value);
    const stub = index >= 0
      ? attachmentsOf(document.sides[index]).get(field.path[0])
      : attachmentsOf(document.ancestor.document ?? new Map()).get(field.path[0]);
    return h('p', { class: 'value' }, `${stub?.get('content_type') ?? 'file'}, ${bytes(stub ? lengthOf(stub) : 0)}`);
  };
}

/** The fields in three groups: to decide, merged by themselves, the same everywhere. */
function fieldLists(node, files, document, refresh) {
  const element = h('div', { class: 'stack' });
  const draw = () => {
    const all = [
      ...[...fields(node)].map((field) => ({ field, options: { changed: refresh } })),
      ...[...fields(files)].map((field) => ({ field, options: { changed: refresh, editable: false, describe: describeFile(field, document) } })),
    ];
    const group = (state) => all.filter(({ field }) => field.state === state);
    const [decide, auto, same] = [group('decide'), group('merged'), group('same')];
    put(element,
      decide.length > 0 ? limited(decide) : h('p', { class: 'panel' }, 'The versions changed different fields. Nothing contradicts: look at the result and save it.'),
      auto.length > 0 ? h('details', { open: decide.length === 0 },
        h('summary', {}, `${plural(auto.length, 'field', 'fields')} merged without a question`), limited(auto)) : null,
      same.length > 0 ? h('details', {},
        h('summary', {}, `${plural(same.length, 'field is', 'fields are')} the same in all versions`),
        h('p', { class: 'quiet break' }, same.slice(0, 1000).map(({ field }) => field.path.join('.')).join(', '))) : null);
  };
  draw();
  return { element, draw };
}

function limited(rows) {
  const box = h('div', { class: 'stack' });
  let from = 0;
  const more = h('button', { type: 'button' });
  const add = () => {
    more.remove();
    box.append(...rows.slice(from, from + SHOWN).map(({ field, options }) => fieldChoice(field, options)));
    from += SHOWN;
    if (from < rows.length) {
      more.textContent = `Show ${Math.min(SHOWN, rows.length - from)} more of ${(rows.length - from).toLocaleString()}`;
      box.append(more);
    }
  };
  more.addEventListener('click', add);
  add();
  return box;
}

function fileChoices(files) {
  return new Map([...fields(files)].map((field) => [field.path[0], chosen(field) === MISSING ? null : field.pick?.side ?? 0]));
}

function previewText(node, files, { id, sides }) {
  const shown = new Map([['_id', id], ...merged(node, 'to be decided')]);
  const kept = [...fileChoices(files)].filter(([, side]) => side !== null);
  if (kept.length > 0) {
    shown.set('_attachments', new Map(kept.map(([name, side]) => {
      const stub = attachmentsOf(sides[side]).get(name);
      return [name, `${stub.get('content_type')}, ${bytes(lengthOf(stub))}`];
    })));
  }
  return write(shown, 2);
}

async function saveMerged(document, node, files, button, open) {
  const { db, id, sides } = document;
  const picks = fileChoices(files);
  const foreign = [...picks].filter(([name, side]) => side > 0 && attachmentsOf(sides[0]).get(name)?.get('digest') !== attachmentsOf(sides[side]).get(name).get('digest'));
  const size = foreign.reduce((sum, [name, side]) => sum + lengthOf(attachmentsOf(sides[side]).get(name)), 0);
  if (size > LARGE && !(await ask({
    title: 'Load large attachments?',
    body: `Attachments of other versions (${bytes(size)}) are downloaded and uploaded again to become part of the merged document.`,
    confirm: 'Go on',
  }))) return;
  button.disabled = true;
  button.textContent = 'Saving…';
  try {
    const attachments = await mergedAttachments(sides, picks, (side, name) => attachmentAsBase64(db, id, sides[side].get('_rev'), name));
    await save(db, id, sides, merged(node), attachments);
    toast('Merged. Every device gets the result with its next sync.');
    await open();
  } catch (error) {
    await explain(error, open);
    button.disabled = false;
    button.textContent = 'Save the merged document';
  }
}

async function explain(error, open) {
  if (error instanceof Refused && error.changed) {
    toast('Somebody changed the document in the meantime. Here are the versions as they are now; nothing of yours was saved.', { kind: 'error' });
    await open();
  } else if (error instanceof Refused) {
    toast(`The database refused it: ${error.message}`, { kind: 'error' });
  } else {
    toast(`It was not saved: ${error.message}`, { kind: 'error' });
  }
}

/** A deletion against an edit: two whole outcomes, no fields. */
function deletionView(document, open) {
  const { db, sides: [live], deletions, ancestor } = document;
  const settle = (keep) => async (event) => {
    const buttons = event.target.closest('.row').querySelectorAll('button');
    for (const button of buttons) button.disabled = true;
    try {
      await settleDeletion(db, document, keep);
      toast(keep ? 'The document stays.' : 'Deleted on every device with its next sync. Its content stays readable here.');
      await open();
    } catch (error) {
      for (const button of buttons) button.disabled = false;
      await explain(error, open);
    }
  };
  return h('div', { class: 'stack' },
    h('p', {}, 'One device deleted this document while another one edited it. The edited version is what every device shows now. Decide which of the two was meant:'),
    h('div', { class: 'versions' },
      version('Before', ancestor.body, ancestor.rev),
      version('Edited', bodyOf(live), live.get('_rev')),
      h('section', { class: 'panel' }, h('h2', {}, 'Deleted'), h('code', { class: 'break' }, deletions[0].get('_rev')), h('p', { class: 'quiet' }, 'The document is gone here.'))),
    h('div', { class: 'row' },
      h('button', { type: 'button', class: 'primary', onclick: settle(true) }, 'Keep the edited document'),
      h('button', { type: 'button', class: 'danger', onclick: settle(false) }, 'Delete it')));
}

function version(name, value, rev) {
  return h('section', { class: 'panel' }, h('h2', {}, name), h('code', { class: 'break' }, rev ?? 'unknown'), valueView(value));
}

/** What was merged before: the bodies of the closed versions. */
function records({ records: closed }) {
  if (closed.length === 0) return null;
  return h('details', { class: 'panel records' },
    h('summary', {}, `${plural(closed.length, 'version', 'versions')} closed earlier`),
    h('p', { class: 'quiet' }, 'These versions lost a conflict. Each keeps its content until somebody purges it.'),
    ...closed.map((leaf) => version('Closed version', bodyOf(leaf), leaf.get('_rev'))));
}
