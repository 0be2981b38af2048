// The documents of an acceptance run: trees of every shape, attachments of every size, ids that must be escaped.
// All random choices come from one seed.

import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';

/** Numbers from 0 to 1 that depend only on the seed (mulberry32). */
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const md5 = (text) => createHash('md5').update(text).digest('hex');

/** Bytes that do not compress, always the same for one `name` and length. */
export function noise(name, length) {
  const parts = [];
  for (let at = 0; at < length; at += 32) parts.push(createHash('sha256').update(`${name}/${at}`).digest());
  return Buffer.concat(parts).subarray(0, length);
}

const ODD_IDS = [
  'äöü', '日本語', '😀 emoji', 'é composed', 'e\u0301 decomposed', 'a/b', '/leading', 'trailing/', 'a//b', '../up', '.', '..',
  'a+b', 'a b', ' leading space', 'trailing space ', '%', '%2F', '100%25', 'a%zz', '"double"', "'single'", '`tick`', 'back\\slash',
  'question?x=1', 'hash#fragment', 'amp&x=1', 'semi;colon', 'comma,colon:', '<html>', '[a]', '{a}', '(a)', '$', '@', '!', '*', '~', '^', '|',
  'new\nline', 'tab\t', '\u0001', '\u007f', '\u2028', '\ufeffmark', '0', 'null', 'true', 'A', 'a', 'x_design/y', '-', '1e3',
  'l'.repeat(250), 'ü'.repeat(250), 'm'.repeat(1000), '\u{10ffff}',
];

const DESIGN_IDS = ['_design/app', '_design/x y', '_design/ü', '_design/a/b', '_design/100%', '_design/plus+plus', '_design/"q"', '_design/?', '_design/#'];

/** A revision tree as its leaves: for each leaf all its revisions, newest first, without the generation. */
function tree(id, random, leaves) {
  const trunk = 1 + Math.floor(random() * 4);
  const stem = Array.from({ length: trunk }, (_, at) => md5(`${id} stem ${at}`));
  return Array.from({ length: leaves }, (_, leaf) => {
    const fork = 1 + Math.floor(random() * trunk);
    const own = Array.from({ length: 1 + Math.floor(random() * 6) }, (_, at) => md5(`${id} leaf ${leaf} ${at}`));
    return [...stem.slice(0, fork), ...own].reverse();
  });
}

function leaf(id, revisions, random, { deleted = false, attachments } = {}) {
  const doc = { _id: id, _rev: `${revisions.length}-${revisions[0]}`, _revisions: { start: revisions.length, ids: revisions } };
  if (deleted) doc._deleted = true;
  if (!deleted || random() < 0.5) Object.assign(doc, body(id, random));
  for (const stub of Object.values(attachments ?? {})) stub.revpos = Math.max(1, revisions.length - Math.floor(random() * 3));
  if (attachments) doc._attachments = attachments;
  return doc;
}

function body(id, random) {
  const all = { title: `title of ${id}`, number: Math.floor(random() * 1e6), half: random(), list: [1, 'two', null, true, { three: 3 }] };
  if (random() < 0.1) all['odd "member"\u0000 ü/'] = { '': [[], {}, [[[]]]], text: 'line\nfeed \u2028 😀' };
  if (random() < 0.1) all.numbers = [0, -0.5, 1e300, 1e-300, 9007199254740993, 123456.789];
  if (random() < 0.02) all.long = 'x'.repeat(100_000);
  return all;
}

const SIZES = [0, 1, 17, 1000, 4095, 4096, 4097, 70_000];
const NAMES = ['a.bin', 'text.txt', 'ä ü.bin', 'with space', 'dir/sub/file', 'plus+plus', '100%', 'quote"s', '日本.html'];
const TYPES = ['application/octet-stream', 'text/plain', 'image/png', 'text/html; charset=utf-8', 'application/json'];

function attachments(id, random) {
  const all = {};
  const count = 1 + Math.floor(random() * 4);
  for (let at = 0; at < count; at += 1) {
    const length = SIZES[Math.floor(random() * SIZES.length)];
    const compressible = random() < 0.5;
    const data = compressible ? Buffer.from('compressible '.repeat(length / 13 + 1)).subarray(0, length) : noise(`${id} ${at}`, length);
    const type = TYPES[Math.floor(random() * TYPES.length)];
    all[NAMES[Math.floor(random() * NAMES.length)]] = { content_type: type, data: data.toString('base64') };
  }
  return all;
}

/** One document as the leaves to write with `new_edits: false`. */
function document(id, random, kind) {
  if (kind < 0.7) return tree(id, random, 1).map((revisions) => leaf(id, revisions, random));
  if (kind < 0.8) return tree(id, random, 1).map((revisions) => leaf(id, revisions, random, { deleted: true }));
  if (kind < 0.83) return tree(id, random, 1).map((revisions) => leaf(id, revisions, random, { attachments: attachments(id, random) }));
  if (kind < 0.84) {
    // Conflicting leaves with attachments of their own.
    return tree(id, random, 3).map((revisions, at) => leaf(id, revisions, random, { attachments: attachments(`${id} ${at}`, random) }));
  }
  if (kind < 0.86) return tree(id, random, 2 + Math.floor(random() * 3)).map((revisions) => leaf(id, revisions, random, { deleted: true }));
  return tree(id, random, 2 + Math.floor(random() * 4)).map((revisions) => leaf(id, revisions, random, { deleted: random() < 0.3 }));
}

