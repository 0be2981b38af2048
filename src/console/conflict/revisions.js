// Leaves of a revision tree, their common ancestor, and the edits that end a conflict: pure functions on documents as
// the server sends them with `?revs=true`, parsed by json.js.

import { NumberText } from '../json.js';

/** Members that belong to the server and not to the body. `_attachments` merges by itself. */
const OWN = (name) => name.startsWith('_');

/** The body of a document: a Map without the members that begin with `_`. */
export function bodyOf(document) {
  return new Map([...document].filter(([name]) => !OWN(name)));
}

/** The attachments of a document: a Map of name to stub. */
export function attachmentsOf(document) {
  const found = document.get('_attachments');
  return found instanceof Map ? found : new Map();
}

/** Whether a leaf is a tombstone. */
export function isDeleted(document) {
  return document.get('_deleted') === true;
}

/** The revisions of the path to a leaf, the leaf first. */
export function pathOf(document) {
  const revisions = document.get('_revisions');
  const ids = revisions?.get('ids') ?? [];
  const start = Number(revisions?.get('start') ?? 0);
  return ids.map((id, index) => `${start - index}-${id}`);
}

/** The newest revision that all paths have, or null where the tree was stemmed above it. */
export function commonAncestor(paths) {
  const [first, ...others] = paths;
  const sets = others.map((path) => new Set(path));
  return first.find((rev) => sets.every((set) => set.has(rev))) ?? null;
}

/** The generation of a revision. */
export const generation = (rev) => Number.parseInt(rev, 10);

/** Whether a tombstone removed the document itself, and does not only close a conflict that somebody resolved. */
export function isDeletionOf(tombstone, live) {
  const path = pathOf(tombstone);
  const ancestor = commonAncestor([path, pathOf(live)]);
  return ancestor !== null && path[1] === ancestor;
}

/**
 * The attachments of the merged document. `picks` maps a name to the index of the side it is taken from, or to null
 * where it goes. What the winner has stays a stub; what another version has must be loaded, because a stub can only
 * name an attachment of its own parent revision. `load(side, name)` resolves to base64.
 */
export async function mergedAttachments(sides, picks, load) {
  const merged = new Map();
  for (const [name, side] of picks) {
    if (side === null) continue;
    const stub = attachmentsOf(sides[side]).get(name);
    if (!stub) continue;
    const own = attachmentsOf(sides[0]).get(name);
    const type = stub.get('content_type') ?? 'application/octet-stream';
    if (own && own.get('digest') === stub.get('digest')) merged.set(name, asStub(own));
    else merged.set(name, new Map([['content_type', type], ['data', await load(side, name)]]));
  }
  return merged;
}

function asStub(stub) {
  const kept = ['content_type', 'revpos', 'digest', 'length'].filter((name) => stub.has(name));
  return new Map([['stub', true], ...kept.map((name) => [name, stub.get(name)])]);
}

/**
 * The body of the `_bulk_docs` that ends a conflict. The merged document becomes the child of the winner; every other
 * leaf gets a tombstone. A tombstone repeats the body of its version, so that the record survives compaction: the
 * bodies of leaves are never compacted away. `body` null: the document is deleted.
 */
export function resolution(id, leaves, body, attachments = new Map()) {
  const [winner, ...losers] = leaves;
  const edits = [body === null ? tombstone(id, winner) : winnerEdit(id, winner, body, attachments)];
  for (const leaf of losers) edits.push(tombstone(id, leaf));
  return new Map([['docs', edits]]);
}

function winnerEdit(id, winner, body, attachments) {
  const edit = new Map([['_id', id], ['_rev', winner.get('_rev')], ...body]);
  if (attachments.size > 0) edit.set('_attachments', attachments);
  return edit;
}

function tombstone(id, leaf) {
  const edit = new Map([['_id', id], ['_rev', leaf.get('_rev')], ['_deleted', true], ...bodyOf(leaf)]);
  const attachments = attachmentsOf(leaf);
  if (attachments.size > 0) {
    edit.set('_attachments', new Map([...attachments].map(([name, stub]) => [name, asStub(stub)])));
  }
  return edit;
}

/** The number of bytes of an attachment's stub. */
export function lengthOf(stub) {
  const length = stub.get('length');
  return length instanceof NumberText ? Number(length.text) : 0;
}
