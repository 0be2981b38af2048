// A server gives disk space back while it runs: it rewrites its store after a compaction.

import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Api, describe, it, assert } from '../harness/rows.js';
import { settee } from '../harness/command.js';
import { external, until } from '../harness/server.js';

const MB = 1_000_000;
/** So many documents have a body of half a megabyte; each is edited so often. */
const DOCS = 24;
const EDITS = 6;
/** So many keep such a body. */
const LARGE = 4;

/** What of the data folder belongs to a store. */
const stores = (data) => readdirSync(data).filter((name) => /^(store-|mark-|format\.tmp)/.test(name));

/** Bytes on disk of the stores. A file may be removed meanwhile. */
function storeBytes(data) {
  const bytesOf = (path) => statSync(path, { throwIfNoEntry: false })?.blocks * 512 || 0;
  return readdirSync(data, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.parentPath.includes('store-'))
    .reduce((bytes, entry) => bytes + bytesOf(join(entry.parentPath, entry.name)), 0);
}

for (const engine of ['sled', 'redb']) {
  describe(`disk use, ${engine}`, { skip: !!external }, () => {
    it('a compaction shrinks the files while a client writes and a feed waits', async () => {
      const api = new Api({ args: ['--store', engine] });
      await api.start();
      try {
        const data = join(api.server.folder, 'data');
        const db = await api.db();
        const filler = (edit) => String(edit).padStart(8, '0').repeat(64 * 1024);
        const revisions = Array(DOCS).fill(undefined);
        const write = async (first, last, body) => {
          const docs = revisions.slice(first, last).map((_rev, at) => ({ _id: `d${first + at}`, _rev, ...body }));
          const rows = await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
          rows.forEach(({ rev }, at) => (revisions[first + at] = rev));
        };
        for (let edit = 0; edit < EDITS; edit++) {
          for (let first = 0; first < DOCS; first += 6) await write(first, first + 6, { filler: filler(edit) });
        }
        await write(LARGE, DOCS, { small: true });
        const before = storeBytes(data);
        assert.ok(before > 50 * MB, `${before}`);
        const { update_seq: since } = await api.ok(`GET /${db}`);
        const path = `/${db}/_changes?feed=longpoll&filter=_doc_ids&since=${since}&timeout=60000`;
        const feed = api.ok(`POST ${path}`, { body: { doc_ids: ['last'] } });
        const acknowledged = new Map();
        let writing = true;
        const writer = (async () => {
          for (let n = 0; writing; n++) acknowledged.set(`w${n}`, (await api.ok(`PUT /${db}/w${n}`, { body: { n } })).rev);
        })();
        await api.ok(`POST /${db}/_compact`, { body: {} });
        await until('the files to shrink', () => stores(data).join() === 'mark-2,store-2' && storeBytes(data) < before / 3, 60);
        writing = false;
        await writer;
        await api.ok(`PUT /${db}/last`, { body: {} });
        assert.deepEqual((await feed).results.map(({ id }) => id), ['last']);
        const check = async () => {
          for (const [id, rev] of acknowledged) assert.equal((await api.ok(`GET /${db}/${id}`))._rev, rev);
          assert.equal((await api.ok(`GET /${db}/d0`)).filler, filler(EDITS - 1));
          assert.equal((await api.ok(`GET /${db}/d${LARGE}`)).small, true);
        };
        await check();
        // The command does it at once, through the running server.
        const { code, out, err } = await settee(['compact-store', '--data', data]);
        assert.equal(code, 0, err);
        assert.match(out, /before, .* now/);
        assert.deepEqual(stores(data), ['mark-3', 'store-3']);
        await api.server.restart();
        await check();
      } finally {
        await api.stop();
      }
    });
  });
}
