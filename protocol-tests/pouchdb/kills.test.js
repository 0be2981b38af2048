// Clients sync with a server that is killed repeatedly, on each storage engine. In the end all clients have
// converged, no acknowledged or replicated write is lost, and `settee check` finds no errors after the last
// kill.
//
// By default each server is killed four times; `KILLS=200 node --test pouchdb/kills.test.js` is the long
// version. SEED=... repeats the random choices of a run (but not its timing).

import { createRequire } from 'node:module';
import { randomBytes } from 'node:crypto';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, it, assert } from '../harness/rows.js';
import { Live, shaky } from '../harness/pouch.js';
import { random } from '../harness/proxy.js';
import { Server, binary, external } from '../harness/server.js';
import { request } from '../harness/http.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));
PouchDB.setMaxListeners?.(0);
require('node:events').defaultMaxListeners = 0;

const kills = Number(process.env.KILLS ?? 4);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Returns all revisions of a document that a database knows (leaves and ancestors), and its leaves. */
const tree = async (db, id) => {
  const got = await db.get(id, { open_revs: 'all', revs: true }).catch(() => []);
  const known = new Set();
  for (const { ok } of got) ok._revisions.ids.forEach((hash, step) => known.add(`${ok._revisions.start - step}-${hash}`));
  return { known, leaves: got.map(({ ok }) => `${ok._rev}${ok._deleted ? ' deleted' : ''}`).sort() };
};

function check(folder) {
  const said = spawnSync(binary(), ['check', '--data', join(folder, 'data')], { encoding: 'utf8' });
  assert.equal(said.status, 0, `settee check: ${said.stdout}${said.stderr}`);
}

for (const engine of ['sled', 'redb']) {
  describe(`PouchDB through kills, ${engine}`, { skip: !!external }, () => {
    it(`three clients and a writer, ${kills} kills`, async () => {
      const seed = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
      const draw = random(seed);
      console.log(`${engine}: SEED=${seed}`);
      const server = await new Server({ args: ['--store', engine] }).start();
      const name = `k${randomBytes(6).toString('hex')}`;
      const remote = () => shaky(new PouchDB(`${server.address}/${name}`));
      const db = remote();
      // Makes the database. A PouchDB whose first `_bulk_get` fails asks for each document by itself from then on, and passes
      // over those whose request fails.
      await db.bulkGet({ docs: [{ id: 'none' }] });
      const clients = Array.from({ length: 3 }, () => new PouchDB(`m${randomBytes(6).toString('hex')}`, { adapter: 'memory' }));
      const syncs = clients.map((client) => new Live(() => client.sync(remote(), { live: true, batch_size: 25 }), 40));
      // All writes as [id, revision]: written locally by a client, or acknowledged by the server.
      const written = [];
      const contents = new Map();
      let working = true;

      const author = async (client, who) => {
        for (let step = 0; working; step += 1) {
          const own = draw.chance(0.4);
          const id = own ? `own-${who}-${step}` : `shared-${draw.below(12)}`;
          const doc = await client.get(id).catch(() => ({ _id: id }));
          const edit = { ...doc, by: who, step };
          if (draw.chance(0.2)) {
            const bytes = Buffer.from(`bytes of ${who} at ${step} `.repeat(1 + draw.below(300)));
            const att = `a${who}-${step}`;
            edit._attachments = { ...doc._attachments, [att]: { content_type: 'application/octet-stream', data: bytes } };
            contents.set(`${id}/${att}`, bytes);
          }
          const change = !own && doc._rev && draw.chance(0.15) ? client.remove(doc) : client.put(edit);
          // A pull may have changed the document in between; then the edit is a conflict and is dropped.
          const made = await change.catch((error) => assert.equal(error.status, 409));
          if (made) written.push([id, made.rev]);
          await pause(draw.below(30));
        }
      };
      // A writer that writes directly to the server and records the acknowledged revisions.
      const direct = async () => {
        for (let step = 0; working; step += 1) {
          const id = `direct-${step}`;
          const made = await db.put({ _id: id, step }).catch(() => null);
          if (made) written.push([id, made.rev]);
          await pause(made ? draw.below(10) : 40);
        }
      };

      const work = [...clients.map((client, who) => author(client, who)), direct()];
      try {
        for (let kill = 0; kill < kills; kill += 1) {
          await pause(100 + draw.below(900));
          await server.kill();
          if (kill % 10 === 9) check(server.folder);
          await pause(draw.below(200));
          await server.start();
        }
        await pause(300);
      } finally {
        working = false;
        await Promise.all(work);
        await Promise.all(syncs.map((sync) => sync.stop()));
      }
      await server.kill();
      check(server.folder);
      await server.start();
      const log = server.log();
      assert.doesNotMatch(log, /panicked at/);

      // Resume from the clients' checkpoints: if a kill lost a write before a checkpoint, it is never sent
      // again.
      for (const client of [...clients, ...clients]) {
        const { push, pull } = await client.sync(db);
        assert.equal(push.doc_write_failures + pull.doc_write_failures, 0);
      }
      const ids = [...new Set(written.map(([id]) => id))];
      const trees = new Map();
      for (const id of ids) trees.set(id, await tree(db, id));
      for (const [id, revision] of written) {
        assert.ok(trees.get(id).known.has(revision), `${id} ${revision} was written and is lost (SEED=${seed})`);
      }
      for (const client of clients) {
        for (const id of ids) {
          assert.deepEqual((await tree(client, id)).leaves, trees.get(id).leaves, `leaves of ${id} (SEED=${seed})`);
        }
      }
      const alive = await db.allDocs({ include_docs: true });
      let attachments = 0;
      for (const { id, doc } of alive.rows) {
        for (const att of Object.keys(doc._attachments ?? {})) {
          const bytes = Buffer.from(await db.getAttachment(id, att));
          assert.ok(bytes.equals(contents.get(`${id}/${att}`)), `${id}/${att} (SEED=${seed})`);
          attachments += 1;
        }
      }
      // Every document appears in the changes feed exactly once, and the counts of the database match the
      // feed.
      const info = await db.info();
      const { results } = await db.changes({ since: 0 });
      assert.equal(new Set(results.map((row) => row.id)).size, results.length);
      const deleted = results.filter((row) => row.deleted).length;
      assert.deepEqual([info.doc_count, info.doc_del_count ?? deleted], [results.length - deleted, deleted]);
      assert.equal(alive.rows.length, info.doc_count);
      console.log(`${engine}: ${written.length} revisions of ${ids.length} documents, ${attachments} attachments, ${kills} kills: all there`);
      await Promise.all(clients.map((client) => client.destroy()));
      const { folder } = server;
      const up = await request(server.base, { path: '/_up', fresh: true });
      assert.equal(up.status, 200);
      await server.restart('SIGTERM');
      await server.kill();
      check(folder);
      server.remove();
    });
  });
}
