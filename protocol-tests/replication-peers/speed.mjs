// Measures replications of documents of 1 KB: documents a second, and the CPU time of the servers, beside the
// replicator of CouchDB on the same work, and beside what a source can list and a target can write.

import { write, randomNumbers } from './source.mjs';
import { lastSession, replicate } from './peers.mjs';

async function fillPlain(peer, db, count, seed) {
  const random = randomNumbers(seed);
  await peer.create(db);
  for (let at = 0; at < count; at += 1000) {
    const docs = Array.from({ length: Math.min(1000, count - at) }, (_, n) => ({
      _id: `doc-${String(at + n).padStart(7, '0')}`,
      number: Math.floor(random() * 1e6),
      text: Array.from({ length: 120 }, () => Math.floor(random() * 1e8).toString(36)).join(' ').slice(0, 950),
    }));
    await write(peer, db, docs, { newEdits: true });
  }
}

/** Runs `work` and returns its seconds and the CPU seconds of each server meanwhile. */
async function measure(servers, work) {
  const before = servers.map((server) => server.cpu());
  const start = process.hrtime.bigint();
  await work();
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  return { seconds, cpu: servers.map((server, at) => server.cpu() - before[at]) };
}

/** Reads every document of the source, in pages of 1000 changes. */
async function list(peer, db) {
  let since = '0';
  for (;;) {
    const page = await peer.json('GET', `/${db}/_changes?include_docs=true&limit=1000&since=${encodeURIComponent(since)}`);
    if (page.results.length === 0) return;
    since = page.last_seq;
  }
}

/** Writes the source's documents to another database as a replicator does. */
async function copyByHand(peer, from, to) {
  const rows = (await peer.json('GET', `/${from}/_all_docs?include_docs=true`)).rows.map(({ doc }) => doc);
  return () => writeAll(peer, to, rows);
}

async function writeAll(peer, db, docs) {
  for (let at = 0; at < docs.length; at += 1000) await write(peer, db, docs.slice(at, at + 1000));
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

export async function speed({ settees: [a, b], couchdb }, options, report) {
  const count = options.documents;
  const sources = [a, couchdb].filter(Boolean);
  for (const peer of [...sources, b]) await fillPlain(peer, 'speed', count, options.seed);

  const rows = [];
  const add = async (title, servers, prepare) => {
    if (!title.includes(options.only)) return;
    const runs = [];
    for (let at = 0; at < (options.rounds ?? 3); at += 1) {
      const work = await prepare();
      runs.push(await measure(servers, work));
    }
    const rate = count / median(runs.map(({ seconds }) => seconds));
    const cpu = servers.map((server, at) => `${server.name} ${((median(runs.map((run) => run.cpu[at])) / count) * 1e6).toFixed(0)} us`);
    rows.push([title, rate, cpu]);
    report(`${title}: ${rate.toFixed(0)} documents/s; CPU for a document: ${cpu.join(', ')}`, []);
  };
  const copy = (server, source, target) => async () => {
    await target.create('speed-target');
    return async () => {
      const answer = await replicate(server, { source: [source, 'speed'], target: [target, 'speed-target'] });
      const written = lastSession(answer).docs_written;
      if (written !== count) throw new Error(`${written} of ${count} documents were written`);
    };
  };
  const local = (peer) => async () => {
    await peer.create('speed-target');
    return copyByHand(peer, 'speed', 'speed-target');
  };

  for (const peer of [a, couchdb].filter(Boolean)) {
    await add(`${peer.name} lists all documents to one client`, [peer], async () => () => list(peer, 'speed'));
    await add(`${peer.name} takes all documents of one client`, [peer], local(peer));
    await add(`${peer.name} copies between its own databases`, [peer], copy(peer, peer, peer));
  }
  await add('settee B pulls from settee A', [b, a], copy(b, a, b));
  await add('settee A pushes to settee B', [a, b], copy(a, a, b));
  if (couchdb) {
    await add('CouchDB pulls from settee A', [couchdb, a], copy(couchdb, a, couchdb));
    await add('settee A pulls from CouchDB', [a, couchdb], copy(a, couchdb, a));
    await add('settee A pushes to CouchDB', [a, couchdb], copy(a, a, couchdb));
    await add('CouchDB pushes to settee A', [couchdb, a], copy(couchdb, couchdb, a));
  }
}
