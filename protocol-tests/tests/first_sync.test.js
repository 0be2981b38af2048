// The first sync of a client: more rows of `_changes` for PouchDB's replicator, rows without old tombstones, compressed answers.

import zlib from 'node:zlib';
import { suite, it, assert } from '../harness/rows.js';
import { external } from '../harness/server.js';

const enc = encodeURIComponent;

suite('first sync', (api) => {
  const fill = async (count, text = '') => {
    const db = await api.db();
    for (let at = 0; at < count; at += 1000) {
      const docs = Array.from({ length: Math.min(1000, count - at) }, (_, n) => ({ _id: `d${String(at + n).padStart(5, '0')}`, text }));
      await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
    }
    return db;
  };
  const rows = async (db, query) => (await api.ok(`GET /${db}/_changes?${query}`)).results.length;

  it('a PouchDB that is far behind gets more rows than it asked for', { skip: !!external }, async () => {
    const db = await fill(2500);
    const first = await api.ok(`GET /${db}/_changes?style=all_docs&since=0&limit=100`);
    assert.equal(first.results.length, 1000);
    assert.deepEqual([first.last_seq, first.pending], [first.results.at(-1).seq, 1500]);
    const second = await api.ok(`GET /${db}/_changes?style=all_docs&since=${enc(first.last_seq)}&limit=100`);
    assert.deepEqual([second.results.length, second.results[0].id, second.pending], [1500, 'd01000', 0], 'the last page has all that is left');
    assert.equal(await rows(db, `style=all_docs&since=${enc(second.last_seq)}&limit=100`), 0);
    assert.equal(await rows(db, `style=all_docs&since=${enc(second.results[499].seq)}&limit=100`), 100, 'it is not far behind');
    assert.equal(await rows(db, 'style=all_docs&since=0&limit=25'), 25, 'changes()');
    for (const other of ['style=all_docs&limit=100&since=0', 'since=0&style=all_docs&limit=100', 'style=main_only&since=0&limit=100', 'style=all_docs&since=0&limit=100&include_docs=true', 'style=all_docs&since=0&limit=100&feed=normal', 'style=all_docs&since=0&limit=101', 'limit=100', 'style=all_docs&since=0&limit=100&filter=_design']) {
      assert.ok((await rows(db, other)) <= 101, other);
    }
    const posted = await api.ok(`POST /${db}/_changes?style=all_docs&since=0&limit=100`, { body: {} });
    assert.equal(posted.results.length, 100);
  });

  it('large documents end the page', { skip: !!external }, async () => {
    const db = await fill(1500, 'x'.repeat(20_000));
    const page = await rows(db, 'style=all_docs&since=0&limit=100');
    assert.ok(page > 150 && page < 210, `${page}`);
  });

  it('tombstones_since leaves out older tombstones', { skip: !!external }, async () => {
    const db = await fill(300);
    const revs = (await api.ok(`GET /${db}/_all_docs`)).rows.map(({ id, value }) => ({ _id: id, _rev: value.rev, _deleted: true }));
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: revs.slice(0, 250) } });
    const { update_seq: born } = await api.ok(`GET /${db}`);
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: revs.slice(250, 260) } });
    const asked = async (query) => {
      const { results } = await api.ok(`GET /${db}/_changes?${query}`);
      return [results.length, results.filter(({ deleted }) => deleted).length];
    };
    assert.deepEqual(await asked('since=0'), [300, 260]);
    assert.deepEqual(await asked(`since=0&tombstones_since=${enc(born)}`), [50, 10]);
    assert.deepEqual(await asked('since=0&tombstones_since=now'), [40, 0]);
    assert.deepEqual(await asked('descending=true&tombstones_since=now'), [40, 0]);
    assert.deepEqual(await asked('since=0&tombstones_since=0'), [300, 260]);
    const page = await api.ok(`GET /${db}/_changes?since=0&limit=30&tombstones_since=${enc(born)}`);
    assert.deepEqual([page.results.length, page.last_seq], [30, page.results.at(-1).seq]);
    assert.deepEqual(await asked(`since=${enc(page.last_seq)}&tombstones_since=${enc(born)}`), [20, 10]);
    const refused = await api.call(`GET /${db}/_changes?tombstones_since=x`);
    assert.deepEqual([refused.status, refused.json.error], [400, 'bad_request']);
  });

  it('_changes and _bulk_get are compressed', { skip: !!external }, async () => {
    const db = await fill(1000, 'words that compress '.repeat(20));
    const asked = [
      ['GET', `/${db}/_changes?style=all_docs&since=0&limit=1000`],
      ['POST', `/${db}/_bulk_get?revs=true&latest=true`, { docs: Array.from({ length: 1000 }, (_, n) => ({ id: `d${String(n).padStart(5, '0')}` })) }],
    ];
    const readers = { gzip: zlib.gunzipSync, zstd: zlib.zstdDecompressSync };
    for (const [method, path, body] of asked) {
      const plain = await api.call(`${method} ${path}`, { body });
      assert.equal(plain.headers['content-encoding'], undefined);
      for (const [accepted, encoding] of [['gzip', 'gzip'], ['zstd', 'zstd'], ['gzip, deflate, br, zstd', 'zstd']]) {
        const packed = await api.call(`${method} ${path}`, { body, send: { 'Accept-Encoding': accepted } });
        assert.equal(packed.headers['content-encoding'], encoding, path);
        assert.ok(packed.body.length * 3 < plain.body.length, `${path} ${encoding}: ${packed.body.length} of ${plain.body.length}`);
        // node 22.15 and newer read zstd.
        if (readers[encoding]) assert.equal(readers[encoding](packed.body).toString(), plain.text);
      }
    }
  });
});
