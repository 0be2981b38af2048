// Copies in all directions: a first replication, one with nothing new, one after changes, and one back.

import { change, fill, write } from './source.mjs';
import { compare, countLeaves, leavesOf } from './compare.mjs';
import { lastSession, number, replicate } from './peers.mjs';

/** `[title, replicating server, source server, target server, by bare names]` for each direction. */
function directions({ settees: [a, b, c], couchdb }) {
  const all = [
    ['settee pulls from settee', b, a, b, true],
    ['settee pushes to settee', a, a, b, true],
    ['settee copies between its own databases', a, a, a, true],
    ['settee copies between its own databases over HTTP', a, a, a, false],
    ['settee copies between two other settees', c, a, b, true],
  ];
  if (!couchdb) return all;
  return [
    ['CouchDB copies between its own databases (control)', couchdb, couchdb, couchdb, false],
    ['CouchDB pulls from settee', couchdb, a, couchdb, false],
    ['CouchDB pushes to settee', couchdb, couchdb, a, false],
    ['settee pulls from CouchDB', a, couchdb, a, true],
    ['settee pushes to CouchDB', a, a, couchdb, true],
    ['CouchDB copies between two settees', couchdb, a, b, false],
    ...all,
  ];
}

/** The problems of one answer of `_replicate` whose session must have written `leaves` revisions. */
function counters(answer, leaves, what) {
  const last = lastSession(answer);
  const problems = [];
  if (!answer.ok) problems.push(`${what}: ${JSON.stringify(answer)}`);
  if (last.doc_write_failures !== 0) problems.push(`${what}: doc_write_failures is ${last.doc_write_failures}`);
  for (const name of ['missing_found', 'docs_read', 'docs_written']) {
    if (last[name] !== leaves) problems.push(`${what}: ${name} is ${last[name]}, and ${leaves} leaves were missing`);
  }
  return problems;
}

async function direction([title, server, from, to, local], options, report) {
  const source = [from, 'source'];
  const target = [to, 'target'];
  const ends = { source, target, local };
  const problems = [];
  await to.create('target');
  const leaves = countLeaves(await leavesOf(...source));

  const start = Date.now();
  const first = await replicate(server, ends);
  const seconds = (Date.now() - start) / 1000;
  problems.push(...counters(first, leaves, 'first replication'));
  const compared = await compare(source, target);
  problems.push(...compared.differences);

  const nothing = await replicate(server, ends);
  if (!nothing.no_changes) problems.push(`a second replication had no no_changes: ${JSON.stringify(nothing).slice(0, 300)}`);

  // Both sides change: the next replications carry the difference only, and end in the same conflicts.
  const before = await leavesOf(...target);
  await change(from, 'source', options);
  const after = await leavesOf(...source);
  const changed = [...after].flatMap(([id, { leaves: now }]) => [...now].filter((rev) => !before.get(id)?.leaves.has(rev))).length;
  await write(to, 'target', Array.from({ length: 50 }, (_, at) => ({ _id: `back-${at}`, from: 'target' })), { newEdits: true });
  const second = await replicate(server, ends);
  problems.push(...counters(second, changed, 'replication after changes'));
  if (number(second.history[0].start_last_seq) === 0) problems.push('the replication after changes began at 0');
  const back = await replicate(server, { source: target, target: source, local });
  problems.push(...counters(back, 50, 'replication back'));
  problems.push(...(await compare(source, target)).differences);

  const size = (compared.bytes / (1 << 20)).toFixed(0);
  const what = `${compared.documents} documents, ${compared.leaves} leaves, ${compared.attachments} attachments of ${size} MiB, ${compared.opened} open_revs`;
  report(`${title}: ${what}; copied in ${seconds.toFixed(1)} s; peak memory of ${server.name} ${server.peak().toFixed(0)} MiB`, problems);
  await to.call('DELETE', '/target');
}

/** Fills a source on a server again for each direction, so that a direction's changes do not add up. */
export async function copies(peers, options, report) {
  if (peers.couchdb && !options.only) {
    await fill(peers.settees[0], 'source', options);
    await fill(peers.couchdb, 'source', options);
    const { differences, leaves } = await compare([peers.couchdb, 'source'], [peers.settees[0], 'source'], { ownAttachments: true });
    report(`the same writes to CouchDB and settee give the same ${leaves} leaves`, differences);
  }
  for (const row of directions(peers)) {
    if (!row[0].includes(options.only)) continue;
    try {
      const fitting = { ...options, emptyOnly: row[1] !== peers.couchdb };
      await fill(row[2], 'source', fitting);
      await direction(row, fitting, report);
    } catch (error) {
      report(row[0], [error.stack]);
    }
  }
}
