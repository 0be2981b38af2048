// HTTPS: the certificate, its replacement while the server runs, headers that differ from plain HTTP, and the
// shutdown.
//
// The certificates are those of the Rust tests (src/net/tls/samples): an authority, and two server certificates
// `one` and `two` that it issued.

import https from 'node:https';
import tls from 'node:tls';
import net from 'node:net';
import { execFile } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, it, before, after, assert, Api, like } from '../harness/rows.js';
import { ADMIN, PASSWORD, external, freePort, until } from '../harness/server.js';

const here = dirname(fileURLToPath(import.meta.url));
const samples = join(here, '..', '..', 'src', 'net', 'tls', 'samples');
const ca = readFileSync(join(samples, 'ca.pem'));
const basic = { Authorization: `Basic ${Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64')}` };

function ask(port, req, { headers = {}, body } = {}) {
  const [method, path] = req.split(' ');
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, method, path, headers, ca, servername: 'localhost', agent: false };
    const call = https.request(options, (answer) => {
      let text = '';
      answer.on('data', (part) => (text += part));
      answer.on('error', reject);
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
    });
    call.on('error', reject);
    call.end(body);
  });
}

/** Connects and resolves to the name in the server's certificate, and the TLS version. */
function shown(port, options = {}) {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: '127.0.0.1', port, ca, servername: 'localhost', ...options }, () => {
      resolve({ name: socket.getPeerCertificate().subject.CN, version: socket.getProtocol() });
      socket.destroy();
    });
    socket.on('error', reject);
  });
}

describe('TLS', { skip: !!external }, () => {
  let folder;
  let api;
  let port;

  const use = (name) => {
    for (const [from, to] of [[`${name}.pem`, 'cert.pem'], [`${name}.key`, 'key.pem']]) {
      copyFileSync(join(samples, from), join(folder, 'new'));
      renameSync(join(folder, 'new'), join(folder, to));
    }
  };

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'settee-tls-'));
    use('one');
    port = await freePort();
    const env = { SETTEE_SSL__CERT_FILE: join(folder, 'cert.pem'), SETTEE_SSL__KEY_FILE: join(folder, 'key.pem') };
    api = new Api({ env, args: ['--tls-bind', `127.0.0.1:${port}`] });
    await api.start();
  });

  after(async () => {
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('both ports respond, and only the TLS port sends HSTS', async () => {
    const secure = await ask(port, 'GET /');
    assert.equal(secure.status, 200);
    assert.equal(secure.headers['strict-transport-security'], 'max-age=31536000');
    const plain = await api.call('GET /');
    assert.equal(plain.status, 200);
    assert.equal(plain.headers['strict-transport-security'], undefined);
  });

  it('the session cookie is Secure only over TLS', async () => {
    const form = { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ name: ADMIN, password: PASSWORD }) };
    const secure = await ask(port, 'POST /_session', form);
    assert.equal(secure.status, 200, secure.text);
    assert.match(secure.headers['set-cookie'][0], /^AuthSession=.*; Secure/);
    const plain = await api.call('POST /_session', { body: { name: ADMIN, password: PASSWORD }, as: null });
    assert.doesNotMatch(plain.headers['set-cookie'][0], /Secure/);
  });

  it('Location headers start with https', async () => {
    const db = await api.db();
    const made = await ask(port, `PUT /${db}/doc`, { headers: { ...basic, 'Content-Type': 'application/json' }, body: '{}' });
    assert.equal(made.status, 201, made.text);
    assert.match(made.headers.location, new RegExp(`^https://127\\.0\\.0\\.1:${port}/${db}/doc$`));
  });

  it('supports TLS 1.2 and 1.3 only', async () => {
    assert.equal((await shown(port)).version, 'TLSv1.3');
    assert.equal((await shown(port, { maxVersion: 'TLSv1.2' })).version, 'TLSv1.2');
    await assert.rejects(shown(port, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }));
  });

  it('a client without the CA certificate rejects the server', async () => {
    await assert.rejects(shown(port, { ca: [] }), /certificate/);
  });

  it('plain HTTP on the TLS port gets no response and does no harm', async () => {
    const got = await new Promise((resolve) => {
      let all = '';
      const socket = net.connect(port, '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'));
      socket.on('data', (part) => (all += part.toString('latin1')));
      socket.on('error', () => {});
      socket.on('close', () => resolve(all));
    });
    assert.ok(!got.includes('HTTP/1.1'), got);
    assert.equal((await ask(port, 'GET /_up')).status, 200);
  });

  it('unmodified PouchDB syncs over TLS', async () => {
    const db = await api.db();
    const script = `
      import { createRequire } from 'node:module';
      const require = createRequire(${JSON.stringify(join(here, '..', 'package.json'))});
      const PouchDB = require('pouchdb-9');
      PouchDB.plugin(require('pouchdb-adapter-memory-9'));
      const local = new PouchDB('local', { adapter: 'memory' });
      await local.bulkDocs(Array.from({ length: 20 }, (_, n) => ({ _id: 'd' + n, n })));
      const auth = { username: ${JSON.stringify(ADMIN)}, password: ${JSON.stringify(PASSWORD)} };
      const done = await local.sync(new PouchDB('https://localhost:${port}/${db}', { auth, skip_setup: true }));
      console.log(done.push.docs_written, done.push.errors.length);
      process.exit(0);`;
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: join(samples, 'ca.pem') };
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], { env, timeout: 60_000 });
    assert.equal(stdout.trim(), '20 0');
    assert.equal((await api.ok(`GET /${db}`)).doc_count, 20);
  });

  it('new certificate files are loaded without a restart, even if they change one after the other', async () => {
    assert.equal((await shown(port)).name, 'one');
    copyFileSync(join(samples, 'two.pem'), join(folder, 'cert.pem'));
    await until('the warning', () => /stays in use/.test(api.server.log()));
    assert.equal((await shown(port)).name, 'one');
    copyFileSync(join(samples, 'two.key'), join(folder, 'key.pem'));
    await until('the new certificate', async () => (await shown(port)).name === 'two');
    assert.equal((await ask(port, 'GET /_up')).status, 200);
  });

  it('certificate files cannot be changed over HTTP', async () => {
    for (const [key, value] of [['cert_file', '/etc/passwd'], ['key_file', '/etc/shadow'], ['enable', 'false']]) {
      const answer = await api.call(`PUT /_node/_local/_config/ssl/${key}`, { body: JSON.stringify(value) });
      assert.equal(answer.status, 403, key);
      like(answer.json, { error: 'forbidden' });
    }
    for (const section of ['ssl', 'settee']) {
      assert.equal((await api.call(`DELETE /_node/_local/_config/${section}/cert_file`)).status, 403);
      assert.equal((await api.call(`PUT /_node/_local/_config/${section}/ca_file`, { body: '"/etc/passwd"' })).status, 403);
    }
    assert.equal((await ask(port, 'GET /_up')).status, 200);
  });

  it('SIGTERM ends feeds over TLS cleanly', async () => {
    const db = await api.db();
    let ended;
    await new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port, path: `/${db}/_changes?feed=continuous&heartbeat=10000&since=now`, headers: basic, ca, servername: 'localhost' };
      https
        .get(options, (answer) => {
          ended = new Promise((done) => answer.resume().on('end', () => done('end')).on('error', (error) => done(error)));
          resolve();
        })
        .on('error', reject);
    });
    const stopping = api.server.stop();
    assert.equal(await ended, 'end');
    await stopping;
  });
});
