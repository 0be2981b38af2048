// Kills a server in the middle of a replication, again and again: nothing may be lost or written twice, and each
// replication must go on from its last checkpoint.

import { createHash } from 'node:crypto';
import { until } from '../harness/server.js';
import { compare, leavesOf, missing } from './compare.mjs';
import { lastSession, number, replicate } from './peers.mjs';
import { randomNumbers, write } from './source.mjs';

const md5 = (text) => createHash('md5').update(text).digest('hex');

/** Documents whose every revision the test has chosen, so that it knows all leaves without asking a server. */
export class Model {
  constructor(seed) {
    this.random = randomNumbers(seed);
    this.histories = new Map();
    this.revisions = 0;
  }

  /** New documents, edits, conflicts, deletions: each document gets exactly one new leaf. */
  batch(size) {
    const known = [...this.histories.keys()];
    const used = new Set();
    const docs = [];
    while (docs.length < size) {
      const kind = this.random();
      const old = known[Math.floor(this.random() * known.length)];
      const fresh = kind < 0.7 || old === undefined || used.has(old);
      const id = fresh ? `doc-${String(this.histories.size).padStart(7, '0')}` : old;
      used.add(id);
      docs.push(this.#revision(id, fresh ? 0 : kind));
    }
    this.revisions += size;
    return docs;
  }

  #revision(id, kind) {
    const own = md5(`${id} ${this.revisions} ${this.random()}`);
    const before = this.histories.get(id);
    // An edit of the newest revision, or a leaf beside all others.
    const ids = !before ? [own] : kind < 0.9 ? [own, ...before] : [own, md5(`${own} parent`)];
    if (!before || kind < 0.9) this.histories.set(id, ids);
    const doc = { _id: id, _rev: `${ids.length}-${own}`, _revisions: { start: ids.length, ids }, text: md5(own).repeat(8) };
    if (before && this.random() < 0.15) doc._deleted = true;
    else if (this.random() < 0.03) {
      const data = Buffer.from(own.repeat(1 + Math.floor(this.random() * 500))).toString('base64');
      doc._attachments = { file: { content_type: 'application/octet-stream', revpos: ids.length, data } };
    }
    return doc;
  }
}

/** `[title, replicating server, source, target, killed server, by a document of _replicator]` */
function scenarios({ settees: [a, b, c], couchdb }) {
  const all = [
    ['a third settee replicates; it is killed', c, a, b, c, false],
    ['a third settee replicates; the source is killed', c, a, b, a, false],
    ['a third settee replicates; the target is killed', c, a, b, b, false],
    ['settee pulls; it is killed', b, a, b, b, false],
    ['settee pushes; it is killed', a, a, b, a, false],
    ['settee copies between its own databases; it is killed', a, a, a, a, false],
    ['settee pulls, continuously; it is killed', b, a, b, b, true],
    ['settee pushes, continuously; it is killed', a, a, b, a, true],
    ['settee copies between its own databases, continuously; it is killed', a, a, a, a, true],
  ];
  if (!couchdb?.restartable) return all;
  return [
    ...all,
    ['settee pulls from CouchDB; settee is killed', a, couchdb, a, a, false],
    ['settee pulls from CouchDB; CouchDB is killed', a, couchdb, a, couchdb, false],
    ['settee pushes to CouchDB; settee is killed', a, a, couchdb, a, false],
    ['settee pushes to CouchDB; CouchDB is killed', a, a, couchdb, couchdb, false],
  ];
}

/** Starts the replication and returns what it ends with: the answer, or the error of a killed server. */
function begin(server, ends) {
  return replicate(server, ends, { checkpoint_interval: 1000 }).then(
    (answer) => ({ answer }),
    (error) => ({ error }),
  );
}

/** One round: writes a batch, kills in the middle, waits for the end. Returns what the round was about. */
async function round({ server, ends, victim, continuous }, model, size, last, problems) {
  const [source, target] = [ends.source, ends.target];
  const before = await target[0].info(target[1]);
  // A continuous job copies while the batch is written.
  const docs = model.batch(size);
  const fraction = 0.05 + 0.85 * model.random();
  const writing = write(...source, docs);
  writing.catch(() => {});
  if (!continuous) await writing;
  let running = continuous ? null : begin(server, ends);
  let ended = false;
  running?.then(() => (ended = true));
  let copied = 0;
  await until('some documents to be copied', async () => {
    copied = (await target[0].info(target[1])).seq - before.seq;
    return ended || copied >= fraction * size;
  }, 120);
  await writing;
  const early = ended;
  await victim.kill();
  await victim.start();

  const left = missing(await leavesOf(...source), await leavesOf(...target)).length;
  // A replication that has survived, or began again by itself, may be complete by now.
  const again = victim === server && !continuous;
  const middle = !early && copied < size && (!again || left > 0);
  let tries = 0;
  let answer = null;
  if (continuous) {
    await until('the continuous replication to catch up', async () => {
      const now = await target[0].info(target[1]);
      return now.seq - before.seq >= size && missing(await leavesOf(...source), await leavesOf(...target)).length === 0;
    }, 180);
  } else {
    // The replication may have survived the kill of one of its ends.
    for (; !answer && tries < 10; tries += 1) {
      const { answer: done, error } = await running;
      answer = done;
      if (!done) running = begin(server, ends);
      if (error && tries === 9) problems.push(`the replication did not end: ${error.message}`);
    }
  }
  await check({ server, ends, victim }, { before, docs, left, middle, answer, last }, problems);
  return { middle, left, answer, tries };
}

