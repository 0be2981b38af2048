// Compares two databases: the leaves of every document, the winners, every leaf's body, history and attachments.

import { createHash } from 'node:crypto';
import { request } from '../harness/http.js';

/** `id -> {winner, deleted, leaves: Set}` from the changes feed. */
export async function leavesOf(peer, db) {
  const all = new Map();
  let since = '0';
  for (;;) {
    const page = await peer.json('GET', `/${db}/_changes?style=all_docs&limit=20000&since=${encodeURIComponent(since)}`);
    for (const row of page.results) {
      const revs = row.changes.map((change) => change.rev);
      all.set(row.id, { winner: revs[0], deleted: Boolean(row.deleted), leaves: new Set(revs) });
    }
    if (page.results.length === 0) return all;
    since = page.last_seq;
  }
}

/** Leaves of `left` that `right` lacks, as `id rev`. */
export function missing(left, right) {
  const out = [];
  for (const [id, { leaves }] of left) {
    const there = right.get(id)?.leaves;
    for (const rev of leaves) if (!there?.has(rev)) out.push(`${id} ${rev}`);
  }
  return out;
}

export const countLeaves = (all) => [...all.values()].reduce((sum, { leaves }) => sum + leaves.size, 0);

/** The value with sorted members, so that equal documents have equal texts. */
function canonical(value) {
  if (Array.isArray(value)) return value.map(canonical);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, item]) => [key, canonical(item)]));
}

/** All documents of a page of leaves, as `id rev -> document`, with `_revisions` and the stubs of attachments. */
async function bodies(peer, db, page) {
  const answer = await peer.json('POST', `/${db}/_bulk_get?revs=true`, { docs: page });
  const all = new Map();
  for (const { id, docs } of answer.results) {
    for (const doc of docs) all.set(`${id} ${doc.ok?._rev ?? doc.error?.rev}`, doc.ok ?? doc.error);
  }
  return all;
}

/** The length and MD5 of an attachment's bytes, read as a stream. */
async function attachment(peer, db, id, rev, name) {
  const path = `/${db}/${encodeURIComponent(id)}/${encodeURIComponent(name)}?rev=${rev}`;
  return request(peer.base, {
    path,
    headers: peer.headers,
    onStream: (answer) =>
      new Promise((resolve, reject) => {
        const hash = createHash('md5');
        let length = 0;
        answer.on('data', (part) => {
          hash.update(part);
          length += part.length;
        });
        answer.on('end', () => resolve({ status: answer.statusCode, type: answer.headers['content-type'], length, md5: hash.digest('base64') }));
        answer.on('error', reject);
      }),
  });
}

class Differences {
  constructor() {
    this.list = [];
    this.count = 0;
  }

  add(text) {
    this.count += 1;
    if (this.list.length < 20) this.list.push(text);
  }
}

function compareTrees(left, right, found) {
  for (const [id, one] of left) {
    const two = right.get(id);
    if (!two) {
      found.add(`${JSON.stringify(id)} is missing`);
      continue;
    }
    const same = one.leaves.size === two.leaves.size && [...one.leaves].every((rev) => two.leaves.has(rev));
    if (!same) found.add(`${JSON.stringify(id)} has the leaves ${[...one.leaves]} and ${[...two.leaves]}`);
    if (one.winner !== two.winner) found.add(`${JSON.stringify(id)} has the winners ${one.winner} and ${two.winner}`);
    if (one.deleted !== two.deleted) found.add(`${JSON.stringify(id)} is deleted on one side only`);
  }
  for (const id of right.keys()) if (!left.has(id)) found.add(`${JSON.stringify(id)} is only in the target`);
}

/** The first place where two JSON values differ, as text. */
function difference(a, b, path = '') {
  const both = [a, b].every((value) => value !== null && typeof value === 'object');
  if (!both) return `${path}: ${JSON.stringify(a)?.slice(0, 120)} and ${JSON.stringify(b)?.slice(0, 120)}`;
  for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
    if (JSON.stringify(canonical(a[key])) !== JSON.stringify(canonical(b[key]))) return difference(a[key], b[key], `${path}/${key}`);
  }
  return path;
}

