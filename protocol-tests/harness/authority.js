// A small ACME authority (RFC 8555) on the loopback interface. It verifies the signature, nonce and URL of
// every request, and validates names only by the challenge tls-alpn-01 (RFC 8737): it connects to the TLS
// port.

import https from 'node:https';
import tls from 'node:tls';
import { createHash, createPublicKey, randomBytes, verify } from 'node:crypto';
import { ACME_IDENTIFIER, ALTERNATIVE_NAMES, Ca, extensionOf, namesIn, readRequest } from './certificates.js';

class Refusal extends Error {
  constructor(status, type, detail) {
    super(detail);
    Object.assign(this, { status, type: `urn:ietf:params:acme:error:${type}`, detail });
  }
}

const text = (part) => Buffer.from(part, 'base64url').toString();

function thumbprint({ crv, kty, x, y }) {
  return createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url');
}

export class Authority {
  /** `port` is the local port on which the authority validates all names. */
  constructor(port) {
    this.port = port;
    this.ca = new Ca();
    this.nonces = new Set();
    this.accounts = new Map();
    this.orders = [];
    /** One entry per validated name: {domain, wrong}, where `wrong` is the error or null. */
    this.checks = [];
    /** Number of requests of all kinds. */
    this.requests = 0;
    /** Queue of functions that return the validity period of the next certificate; when empty, 90 days. */
    this.dates = [];
    /** Called before an order is accepted; it may throw or wait. */
    this.gate = async () => {};
    /** Number of nonces to reject as unknown. */
    this.forgets = 0;
    this.refusal = (type, detail) => new Refusal(403, type, detail);
  }

