// Rate limits per address and user, and slow clients. The tests run on localhost, which is exempt from rate
// limits; so the server trusts 127.0.0.1 as a proxy, and the tests send other addresses in X-Forwarded-For.

import net from 'node:net';
import { describe, it, before, after, assert, Api, like } from '../harness/rows.js';
import { ADMIN, PASSWORD, external, until } from '../harness/server.js';

const from = (address, more = {}) => ({ 'X-Forwarded-For': address, ...more });

describe('limits', { skip: !!external }, () => {
  const api = new Api({
    env: {
      SETTEE_TRUSTED_PROXIES: '127.0.0.1',
      SETTEE_RATE_LIMITS__ADDRESS_PER_SECOND: '1',
      SETTEE_RATE_LIMITS__ADDRESS_BURST: '20',
      SETTEE_RATE_LIMITS__USER_BURST: '5',
      SETTEE_RATE_LIMITS__SIGN_INS_PER_MINUTE: '1',
      SETTEE_RATE_LIMITS__SIGN_IN_BURST: '3',
      SETTEE_CHTTPD_AUTH__ITERATIONS: '10',
      SETTEE_HEADER_TIMEOUT: '2',
      SETTEE_BODY_TIMEOUT: '2',
    },
  });
  before(() => api.start());
  after(() => api.stop());

  const ask = (address, times) =>
    Promise.all(Array.from({ length: times }, () => api.call('GET /_up', { as: null, send: from(address) })));
  const count = (answers, status) => answers.filter((answer) => answer.status === status).length;

  it('an address over its limit gets 429 with Retry-After; other addresses are not affected', async () => {
    const answers = await ask('203.0.113.1', 40);
    assert.ok(count(answers, 200) >= 20 && count(answers, 200) < 30, `${count(answers, 200)} passed`);
    const refused = answers.find((answer) => answer.status === 429);
    like(refused.json, { error: 'too_many_requests', reason: 'Too many requests from this address.' });
    assert.match(refused.headers['retry-after'], /^[1-9]\d*$/);
    assert.equal(count(await ask('203.0.113.2', 10), 200), 10);
    const stats = await api.ok('GET /_node/_local/_stats/settee/rate_limited');
    assert.equal(stats.value, 40 - count(answers, 200));
    const { text } = await api.call('GET /_node/_local/_prometheus');
    assert.match(text, /^settee_rate_limited_total [1-9]/m);
    assert.match(text, /^couchdb_httpd_status_codes\{code="429"\} [1-9]/m);
  });

  it('IPv6 addresses of one /64 share a limit', async () => {
    const answers = [...(await ask('2001:db8::1', 20)), ...(await ask('2001:db8::2', 20))];
    assert.ok(count(answers, 429) >= 10, `${count(answers, 429)} refused`);
  });

  it('localhost is exempt, and forged X-Forwarded-For entries do not evade the limit', async () => {
    const plain = await Promise.all(Array.from({ length: 60 }, () => api.call('GET /_up', { as: null })));
    assert.equal(count(plain, 200), 60);
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, n) => api.call('GET /_up', { as: null, send: from(`198.51.100.${n}, 203.0.113.3`) })),
    );
    assert.ok(count(answers, 429) >= 10, 'the last address that is no proxy counts, whatever stands before it');
  });

  it('the 429 response has CORS headers', async () => {
    await ask('203.0.113.4', 30);
    const answer = await api.call('GET /_up', { as: null, send: from('203.0.113.4', { Origin: 'http://localhost:8080' }) });
    assert.equal(answer.status, 429);
    assert.equal(answer.headers['access-control-allow-origin'], 'http://localhost:8080');
  });

  it('sign-ins have a lower limit per address, whatever the user name', async () => {
    const attempt = (address, name) => api.call('POST /_session', { as: null, send: from(address), body: { name, password: 'x' } });
    const statuses = [];
    for (const name of ['a', 'b', 'c', 'd', 'e']) statuses.push((await attempt('203.0.113.5', name)).status);
    assert.deepEqual(statuses, [401, 401, 401, 429, 429]);
    const refused = await attempt('203.0.113.5', 'f');
    like(refused.json, { error: 'too_many_requests', reason: 'Too many sign-ins from this address.' });
    assert.ok(Number(refused.headers['retry-after']) > 30);
    assert.equal((await attempt('203.0.113.6', 'a')).status, 401);
    const basic = await api.call('GET /', { as: 'ann:wrong', send: from('203.0.113.5') });
    assert.equal(basic.status, 429);
  });

  it('a recently verified password does not count', async () => {
    const statuses = [];
    for (let n = 0; n < 10; n += 1) statuses.push((await api.call('GET /', { send: from('203.0.113.7') })).status);
    assert.ok(statuses.every((status) => status === 200), statuses.join());
  });

  it('a limit per user takes effect immediately', async () => {
    const all = () => Promise.all(Array.from({ length: 30 }, () => api.call('GET /_session')));
    assert.equal(count(await all(), 200), 30);
    await api.ok('PUT /_node/_local/_config/rate_limits/user_per_second', { body: '"1"' });
    const answers = await all();
    assert.ok(count(answers, 429) >= 20);
    like(answers.find((answer) => answer.status === 429).json, { reason: 'Too many requests from this user.' });
    await until('the limit to be lifted again', async () => {
      const { status } = await api.call('DELETE /_node/_local/_config/rate_limits/user_per_second');
      return status === 200;
    });
    assert.equal(count(await all(), 200), 30);
  });

  it('trusted proxies cannot be changed over HTTP', async () => {
    const answer = await api.call('PUT /_node/_local/_config/settee/trusted_proxies', { body: '"0.0.0.0/0"' });
    assert.equal(answer.status, 403);
    const wrong = await api.call('PUT /_node/_local/_config/rate_limits/exempt', { body: '"everybody"' });
    assert.equal(wrong.status, 400);
    assert.match(wrong.json.reason, /list of addresses and networks/);
  });

  it('a session cookie is Secure if X-Forwarded-Proto is https', async () => {
    const body = { name: ADMIN, password: PASSWORD };
    const answer = await api.call('POST /_session', { as: null, body, send: { 'X-Forwarded-Proto': 'https' } });
    assert.match(answer.headers['set-cookie'][0], /; Secure/);
    const plain = await api.call('POST /_session', { as: null, body });
    assert.doesNotMatch(plain.headers['set-cookie'][0], /Secure/);
  });

  it('requests with stalled headers or bodies are aborted', async () => {
    const basic = Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64');
    const db = await api.db();
    const head = `PUT /${db}/slow HTTP/1.1\r\nHost: x\r\nAuthorization: Basic ${basic}\r\nContent-Type: application/json\r\n`;
    for (const text of ['GET / HTTP/1.1\r\nHost: x\r\n', `${head}Content-Length: 100\r\n\r\n{"a":`]) {
      const began = Date.now();
      await new Promise((resolve, reject) => {
        const socket = net.connect(api.server.port, '127.0.0.1', () => socket.write(text));
        socket.on('data', () => {});
        socket.on('error', () => {});
        socket.on('close', resolve);
        setTimeout(() => reject(new Error('still open after 15 s')), 15_000).unref();
      });
      assert.ok(Date.now() - began >= 1000, 'closed at once');
    }
    assert.equal((await api.call(`GET /${db}/slow`)).status, 404);
  });
});

