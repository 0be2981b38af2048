// Tests unmodified PouchDB from npm against a freshly started settee. Each version runs the same tests in its
// own process.

import { createRequire } from 'node:module';
import { randomBytes } from 'node:crypto';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { Live, shaky } from '../harness/pouch.js';
import { Proxy, random } from '../harness/proxy.js';
import { until, external } from '../harness/server.js';

const require = createRequire(import.meta.url);

/** Resolves when a one-time replication has completed. */
const done = (replication) => replication.then((info) => info);

export function clientTests(major, version) {
  const PouchDB = require(`pouchdb-${major}`);
  PouchDB.plugin(require(`pouchdb-adapter-memory-${major}`));
  // Disables the warning about too many listeners: each live replication adds listeners to its database.
  PouchDB.setMaxListeners?.(0);
  require('node:events').defaultMaxListeners = 0;

  describe(`PouchDB ${version}`, () => {
    const api = new Api();
    const opened = [];
    const local = () => {
      const db = new PouchDB(`m${randomBytes(6).toString('hex')}`, { adapter: 'memory' });
      opened.push(db);
      return db;
    };
    const remote = (name, port) => {
      const at = new URL(api.server.address);
      if (port) at.port = port;
      return new PouchDB(`${at.toString().replace(/\/$/, '')}/${name}`);
    };
    const server = async () => {
      const name = await api.db();
      return { name, db: remote(name) };
    };
    const leaves = async (db, id) => {
      const got = await db.get(id, { open_revs: 'all' });
      return got.map((leaf) => `${leaf.ok._rev}${leaf.ok._deleted ? ' deleted' : ''}`).sort();
    };

    before(async () => {
      assert.equal(PouchDB.version, version);
      await api.start();
    });
    after(async () => {
      await Promise.all(opened.map((db) => db.destroy().catch(() => {})));
      await api.stop();
    });

    it('creates, writes, reads, queries and destroys a database of the server', async () => {
      const name = `c${randomBytes(6).toString('hex')}`;
      const db = remote(name);
      const put = await db.put({ _id: 'a', n: 1 });
      assert.equal((await db.get('a'))._rev, put.rev);
      await assert.rejects(db.put({ _id: 'a', n: 2 }), { status: 409, name: 'conflict' });
      await assert.rejects(db.get('none'), { status: 404, name: 'not_found', reason: 'missing' });
      const rows = await db.bulkDocs([{ _id: 'b' }, { _id: 'a' }]);
      assert.equal(rows[0].ok, true);
      assert.equal(rows[1].status, 409);
      assert.deepEqual((await db.allDocs()).rows.map((row) => row.id), ['a', 'b']);
      assert.equal((await db.info()).doc_count, 2);
      assert.equal((await db.bulkGet({ docs: [{ id: 'a', rev: put.rev }] })).results[0].docs[0].ok.n, 1);
      await db.destroy();
      assert.equal((await api.call(`GET /${name}`)).status, 404);
    });

    it('keeps the revisions of documents that it pushes to the server', async () => {
      const a = local();
      const { db } = await server();
      const doc = { _id: 'same', text: 'tëxt €', list: [1, 2, { x: null }], n: 1.5 };
      const here = await a.put(doc);
      const there = await db.put(doc);
      // PouchDB hashes JSON, CouchDB hashes Erlang terms, so the revisions differ; a replicated revision is
      // kept.
      assert.match(there.rev, /^1-/);
      const other = await server();
      await done(a.replicate.to(other.db));
      assert.equal((await other.db.get('same'))._rev, here.rev);
    });

    it('pushes and pulls thousands of documents, with conflicts, deletions and attachments', async () => {
      const a = local();
      const { name, db } = await server();
      const docs = Array.from({ length: 3000 }, (_, n) => ({ _id: `doc-${String(n).padStart(4, '0')}`, n, text: `text of ${n} `.repeat(5) }));
      const made = await a.bulkDocs(docs);
      // Adds a conflict to every tenth document, deletes every twentieth, adds an attachment to every
      // fiftieth.
      await a.bulkDocs(
        docs.filter((doc) => doc.n % 10 === 0).map((doc) => ({ ...doc, _rev: `1-${'f'.repeat(32)}`, side: 'other' })),
        { new_edits: false },
      );
      await a.bulkDocs(docs.filter((doc) => doc.n % 20 === 5).map((doc) => ({ _id: doc._id, _rev: made[doc.n].rev, _deleted: true })));
      for (const doc of docs.filter((doc) => doc.n % 50 === 7)) {
        await a.putAttachment(doc._id, 'bytes.bin', made[doc.n].rev, Buffer.from([doc.n & 255, 0, 255, 128]), 'application/octet-stream');
      }
      const pushed = await done(a.replicate.to(db));
      assert.equal(pushed.ok, true);
      assert.equal(pushed.doc_write_failures, 0);
      // 3000 documents with one leaf each, of which 300 have a second leaf.
      assert.equal(pushed.docs_written, 3300);
      const info = await api.ok(`GET /${name}`);
      assert.equal(info.doc_count, 3000 - 150);
      assert.equal(info.doc_del_count, 150);

      const b = local();
      const pulled = await done(b.replicate.from(db));
      assert.equal(pulled.doc_write_failures, 0);
      assert.equal(pulled.docs_written, 3300);
      const [hereRows, thereRows, remoteRows] = await Promise.all([a, b, db].map((one) => one.allDocs({ include_docs: true, conflicts: true })));
      const shape = ({ rows }) => rows.map(({ id, doc }) => [id, doc._rev, doc._conflicts ?? [], doc.n, Object.keys(doc._attachments ?? {})]);
      assert.deepEqual(shape(thereRows), shape(hereRows));
      assert.deepEqual(shape(remoteRows), shape(hereRows));
      for (const n of [7, 57, 2957]) {
        const bytes = await b.getAttachment(`doc-${String(n).padStart(4, '0')}`, 'bytes.bin');
        assert.deepEqual([...bytes], [n & 255, 0, 255, 128]);
      }
    });

    it('goes on past documents that the server refuses', { skip: !!external }, async () => {
      const a = local();
      const { name, db } = await server();
      const limits = { max_document_size: '100000', max_attachment_size: '50000' };
      const old = {};
      for (const [key, value] of Object.entries(limits)) old[key] = await api.ok(`PUT /_node/_local/_config/couchdb/${key}`, { body: JSON.stringify(value) });
      try {
        await a.bulkDocs(Array.from({ length: 250 }, (_, n) => ({ _id: `fine${String(n).padStart(3, '0')}`, n })));
        const bad = [
          { _id: 'deep', a: JSON.parse(`${'['.repeat(600)}1${']'.repeat(600)}`) },
          { _id: 'half', text: 'half of a pair: \ud83d' },
          { _id: 'large', text: 'x'.repeat(200_000) },
          { _id: `long${'x'.repeat(8000)}` },
          { _id: 'attachment', _attachments: { f: { content_type: 'application/octet-stream', data: Buffer.alloc(60_000).toString('base64') } } },
        ];
        assert.ok((await a.bulkDocs(bad)).every(({ ok }) => ok));
        await a.bulkDocs(Array.from({ length: 250 }, (_, n) => ({ _id: `more${String(n).padStart(3, '0')}`, n })));
        const denied = [];
        const pushing = a.replicate.to(db);
        pushing.on('denied', (error) => denied.push([error.id, error.name]));
        const pushed = await done(pushing);
        assert.equal(pushed.ok, true);
        assert.equal(pushed.docs_written, 500);
        assert.equal(pushed.doc_write_failures, bad.length);
        assert.deepEqual(denied.sort(), bad.map(({ _id }) => [_id, 'forbidden']).sort());
        assert.equal((await api.ok(`GET /${name}`)).doc_count, 500);
        for (const word of ['"deep"', '"half"', '"large"', '"long', '"attachment"']) await api.server.logged(new RegExp(`doc=${word}`));
        // The checkpoint is behind them: the next push has nothing to do with them.
        await a.put({ _id: 'later' });
        const again = await done(a.replicate.to(db));
        assert.deepEqual([again.docs_read, again.docs_written, again.doc_write_failures], [1, 1, 0]);
      } finally {
        for (const [key, value] of Object.entries(old)) await api.ok(`PUT /_node/_local/_config/couchdb/${key}`, { body: JSON.stringify(value) });
      }
    });

    it('syncs live, both ways', async () => {
      const a = local();
      const b = local();
      const { db } = await server();
      const syncs = [a, b].map((one) => one.sync(db, { live: true, retry: true }));
      try {
        await a.put({ _id: 'from-a', n: 1 });
        await until('b to hear of a', () => b.get('from-a').catch(() => null));
        await b.put({ _id: 'from-b', n: 2 });
        await until('a to hear of b', () => a.get('from-b').catch(() => null));
        await db.put({ _id: 'from-server', n: 3 });
        await until('both to hear of the server', async () => (await a.get('from-server').catch(() => null)) && (await b.get('from-server').catch(() => null)));
        const doc = await b.get('from-a');
        await b.put({ ...doc, n: 10 });
        await until('a to have the edit', async () => (await a.get('from-a')).n === 10);
        await a.remove(await a.get('from-b'));
        await until('b to hear of the deletion', () => b.get('from-b').then(() => false, (error) => error.reason === 'deleted'));
      } finally {
        for (const sync of syncs) sync.cancel();
        await Promise.all(syncs.map((sync) => sync.catch(() => {})));
      }
    });

    it("two clients agree on a conflict's winner and on its resolution", async () => {
      const a = local();
      const b = local();
      const { db } = await server();
      await a.put({ _id: 'd', n: 0 });
      await done(a.replicate.to(db));
      await done(b.replicate.from(db));
      const base = await a.get('d');
      await a.put({ ...base, n: 1, by: 'a' });
      await b.put({ ...base, n: 2, by: 'b' });
      const again = await b.get('d');
      await b.put({ ...again, n: 3 });
      await a.sync(db);
      await b.sync(db);
      await a.sync(db);
      const seen = await Promise.all([a, b, db].map((one) => one.get('d', { conflicts: true })));
      for (const doc of seen) assert.deepEqual(doc, seen[0]);
      assert.equal(seen[0].n, 3, 'the longer history wins');
      assert.equal(seen[0]._conflicts.length, 1);
      // Resolve it on one side.
      await a.remove('d', seen[0]._conflicts[0]);
      await a.sync(db);
      await b.sync(db);
      for (const one of [a, b, db]) {
        const doc = await one.get('d', { conflicts: true });
        assert.equal(doc._conflicts, undefined);
        assert.equal(doc.n, 3);
      }
      assert.deepEqual(await leaves(b, 'd'), await leaves(a, 'd'));
      assert.deepEqual(await leaves(db, 'd'), await leaves(a, 'd'));
    });

    it('replicates deletions, and a document that is recreated after its deletion', async () => {
      const a = local();
      const b = local();
      const { db } = await server();
      const made = await a.bulkDocs([{ _id: 'x' }, { _id: 'y' }]);
      await a.sync(db);
      await b.sync(db);
      await a.remove('x', made[0].rev);
      await a.sync(db);
      await b.sync(db);
      await assert.rejects(b.get('x'), { status: 404, reason: 'deleted' });
      await assert.rejects(db.get('x'), { status: 404, reason: 'deleted' });
      await b.put({ _id: 'x', again: true });
      await b.sync(db);
      await a.sync(db);
      assert.equal((await a.get('x')).again, true);
      assert.deepEqual(await leaves(a, 'x'), await leaves(b, 'x'));
    });

    it('replicates attachments: binary, text, empty, large, with unusual names', async () => {
      const a = local();
      const { db } = await server();
      const attachments = {
        'bytes.bin': { content_type: 'application/octet-stream', data: randomBytes(5000) },
        'text.txt': { content_type: 'text/plain', data: Buffer.from('täxt '.repeat(1000)) },
        'page.html': { content_type: 'text/html; charset=utf-8', data: Buffer.from('<p>page') },
        empty: { content_type: 'text/plain', data: Buffer.alloc(0) },
        'big.png': { content_type: 'image/png', data: randomBytes(1_500_000) },
        'dir/näme +&?.bin': { content_type: 'application/octet-stream', data: Buffer.from([0]) },
      };
      await a.put({ _id: 'att', _attachments: attachments });
      await a.put({ _id: 'other', n: 1 });
      await done(a.replicate.to(db));
      const b = local();
      await done(b.replicate.from(db));
      for (const [name, { content_type: type, data }] of Object.entries(attachments)) {
        for (const one of [a, b, db]) {
          const bytes = Buffer.from(await one.getAttachment('att', name));
          assert.ok(bytes.equals(data), `${name}: ${bytes.length} of ${data.length}`);
        }
        const doc = await b.get('att');
        assert.equal(doc._attachments[name].content_type, type);
        assert.equal(doc._attachments[name].length, data.length);
      }
      // An edit that keeps the attachments replicates as stubs, in both directions.
      const doc = await b.get('att');
      await b.put({ ...doc, edited: true });
      await b.removeAttachment('att', 'empty', (await b.get('att'))._rev);
      await done(b.replicate.to(db));
      await done(a.replicate.from(db));
      const got = await a.get('att', { attachments: true, binary: true });
      assert.equal(got.edited, true);
      assert.equal(got._attachments.empty, undefined);
      assert.ok(got._attachments['big.png'].data.equals(attachments['big.png'].data));
    });

    it('stores checkpoints on both sides and never reads a document twice', async () => {
      const a = local();
      const { name, db } = await server();
      await a.bulkDocs(Array.from({ length: 120 }, (_, n) => ({ _id: `d${n}` })));
      const first = await done(a.replicate.to(db));
      assert.equal(first.docs_read, 120);
      const checkpoints = (await api.ok(`GET /${name}/_local_docs?include_docs=true`)).rows;
      assert.equal(checkpoints.length, 1);
      assert.ok(checkpoints[0].doc.last_seq !== undefined && checkpoints[0].doc.history.length > 0);
      const second = await done(a.replicate.to(db));
      assert.equal(second.docs_read, 0);
      await a.put({ _id: 'one-more' });
      assert.equal((await done(a.replicate.to(db))).docs_read, 1);
      const b = local();
      assert.equal((await done(b.replicate.from(db))).docs_read, 121);
      assert.equal((await done(b.replicate.from(db))).docs_read, 0);
    });

    it('filters by doc_ids and by selector', async () => {
      const { db } = await server();
      await db.bulkDocs(Array.from({ length: 200 }, (_, n) => ({ _id: `d${n}`, n, kind: n % 2 ? 'odd' : 'even' })));
      const byIds = local();
      const ids = await done(byIds.replicate.from(db, { doc_ids: ['d3', 'd50', 'd199', 'none'] }));
      assert.equal(ids.docs_written, 3);
      assert.deepEqual((await byIds.allDocs()).rows.map((row) => row.id).sort(), ['d199', 'd3', 'd50']);
      const bySelector = local();
      await done(bySelector.replicate.from(db, { selector: { kind: 'odd', n: { $gte: 100 } } }));
      const got = await bySelector.allDocs({ include_docs: true });
      assert.equal(got.rows.length, 50);
      assert.ok(got.rows.every(({ doc }) => doc.kind === 'odd' && doc.n >= 100));
      const live = bySelector.replicate.from(db, { live: true, selector: { kind: 'odd', n: { $gte: 100 } } });
      try {
        await db.bulkDocs([{ _id: 'no', kind: 'even', n: 500 }, { _id: 'yes', kind: 'odd', n: 501 }]);
        await until('the one that passes', () => bySelector.get('yes').catch(() => null));
        await assert.rejects(bySelector.get('no'), { status: 404 });
      } finally {
        live.cancel();
        await live.catch(() => {});
      }
      const up = await server();
      await done(byIds.replicate.to(up.db, { doc_ids: ['d3'] }));
      assert.deepEqual((await up.db.allDocs()).rows.map((row) => row.id), ['d3']);
    });

    it("receives the server's changes live", async () => {
      const { db } = await server();
      const heard = [];
      const feed = db.changes({ live: true, since: 'now', include_docs: true }).on('change', (change) => heard.push(change));
      try {
        for (let n = 0; n < 5; n += 1) {
          await db.put({ _id: `d${n}`, n });
          await until(`d${n} to be heard`, () => heard.length > n);
          assert.equal(heard[n].doc.n, n);
        }
      } finally {
        feed.cancel();
      }
    });

    it('resumes a push and a pull after the server was killed during them', { skip: !!external }, async () => {
      const a = local();
      const { name, db } = await server();
      const count = 1500;
      await a.bulkDocs(Array.from({ length: count }, (_, n) => ({ _id: `d${String(n).padStart(4, '0')}`, n })));
      shaky(db);
      /** Replicates, and kills the server in the middle. */
      const killed = async (begin, complete) => {
        let wrote;
        const middle = new Promise((resolve) => (wrote = resolve));
        const live = new Live(() => begin({ live: true, batch_size: 50 }).on('change', (info) => info.docs_written >= 300 && wrote()));
        await middle;
        await api.server.kill();
        await new Promise((resolve) => setTimeout(resolve, 150));
        await api.server.start();
        await until('the replication to be complete', async () => (await complete()) === count, 60);
        await live.stop();
      };
      await killed((options) => a.replicate.to(db, options), async () => (await api.ok(`GET /${name}`)).doc_count);
      const b = local();
      await db.bulkGet({ docs: [{ id: 'none' }] });
      await killed((options) => b.replicate.from(db, options), async () => (await b.info()).doc_count);
      const [one, two, three] = await Promise.all([a, b, db].map(async (each) => (await each.allDocs()).rows.map((row) => [row.id, row.value.rev])));
      assert.deepEqual(two, one);
      assert.deepEqual(three, one);
      // The checkpoint was kept: a new one-time push has nothing to send.
      assert.equal((await done(a.replicate.to(db))).docs_written, 0);
    });

    it('clients that make random edits over an unreliable network converge', { skip: !!external }, async (t) => {
      const seed = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
      const draw = random(seed);
      t.diagnostic(`SEED=${seed}`);
      console.log(`PouchDB ${version}: convergence with SEED=${seed}`);
      const { name, db } = await server();
      const proxy = await new Proxy(api.server.port).start();
      const clients = Array.from({ length: 4 }, () => local());
      const through = () => shaky(remote(name, proxy.port));
      // A PouchDB whose first `_bulk_get` fails asks for each document by itself from then on, and passes over those whose
      // request fails.
      await until('PouchDB to know _bulk_get', () => through().bulkGet({ docs: [{ id: 'none' }] }).then(() => true, () => false));
      const syncs = clients.map((client) => new Live(() => client.sync(through(), { live: true, batch_size: 20 }), 30));
      const ids = Array.from({ length: 15 }, (_, n) => `doc${n}`);
      let cutting = true;
      const cutter = (async () => {
        while (cutting) {
          await new Promise((resolve) => setTimeout(resolve, 20 + draw.below(120)));
          proxy.cut(() => draw.chance(0.5));
          if (draw.chance(0.1)) {
            proxy.down = true;
            await new Promise((resolve) => setTimeout(resolve, draw.below(150)));
            proxy.down = false;
          }
        }
      })();
      try {
        for (let step = 0; step < 240; step += 1) {
          const client = draw.pick(clients);
          const id = draw.pick(ids);
          const what = draw.next();
          const doc = await client.get(id).catch(() => ({ _id: id }));
          const edit = { ...doc, step, text: `s${step}` };
          let change;
          if (what < 0.15 && doc._rev) change = client.remove(doc);
          // Each attachment has a unique name: a pulling PouchDB that has another leaf of the document
          // requests a changed attachment without the revision, and may therefore receive the winner's bytes.
          else if (what < 0.25) change = client.put({ ...edit, _attachments: { ...doc._attachments, [`a${step}`]: { content_type: draw.pick(['text/plain', 'image/png']), data: Buffer.from(`bytes of ${step}`) } } });
          else change = client.put(edit);
          // A pull may have changed the document in between; then the edit is a conflict and is dropped.
          await change.catch((error) => assert.equal(error.status, 409));
          if (draw.chance(0.3)) await new Promise((resolve) => setTimeout(resolve, draw.below(25)));
        }
      } finally {
        cutting = false;
        await cutter;
        await Promise.all(syncs.map((sync) => sync.stop()));
        await proxy.stop();
      }
      assert.ok(proxy.cuts > 0, 'the proxy cut nothing');
      for (const client of [...clients, ...clients]) await client.sync(db);
      for (const id of ids) {
        const there = await leaves(db, id).catch(() => []);
        const winner = await db.get(id, { conflicts: true }).catch((error) => error.reason);
        for (const client of clients) {
          assert.deepEqual(await leaves(client, id).catch(() => []), there, `leaves of ${id} (SEED=${seed})`);
          const seen = await client.get(id, { conflicts: true }).catch((error) => error.reason);
          const plain = (doc) => (typeof doc === 'string' ? doc : [doc._rev, doc.step, [...(doc._conflicts ?? [])].sort(), Object.keys(doc._attachments ?? {}).sort()]);
          assert.deepEqual(plain(seen), plain(winner), `winner of ${id} (SEED=${seed})`);
          if (typeof seen === 'string') continue;
          for (const att of Object.keys(seen._attachments ?? {})) {
            assert.ok(Buffer.from(await client.getAttachment(id, att)).equals(Buffer.from(await db.getAttachment(id, att))), `${id}/${att} (SEED=${seed})`);
          }
        }
      }
    });
  });
}