  async start() {
    this.server = https.createServer(this.ca.server('localhost', '127.0.0.1'), (request, answer) => {
      this.requests += 1;
      this.#answer(request, answer).catch((error) => {
        const { status = 500, type = 'urn:ietf:params:acme:error:serverInternal', detail = error.stack } = error;
        this.#send(answer, status, { type, detail }, { 'Content-Type': 'application/problem+json' });
      });
    });
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.base = `https://localhost:${this.server.address().port}`;
    return this;
  }

  stop() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }

  get directory() {
    return `${this.base}/directory`;
  }

  #send(answer, status, body, headers = {}) {
    const nonce = randomBytes(16).toString('base64url');
    this.nonces.add(nonce);
    const bytes = Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
    const length = { 'Content-Length': answer.req.method === 'HEAD' ? 0 : bytes.length };
    answer.writeHead(status, { 'Content-Type': 'application/json', 'Replay-Nonce': nonce, ...length, ...headers });
    answer.end(answer.req.method === 'HEAD' ? undefined : bytes);
  }

  async #answer(request, answer) {
    const path = request.url;
    if (path === '/directory') {
      const url = (name) => `${this.base}/${name}`;
      return this.#send(answer, 200, { newNonce: url('nonce'), newAccount: url('account'), newOrder: url('order'), meta: { termsOfService: url('terms') } });
    }
    if (path === '/nonce') return this.#send(answer, 200, '');
    let body = '';
    for await (const part of request) body += part;
    const { account, payload } = this.#signed(request, JSON.parse(body));
    const [, kind, number, within] = path.split('/');
    if (kind === 'account' && number) {
      if (Number(number) !== account.id) throw new Refusal(403, 'unauthorized', 'another account');
      if (payload.contact) account.contact = payload.contact;
      return this.#send(answer, 200, { status: 'valid', contact: account.contact });
    }
    if (kind === 'account') {
      return this.#send(answer, 201, { status: 'valid' }, { Location: `${this.base}/account/${account.id}` });
    }
    if (kind === 'order' && !number) return this.#order(answer, account, payload);
    const order = this.orders[Number(number)];
    if (!order || order.account !== account) throw new Refusal(404, 'malformed', `there is no ${path} of this account`);
    const check = within === undefined ? null : order.checks[Number(within)];
    switch (kind) {
      case 'order':
        // The certificate is ready when the client polls the order the next time.
        if (order.status === 'processing') order.status = 'valid';
        return this.#send(answer, 200, this.#shown(order));
      case 'authorization':
        return this.#send(answer, 200, this.#authorization(order, check));
      case 'challenge':
        if (payload === '') throw new Refusal(400, 'malformed', 'a challenge is answered with {}');
        if (check.status === 'pending' && !check.begun) {
          check.begun = true;
          this.#check(order, check);
        }
        return this.#send(answer, 200, this.#authorization(order, check).challenges[1]);
      case 'finalize':
        return this.#finalize(answer, order, payload);
      case 'certificate':
        return this.#send(answer, 200, order.certificate, { 'Content-Type': 'application/pem-certificate-chain' });
      default:
        throw new Refusal(404, 'malformed', `there is nothing at ${path}`);
    }
  }

  /** Verifies a request as RFC 8555, section 6.2 and following, demands. Returns its account and payload. */
  #signed(request, { protected: head, payload, signature }) {
    if (request.method !== 'POST' || request.headers['content-type'] !== 'application/jose+json') {
      throw new Refusal(415, 'malformed', 'not a POST of application/jose+json');
    }
    if (!request.headers['user-agent']) throw new Refusal(400, 'malformed', 'no User-Agent');
    const { alg, jwk, kid, nonce, url } = JSON.parse(text(head));
    if (url !== this.base + request.url) throw new Refusal(401, 'unauthorized', `signed for ${url}`);
    if (!this.nonces.delete(nonce) || this.forgets > 0) {
      this.forgets -= 1;
      throw new Refusal(400, 'badNonce', 'that nonce is not known');
    }
    const isNew = request.url === '/account';
    if (isNew === (jwk === undefined) || isNew === (kid !== undefined)) throw new Refusal(400, 'malformed', 'jwk is for new accounts, kid for others');
    const account = isNew ? { jwk, thumbprint: thumbprint(jwk) } : [...this.accounts.values()].find(({ id }) => kid === `${this.base}/account/${id}`);
    if (!account) throw new Refusal(400, 'accountDoesNotExist', 'no such account');
    const key = { key: createPublicKey({ key: account.jwk, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
    const right = alg === 'ES256' && verify('sha256', Buffer.from(`${head}.${payload}`), key, Buffer.from(signature, 'base64url'));
    if (!right) throw new Refusal(401, 'unauthorized', 'wrong signature');
    const said = payload === '' ? '' : JSON.parse(text(payload));
    if (!isNew) return { account, payload: said };
    if (said.termsOfServiceAgreed !== true) throw new Refusal(403, 'userActionRequired', 'the terms were not agreed to');
    const known = this.accounts.get(account.thumbprint);
    if (!known) this.accounts.set(account.thumbprint, Object.assign(account, { id: this.accounts.size, contact: said.contact }));
    return { account: known ?? account, payload: said };
  }

  async #order(answer, account, { identifiers }) {
    await this.gate();
    const checks = identifiers.map((identifier) => ({ identifier, status: 'pending', token: randomBytes(32).toString('base64url') }));
    const order = { number: this.orders.length, account, identifiers, checks, status: 'pending' };
    this.orders.push(order);
    this.#send(answer, 201, this.#shown(order), { Location: `${this.base}/order/${order.number}` });
  }

  #shown({ number, status, identifiers, checks, error }) {
    const at = (kind) => `${this.base}/${kind}/${number}`;
    const authorizations = checks.map((_, within) => `${at('authorization')}/${within}`);
    const certificate = status === 'valid' ? at('certificate') : undefined;
    return { status, identifiers, authorizations, finalize: at('finalize'), certificate, error };
  }

  #authorization(order, check) {
    const url = `${this.base}/challenge/${order.number}/${order.checks.indexOf(check)}`;
    const { token, error, status } = check;
    const challenges = ['http-01', 'tls-alpn-01'].map((type) => ({ type, url, token, error: type === 'tls-alpn-01' ? error : undefined, status }));
    return { status, identifier: check.identifier, challenges };
  }

  /** Validates that the account controls the name (RFC 8737, section 3). */
  async #check(order, check) {
    const domain = check.identifier.value;
    const wrong = await this.#lookAt(domain, `${check.token}.${order.account.thumbprint}`).catch((error) => error.message);
    this.checks.push({ domain, wrong });
    check.status = wrong ? 'invalid' : 'valid';
    if (wrong) {
      check.error = { type: 'urn:ietf:params:acme:error:unauthorized', detail: wrong };
      order.status = 'invalid';
    } else if (order.checks.every(({ status }) => status === 'valid')) order.status = 'ready';
  }

  #lookAt(domain, authorization) {
    return new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port: this.port, servername: domain, ALPNProtocols: ['acme-tls/1'], rejectUnauthorized: false };
      const socket = tls.connect(options, () => {
        const certificate = socket.getPeerCertificate().raw;
        const answer = extensionOf(certificate, ACME_IDENTIFIER);
        const named = extensionOf(certificate, ALTERNATIVE_NAMES);
        const digest = createHash('sha256').update(authorization).digest();
        if (socket.alpnProtocol !== 'acme-tls/1') reject(new Error(`the protocol is ${socket.alpnProtocol}`));
        else if (!answer?.critical) reject(new Error('there is no critical acmeIdentifier'));
        else if (!answer.value.equals(Buffer.concat([Buffer.from([4, 32]), digest]))) reject(new Error('it answers another challenge'));
        else if (namesIn(named.value).join() !== domain) reject(new Error(`it is for ${namesIn(named.value)}`));
        // The server must close the connection after the handshake.
        else socket.resume().on('end', () => resolve(null));
      });
      socket.on('error', reject);
      socket.on('close', () => reject(new Error('the connection was cut')));
    });
  }

  #finalize(answer, order, { csr }) {
    if (order.status !== 'ready') throw new Refusal(403, 'orderNotReady', `the order is ${order.status}`);
    const { spki, names } = readRequest(Buffer.from(csr, 'base64url'));
    const ordered = order.identifiers.map(({ value }) => value);
    if (names.sort().join() !== ordered.sort().join()) throw new Refusal(400, 'badCSR', `the request is for ${names}`);
    order.certificate = this.ca.certificate({ spki, names, ...this.dates.shift()?.() });
    order.status = 'processing';
    this.#send(answer, 200, this.#shown(order));
  }
}
