// Automatic certificates by ACME, from an authority that runs in the test (harness/authority.js).

import https from 'node:https';
import tls from 'node:tls';
import { execFile } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach } from 'node:test';
import { describe, it, assert, Api, like } from '../harness/rows.js';
import { ADMIN, PASSWORD, Server, binary, external, freePort, noFolder, until } from '../harness/server.js';
import { Authority } from '../harness/authority.js';

const run = promisify(execFile);
const NAMES = ['b.example', 'sync.example.com'];
const hour = 3_600_000;

/** A validity period of 15 hours, of which two thirds end in 3 seconds; the renewal is due then. */
const dueSoon = (now) => ({ from: new Date(now - 10 * hour + 3000), until: new Date(now + 5 * hour + 3000) });

describe('automatic certificates', { skip: !!external }, () => {
  let folder;
  let authority;
  let port;
  let api;

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'settee-acme-'));
    port = await freePort();
    authority = await new Authority(port).start();
    writeFileSync(join(folder, 'ca.pem'), authority.ca.root);
    const settings = `
      ca_file = ${JSON.stringify(join(folder, 'ca.pem'))}
      [ssl]
      acme_domains = "Sync.example.com, b.example"
      acme_contact = "ann@example.com"
      acme_directory = "${authority.directory}"
      acme_agree = true
      bind_address = "127.0.0.1"
      port = ${port}`;
    writeFileSync(join(folder, 'settee.toml'), settings);
    api = new Api({ args: ['--config', join(folder, 'settee.toml')] });
  });

  afterEach(async () => {
    try {
      await api.stop();
    } finally {
      await authority.stop();
      rmSync(folder, { recursive: true, force: true });
    }
  });

  /** Connects to `name`. Resolves to the server's certificate; rejects if it is not trusted. */
  function shown(name = NAMES[1], options = {}) {
    return new Promise((resolve, reject) => {
      const all = { host: '127.0.0.1', port, servername: name, ca: authority.ca.root, ALPNProtocols: ['http/1.1'], ...options };
      const socket = tls.connect(all, () => {
        const { serialNumber, subjectaltname } = socket.getPeerCertificate();
        resolve({ serial: serialNumber, names: subjectaltname, protocol: socket.alpnProtocol });
        socket.destroy();
      });
      socket.on('error', reject);
    });
  }

  function ask(req, { headers = {}, body, agent = false } = {}) {
    const [method, path] = req.split(' ');
    return new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port, method, path, headers, ca: authority.ca.root, servername: NAMES[1], agent };
      const call = https.request(options, (answer) => {
        let text = '';
        answer.on('data', (part) => (text += part));
        answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
      });
      call.on('error', reject);
      call.end(body);
    });
  }

  const certificate = () => until('a certificate', () => shown().catch(() => null));
  const kept = () => join(api.server.folder, 'data', 'acme');
  const pems = () => readdirSync(kept()).filter((name) => name.endsWith('.pem')).map((name) => join(kept(), name));
  const certificateFile = () => pems().find((file) => /certificate-/.test(file));

  /** Waits until the certificate is stored, so that the next start finds it. */
  function toBeKept({ serial }) {
    return until('it to be kept', () => {
      const text = certificateFile() ? readFileSync(certificateFile(), 'utf8') : '';
      const begin = text.indexOf('-----BEGIN CERTIFICATE');
      return begin > 0 && new X509Certificate(text.slice(begin)).serialNumber === serial;
    });
  }

  it('are obtained for all names, validated on the TLS port only, and served', async () => {
    let open;
    authority.gate = () => new Promise((resolve) => (open = resolve));
    authority.forgets = 1;
    await api.start();
    await until('the order', () => open);

    // Without a certificate, TLS handshakes fail, but plain HTTP works.
    await assert.rejects(shown(), /alert access denied/);
    await assert.rejects(shown(NAMES[1], { ALPNProtocols: ['acme-tls/1'] }), /alert access denied/);
    assert.equal((await api.call('GET /_up')).status, 200);
    open();

    const first = await certificate();
    assert.equal(first.protocol, 'http/1.1');
    assert.equal(first.names, 'DNS:b.example, DNS:sync.example.com');
    assert.equal((await shown(NAMES[0])).serial, first.serial);
    await assert.rejects(shown('elsewhere.example'), /does not match/);
    await assert.rejects(shown(NAMES[1], { ca: [] }), /certificate/);
    await assert.rejects(shown(NAMES[1], { ALPNProtocols: ['acme-tls/1'] }), /alert/, 'nothing is checked any more');
    assert.deepEqual(authority.checks.sort((a, b) => (a.domain < b.domain ? -1 : 1)), NAMES.map((domain) => ({ domain, wrong: null })));
    assert.deepEqual([...authority.accounts.values()].map(({ contact }) => contact), [['mailto:ann@example.com']]);

    // The same behavior as with a certificate from files.
    const up = await ask('GET /_up');
    assert.equal(up.headers['strict-transport-security'], 'max-age=31536000');
    const signed = await ask('POST /_session', { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ name: ADMIN, password: PASSWORD }) });
    assert.match(signed.headers['set-cookie'][0], /^AuthSession=.*; Secure/);

    // Only the owner may read the keys, and the log does not contain them.
    // (On PostgreSQL: postgres/certificates.test.js.)
    if (!noFolder) {
      await toBeKept(first);
      assert.equal(statSync(kept()).mode & 0o7777, 0o700);
      for (const file of pems()) {
        assert.equal(statSync(file).mode & 0o7777, 0o600, file);
        const [, line] = readFileSync(file, 'utf8').split('\n');
        assert.ok(line.length === 64 && !api.server.log().includes(line), file);
      }
    }
    await api.server.logged(/a new certificate is in use/);
    assert.doesNotMatch(api.server.log(), /PRIVATE KEY/);
  });

  it('survive restarts, kills and maintenance commands without a new order', { skip: noFolder }, async () => {
    await api.start();
    const first = await certificate();
    await toBeKept(first);
    const { requests } = authority;
    for (const signal of ['SIGTERM', 'SIGKILL']) {
      await api.server.restart(signal);
      assert.equal((await certificate()).serial, first.serial, signal);
    }
    await api.ok('PUT /things');
    await api.ok('POST /_node/_local/_restart');
    await until('the restart', () => /settee restarts[^]*settee is ready/.test(api.server.log()));
    assert.equal((await certificate()).serial, first.serial);

    const data = join(api.server.folder, 'data');
    const to = join(folder, 'backup');
    await run(binary(), ['backup', '--data', data, to]);
    assert.ok(!readFileSync(to).includes('PRIVATE KEY'), 'a backup has no keys of TLS');
    const child = api.server.child;
    child.kill('SIGTERM');
    await api.server.exited;
    const before = pems().map((file) => readFileSync(file, 'utf8'));
    await run(binary(), ['check', '--data', data]);
    await run(binary(), ['compact-store', '--data', data]);
    await run(binary(), ['restore', '--data', join(folder, 'restored'), to]);
    await run(binary(), ['check', '--data', join(folder, 'restored')]);
    assert.deepEqual(pems().map((file) => readFileSync(file, 'utf8')), before);
    assert.equal(authority.requests, requests, 'nobody was asked');
    assert.equal(authority.orders.length, 1);

    // The server restores the folder's permissions, and replaces a damaged certificate.
    chmodSync(kept(), 0o755);
    writeFileSync(certificateFile(), 'damaged');
    await api.server.restart();
    assert.notEqual((await certificate()).serial, first.serial);
    assert.equal(statSync(kept()).mode & 0o7777, 0o700);
    assert.equal(authority.accounts.size, 1);
  });

  it('are renewed in time, without a restart', async () => {
    let issued;
    let asked;
    let release;
    authority.dates.push(() => dueSoon((issued = Date.now())));
    authority.gate = async () => {
      if (issued === undefined) return;
      asked = Date.now();
      await new Promise((resolve) => (release = resolve));
    };
    await api.start();
    const first = await certificate();
    await until('the second order', () => release);
    // Validity dates are rounded to whole seconds, so the order may come up to a second early.
    assert.ok(asked - issued > 1000, 'not before its time');
    assert.equal((await shown()).serial, first.serial);
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    assert.equal((await ask('GET /_up', { agent })).status, 200);
    release();
    const second = await until('another certificate', async () => {
      const now = await shown();
      return now.serial !== first.serial && now;
    });
    assert.equal(second.names, first.names);
    assert.equal((await ask('GET /_up', { agent })).status, 200, 'open connections stay open');
    agent.destroy();
    assert.equal(authority.orders.length, 2);
    assert.equal(authority.accounts.size, 1);
    if (noFolder) return;
    await toBeKept(second);
    await api.server.restart('SIGTERM');
    assert.equal((await certificate()).serial, second.serial);
    assert.equal(authority.orders.length, 2);
  });

  it('stay in use if the renewal fails', async () => {
    authority.dates.push(() => dueSoon(Date.now()));
    authority.gate = () => {
      if (authority.orders.length > 0) throw authority.refusal('rateLimited', 'too many certificates of that name');
    };
    await api.start();
    const first = await certificate();
    await until('the warning', () => /WARN.*no new certificate was obtained, the current one stays in use.*too many certificates/.test(api.server.log()));
    assert.equal((await shown()).serial, first.serial);
    assert.equal((await ask('GET /_up')).status, 200);
    assert.equal(authority.orders.length, 1);
  });

  it('are missing if the authority refuses, but the server runs', async () => {
    authority.gate = () => {
      throw authority.refusal('rejectedIdentifier', 'not for\nthat name');
    };
    await api.start();
    await until('the warning', () => /WARN.*no certificate was obtained, TLS is not available yet/.test(api.server.log()));
    const warning = (await api.server.logged(/no certificate was obtained/)).split('\n').find((line) => /no certificate was obtained/.test(line));
    assert.match(warning, /rejectedIdentifier.*not for.*that name/, 'on one line');
    assert.match(warning, /2 min/);
    await assert.rejects(shown(), /alert access denied/);
    assert.equal((await api.call('GET /_up')).status, 200);
    await api.ok('PUT /things');
    const { requests } = authority;
    for (let n = 0; n < 20; n += 1) await assert.rejects(shown());
    assert.equal(authority.requests, requests, 'handshakes ask nobody');
  });

  it('are not issued for a name that points to another server', async () => {
    authority.port = await freePort();
    await api.start();
    await until('the warning', () => /no certificate was obtained.*could not validate (b\.example|sync\.example\.com).*ECONNREFUSED/.test(api.server.log()));
    assert.equal((await api.call('GET /_up')).status, 200);
  });

  it('are not requested from an authority with an untrusted certificate', async () => {
    const lines = readFileSync(join(folder, 'settee.toml'), 'utf8').split('\n');
    writeFileSync(join(folder, 'settee.toml'), lines.filter((line) => !/ca_file/.test(line)).join('\n'));
    await api.start();
    await until('the warning', () => /no certificate was obtained.*UnknownIssuer/.test(api.server.log()));
    assert.equal(authority.requests, 0);
  });

  it('are not obtained from a server that is not an ACME authority', async () => {
    await api.start();
    await certificate();
    const old = authority;
    authority = await new Authority(port).start();
    authority.server.removeAllListeners('request');
    authority.server.on('request', (_, answer) => answer.writeHead(200, { 'Content-Length': 9 }).end('{"no":1}\n'));
    await old.stop();
    writeFileSync(join(folder, 'ca.pem'), authority.ca.root);
    const settings = readFileSync(join(folder, 'settee.toml'), 'utf8');
    writeFileSync(join(folder, 'settee.toml'), settings.replace(old.directory, authority.directory));
    await api.server.restart('SIGTERM');
    await until('the warning', () => /no certificate was obtained.*missing field/.test(api.server.log()));
    assert.equal((await api.call('GET /_up')).status, 200);
  });

  it('cannot be configured over HTTP', async () => {
    await api.start();
    for (const [key, value] of [['acme_domains', 'evil.example'], ['acme_directory', 'https://evil.example/'], ['acme_agree', 'false']]) {
      const answer = await api.call(`PUT /_node/_local/_config/ssl/${key}`, { body: JSON.stringify(value) });
      assert.equal(answer.status, 403, key);
      like(answer.json, { error: 'forbidden' });
    }
  });

  it('are only requested if the settings are complete and valid', async () => {
    const file = join(folder, 'settee.toml');
    const settings = readFileSync(file, 'utf8');
    for (const [changed, says] of [
      [settings.replace('acme_agree = true', ''), /acme_agree is not true.*terms of service/],
      [`${settings}\ncert_file = "cert.pem"`, /acme_domains.*set only one of the two/],
      [settings.replace('Sync.example.com', '*.example.com'), /wildcard/],
      [settings.replace('https://', 'http://'), /acme_directory/],
    ]) {
      writeFileSync(file, changed);
      const server = new Server({ args: ['--config', file] });
      await assert.rejects(server.start(), says);
      server.remove();
    }
    assert.equal(authority.requests, 0);
  });
});
