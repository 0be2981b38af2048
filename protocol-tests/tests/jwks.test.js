// JWTs of an issuer whose keys the server fetches. The test runs a small issuer over HTTPS with a certificate
// of the Rust tests.

import https from 'node:https';
import { generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, it, before, after, assert, Api, like } from '../harness/rows.js';
import { external, until } from '../harness/server.js';

const here = dirname(fileURLToPath(import.meta.url));
const samples = join(here, '..', '..', 'src', 'net', 'tls', 'samples');
const base64 = (value) => Buffer.from(value).toString('base64url');

class Issuer {
  constructor() {
    this.keys = new Map();
    this.asked = 0;
    this.answer = null;
  }

  async start() {
    const options = { cert: readFileSync(join(samples, 'one.pem')), key: readFileSync(join(samples, 'one.key')) };
    this.server = https.createServer(options, (request, answer) => {
      this.asked += 1;
      if (this.answer) return this.answer(answer);
      const keys = [...this.keys].map(([kid, { publicKey }]) => ({ ...publicKey.export({ format: 'jwk' }), kid, use: 'sig' }));
      answer.setHeader('Content-Type', 'application/json');
      return answer.end(JSON.stringify({ keys }));
    });
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.url = `https://localhost:${this.server.address().port}/keys`;
    return this;
  }

  add(kid, type, options) {
    this.keys.set(kid, generateKeyPairSync(type, options));
  }

  token(kid, alg, claims = {}) {
    const head = base64(JSON.stringify({ typ: 'JWT', alg, kid }));
    const exp = Math.floor(Date.now() / 1000) + 600;
    const body = `${head}.${base64(JSON.stringify({ sub: 'ann', exp, '_couchdb.roles': ['kitchen', '_admin'], ...claims }))}`;
    const hash = alg === 'EdDSA' ? null : `sha${alg.slice(2)}`;
    const key = { key: this.keys.get(kid).privateKey, dsaEncoding: 'ieee-p1363' };
    return `${body}.${sign(hash, Buffer.from(body), key).toString('base64url')}`;
  }

  stop() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }
}

describe('keys of an issuer', { skip: !!external }, () => {
  let issuer;
  let api;
  const who = (token) => api.call('GET /_session', { as: null, send: { Authorization: `Bearer ${token}` } });

  before(async () => {
    issuer = await new Issuer().start();
    issuer.add('r', 'rsa', { modulusLength: 2048 });
    issuer.add('e', 'ec', { namedCurve: 'P-256' });
    issuer.add('f', 'ec', { namedCurve: 'P-521' });
    issuer.add('d', 'ed25519');
    api = new Api({ env: { SETTEE_JWT_AUTH__JWKS_URL: issuer.url, SETTEE_CA_FILE: join(samples, 'ca.pem') } });
    await api.start();
    await until('the keys to be fetched', () => issuer.asked > 0);
  });

  after(async () => {
    await api.stop();
    await issuer.stop();
  });

  it('authenticate tokens, without system roles', async () => {
    for (const [kid, alg] of [['r', 'RS256'], ['e', 'ES256'], ['f', 'ES512'], ['d', 'EdDSA']]) {
      const { status, json } = await who(issuer.token(kid, alg));
      assert.equal(status, 200, `${kid} ${alg}: ${JSON.stringify(json)}`);
      like(json, { userCtx: { name: 'ann', roles: ['kitchen'] }, info: { authenticated: 'jwt' } });
    }
    assert.equal(issuer.asked, 1, 'one fetch for all');
  });

  it('forged or expired tokens and unknown keys are rejected without another fetch', async () => {
    const good = issuer.token('r', 'RS256');
    const other = new Issuer();
    other.add('r', 'rsa', { modulusLength: 2048 });
    other.add('new', 'rsa', { modulusLength: 2048 });
    for (const [token, status] of [
      [other.token('r', 'RS256'), 400],
      [issuer.token('r', 'RS256', { exp: 1 }), 401],
      [`${good.slice(0, -8)}AAAAAAAA`, 400],
      ...Array.from({ length: 20 }, () => [other.token('new', 'RS256'), 400]),
    ]) {
      assert.equal((await who(token)).status, status);
    }
    assert.equal(issuer.asked, 1, 'the keys were fetched less than a minute ago');
  });

  it('known keys stay valid while the issuer is down', async () => {
    issuer.answer = (answer) => answer.writeHead(503).end();
    assert.equal((await who(issuer.token('e', 'ES256'))).status, 200);
    issuer.answer = null;
  });

  it('keys are never fetched without TLS from other hosts', async () => {
    const key = '/_node/_local/_config/jwt_auth/jwks_url';
    for (const url of ['http://192.0.2.1/keys', 'http://localhost.example/keys', 'file:///etc/passwd']) {
      await api.ok(`PUT ${key}`, { body: JSON.stringify(url) });
      assert.equal((await who(issuer.token('e', 'ES256'))).json?.userCtx?.name ?? null, null, url);
    }
    await api.ok(`PUT ${key}`, { body: JSON.stringify(issuer.url) });
  });
});