/**
 * Gives a document whose attachments are all empty one byte: the replicator of CouchDB 3.5.0 waits for ever on
 * such documents, also between two CouchDBs.
 */
function avoidEmptyOnly(doc) {
  const [first, ...others] = Object.values(doc._attachments ?? {});
  if (first?.data === '' && others.every(({ data }) => data === '')) first.data = 'eA==';
  return doc;
}

function designs() {
  return DESIGN_IDS.map((id, at) => ({
    _id: id,
    views: { by_title: { map: `function (doc) { emit(doc.title, ${at}); }`, reduce: '_count' } },
    filters: { some: 'function (doc, req) { return doc.number % 2 === 0; }' },
    language: 'javascript',
  }));
}

/** Writes documents with `_bulk_docs` and throws if one of them is refused. */
export async function write(peer, db, docs, { newEdits = false } = {}) {
  const body = newEdits ? { docs } : { docs, new_edits: false };
  const rows = await peer.json('POST', `/${db}/_bulk_docs`, body);
  const refused = rows.filter((row) => row.error);
  if (refused.length) throw new Error(`${peer.name}: ${refused.length} documents refused: ${JSON.stringify(refused[0])}`);
  return rows;
}

/** Calls `send` with slices of what the generator yields, of at most `count` items. */
async function inBatches(items, count, send) {
  let batch = [];
  for (const item of items) {
    batch.push(item);
    if (batch.length >= count) {
      await send(batch);
      batch = [];
    }
  }
  if (batch.length) await send(batch);
}

function* trees(count, random) {
  for (let at = 0; at < count; at += 1) yield* document(`doc-${String(at).padStart(6, '0')}`, random, random());
  for (const id of ODD_IDS) yield* document(id, random, random());
  // Many leaves, a long history (longer than the 1000 revisions that are kept), a large document.
  yield* tree('many leaves', random, 60).map((revisions) => leaf('many leaves', revisions, random));
  const long = Array.from({ length: 1100 }, (_, at) => md5(`long ${at}`));
  yield leaf('long history', long, random);
  yield { ...leaf('large', [md5('large')], random), text: 'y'.repeat(6_000_000) };
}

/** PUTs one attachment of `length` bytes that do not compress, streamed. */
export async function putLarge(peer, db, id, name, length) {
  const piece = noise(`${id}/${name}`, 1 << 20);
  function* pieces() {
    for (let at = 0; at < length; at += piece.length) yield piece.subarray(0, Math.min(piece.length, length - at));
  }
  const current = (await peer.call('HEAD', `/${db}/${id}`, undefined, { allowed: [404] })).headers.etag;
  const query = current ? `?rev=${current.replaceAll('"', '')}` : '';
  await peer.call('PUT', `/${db}/${id}/${name}${query}`, Readable.from(pieces()), {
    headers: { 'Content-Type': 'application/octet-stream', 'Content-Length': String(length) },
  });
}

/**
 * Fills a new database. `large` is the size of the largest attachment in bytes; `emptyOnly` allows documents
 * whose attachments are all empty.
 */
export async function fill(peer, db, { documents, large, seed, emptyOnly = true }) {
  const random = randomNumbers(seed);
  const adapt = emptyOnly ? (doc) => doc : avoidEmptyOnly;
  await peer.create(db);
  await inBatches(trees(documents, random), 500, (batch) => write(peer, db, batch.map(adapt)));
  await write(peer, db, designs(), { newEdits: true });

  // Ordinary edits, so that attachments are inherited from older revisions.
  const edited = Array.from({ length: 200 }, (_, at) => ({ _id: `edited-${at}`, _attachments: attachments(`edited-${at}`, random), n: 0 })).map(adapt);
  for (let round = 0; round < 3; round += 1) {
    const rows = await write(peer, db, edited, { newEdits: true });
    for (const [at, doc] of edited.entries()) {
      doc._rev = rows[at].rev;
      doc.n += 1;
      for (const name of Object.keys(doc._attachments)) doc._attachments[name] = { stub: true };
    }
  }
  for (const length of [1 << 20, 10 << 20, large]) {
    if (length > large) continue;
    await putLarge(peer, db, `large-${length}`, 'one.bin', length);
    await putLarge(peer, db, `large-${length}`, 'two.bin', 1000);
  }
  for (const id of ['mine', 'x y']) await peer.call('PUT', `/${db}/_local/${encodeURIComponent(id)}`, { only: 'here' });
}

/** Changes a filled database: edits, deletions, a new conflict, a changed attachment. */
export async function change(peer, db, { seed, emptyOnly = true }) {
  const random = randomNumbers(seed + 1);
  const page = await peer.json('GET', `/${db}/_all_docs?limit=300&startkey=%22doc-%22`);
  const rows = page.rows.filter((row) => row.id.startsWith('doc-'));
  const docs = rows.map((row, at) => {
    const doc = { _id: row.id, _rev: row.value.rev, ...body(row.id, random), changed: true };
    if (at % 5 === 0) return { _id: row.id, _rev: row.value.rev, _deleted: true };
    if (at % 7 === 0) doc._attachments = attachments(row.id, random);
    return emptyOnly ? doc : avoidEmptyOnly(doc);
  });
  await write(peer, db, docs, { newEdits: true });
  const conflicts = rows.slice(0, 100).map((row, at) => leaf(row.id, [md5(`late ${at}`), md5(`late parent ${at}`)], random));
  await write(peer, db, conflicts);
}