/** A stub without what two servers may compute differently if each compressed the same bytes by itself. */
function stubs(doc, { ownAttachments }) {
  if (!doc?._attachments || !ownAttachments) return doc;
  const all = {};
  for (const [name, { content_type: type, length }] of Object.entries(doc._attachments)) all[name] = { type, length };
  return { ...doc, _attachments: all };
}

async function compareBodies(left, right, trees, found, options) {
  const pages = [...trees].flatMap(([id, { leaves }]) => [...leaves].map((rev) => ({ id, rev })));
  let checked = 0;
  const attachments = [];
  for (let at = 0; at < pages.length; at += 500) {
    const page = pages.slice(at, at + 500);
    const [one, two] = await Promise.all([bodies(...left, page), bodies(...right, page)]);
    for (const { id, rev } of page) {
      const [a, b] = [one, two].map((all) => stubs(all.get(`${id} ${rev}`), options));
      const [x, y] = [a, b].map((doc) => JSON.stringify(canonical(doc)));
      if (!a || a.error || x !== y) found.add(`${JSON.stringify(id)} ${rev} differs in ${difference(a, b)}`);
      checked += 1;
      for (const [name, stub] of Object.entries(a?._attachments ?? {})) attachments.push({ id, rev, name, stub });
    }
  }
  return { checked, attachments };
}

async function compareAttachments(left, right, attachments, found) {
  let bytes = 0;
  const check = async ({ id, rev, name, stub }) => {
    const [one, two] = await Promise.all([left, right].map(([peer, db]) => attachment(peer, db, id, rev, name)));
    bytes += two.length;
    if (one.status !== 200 || two.status !== 200 || one.md5 !== two.md5 || one.length !== stub.length) {
      found.add(`attachment ${JSON.stringify(name)} of ${JSON.stringify(id)} ${rev}: ${JSON.stringify(one)} and ${JSON.stringify(two)}`);
    }
  };
  for (let at = 0; at < attachments.length; at += 8) await Promise.all(attachments.slice(at, at + 8).map(check));
  return bytes;
}

/** `open_revs=all` of the documents whose ids or trees are unusual. */
async function compareOpenRevs(left, right, trees, found) {
  const odd = [...trees].filter(([id, { leaves }]) => !/^(doc|edited)-/.test(id) || leaves.size > 3).slice(0, 400);
  for (const [id] of odd) {
    const path = id.startsWith('_design/') ? `_design/${encodeURIComponent(id.slice(8))}` : encodeURIComponent(id);
    const read = async ([peer, db]) => {
      const rows = await peer.json('GET', `/${db}/${path}?open_revs=all&revs=true`, undefined, { headers: { Accept: 'application/json' } });
      return rows.map((row) => row.ok?._rev ?? `missing ${row.missing}`).sort().join();
    };
    const [one, two] = await Promise.all([read(left), read(right)]);
    if (one !== two) found.add(`open_revs=all of ${JSON.stringify(id)}: ${one.slice(0, 300)} and ${two.slice(0, 300)}`);
  }
  return odd.length;
}

/**
 * Compares everything of two databases, given as `[peer, db]`. Returns `{differences, count, leaves, attachments,
 * bytes}`. `ownAttachments`: both sides compressed attachments by themselves, so digests may differ.
 */
export async function compare(left, right, { ownAttachments = false } = {}) {
  const found = new Differences();
  const [one, two] = await Promise.all([leavesOf(...left), leavesOf(...right)]);
  compareTrees(one, two, found);
  const [a, b] = await Promise.all([left[0].info(left[1]), right[0].info(right[1])]);
  if (a.count !== b.count || a.deleted !== b.deleted) found.add(`counts ${JSON.stringify(a)} and ${JSON.stringify(b)}`);
  const { checked, attachments } = await compareBodies(left, right, one, found, { ownAttachments });
  const bytes = await compareAttachments(left, right, attachments, found);
  const opened = await compareOpenRevs(left, right, one, found);
  for (const name of ['mine', 'x y']) {
    const answer = await right[0].call('GET', `/${right[1]}/_local/${encodeURIComponent(name)}`, undefined, { allowed: [404] });
    if (answer.status !== 404 && !ownAttachments) found.add(`the local document ${name} was replicated`);
  }
  return { differences: found.list, count: found.count, documents: one.size, leaves: checked, attachments: attachments.length, bytes, opened };
}
