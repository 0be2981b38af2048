// Replications to another server through proxies, and over HTTP/2.

import http2 from 'node:http2';
import http from 'node:http';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { HttpProxy, SECRET, SocksProxy, USER } from '../harness/forward_proxy.js';
import { external, freePort, until } from '../harness/server.js';

const samples = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'src', 'net', 'tls', 'samples');
const sample = (name) => readFileSync(join(samples, name));

describe('replications through a proxy', { skip: !!external }, () => {
  const env = { SETTEE_REPLICATOR__ALLOW_PRIVATE: 'true', SETTEE_SETTEE__CA_FILE: join(samples, 'ca.pem') };
  const api = new Api({ env });
  let other;
  const [proxy, socks] = [new HttpProxy(), new SocksProxy()];
  let secure;

  before(async () => {
    const port = await freePort();
    secure = port;
    other = new Api({
      env: { SETTEE_SSL__CERT_FILE: join(samples, 'one.pem'), SETTEE_SSL__KEY_FILE: join(samples, 'one.key') },
      args: ['--tls-bind', `127.0.0.1:${port}`],
    });
    await Promise.all([api.start(), other.start(), proxy.start(), socks.start()]);
  });

  after(async () => {
    proxy.stop();
    socks.stop();
    await Promise.all([api.stop(), other.stop()]);
  });

  async function filled() {
    const db = await other.db();
    await other.ok(`POST /${db}/_bulk_docs`, { body: { docs: Array.from({ length: 20 }, (_, n) => ({ _id: `doc${n}`, n })) } });
    await other.ok(`PUT /${db}/attached/a.txt`, { body: 'x'.repeat(300_000), send: { 'Content-Type': 'text/plain' } });
    return db;
  }

  /** The other server's URL over TLS, with the admin's name and password. */
  const overTls = (db) => {
    const url = new URL(`${other.server.address}/${db}`);
    [url.protocol, url.hostname, url.port] = ['https:', 'localhost', secure];
    return url.href;
  };
  const port = (address) => new URL(address).port;

  for (const [name, url, source, expected] of [
    ['http, to an http URL', () => `http://${USER}:${encodeURIComponent(SECRET)}@127.0.0.1:${proxy.port}`, (db) => `${other.server.address}/${db}`, () => [proxy, `forward GET 127.0.0.1:${port(other.server.address)}`]],
    ['http, to an https URL', () => `http://${USER}:${encodeURIComponent(SECRET)}@127.0.0.1:${proxy.port}`, overTls, () => [proxy, `tunnel localhost:${secure}`]],
    ['socks5, to an http URL', () => `socks5://${USER}:${encodeURIComponent(SECRET)}@127.0.0.1:${socks.port}`, (db) => `${other.server.address}/${db}`, () => [socks, `127.0.0.1:${port(other.server.address)}`]],
    ['socks5, to an https URL', () => `socks5://${USER}:${encodeURIComponent(SECRET)}@127.0.0.1:${socks.port}`, overTls, () => [socks, `localhost:${secure}`]],
  ]) {
    it(name, async () => {
      const db = await filled();
      const [asked, line] = expected();
      asked.asked.length = 0;
      const target = `${db}-copy`;
      const pulled = await api.call('POST /_replicate', { body: { source: source(db), target, create_target: true, source_proxy: url() } });
      assert.equal(pulled.status, 200, pulled.text);
      assert.equal(pulled.json.history[0].docs_written, 21);
      assert.ok(asked.asked.includes(line), `${line} in ${asked.asked}`);
      assert.ok(!asked.asked.includes('refused'));
      const pushed = await api.call('POST /_replicate', { body: { source: target, target: source(`${db}-back`), create_target: true, proxy: url() } });
      assert.equal(pushed.status, 200, pushed.text);
      assert.equal(pushed.json.history[0].docs_written, 21);
      assert.ok(!asked.asked.includes('refused'));
    });
  }

  it('with a wrong password fails in words that do not repeat it', async () => {
    for (const [scheme, of] of [['http', proxy], ['socks5', socks]]) {
      for (const source of [`${other.server.address}/x`, overTls('x')]) {
        const body = { source, target: 'nowhere', create_target: true, proxy: `${scheme}://${USER}:wrong-one@127.0.0.1:${of.port}`, retries_per_request: 0 };
        const { status, text } = await api.call('POST /_replicate', { body });
        assert.ok(status >= 400, text);
        assert.doesNotMatch(text, /wrong-one/);
        assert.doesNotMatch(api.server.log(), /wrong-one/);
      }
    }
  });

  it('of a document: _scheduler/docs names the proxy without its password', async () => {
    const db = await filled();
    const proxied = `http://${USER}:${encodeURIComponent(SECRET)}@127.0.0.1:${proxy.port}/`;
    await api.ok('PUT /_replicator/proxied', { body: { source: `${other.server.address}/${db}`, target: `${db}-doc`, create_target: true, continuous: true, source_proxy: proxied } });
    const shown = await until('the job to run', async () => {
      const found = (await api.call('GET /_scheduler/docs/_replicator/proxied')).json;
      return found.state === 'running' && found;
    });
    assert.equal(shown.source_proxy, `http://127.0.0.1:${proxy.port}/`);
    assert.equal(shown.target_proxy, null);
    await until('the documents', async () => (await api.call(`GET /${db}-doc`)).json.doc_count === 21);
  });

  it('to a private address is refused unless that is allowed', async () => {
    const strict = new Api({});
    await strict.start();
    try {
      const before = proxy.asked.length;
      const body = { source: 'http://example.org/x', target: 'y', create_target: true, proxy: `http://${USER}:x@127.0.0.1:${proxy.port}`, retries_per_request: 0 };
      const { status, text } = await strict.call('POST /_replicate', { body });
      assert.ok(status >= 400, text);
      assert.match(text, /127\.0\.0\.1/);
      assert.equal(proxy.asked.length, before, 'it was not asked');
    } finally {
      await strict.stop();
    }
  });

  it('HTTP/2 carries the requests, and HTTP/1.1 the feeds', async () => {
    const versions = new Map();
    const target = new URL(other.server.base);
    const front = http2.createSecureServer({ allowHTTP1: true, cert: sample('one.pem'), key: sample('one.key') }, (from, to) => {
      const { pathname, search, searchParams } = new URL(from.url, 'https://localhost');
      const last = searchParams.get('feed') ?? pathname.split('/').pop();
      versions.set(last, (versions.get(last) ?? new Set()).add(from.httpVersion));
      const headers = Object.fromEntries(Object.entries(from.headers).filter(([name]) => !name.startsWith(':')));
      const call = http.request({ host: target.hostname, port: target.port, method: from.method, path: pathname + search, headers }, (answer) => {
        const { connection, 'transfer-encoding': _, 'keep-alive': __, ...rest } = answer.headers;
        to.writeHead(answer.statusCode, rest);
        answer.pipe(to);
        answer.on('error', () => {});
      });
      // The feed that still waits at the end of the test.
      call.on('error', () => to.end());
      from.pipe(call);
    });
    const sessions = new Set();
    front.on('session', (session) => sessions.add(session));
    await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve));
    try {
      const db = await filled();
      const source = new URL(overTls(db));
      source.port = front.address().port;
      const body = { source: source.href, target: `${db}-h2`, create_target: true, continuous: true };
      const { status, text, json } = await api.call('POST /_replicate', { body });
      assert.equal(status, 202, text);
      await until('the feed to wait', () => versions.has('longpoll'));
      await until('the documents', async () => (await api.ok(`GET /${db}-h2`)).doc_count === 21);
      assert.deepEqual(['_bulk_get', 'normal', 'longpoll'].map((kind) => [...versions.get(kind)]), [['2.0'], ['2.0'], ['1.1']]);
      await api.ok('POST /_replicate', { body: { replication_id: json._local_id, cancel: true } });
    } finally {
      front.close();
      for (const session of sessions) session.destroy();
    }
  });
});
