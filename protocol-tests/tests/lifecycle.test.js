// Starting, stopping and killing the server process.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, assert, Api } from '../harness/rows.js';
import { request } from '../harness/http.js';
import { binary, external, freePort, noFolder, until } from '../harness/server.js';

const run = (args, env = {}) =>
  new Promise((resolve) => {
    const folder = mkdtempSync(join(tmpdir(), 'settee-run-'));
    const child = spawn(binary(), args, { cwd: folder, env: { ...process.env, ...env } });
    let out = '';
    child.stdout.on('data', (part) => (out += part));
    child.stderr.on('data', (part) => (out += part));
    const limit = setTimeout(() => child.kill('SIGKILL'), 20_000);
    child.on('exit', (code, signal) => {
      clearTimeout(limit);
      rmSync(folder, { recursive: true, force: true });
      resolve({ code, signal, out });
    });
  });

describe('the process', { skip: !!external }, () => {
  it('--help shows the usage', async () => {
    const { code, out } = await run(['--help']);
    assert.equal(code, 0);
    assert.match(out, /serve/);
  });

  it('an invalid setting prevents the start and is reported', async () => {
    for (const args of [['serve', '--bind', 'nonsense'], ['serve', '--no-such-flag']]) {
      const { code, out } = await run(args);
      assert.ok(code !== 0 && code !== null, `${args}: ${code}`);
      assert.ok(out.length > 10);
      assert.ok(!/panicked/.test(out), out);
    }
  });

  it('shows the password of the admin that it made, even if the port is taken', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => taken.on('listening', resolve));
    try {
      const { code, out } = await run(['serve', '--bind', `127.0.0.1:${taken.address().port}`]);
      assert.equal(code, 1, out);
      assert.match(out, /cannot listen/);
      assert.match(out, /password {2}[0-9a-f]{32}/);
      // Another program would get the password.
      assert.doesNotMatch(out, /curl/);
    } finally {
      taken.close();
    }
  });

  it('SIGTERM ends live feeds cleanly, finishes writes, and exits with 0', async () => {
    const api = new Api();
    await api.start();
    try {
      const db = await api.db();
      const feed = await api.lines(`GET /${db}/_changes?feed=continuous&heartbeat=10000&since=now`);
      const poll = await api.lines(`GET /${db}/_changes?feed=longpoll&heartbeat=10000&since=now`);
      await poll.next();
      await api.ok(`PUT /${db}/before`, { body: {} });
      assert.equal(JSON.parse(await feed.row()).id, 'before');
      const stopping = api.server.stop();
      while ((await feed.next(20)) !== null);
      await stopping;
    } finally {
      await api.stop();
    }
  });

  it('SIGTERM ends the server at any moment of its start', async () => {
    for (let moment = 0; moment < 12; moment += 1) {
      const folder = mkdtempSync(join(tmpdir(), 'settee-run-'));
      const args = ['serve', '--data', join(folder, 'data'), '--bind', '127.0.0.1:0'];
      const child = spawn(binary(), args, { cwd: folder, env: { ...process.env, COUCHDB_USER: 'a', COUCHDB_PASSWORD: 'b' } });
      const ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
      await new Promise((resolve) => setTimeout(resolve, moment * moment * 4));
      child.kill('SIGTERM');
      const limit = setTimeout(() => child.kill('SIGKILL'), 20_000);
      const how = await ended;
      clearTimeout(limit);
      rmSync(folder, { recursive: true, force: true });
      // Before the process installs its signal handler, SIGTERM kills it.
      assert.ok(how.code === 0 || how.signal === 'SIGTERM', `after ${moment * moment * 4} ms: ${JSON.stringify(how)}`);
    }
  });

  it('SIGTERM during a restart is not lost', async () => {
    const api = new Api();
    await api.start();
    try {
      for (let pause = 0; pause < 400; pause += 80) {
        await api.ok('POST /_node/_local/_restart', { body: {} });
        await new Promise((resolve) => setTimeout(resolve, pause));
        await api.server.restart('SIGTERM');
      }
    } finally {
      await api.stop();
    }
  });

  it('a log that is not read blocks neither requests nor the shutdown', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'settee-run-'));
    const port = await freePort();
    const args = ['serve', '--data', join(folder, 'data'), '--bind', `127.0.0.1:${port}`];
    const env = { ...process.env, COUCHDB_USER: 'a', COUCHDB_PASSWORD: 'b' };
    // The test never reads these pipes.
    const child = spawn(binary(), args, { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
    const base = `http://127.0.0.1:${port}`;
    await until('/_up', () => request(base, { path: '/_up', fresh: true }).then((answer) => answer.status === 200, () => false));
    // Each request logs one line; together they exceed the pipe's buffer.
    const path = `/_up?${'x'.repeat(2000)}`;
    for (let asked = 0; asked < 2000; asked += 1) assert.equal((await request(base, { path })).status, 200);
    child.kill('SIGTERM');
    const limit = setTimeout(() => child.kill('SIGKILL'), 20_000);
    assert.deepEqual(await ended, { code: 0, signal: null });
    clearTimeout(limit);
    rmSync(folder, { recursive: true, force: true });
  });

  it('acknowledged writes survive SIGKILL', async () => {
    const api = new Api();
    await api.start();
    try {
      const db = await api.db();
      const acknowledged = new Map();
      let stop = false;
      const writers = Array.from({ length: 8 }, async (_, w) => {
        for (let n = 0; !stop; n += 1) {
          const id = `w${w}-${n}`;
          try {
            const { status, json } = await api.call(`PUT /${db}/${id}`, { body: { n, text: 'x'.repeat(200) } });
            if (status === 201) acknowledged.set(id, json.rev);
          } catch {
            return;
          }
        }
      });
      await until('enough writes', () => acknowledged.size > 300);
      const attachment = await api.ok(`PUT /${db}/att/a.bin`, { body: Buffer.alloc(100_000, 7), send: { 'Content-Type': 'application/octet-stream' } });
      await api.server.kill();
      stop = true;
      await Promise.all(writers);
      await api.server.start();
      const all = await api.ok(`GET /${db}/_all_docs`);
      const there = new Map(all.rows.map((row) => [row.id, row.value.rev]));
      for (const [id, rev] of acknowledged) assert.equal(there.get(id), rev, `${id} was acknowledged`);
      assert.equal(there.get('att'), attachment.rev);
      assert.deepEqual((await api.call(`GET /${db}/att/a.bin`)).body, Buffer.alloc(100_000, 7));
      // _all_docs, the database info and _changes agree.
      const info = await api.ok(`GET /${db}`);
      assert.equal(info.doc_count, there.size);
      const changes = await api.ok(`GET /${db}/_changes`);
      assert.equal(changes.results.length, there.size);
      assert.equal(new Set(changes.results.map((row) => row.id)).size, there.size);
      for (const row of changes.results) assert.equal(row.changes[0].rev, there.get(row.id));
      await api.ok(`PUT /${db}/after`, { body: {} });
    } finally {
      await api.stop();
    }
  });

  it('a restart keeps databases, sequences, security, local documents and the server\'s uuid', async () => {
    const api = new Api();
    await api.start();
    try {
      const db = await api.db();
      await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'a' }, { _id: 'b' }] } });
      await api.ok(`PUT /${db}/_local/c`, { body: { seq: 1 } });
      await api.ok(`PUT /${db}/_revs_limit`, { body: '77' });
      await api.ok(`PUT /${db}/_security`, { body: { admins: { names: ['x'] } } });
      const before = { root: await api.ok('GET /'), changes: await api.ok(`GET /${db}/_changes`), info: await api.ok(`GET /${db}`) };
      for (const signal of ['SIGTERM', 'SIGKILL']) {
        await api.server.restart(signal);
        assert.equal((await api.ok('GET /')).uuid, before.root.uuid);
        assert.deepEqual(await api.ok(`GET /${db}/_changes`), before.changes);
        assert.equal((await api.ok(`GET /${db}`)).update_seq, before.info.update_seq);
        assert.equal((await api.ok(`GET /${db}/_local/c`)).seq, 1);
        assert.equal(await api.ok(`GET /${db}/_revs_limit`), 77);
        assert.deepEqual((await api.ok(`GET /${db}/_security`)).admins, { names: ['x'] });
        const since = encodeURIComponent(before.changes.last_seq);
        assert.deepEqual((await api.ok(`GET /${db}/_changes?since=${since}`)).results, []);
      }
    } finally {
      await api.stop();
    }
  });

  it('two processes cannot use the same data folder', { skip: noFolder }, async () => {
    const api = new Api();
    await api.start();
    try {
      const { code, out } = await run(['serve', '--data', join(api.server.folder, 'data'), '--bind', '127.0.0.1:0'], { COUCHDB_USER: 'a', COUCHDB_PASSWORD: 'b' });
      assert.ok(code !== 0 && code !== null, `it started: ${out}`);
      assert.ok(!/panicked/.test(out), out);
    } finally {
      await api.stop();
    }
  });
});