describe('connections', { skip: !!external }, () => {
  const api = new Api({
    env: { SETTEE_MAX_CONNECTIONS_PER_ADDRESS: '3' },
    args: ['--set', 'rate_limits/exempt=192.0.2.1'],
  });
  before(() => api.start());
  after(() => api.stop());

  it('the number of connections per address is limited', async () => {
    const port = api.server.port;
    const connect = () =>
      new Promise((resolve) => {
        const socket = net.connect(port, '127.0.0.1', () => socket.write('GET /_up HTTP/1.1\r\nHost: x\r\n\r\n'));
        let got = '';
        socket.on('data', (part) => {
          got += part;
          resolve({ socket, got });
        });
        socket.on('error', () => resolve({ socket, got }));
        socket.on('close', () => resolve({ socket, got }));
      });
    const open = [];
    await until('three connections', async () => {
      for (const { socket } of open.splice(0)) socket.destroy();
      for (let n = 0; n < 3; n += 1) open.push(await connect());
      return open.every(({ got }) => got.includes('200'));
    });
    assert.equal((await connect()).got, '');
    open.pop().socket.destroy();
    await until('a free place', async () => {
      const { socket, got } = await connect();
      socket.destroy();
      return got.includes('200');
    });
    for (const { socket } of open) socket.destroy();
  });
});
