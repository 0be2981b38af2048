// Table-driven tests: each row is one named request with the expected response.
//
// A row is an object:
//   name     the title of the test
//   req      'METHOD /path'; `{word}` is replaced by a value that an earlier row saved, `{db}` by the database
//   as       null: anonymous; 'name:password': that user; absent: the admin
//   send     request headers
//   body     a string or Buffer is sent unchanged, anything else as JSON; a function gets the saved words
//   status   the expected status: one number
//   couch    the status of Apache CouchDB, where settee deliberately answers another one; only this status is
//            then checked against a CouchDB
//   error    the expected `error`; the response must then be exactly {error, reason}
//   reason   the expected `reason`: a string or a RegExp
//   like     the expected JSON: see `like` below
//   keys     the exact set of members of the JSON object
//   headers  header -> string or RegExp; null if the header must be absent
//   text     the expected body: the whole string, or a RegExp that it matches
//   not      a string or RegExp (or list of them) that must not appear in the body
//   save     word -> member of the JSON ('rev'), or a function of the response
//   check    a function (response, words) for any other assertion

import { describe, it, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { request, lines } from './http.js';
import { Server, ADMIN, PASSWORD, external } from './server.js';

const basic = (who) => `Basic ${Buffer.from(who).toString('base64')}`;

/**
 * Asserts that `actual` matches `expected`: a constructor (String, Number, Boolean, Array, Object) checks the
 * type, a RegExp matches the string, any other function is a predicate, an object lists members that must
 * match (`undefined`: must be absent), an array lists all elements in order; any other value must be equal.
 */
export function like(actual, expected, at = 'the answer') {
  if (expected === undefined) return assert.equal(actual, undefined, `${at} must not be there`);
  if (expected === String || expected === Number || expected === Boolean) {
    return assert.equal(typeof actual, expected.name.toLowerCase(), `${at}: ${JSON.stringify(actual)}`);
  }
  if (expected === Array) return assert.ok(Array.isArray(actual), `${at} is an array: ${JSON.stringify(actual)}`);
  if (expected === Object) {
    return assert.ok(actual !== null && typeof actual === 'object' && !Array.isArray(actual), `${at} is an object`);
  }
  if (expected instanceof RegExp) return assert.match(String(actual), expected, at);
  if (typeof expected === 'function') {
    const result = expected(actual);
    return assert.ok(result === undefined || result, `${at}: ${JSON.stringify(actual)} is not as ${expected}`);
  }
  if (Array.isArray(expected)) {
    assert.ok(Array.isArray(actual), `${at} is an array: ${JSON.stringify(actual)}`);
    assert.equal(actual.length, expected.length, `${at} has ${expected.length} elements: ${JSON.stringify(actual)}`);
    return expected.forEach((element, index) => like(actual[index], element, `${at}[${index}]`));
  }
  if (expected !== null && typeof expected === 'object') {
    assert.ok(actual !== null && typeof actual === 'object', `${at} is an object: ${JSON.stringify(actual)}`);
    for (const [key, value] of Object.entries(expected)) like(actual[key], value, `${at}.${key}`);
    return undefined;
  }
  return assert.deepEqual(actual, expected, at);
}

/** The context that a suite's rows and tests share: the server, and methods that send requests to it. */
export class Api {
  constructor(options = {}) {
    this.server = new Server(options);
    this.made = [];
    this.words = {};
  }

  get base() {
    return this.server.base;
  }

  headers(as) {
    if (as === null) return {};
    return { Authorization: basic(as ?? `${ADMIN}:${PASSWORD}`) };
  }

  /** Sends a request: `call('PUT /db/doc', {body, send, as})`. */
  call(req, { body, send = {}, as, fresh, onStream } = {}) {
    const space = req.indexOf(' ');
    return request(this.base, {
      method: req.slice(0, space),
      path: req.slice(space + 1),
      headers: { ...this.headers(as), ...send },
      body,
      fresh,
      onStream,
    });
  }

  /** Like `call`, but asserts success and resolves to the JSON. */
  async ok(req, options) {
    const answer = await this.call(req, options);
    assert.ok(answer.status < 300, `${req}: ${answer.status} ${answer.text.slice(0, 500)}`);
    return answer.json ?? answer;
  }

  lines(req, { send = {}, body, as } = {}) {
    const space = req.indexOf(' ');
    return lines(this.base, {
      method: req.slice(0, space),
      path: req.slice(space + 1),
      headers: { ...this.headers(as), ...send },
      body,
    });
  }

  /** Creates an empty database. Resolves to its name. */
  async db(query = '') {
    const name = `t${randomBytes(6).toString('hex')}`;
    await this.ok(`PUT /${name}${query}`);
    this.made.push(name);
    return name;
  }

  async start() {
    await this.server.start();
  }

  async stop() {
    if (external) for (const name of this.made) await this.call(`DELETE /${name}`);
    await this.server.stop();
  }

  /** Declares a group of rows that run in order on one new database. */
  rows(title, list, { query = '', prepare } = {}) {
    describe(title, () => {
      const words = {};
      before(async () => {
        if (list.some((row) => row.req.includes('{db}'))) words.db = await this.db(query);
        if (prepare) Object.assign(words, (await prepare(words)) ?? {});
      });
      for (const row of list) {
        if (!Number.isInteger(row.status)) throw new Error(`"${row.name}" does not name one status`);
        it(row.name, { skip: row.skip || false }, () => this.row(row, words));
      }
    });
  }

  async row(row, words) {
    const fill = (text) =>
      text.replace(/\{(\w+)\}/g, (_, word) => {
        assert.ok(words[word] !== undefined, `no earlier row saved "${word}"`);
        return words[word];
      });
    const send = {};
    for (const [key, value] of Object.entries(row.send ?? {})) send[key] = fill(String(value));
    const body = typeof row.body === 'function' ? row.body(words) : row.body;
    const answer = await this.call(fill(row.req), { body, send, as: row.as });
    const shown = `${answer.status} ${answer.text.slice(0, 600)}`;
    // Save before the assertions, so that a failure in this row does not fail all following rows.
    const unsaved = [];
    for (const [word, from] of Object.entries(row.save ?? {})) {
      try {
        words[word] = typeof from === 'function' ? from(answer) : answer.json[from];
      } catch {
        words[word] = undefined;
      }
      if (words[word] === undefined) unsaved.push(word);
    }
    const differs = external && row.couch !== undefined;
    const expected = differs ? row.couch : row.status;
    assert.equal(answer.status, expected, `status ${expected} expected, got ${shown}`);
    if (differs) return;
    if (row.error !== undefined) {
      like(answer.json, { error: row.error, reason: (reason) => reason === null || typeof reason === 'string' });
      assert.deepEqual(Object.keys(answer.json).sort(), ['error', 'reason'], 'members of an error');
    }
    if (row.reason !== undefined) like(answer.json?.reason, row.reason, `the reason in ${shown}`);
    if (row.like !== undefined) like(answer.json, row.like, `the answer (${shown})`);
    if (row.keys) assert.deepEqual(Object.keys(answer.json).sort(), [...row.keys].sort(), 'members');
    for (const [name, value] of Object.entries(row.headers ?? {})) {
      const got = answer.headers[name.toLowerCase()];
      if (value === null) assert.equal(got, undefined, `header ${name} must not be there`);
      else if (value instanceof RegExp) assert.match(got ?? '', value, `header ${name}`);
      else if (typeof value === 'function') assert.ok(value(got, words), `header ${name}: ${got}`);
      else assert.equal(got, fill(value), `header ${name}`);
    }
    if (row.text !== undefined) {
      if (row.text instanceof RegExp) assert.match(answer.text, row.text);
      else assert.equal(answer.text, row.text);
    }
    for (const never of [row.not ?? []].flat()) {
      const found = never instanceof RegExp ? never.test(answer.text) : answer.text.includes(never);
      assert.ok(!found, `${never} must not appear in ${shown}`);
    }
    assert.deepEqual(unsaved, [], `nothing to save in ${shown}`);
    if (row.check) await row.check(answer, words);
  }
}

/** The outermost block of a test file: one server for all tests that `body` declares. */
export function suite(name, body, options) {
  describe(name, () => {
    const api = new Api(options);
    before(() => api.start());
    after(() => api.stop());
    body(api);
  });
}

export { describe, it, before, after, assert };
