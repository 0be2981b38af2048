// Replication by the server with a PouchDB Server (4.2.0, in memory), in both directions.

import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { request } from '../harness/http.js';
import { external, freePort, until } from '../harness/server.js';

const program = () => {
  const described = createRequire(import.meta.url).resolve('pouchdb-server/package.json');
  return join(dirname(described), 'bin', 'pouchdb-server');
};

describe('replication with a PouchDB Server', { skip: !!external }, () => {
  const api = new Api({ env: { SETTEE_REPLICATOR__ALLOW_PRIVATE: 'true', SETTEE_REPLICATOR__CHECKPOINT_INTERVAL: '1000' } });
  let folder;
  let child;
  let base;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'settee-pouchdb-server-'));
    const port = await freePort();
    base = `http://127.0.0.1:${port}`;
    const args = [program(), '--in-memory', '--port', String(port), '--host', '127.0.0.1', '--no-color'];
    const out = openSync(join(folder, 'log'), 'a');
    child = spawn(process.execPath, args, { cwd: folder, stdio: ['ignore', out, out] });
    closeSync(out);
    await Promise.all([
      api.start(),
      until('PouchDB Server', () => {
        assert.equal(child.exitCode, null, 'it ended');
        return request(base).then(({ json }) => !!json['express-pouchdb'], () => false);
      }),
    ]);
  });

  after(async () => {
    child.kill('SIGKILL');
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  /**
   * All leaves of a database there (`at` is its URL) or here: ids, revisions, histories, bodies, attachments. The digest of
   * a text is that of the compressed bytes here, and that of its content there.
   */
  async function leaves(name, at) {
    const headers = at ? {} : api.headers();
    const ask = (path, options) => request(at ?? api.base, { path: `/${name}${path}`, headers, ...options });
    const { json } = await ask('/_changes?style=all_docs');
    const all = [];
    for (const { id, changes } of json.results) {
      const revs = encodeURIComponent(JSON.stringify(changes.map(({ rev }) => rev)));
      const answer = await ask(`/${encodeURIComponent(id)}?revs=true&open_revs=${revs}`, { headers: { ...headers, accept: 'application/json' } });
      for (const { ok } of answer.json) {
        assert.ok(ok, answer.text);
        const { _attachments = {}, ...doc } = ok;
        const attachments = Object.entries(_attachments).map(([file, { digest, content_type }]) => [file, content_type, content_type === 'text/plain' || digest]);
        all.push({ ...doc, attachments: attachments.sort() });
      }
    }
    return all.sort((a, b) => (a._id + a._rev < b._id + b._rev ? -1 : 1));
  }

  /** Conflicts, deletions, attachments, a design document, odd ids. */
  async function fill(db) {
    const docs = Array.from({ length: 250 }, (_, n) => ({ _id: `doc ${n}/ä?#%`, _rev: `1-${'a'.repeat(31)}0`, n }));
    docs.push({ _id: 'conflict', _rev: '2-b', _revisions: { start: 2, ids: ['b', 'a'] }, side: 'b' });
    docs.push({ _id: 'conflict', _rev: '2-c', _revisions: { start: 2, ids: ['c', 'a'] }, side: 'c' });
    docs.push({ _id: 'gone', _rev: '2-b', _revisions: { start: 2, ids: ['b', 'a'] }, _deleted: true });
    docs.push({ _id: '_design/app', _rev: '1-x', views: { all: { map: 'function (doc) { emit(doc._id); }' } } });
    assert.deepEqual(await api.ok(`POST /${db}/_bulk_docs`, { body: { docs, new_edits: false } }), []);
    const put = (name, rev, body, type) =>
      api.ok(`PUT /${db}/attached/${name}${rev ? `?rev=${rev}` : ''}`, { body, send: { 'Content-Type': type } });
    // Text is stored compressed, and must arrive as it was.
    const { rev } = await put('text.txt', null, 'compressible '.repeat(10_000), 'text/plain');
    await put('bytes.bin', rev, Buffer.from(Array.from({ length: 1 << 20 }, (_, n) => (n * 7919) % 251)), 'application/octet-stream');
  }

  async function copy(source, target) {
    const answer = await api.call('POST /_replicate', { body: { source, target, create_target: true } });
    assert.equal(answer.status, 200, `${answer.text}, and its log says:\n${readFileSync(join(folder, 'log'))}`);
    assert.equal(answer.json.history[0].doc_write_failures, 0);
    return answer.json;
  }

  it('all leaves, bodies and attachments arrive there and come back', async () => {
    const db = await api.db();
    await fill(db);
    const expected = await leaves(db);
    assert.equal(expected.length, 255);
    await copy(db, `${base}/${db}`);
    assert.deepEqual(await leaves(db, base), expected);
    const there = await request(base, { path: `/${db}/attached/text.txt` });
    assert.equal(there.text, 'compressible '.repeat(10_000));
    await copy(`${base}/${db}`, `${db}-back`);
    assert.deepEqual(await leaves(`${db}-back`), expected);
    assert.equal((await api.call(`GET /${db}-back/attached/text.txt`)).text, 'compressible '.repeat(10_000));
    const again = await copy(db, `${base}/${db}`);
    assert.equal(again.no_changes, true, 'it begins at its checkpoint');
  });

  it('edits on both sides are followed, and their conflicts arrive', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
    const there = (path, options) => request(base, { path: `/${db}${path}`, ...options });
    await there('', { method: 'PUT' });
    const jobs = [[db, `${base}/${db}`], [`${base}/${db}`, db]].map(([source, target], n) => [`both-${db}-${n}`, { source, target, continuous: true }]);
    for (const [id, body] of jobs) await api.ok(`PUT /_replicator/${id}`, { body });
    const shared = await until('the document there', async () => {
      const { status, json } = await there('/a');
      return status === 200 && json;
    });
    const json = { 'Content-Type': 'application/json' };
    await there('/b', { method: 'PUT', headers: json, body: JSON.stringify({ from: 'there' }) });
    await api.ok(`PUT /${db}/a`, { body: { _rev: shared._rev, n: 2 } });
    await until('the new document here', async () => (await api.call(`GET /${db}/b`)).status === 200);
    await until('equal leaves', async () => isDeepStrictEqual(await leaves(db), await leaves(db, base)));
    for (const [id] of jobs) {
      const { _rev } = await api.ok(`GET /_replicator/${id}`);
      await api.ok(`DELETE /_replicator/${id}?rev=${_rev}`);
    }
  });
});
