// The commands beside `serve`, and what an admin of the machine sees of a start and a stop.

import { spawn, spawnSync } from 'node:child_process';
import { closeSync, openSync, readSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it, assert, Api } from '../harness/rows.js';
import { request } from '../harness/http.js';
import { binary, external, freePort, noFolder, until, Server } from '../harness/server.js';
import { inFolder, settee } from '../harness/command.js';

const basic = (who) => ({ Authorization: `Basic ${Buffer.from(who).toString('base64')}` });

/** Runs `work` with a running server. */
async function withServer(options, work) {
  const api = new Api(options);
  await api.start();
  try {
    return await work(api);
  } finally {
    await api.stop();
  }
}

const data = (api) => join(api.server.folder, 'data');

describe('settee health', { skip: !!external }, () => {
  it('calls a server alive that requires a valid user, and one in maintenance not', () =>
    withServer({}, async (api) => {
      const at = ['health', '--at', `127.0.0.1:${api.server.port}`];
      assert.equal((await settee(at)).code, 0);
      await api.ok('PUT /_node/_local/_config/chttpd/require_valid_user', { body: '"true"' });
      assert.equal((await api.call('GET /_up', { as: null })).status, 401);
      assert.equal((await settee(at)).code, 0, 'it answers');
      assert.equal((await settee([...at, '--data', data(api)])).code, 0, 'the control socket answers');
      await api.ok('PUT /_node/_local/_config/couchdb/maintenance_mode', { body: '"true"' });
      const { code, err } = await settee([...at, '--data', data(api)]);
      assert.equal(code, 1, 'the control socket says more than 401');
      assert.match(err, /is not well: it answers `HTTP\/1.1 404/);
      await api.ok('PUT /_node/_local/_config/chttpd/require_valid_user_except_for_up', { body: '"true"' });
      assert.equal((await api.call('GET /_up', { as: null })).status, 404, '/_up is open');
    }));

  it('fails if nothing listens', async () => {
    const { code, err } = await settee(['health', '--at', `127.0.0.1:${await freePort()}`]);
    assert.equal(code, 1);
    assert.match(err, /is not well/);
  });
});

describe('settee admin', { skip: !!external }, () => {
  it('sets a password on the running server', () =>
    withServer({}, async (api) => {
      const { code, out } = await settee(['admin', 'admin', '--data', data(api)]);
      assert.equal(code, 0, out);
      assert.match(out, /admin has a new password, on the running server/);
      const password = out.match(/password {2}(\S+)/)[1];
      assert.equal((await api.call('GET /_all_dbs')).status, 401, 'the old password');
      assert.equal((await api.call('GET /_all_dbs', { as: `admin:${password}` })).status, 200);
    }));

  it('makes an admin on the data folder of a stopped server', { skip: noFolder }, () =>
    withServer({ env: { COUCHDB_SECRET: 'given by the environment' } }, async (api) => {
      const cookie = (await api.call('POST /_session', { body: { name: 'admin', password: 'pass word:1' } })).headers['set-cookie'][0];
      const child = api.server.child;
      child.kill('SIGTERM');
      await api.server.exited;
      const { code, out } = await settee(['admin', 'second', '--data', data(api), '--password-file', '-'], { input: 'four words or more\n' });
      assert.equal(code, 0, out);
      assert.match(out, /second is a server admin now, on the data folder .* \(its server does not run\)/);
      assert.ok(!out.includes('four words'), 'a given password is not shown');
      await api.server.restart();
      assert.equal((await api.call('GET /_all_dbs', { as: 'second:four words or more' })).status, 200);
      const session = await api.call('GET /_session', { as: null, send: { Cookie: cookie.split(';')[0] } });
      assert.equal(session.json.userCtx.name, 'admin', 'the command has changed no secret');
    }));

  it('refuses a folder that is no data folder', () =>
    inFolder(async (folder) => {
      const { code, err } = await settee(['admin', 'ann', '--data', join(folder, 'none')]);
      assert.equal(code, 1);
      assert.match(err, /none is not a settee data folder: it is empty, or not there. Name the folder by --data/);
      assert.ok(!err.includes('--server'), 'it has no such option');
      writeFileSync(join(folder, 'other'), '');
      assert.match((await settee(['admin', 'ann', '--data', folder])).err, /is not a settee data folder/);
    }));
});

describe('settee config import', { skip: !!external }, () => {
  it("converts CouchDB's local.ini, with which the server then starts", () =>
    inFolder(async (folder) => {
      const [ini, toml] = [join(folder, 'local.ini'), join(folder, 'settee.toml')];
      writeFileSync(ini, '[couchdb]\nmax_document_size = 1234567 ; bytes\n[chttpd]\nport = 5984\n[cluster]\nn = 3\n[admins]\nann = secret\n');
      const refused = await settee(['--config', ini, '--data', join(folder, 'data')]);
      assert.equal(refused.code, 2);
      assert.match(refused.err, /settee config import/);
      const { code, err } = await settee(['config', 'import', ini, '--to', toml]);
      assert.equal(code, 0, err);
      assert.match(err, /\[cluster\] n is not taken over: settee is a single node/);
      assert.equal(statSync(toml).mode & 0o777, 0o600);
      const server = new Server({ args: ['--config', toml] });
      await server.start();
      try {
        const answer = await request(server.base, { path: '/_node/_local/_config/couchdb/max_document_size', headers: basic('ann:secret') });
        assert.equal(answer.json, '1234567');
      } finally {
        await server.stop();
      }
      assert.match((await settee(['config', 'import', ini, '--to', toml])).err, /cannot be written/, 'it overwrites nothing');
    }));
});

describe('a data folder', { skip: !!external }, () => {
  it('is readable for its owner only, and so are backups', { skip: noFolder }, () =>
    withServer({}, async (api) => {
      const [folder, db] = [data(api), await api.db()];
      await api.ok(`PUT /${db}/a/b.txt`, { body: 'text', send: { 'Content-Type': 'text/plain' } });
      const open = () => spawnSync('find', [folder, '-perm', '/077'], { encoding: 'utf8' }).stdout;
      assert.equal(open(), '');
      const backup = join(api.server.folder, 'one.backup');
      assert.equal((await settee(['backup', backup, '--data', folder])).code, 0);
      assert.equal(statSync(backup).mode & 0o777, 0o600);
      api.server.child.kill('SIGTERM');
      await api.server.exited;
      spawnSync('chmod', ['-R', 'go+rX', folder]);
      await api.server.restart();
      assert.equal(open(), '', 'the start takes it from the others');
      await api.server.logged(/other users of this machine could read .*\/data: now only its owner may/);
    }));

  it('of redb is closed by a stop, so that no start has anything to repair', () =>
    withServer({ args: ['--store', 'redb'] }, async (api) => {
      await api.db();
      api.server.child.kill('SIGTERM');
      await api.server.exited;
      // redb's header: 9 bytes of magic number, then flags; 2 means that the file was not closed.
      const file = openSync(join(data(api), 'store-1', 'settee.redb'), 'r');
      const head = Buffer.alloc(10);
      readSync(file, head, 0, 10, 0);
      closeSync(file);
      assert.equal(head.subarray(0, 4).toString('latin1'), 'redb');
      assert.equal(head[9] & 2, 0, 'the file needs no recovery');
      await api.server.restart();
      assert.ok(!/repair|crash/.test(api.server.log()), api.server.log());
    }));
});

describe('a start', { skip: !!external }, () => {
  it('that fails says why, once', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => taken.on('listening', resolve));
    try {
      await inFolder(async (folder) => {
        const { port } = taken.address();
        for (const log of ['info', 'off']) {
          const { code, err } = await settee(['--bind', `127.0.0.1:${port}`, '--data', join(folder, 'data'), '--log', log], { env: { COUCHDB_USER: 'a', COUCHDB_PASSWORD: 'b' } });
          assert.equal(code, 1);
          assert.equal(err.split('cannot listen on').length - 1, 1, `--log ${log}: ${err}`);
          assert.match(err, /Another program listens there/);
        }
      });
    } finally {
      taken.close();
    }
  });

  it('refuses a log level that is none', async () => {
    const { code, err } = await settee(['--log', 'verbose']);
    assert.equal(code, 2);
    assert.match(err, /`verbose` is none of off, error, warn/);
  });

  it('listens on the port that a host assigns', () =>
    inFolder(async (folder) => {
      const port = await freePort();
      const env = { PORT: String(port), COUCHDB_USER: 'a', COUCHDB_PASSWORD: 'b' };
      const child = spawn(binary(), ['--data', join(folder, 'data')], { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] });
      let log = '';
      child.stderr.on('data', (part) => (log += part));
      const exited = new Promise((resolve) => child.on('exit', resolve));
      try {
        await until('/_up', async () => (await request(`http://127.0.0.1:${port}`, { path: '/_up', fresh: true }).catch(() => null))?.status === 200);
        assert.equal((await settee(['health'], { env })).code, 0, 'settee health asks the same port');
        assert.match(log, /because the environment variable PORT is set/);
      } finally {
        child.kill('SIGTERM');
        await exited;
      }
      assert.match(log, new RegExp(`settee is ready: http://localhost:${port}/`));
      assert.match(log, /stopping: [^]*settee has stopped/, 'in this order');
    }));

  it('warns of an address that a set-up script sets over HTTP, and prefers the one that is given', { skip: noFolder }, () =>
    withServer({}, async (api) => {
      const port = await freePort();
      const setup = { action: 'enable_single_node', bind_address: '0.0.0.0', port, singlenode: true };
      assert.equal((await api.call('POST /_cluster_setup', { body: setup })).status, 201);
      await until('the warning', () => /bind_address was set over HTTP: from the next start on, the server listens on 0.0.0.0/.test(api.server.log()));
      await api.server.restart('SIGTERM');
      assert.ok(!/listening on all interfaces/.test(api.server.log()), '--bind wins');
      await api.ok('PUT /_node/_local/_config/chttpd/bind_address', { body: '"127.0.0.1"' });
      api.server.child.kill('SIGTERM');
      await api.server.exited;
      const child = spawn(binary(), ['--data', data(api)], { stdio: ['ignore', 'ignore', 'pipe'] });
      let log = '';
      child.stderr.on('data', (part) => (log += part));
      const exited = new Promise((resolve) => child.on('exit', resolve));
      try {
        await until('the start', () => /settee is ready/.test(log));
        assert.match(log, new RegExp(`listening on 127.0.0.1:${port} because chttpd/bind_address and chttpd/port were set over HTTP`));
      } finally {
        child.kill('SIGTERM');
        await exited;
      }
      await api.server.restart();
    }));

  it('takes over the socket that systemd has opened', () =>
    inFolder(async (folder) => {
      const listener = createServer();
      await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
      const { port } = listener.address();
      // As systemd starts a service: the variables name the process that is to have the socket.
      const child = spawn('sh', ['-c', 'LISTEN_PID=$$ exec "$0" "$@"', binary(), '--data', join(folder, 'data')], {
        env: { ...process.env, LISTEN_FDS: '1', COUCHDB_USER: 'a', COUCHDB_PASSWORD: 'b' },
        stdio: ['ignore', 'ignore', 'pipe', listener._handle.fd],
      });
      listener.close();
      let log = '';
      child.stderr.on('data', (part) => (log += part));
      const exited = new Promise((resolve) => child.on('exit', resolve));
      try {
        await until('/_up', async () => (await request(`http://127.0.0.1:${port}`, { path: '/_up', fresh: true }).catch(() => null))?.status === 200);
        await until('the server to be ready', () => /settee is ready/.test(log));
        assert.match(log, new RegExp(`address=127.0.0.1:${port}`));
        const restarted = await request(`http://127.0.0.1:${port}`, { method: 'POST', path: '/_node/_local/_restart', headers: basic('a:b'), fresh: true });
        assert.equal(restarted.status, 200);
        await until('the restart', () => /settee restarts[^]*settee is ready/.test(log));
        assert.equal((await request(`http://127.0.0.1:${port}`, { path: '/_up', fresh: true })).status, 200, 'a restart keeps the socket');
      } finally {
        child.kill('SIGTERM');
        await exited;
      }
    }));
});