async function check({ server, ends, victim }, { before, docs, left, middle, answer, last }, problems) {
  const size = docs.length;
  const [one, two] = [await leavesOf(...ends.source), await leavesOf(...ends.target)];
  const lost = [...missing(one, two), ...missing(two, one)];
  if (lost.length) problems.push(`${lost.length} leaves are on one side only: ${lost[0]}`);
  const after = await ends.target[0].info(ends.target[1]);
  if (after.seq - before.seq !== size) problems.push(`${size} revisions took ${after.seq - before.seq} sequences of the target`);
  if (!answer) return;
  const session = lastSession(answer);
  if (last && number(session.start_last_seq) < number(last.source_last_seq)) {
    problems.push(`a session began at ${session.start_last_seq}, and ${last.source_last_seq} was recorded`);
  }
  if (session.doc_write_failures) problems.push(`doc_write_failures is ${session.doc_write_failures}`);
  // Fewer, if the target had not finished the request on the way when its leaves were counted.
  if (victim === server && middle && session.docs_read > left) {
    problems.push(`after the kill ${left} leaves were missing, and ${session.docs_read} were read`);
  }
  // It asks about all leaves of the documents that have changed since the checkpoint.
  const leaves = docs.reduce((sum, { _id: id }) => sum + one.get(id).leaves.size, 0);
  if (session.docs_read > size || session.missing_checked > leaves) problems.push(`a session read more than the batch: ${JSON.stringify(session)}`);
}

async function scenario([title, server, from, to, victim, continuous], options, report) {
  const ends = { source: [from, 'kill-source'], target: [to, 'kill-target'] };
  await from.create('kill-source');
  await to.create('kill-target');
  const model = new Model(options.seed);
  const problems = [];
  const kills = options.rounds ?? 50;
  let [middle, rounds, checked, tries] = [0, 0, 0, 0];
  let last = null;
  if (continuous) await startContinuous(server, ends);
  for (; middle < kills && rounds < 3 * kills && problems.length < 5; rounds += 1) {
    const found = await round({ server, ends, victim, continuous }, model, options.batch, last, problems);
    last = found.answer ?? last;
    if (!found.middle) continue;
    middle += 1;
    tries += found.tries;
    checked += found.answer ? lastSession(found.answer).missing_checked : 0;
  }
  if (middle < kills) problems.push(`only ${middle} of ${rounds} kills were in the middle`);
  problems.push(...(await compare(ends.source, ends.target)).differences);
  if (continuous) await server.call('DELETE', `/_replicator/kills?rev=${(await server.json('GET', '/_replicator/kills'))._rev}`);
  const resumed = continuous ? '' : `; ${(checked / middle).toFixed(0)} of ${options.batch} revisions asked about after a kill, ${(tries / middle).toFixed(1)} replications a round`;
  report(`${title}: ${middle} kills in the middle of ${rounds}, ${model.revisions} revisions${resumed}`, problems);
}

async function startContinuous(server, { source, target }) {
  const bare = (peer) => ({ local: peer === server });
  await server.call('PUT', '/_replicator', undefined, { allowed: [412] });
  await server.call('PUT', '/_replicator/kills', {
    source: source[0].endpoint(source[1], bare(source[0])),
    target: target[0].endpoint(target[1], bare(target[0])),
    continuous: true,
    checkpoint_interval: 1000,
  });
}

export async function kills(peers, options, report) {
  for (const row of scenarios(peers)) {
    if (!row[0].includes(options.only)) continue;
    try {
      await scenario(row, options, report);
    } catch (error) {
      report(row[0], [error.stack]);
    }
    for (const peer of [...peers.settees, peers.couchdb]) {
      for (const db of ['kill-source', 'kill-target']) await peer?.call('DELETE', `/${db}`, undefined, { allowed: [404] });
    }
  }
}
