// Three nodes on a PostgreSQL with two synchronous standbys. The primary is killed, frozen, cut off, restarted, or loses
// its connections, and nodes are killed, while clients write directly and PouchDBs sync through a round-robin proxy that
// cuts connections. In the end nothing acknowledged is lost, each node's feed has had each change, and all are equal.
//
// `SETTEE_FAILOVERS=20 node --test postgres/failover.test.js` is the long form.

import { createRequire } from 'node:module';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { until } from '../harness/server.js';
import { Cluster } from '../harness/postgres.js';
import { Live, shaky } from '../harness/pouch.js';
import { Proxy, random } from '../harness/proxy.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));
require('node:events').defaultMaxListeners = 0;

const rounds = Number(process.env.SETTEE_FAILOVERS ?? 3);
const kinds = (process.env.SETTEE_FAILOVER_KINDS ?? 'kill,freeze,cut off,restart,lose connections,kill a node').split(',');
/** No request may hang for longer, whatever happens to the database: in seconds. */
const LONGEST = 90;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const within = (work, what) => {
  let limit;
  const late = new Promise((_, reject) => {
    limit = setTimeout(() => reject(new Error(`${what} hangs`)), LONGEST * 1000);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(limit));
};

/** What the nodes and the checkpoints say of documents that differ between a client and the server. */
async function explained(nodes, db, clients, different) {
  const lines = [];
  for (const at of new Set(different.map((one) => one.at))) {
    const rows = different.filter((one) => one.at === at);
    lines.push(`client ${at} differs in ${rows.length} documents: ${rows.slice(0, 40).map(({ id, here, there }) => `${id} (${here}, server: ${there})`).join(' ')}`);
    const ids = rows.map(({ id }) => id);
    const checkpoints = (await nodes[at].ok(`GET /${db}/_local_docs?include_docs=true`)).rows.map(({ doc }) => doc);
    for (const checkpoint of checkpoints) {
      const own = await clients[at].get(checkpoint._id).catch(() => null);
      if (!own) continue;
      lines.push(`  checkpoint ${checkpoint._id}\n    there: ${JSON.stringify(checkpoint)}\n    here:  ${JSON.stringify(own)}`);
      for (const [n, node] of nodes.entries()) {
        const changes = await node.call(`GET /${db}/_changes?since=${checkpoint.last_seq}`);
        lines.push(`    node ${n} lists after it: ${changes.status} ${changes.text.slice(0, 400)}`);
      }
    }
    for (const [n, node] of nodes.entries()) {
      const { update_seq: last } = await node.ok(`GET /${db}`);
      const found = await node.ok(`POST /${db}/_all_docs`, { body: { keys: ids } });
      const listed = (await node.ok(`GET /${db}/_changes?style=all_docs`)).results.filter(({ id }) => ids.includes(id));
      const without = ids.filter((id) => !listed.some((row) => row.id === id));
      lines.push(`  node ${n}: update_seq ${last}, lacks [${found.rows.filter(({ error }) => error).map(({ key }) => key)}], does not list [${without}], lists ${listed.slice(0, 40).map(({ seq, id }) => `${id}@${seq.split('-')[0]}`).join(' ')}`);
    }
  }
  return lines.join('\n');
}

describe('failover', { timeout: 3_600_000 }, () => {
  const cluster = new Cluster();
  const nodes = [];
  const seed = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
  const draw = random(seed);
  let door;

  before(async () => {
    await cluster.start();
    process.env.SETTEE_TEST_STORE = cluster.address;
    nodes.push(new Api());
    for (let n = 0; n < 2; n++) nodes.push(new Api({ schema: nodes[0].server.schema }));
    for (const node of nodes) await node.start();
    // Each connection of a PouchDB goes to the next node.
    door = await new Proxy(0).start();
    let turn = 0;
    Object.defineProperty(door, 'target', { get: () => nodes[turn++ % 3].server.port });
  });
  after(async () => {
    await door?.stop();
    for (const node of nodes) await node.stop().catch((error) => console.log(String(error)));
    await cluster.stop();
  });

  it(`${rounds} rounds lose nothing (SEED=${seed})`, async () => {
    const db = await nodes[0].db();
    const ledger = new Map();
    let [working, writing, refused, longest] = [true, true, 0, 0];
    const failures = [];
    const note = (error) => failures.push(error);

    const writer = async (at) => {
      for (let n = 0; working; n++) {
        const node = nodes[(at + n) % 3];
        const ids = n % 5 === 4 ? Array.from({ length: 10 }, (_, m) => `w${at}-${n}-${m}`) : [`w${at}-${n}`];
        const begun = Date.now();
        const call = ids.length > 1 ? node.call(`POST /${db}/_bulk_docs`, { body: { docs: ids.map((_id) => ({ _id, n })) } }) : node.call(`PUT /${db}/${ids[0]}`, { body: { n } });
        const answer = await within(call, `a write (${ids[0]})`).catch((error) => (/hangs/.test(error) ? note(error) : null));
        longest = Math.max(longest, Date.now() - begun);
        if (answer?.status === 201) {
          for (const [at, id] of ids.entries()) {
            const rev = ids.length > 1 ? answer.json[at].rev : answer.json.rev;
            if (rev) ledger.set(id, rev);
          }
        } else {
          if (answer && ![409, 503].includes(answer.status)) note(new Error(`${answer.status} ${answer.text}`));
          refused += 1;
          await pause(50);
        }
      }
    };
    const writers = [0, 1, 2, 3].map(writer);

    // A feed of each node, which goes on after the last sequence that it has got.
    const seen = nodes.map(() => new Set());
    const reader = async (at) => {
      let since = 0;
      for (let done = false; !done;) {
        const last = !writing;
        const page = await within(nodes[at].call(`GET /${db}/_changes?feed=longpoll&timeout=2000&since=${since}&limit=200`), `the feed of node ${at}`).catch((error) => (/hangs/.test(error) ? note(error) : null));
        if (page?.status === 200 && page.json) {
          for (const { id } of page.json.results) if (id.startsWith('w')) seen[at].add(id);
          since = page.json.last_seq;
          done = last && page.json.results.length === 0;
        } else await pause(100);
        if (failures.length > 0) return;
      }
    };
    const readers = nodes.map((_, at) => reader(at));

    const remote = `http://admin:${encodeURIComponent('pass word:1')}@127.0.0.1:${door.port}/${db}`;
    const clients = Array.from({ length: 3 }, (_, at) => new PouchDB(`${db}-${at}`, { adapter: 'memory' }));
    const there = () => shaky(new PouchDB(remote, { skip_setup: true }));
    // A PouchDB whose first `_bulk_get` fails asks for each document by itself from then on, and passes over those whose
    // request fails.
    await until('PouchDB to know _bulk_get', () => there().bulkGet({ docs: [{ id: 'none' }] }).then(() => true, () => false));
    const syncs = clients.map((client) => new Live(() => client.sync(there(), { live: true, batch_size: 50 }), 300));
    const author = async (client, at) => {
      for (let n = 0; working; n++) {
        const id = draw.chance(0.3) ? `own-${at}-${n}` : `shared-${draw.below(15)}`;
        const doc = await client.get(id).catch(() => ({ _id: id }));
        await (doc._rev && draw.chance(0.1) ? client.remove(doc) : client.put({ ...doc, by: at, n })).catch(() => {});
        await pause(50 + draw.below(500));
      }
    };
    const authors = clients.map(author);
    const cutter = (async () => {
      while (working) {
        door.cut(() => draw.chance(0.3));
        await pause(500 + draw.below(1500));
      }
    })();

    /** Waits until each node acknowledges a write. */
    const goOn = async (what) => {
      const begun = Date.now();
      for (const [at, node] of nodes.entries()) {
        await until(`node ${at} to go on after ${what}`, async () => {
          assert.equal(failures.length, 0, String(failures[0]));
          const answer = await within(node.call(`PUT /${db}/w-${at}-${begun}-${Date.now()}`, { body: {} }), 'a write').catch(() => null);
          if (answer?.status === 201) ledger.set(answer.json.id, answer.json.rev);
          return answer?.status === 201;
        }, 120);
      }
      return Date.now() - begun;
    };

    const outages = {};
    try {
      for (let round = 0; round < rounds; round++) {
        const kind = kinds[round % kinds.length];
        const wanted = ledger.size + 60;
        await until('writes', () => failures.length > 0 || ledger.size >= wanted, 120);
        assert.equal(failures.length, 0, String(failures[0]));
        const primary = cluster.primary;
        let old = null;
        if (kind === 'kill') {
          await primary.kill();
          old = await cluster.failOver();
        } else if (kind === 'freeze') {
          primary.freeze();
          old = await cluster.failOver();
        } else if (kind === 'cut off') {
          primary.wire.cut();
          old = await cluster.failOver();
        } else if (kind === 'restart') {
          await primary.stop();
          await primary.start();
        } else if (kind === 'lose connections') {
          await primary.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'settee'");
        } else {
          const node = nodes[draw.below(3)];
          await node.server.kill();
          await node.server.start();
        }
        (outages[kind] ??= []).push(await goOn(kind));
        if (old) {
          // The old primary comes back and takes itself for one: no node may use it.
          if (kind === 'freeze') old.thaw();
          if (kind === 'cut off') old.wire.heal();
          if (kind !== 'kill') {
            const more = ledger.size + 40;
            await until('writes while the old primary is back', () => failures.length > 0 || ledger.size >= more, 120);
            await old.kill();
          }
          await cluster.rejoin(old);
        } else if (kind === 'restart') await cluster.complete();
      }
      working = false;
      await Promise.all([...writers, ...authors, cutter]);
      writing = false;
      await within(Promise.all(readers), 'a feed');
      assert.deepEqual(failures, []);
    } finally {
      [working, writing] = [false, false];
      await Promise.all(syncs.map((sync) => sync.stop()));
    }

    for (const node of nodes) {
      const rows = (await node.ok(`GET /${db}/_all_docs`)).rows;
      const there = new Map(rows.map(({ id, value }) => [id, value.rev]));
      assert.deepEqual([...ledger].filter(([id, rev]) => there.get(id) !== rev), [], 'acknowledged and not there');
    }
    for (const [at, ids] of seen.entries()) assert.deepEqual([...ledger.keys()].filter((id) => !ids.has(id)), [], `the feed of node ${at}`);
    /** Each document with its winner and its conflicts. */
    const state = async (pouch) => new Map((await pouch.allDocs({ conflicts: true, include_docs: true })).rows.map(({ doc }) => [doc._id, [doc._rev, ...(doc._conflicts ?? []).sort()].join()]));
    const server = new PouchDB(`${nodes[0].server.address}/${db}`);
    let different = [];
    const compared = async () => {
      const there = await state(server);
      different = [];
      for (const [at, client] of clients.entries()) {
        await client.sync(`${nodes[at].server.address}/${db}`);
        const here = await state(client);
        for (const id of new Set([...there.keys(), ...here.keys()])) if (there.get(id) !== here.get(id)) different.push({ at, id, here: here.get(id), there: there.get(id) });
      }
      return different.length === 0;
    };
    await until('all to be equal', compared, 120 + 6 * rounds).catch(async (error) => {
      throw new Error(`${error.message}\n${await explained(nodes, db, clients, different)}`);
    });
    for (const client of clients) await client.destroy();
    const shown = Object.entries(outages).map(([kind, times]) => `${kind}: ${Math.max(...times)} ms`);
    console.log(`${ledger.size} acknowledged, ${refused} refused, ${door.cuts} connections cut, the longest write took ${longest} ms; until all nodes went on, at most: ${shown.join(', ')}`);
  });
});
