// HTTP/2: which connections speak it, and what differs from HTTP/1.1. `over_http2.test.js` runs tests of
// HTTP/1.1 over it, `tests/hostile/http2.rs` attacks it.

import http2 from 'node:http2';
import tls from 'node:tls';
import { createHash, randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD, external, freePort, until } from '../harness/server.js';
import { connect } from '../harness/http2.js';
import { raw } from '../harness/http.js';

const here = dirname(fileURLToPath(import.meta.url));
const samples = join(here, '..', '..', 'src', 'net', 'tls', 'samples');
const ca = readFileSync(join(samples, 'ca.pem'));
const authorization = `Basic ${Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64')}`;
const tlsEnv = { SETTEE_SSL__CERT_FILE: join(samples, 'one.pem'), SETTEE_SSL__KEY_FILE: join(samples, 'one.key') };

/** Sends a request on a session. `body` may be a list of parts. Resolves to the answer, with its trailers. */
function ask(session, req, { headers = {}, body, trailers } = {}) {
  const [method, path] = req.split(' ');
  return new Promise((resolve, reject) => {
    const sent = { ':method': method, ':path': path, authorization, ...headers };
    for (const [name, value] of Object.entries(sent)) if (value === undefined) delete sent[name];
    const stream = session.request(sent, { endStream: body === undefined, waitForTrailers: !!trailers });
    const parts = [];
    let answer;
    stream.on('response', (fields) => (answer = fields));
    stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    stream.on('data', (part) => parts.push(part));
    stream.on('error', reject);
    stream.on('close', () => {
      if (!answer) return reject(new Error(`no answer (${stream.rstCode})`));
      const whole = Buffer.concat(parts);
      return resolve({ status: answer[':status'], headers: answer, body: whole, text: whole.toString() });
    });
    // Piped, not written at once: node resets a stream whose session keeps too much in memory.
    if (body !== undefined) Readable.from([body].flat()).pipe(stream);
  });
}

/** The version of HTTP that a TLS handshake agrees on, and whether the server closes instead. */
function agreed(port, protocols) {
  return new Promise((resolve) => {
    const options = { host: '127.0.0.1', port, ca, servername: 'localhost', ALPNProtocols: protocols };
    const socket = tls.connect(options, () => {
      resolve(socket.alpnProtocol);
      socket.destroy();
    });
    socket.on('error', (error) => resolve(error.code));
  });
}

describe('HTTP/2', { skip: !!external }, () => {
  let api;
  let port;
  let session;
  let json;

  before(async () => {
    port = await freePort();
    api = new Api({ env: tlsEnv, args: ['--tls-bind', `127.0.0.1:${port}`] });
    await api.start();
    session = connect(port, { host: 'localhost', ca });
    json = { 'content-type': 'application/json' };
  });

  after(async () => {
    session.close();
    await api.stop();
  });

  it('a handshake agrees on what the client offers', async () => {
    assert.equal(await agreed(port, ['h2', 'http/1.1']), 'h2');
    assert.equal(await agreed(port, ['http/1.1', 'h2']), 'h2');
    assert.equal(await agreed(port, ['http/1.1']), 'http/1.1');
    assert.equal(await agreed(port, undefined), false);
  });

  it('the plain port speaks it to a client that begins with it', async () => {
    const plain = connect(api.server.port);
    assert.equal((await ask(plain, 'GET /_up')).status, 200);
    plain.close();
    assert.match(await raw(api.server.port, 'GET /_up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'), /^HTTP\/1.1 200 /);
    assert.match(await raw(api.server.port, 'PRIME /_up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'), /^HTTP\/1.1 405 /);
  });

  it('the authority is the host: Location, CORS', async () => {
    const db = await api.db();
    const put = await ask(session, `PUT /${db}/doc`, { headers: json, body: '{}' });
    assert.equal(put.status, 201, put.text);
    assert.equal(put.headers.location, `https://localhost:${port}/${db}/doc`);
    const named = await ask(session, `PUT /${db}/other`, { headers: { ...json, ':authority': 'sync.example:99' }, body: '{}' });
    assert.equal(named.headers.location, `https://sync.example:99/${db}/other`);
    // A page of the server itself is no page of another site.
    const own = await ask(session, 'GET /', { headers: { origin: `https://localhost:${port}` } });
    assert.equal(own.status, 200);
    const both = await ask(session, 'GET /', { headers: { ':authority': 'a.example', host: 'b.example' } });
    assert.equal(both.status, 400);
  });

  it('cookies in several fields are one', async () => {
    const signed = await ask(session, 'POST /_session', { headers: { ...json, authorization: undefined }, body: JSON.stringify({ name: ADMIN, password: PASSWORD }) });
    assert.equal(signed.status, 200, signed.text);
    const cookie = signed.headers['set-cookie'][0];
    assert.match(cookie, /; Secure/);
    const split = await ask(session, 'GET /_session', {
      headers: { authorization: undefined, cookie: ['first=1', cookie.split(';')[0], 'last="x"'] },
    });
    assert.equal(JSON.parse(split.text).userCtx.name, ADMIN, split.text);
  });

  it('responses have no headers of a connection, and HEAD has the headers of GET', async () => {
    const db = await api.db();
    await ask(session, `PUT /${db}/doc`, { headers: json, body: '{"a":1}' });
    const got = await ask(session, `GET /${db}/doc`);
    const head = await ask(session, `HEAD /${db}/doc`);
    assert.equal(head.status, 200);
    assert.equal(head.body.length, 0);
    for (const name of ['content-length', 'content-type', 'etag']) assert.equal(head.headers[name], got.headers[name], name);
    const list = await ask(session, `GET /${db}/_all_docs`);
    for (const answer of [got, head, list]) {
      for (const name of ['connection', 'transfer-encoding', 'keep-alive', 'upgrade']) assert.equal(answer.headers[name], undefined);
    }
    const gone = await ask(session, `GET /${db}/doc`, { headers: { 'if-none-match': got.headers.etag } });
    assert.deepEqual([gone.status, gone.body.length], [304, 0]);
  });

  it('a body may come without its length, in parts and with trailers', async () => {
    const db = await api.db();
    const parts = ['{"a":', '"', 'x'.repeat(100_000), '"}'];
    const put = await ask(session, `PUT /${db}/parts`, { headers: json, body: parts, trailers: { 'x-checksum': 'abc' } });
    assert.equal(put.status, 201, put.text);
    assert.equal(JSON.parse((await ask(session, `GET /${db}/parts`)).text).a.length, 100_000);
    const short = await ask(session, `PUT /${db}/short`, { headers: { ...json, 'content-length': '2' }, body: '{}' });
    assert.equal(short.status, 201, short.text);
    await assert.rejects(ask(session, `PUT /${db}/wrong`, { headers: { ...json, 'content-length': '9' }, body: '{}' }));
    assert.equal((await ask(session, `GET /${db}/wrong`)).status, 404);
  });

  it('a body that is too large is refused before it is sent', async () => {
    const db = await api.db();
    const stream = session.request({ ':method': 'PUT', ':path': `/${db}/big`, authorization, ...json, 'content-length': String(2 ** 33) });
    const status = await new Promise((resolve, reject) => {
      stream.on('response', (fields) => resolve(fields[':status']));
      stream.on('error', reject);
    });
    assert.equal(status, 413);
    stream.close();
    assert.equal((await ask(session, 'GET /_up')).status, 200, 'the connection goes on');
  });

  it('100 MiB go up and come back, whole and in ranges, beside other requests', async () => {
    const db = await api.db();
    const file = randomBytes(100 << 20);
    const parts = Array.from({ length: 100 }, (_, n) => file.subarray(n << 20, (n + 1) << 20));
    const uploading = ask(session, `PUT /${db}/doc/file`, { headers: { 'content-type': 'application/octet-stream' }, body: parts });
    let during = 0;
    let done = false;
    const watching = (async () => {
      while (!done) {
        assert.equal((await ask(session, 'GET /_up')).status, 200);
        during += 1;
      }
    })();
    const up = await uploading;
    done = true;
    await watching;
    assert.equal(up.status, 201, up.text);
    assert.ok(during > 1, 'other requests are answered meanwhile');
    const down = await ask(session, `GET /${db}/doc/file`);
    const digest = (bytes) => createHash('md5').update(bytes).digest('hex');
    assert.equal(digest(down.body), digest(file));
    const range = await ask(session, `GET /${db}/doc/file`, { headers: { range: 'bytes=1000-70999' } });
    assert.equal(range.status, 206);
    assert.ok(range.body.equals(file.subarray(1000, 71_000)));
  });

  it('30 longpolls on one connection are told within 200 ms', async () => {
    const names = await Promise.all(Array.from({ length: 30 }, () => api.db()));
    const gauge = async (name) => (await api.ok(`GET /_node/_local/_stats/${name}`)).value;
    const feeds = names.map((name) => {
      const feed = { name };
      feed.answer = ask(session, `GET /${name}/_changes?feed=longpoll&since=now&timeout=60000`).then((answer) => {
        feed.told = Date.now();
        return answer;
      });
      return feed;
    });
    await until('all wait', async () => (await gauge('couchdb/httpd/clients_requesting_changes')) === 30);
    assert.equal(await gauge('settee/open_http2_connections'), 1);
    const times = [];
    for (const feed of feeds) {
      const wrote = Date.now();
      await api.ok(`PUT /${feed.name}/change`, { body: {} });
      assert.match((await feed.answer).text, /"change"/);
      times.push(feed.told - wrote);
    }
    times.sort((a, b) => a - b);
    assert.ok(times[24] <= 200, `${times}`);
  });

  it('feeds that a client gives up end', async () => {
    const db = await api.db();
    for (const feed of ['continuous', 'eventsource', 'longpoll']) {
      const stream = session.request({ ':path': `/${db}/_changes?feed=${feed}&since=now&heartbeat=100`, authorization });
      await new Promise((resolve) => stream.once('data', resolve));
      stream.close(http2.constants.NGHTTP2_CANCEL);
      await until('it has ended', async () => (await api.ok('GET /_node/_local/_stats/settee/open_http2_streams')).value === 0);
    }
  });

  it('a target that is no URI is asked for again over HTTP/1.1', async () => {
    const stream = session.request({ ':path': '/_all_dbs?key="a"', authorization });
    const code = await new Promise((resolve) => stream.on('error', () => {}).on('close', () => resolve(stream.rstCode)));
    assert.equal(code, http2.constants.NGHTTP2_HTTP_1_1_REQUIRED);
    assert.equal((await ask(session, 'GET /_up')).status, 200, 'the connection goes on');
  });

  it('curl repeats such a request by itself', { skip: !curlSpeaksHttp2() }, async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/doc`, { body: {} });
    const url = `https://localhost:${port}/${db}/_all_docs?key="doc"`;
    const more = ['-s', '--cacert', join(samples, 'ca.pem'), '-u', `${ADMIN}:${PASSWORD}`, '-w', '%{http_version}'];
    const text = execFileSync('curl', [...more, url], { encoding: 'utf8' });
    assert.match(text, /"id":"doc"[^]*1\.1$/);
  });

  it('curl gets the same over both versions', { skip: !curlSpeaksHttp2() }, () => {
    const curl = (...more) => execFileSync('curl', ['-s', '--cacert', join(samples, 'ca.pem'), ...more, `https://localhost:${port}/_up`], { encoding: 'utf8' });
    assert.equal(curl('-w', ' %{http_version}'), '{"status":"ok","seeds":{}}\n 2');
    assert.equal(curl('-w', ' %{http_version}', '--http1.1'), '{"status":"ok","seeds":{}}\n 1.1');
  });

  it('SIGTERM says so, and feeds end with their last sequence', async () => {
    const db = await api.db();
    const goaway = new Promise((resolve) => session.on('goaway', resolve));
    const stream = session.request({ ':path': `/${db}/_changes?feed=continuous&since=now&heartbeat=100`, authorization });
    const text = new Promise((resolve) => {
      let all = '';
      stream.on('data', (part) => (all += part));
      stream.on('end', () => resolve(all));
    });
    await new Promise((resolve) => stream.once('data', resolve));
    const stopping = api.server.stop();
    assert.equal(await goaway, 0);
    assert.match(await text, /"last_seq"/);
    await stopping;
    assert.equal(stream.rstCode, 0);
  });
});

function curlSpeaksHttp2() {
  try {
    return /HTTP2/.test(execFileSync('curl', ['--version'], { encoding: 'utf8' }));
  } catch {
    return false;
  }
}

describe('HTTP/2 switched off', { skip: !!external }, () => {
  it('every connection speaks HTTP/1.1', async () => {
    const port = await freePort();
    const api = new Api({ env: { ...tlsEnv, SETTEE_SETTEE__HTTP2: 'false' }, args: ['--tls-bind', `127.0.0.1:${port}`] });
    await api.start();
    try {
      assert.equal(await agreed(port, ['h2', 'http/1.1']), 'http/1.1');
      const plain = connect(api.server.port);
      await assert.rejects(ask(plain, 'GET /_up'));
      assert.equal((await api.call('GET /_up')).status, 200);
    } finally {
      await api.stop();
    }
  });
});
