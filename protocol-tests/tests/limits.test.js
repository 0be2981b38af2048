// Limits and bad input: the response is always a clear 4xx (or none, if the client is gone), never a 5xx, and
// no document is written partially.

import net from 'node:net';
import { gzipSync } from 'node:zlib';
import { suite, it, assert, describe, before, after } from '../harness/rows.js';
import { raw } from '../harness/http.js';
import { Server, until, external, ADMIN, PASSWORD } from '../harness/server.js';

const json = { 'Content-Type': 'application/json' };
const auth = `Authorization: Basic ${Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64')}\r\n`;

suite('limits and bad input', (api) => {
  const nonsense = [
    ['empty', ''],
    ['a word', 'nope'],
    ['half an object', '{"a":'],
    ['two values', '{}{}'],
    ['a trailing comma', '{"a":1,}'],
    ['single quotes', "{'a':1}"],
    ['a number that is none', '{"a":01}'],
    ['NaN', '{"a":NaN}'],
    ['a control character in a string', '{"a":"\u0001"}'],
    ['bytes that are not UTF-8', Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xff, 0xfe, 0x22, 0x7d])],
    ['an overlong encoding', Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xc0, 0x80, 0x22, 0x7d])],
    ['a half surrogate in bytes', Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x7d])],
    ['an unknown escape', '{"a":"\\x"}'],
  ];
  api.rows('invalid JSON', [
    ...nonsense.flatMap(([name, body]) => [
      { name: `${name}: PUT`, req: 'PUT /{db}/bad', body, send: json, status: 400, error: 'bad_request' },
      { name: `${name}: _bulk_docs`, req: 'POST /{db}/_bulk_docs', body, send: json, status: 400, error: 'bad_request' },
    ]),
    ...['PUT /{db}/bad', 'POST /{db}', 'POST /{db}/_bulk_docs', 'POST /{db}/_bulk_get', 'POST /{db}/_revs_diff', 'POST /{db}/_missing_revs', 'POST /{db}/_purge', 'POST /{db}/_all_docs', 'POST /{db}/_all_docs/queries', 'POST /{db}/_changes?filter=_doc_ids', 'PUT /{db}/_security', 'PUT /{db}/_revs_limit', 'POST /_dbs_info', 'PUT /{db}/_local/x'].map((req) => ({
      name: `${req} says which`,
      req,
      body: '{"a":',
      send: json,
      status: 400,
      error: 'bad_request',
      reason: 'invalid UTF-8 JSON',
    })),
    { name: 'no rejected body was stored', req: 'GET /{db}/bad', status: 404, error: 'not_found', reason: 'missing' },
    { name: 'the database is empty', req: 'GET /{db}', status: 200, like: { doc_count: 0 } },
    { name: 'a lone surrogate as an escape', req: 'PUT /{db}/half', body: '{"a":"\\ud800"}', send: json, status: 400, error: 'bad_request', reason: 'invalid UTF-8 JSON' },
    { name: 'a NUL in a member is allowed', req: 'PUT /{db}/nul', body: '{"a\\u0000":"\\u0000"}', send: json, status: 201 },
    { name: 'a byte order mark', req: 'PUT /{db}/bom', body: '\ufeff{}', send: json, status: 400, error: 'bad_request', reason: 'invalid UTF-8 JSON' },
    { name: 'surrounding white space', req: 'PUT /{db}/ws', body: ' \r\n\t{ } \n', send: json, status: 201 },
  ]);

  it('JSON that nests deeper than 512 is rejected, and never overflows the stack', async () => {
    const db = await api.db();
    // CouchDB has no limit.
    for (const [depth, status] of [[50, 201], [511, 201], [512, external ? 201 : 400], [1000, external ? 201 : 400], [100_000, external ? 201 : 400]]) {
      const answer = await api.call(`PUT /${db}/deep${depth}`, { body: `{"a":${'['.repeat(depth)}${']'.repeat(depth)}}`, send: json });
      assert.equal(answer.status, status, `${depth}: ${answer.text.slice(0, 200)}`);
      assert.equal((await api.call(`GET /${db}/deep${depth}`)).status, status === 201 ? 200 : 404, `${depth}`);
    }
    const query = await api.call(`GET /${db}/_all_docs?startkey=${'['.repeat(2000)}${']'.repeat(2000)}`);
    assert.equal(query.status, external ? 200 : 400, query.text.slice(0, 200));
  });

  it('ten thousand members, and a member repeated twenty thousand times', async () => {
    const db = await api.db();
    const members = Array.from({ length: 10_000 }, (_, n) => `"k${n}":${n}`).join(',');
    await api.ok(`PUT /${db}/many`, { body: `{${members}}` });
    const repeated = `{${Array.from({ length: 20_000 }, (_, n) => `"same":${n}`).join(',')}}`;
    await api.ok(`PUT /${db}/same`, { body: repeated });
    assert.equal((await api.ok(`GET /${db}/same`)).same, 19_999);
  });

  describe('a repeated _id or _rev cannot show two documents', () => {
    it('CVE-2017-12635', async () => {
      const db = await api.db();
      const answer = await api.call(`POST /${db}`, { body: '{"_id":"one","_id":"two","roles":["_admin"],"roles":[]}', send: json });
      assert.equal(answer.status, 201);
      assert.equal(answer.json.id, 'two');
      const { text } = await api.call(`GET /${db}/two`);
      assert.ok(!text.includes('_admin'), text);
      assert.equal((await api.call(`GET /${db}/one`)).status, 404);
    });
  });

  describe('sizes', () => {
    const at = '/_node/_local/_config';
    const setting = async (key, value, run) => {
      const before = await api.call(`GET ${at}/${key}`);
      await api.ok(`PUT ${at}/${key}`, { body: JSON.stringify(value) });
      try {
        await run();
      } finally {
        if (before.status === 200) await api.ok(`PUT ${at}/${key}`, { body: JSON.stringify(before.json) });
        else await api.ok(`DELETE ${at}/${key}`);
      }
    };

    it('max_document_size', async () => {
      const db = await api.db();
      // The defaults: 50 MB, in CouchDB 8 MB.
      const over = { text: 'x'.repeat(external ? 8_100_000 : 50_100_000) };
      const answer = await api.call(`PUT /${db}/big`, { body: over });
      assert.equal(answer.status, 413, answer.text.slice(0, 300));
      assert.equal(answer.json.error, 'document_too_large');
      // CouchDB's reason is the body's `_id`, which this body does not have.
      assert.equal(answer.json.reason, '');
      const bulk = await api.call(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'small' }, { _id: 'big', ...over }] } });
      assert.equal(bulk.status, 413);
      assert.equal(bulk.json.error, 'document_too_large');
      assert.equal((await api.call(`GET /${db}/small`)).status, 404);
      await api.ok(`PUT /${db}/fits`, { body: { text: 'x'.repeat(7_000_000) } });
      await setting('couchdb/max_document_size', '1000', async () => {
        assert.equal((await api.call(`PUT /${db}/k`, { body: { text: 'x'.repeat(1100) } })).status, 413);
        assert.equal((await api.call(`PUT /${db}/k`, { body: { text: 'x'.repeat(100) } })).status, 201);
      });
    });

    it('max_http_request_size', async () => {
      const db = await api.db();
      await setting('chttpd/max_http_request_size', '2000', async () => {
        const answer = await api.call(`PUT /${db}/k`, { body: { text: 'x'.repeat(3000) }, fresh: true }).catch((error) => error);
        assert.equal(answer.status, 413, String(answer.text ?? answer));
        assert.equal(answer.json.error, 'too_large');
        assert.equal(answer.json.reason, 'the request entity is too large');
      });
      assert.equal((await api.call(`GET /${db}/k`)).status, 404);
    });

    it('max_attachment_size', async () => {
      const db = await api.db();
      await setting('couchdb/max_attachment_size', '1000', async () => {
        const octets = { 'Content-Type': 'application/octet-stream' };
        const answer = await api.call(`PUT /${db}/k/att`, { body: Buffer.alloc(2000), send: octets, fresh: true });
        assert.equal(answer.status, 413, answer.text);
        assert.equal(answer.json.error, 'attachment_too_large');
        const inline = await api.call(`PUT /${db}/k2`, { body: { _attachments: { att: { content_type: 'a/b', data: Buffer.alloc(2000).toString('base64') } } } });
        assert.equal(inline.status, 413, inline.text);
        assert.equal((await api.call(`PUT /${db}/k/att`, { body: Buffer.alloc(900), send: octets })).status, 201);
      });
    });

    it('document ids: the length limit', { skip: external ? 'CouchDB has no limit' : false }, async () => {
      const db = await api.db();
      const long = 'i'.repeat(6000);
      assert.equal((await api.call(`PUT /${db}/${long}`, { body: {} })).status, 201);
      assert.equal((await api.call(`PUT /${db}/_local/${long}`, { body: {} })).status, 201);
      assert.deepEqual((await api.ok(`GET /${db}/_all_docs`)).rows.map((row) => row.id), [long]);
      const longer = 'i'.repeat(6100);
      for (const [req, body] of [[`PUT /${db}/${longer}`, {}], [`POST /${db}`, { _id: longer }], [`PUT /${db}/_local/${longer}`, {}], [`PUT /${db}/${longer}/att`, 'x']]) {
        const answer = await api.call(req, { body });
        assert.equal(answer.status, 400, `${req.slice(0, 40)}: ${answer.text}`);
      }
      const interactive = await api.call(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: longer }] } });
      assert.deepEqual([interactive.status, interactive.json.error], [400, 'illegal_docid']);
      // A replicated document is refused by itself, in a word that lets PouchDB go on.
      const replicated = await api.ok(`POST /${db}/_bulk_docs`, { body: { new_edits: false, docs: [{ _id: longer, _rev: '1-a' }] } });
      assert.deepEqual(replicated, [{ id: longer, rev: '1-a', error: 'forbidden', reason: 'illegal_docid: Document id is too long' }]);
    });

    it('JSON bodies that exceed the memory limit', { skip: external ? 'a setting of settee' : false }, async () => {
      const tight = new Server({ env: { SETTEE_SETTEE__MAX_JSON_MEMORY: '1MiB' } });
      await tight.start();
      try {
        const call = (body, send = {}) => fetch(`${tight.base}/_dbs_info`, { method: 'POST', headers: { 'Content-Type': 'application/json', Authorization: `Basic ${btoa(`${ADMIN}:${PASSWORD}`)}`, ...send }, body });
        const fill = (bytes) => JSON.stringify({ keys: [], fill: 'f'.repeat(bytes) });
        for (const [body, send] of [[fill(2 << 20)], [gzipSync(fill(20 << 20)), { 'Content-Encoding': 'gzip' }]]) {
          const answer = await call(body, send).catch((error) => error);
          // The server may respond and close the connection before it has read the whole body; fetch then
          // fails.
          if (!(answer instanceof Error)) {
            assert.equal(answer.status, 413);
            assert.equal((await answer.json()).error, 'too_large');
          }
        }
        // Rejected bodies have released their memory; bodies that fit wait for each other.
        const fitting = await Promise.all(Array.from({ length: 12 }, () => call(fill(600 << 10))));
        for (const answer of fitting) assert.equal(answer.status, 200);
      } finally {
        await tight.stop();
      }
    });

    describe('slow clients', { skip: external ? 'settings of settee' : false }, () => {
      // The server aborts bodies that send no byte for 4 s. If memory is short, it also checks every 4 s
      // whether the bodies that hold memory make progress.
      const tight = new Server({ env: { SETTEE_SETTEE__MAX_JSON_MEMORY: '1MiB', SETTEE_BODY_TIMEOUT: '4', SETTEE_WRITE_TIMEOUT: '1' } });
      before(() => tight.start());
      after(() => tight.stop());

      /** POSTs a JSON body of `length` bytes: first `first` bytes, and then `step` bytes four times a second. */
      const sender = (length, first, step) => {
        const head = '{"keys":[],"fill":"';
        const body = `${head}${'f'.repeat(length - head.length - 2)}"}`;
        const it = { steps: 0, got: '', closed: false };
        let at = 0;
        const send = (bytes) => {
          if (!it.closed) socket.write(body.slice(at, at + bytes));
          at += bytes;
        };
        const socket = net.connect(tight.port, '127.0.0.1', () => {
          socket.write(`POST /_dbs_info HTTP/1.1\r\nHost: a\r\n${auth}Content-Type: application/json\r\nContent-Length: ${length}\r\nConnection: close\r\n\r\n`);
          send(first);
        });
        const steps = setInterval(() => {
          it.steps += 1;
          if (at + step < length) send(step);
        }, 250);
        socket.on('data', (part) => (it.got += part));
        socket.on('error', () => {});
        const ended = new Promise((resolve) => {
          socket.on('close', () => {
            clearInterval(steps);
            it.closed = true;
            resolve(it);
          });
        });
        it.ended = () => until(`the end of ${length} bytes, ${step} at a time`, () => it.closed, 60).then(() => ended);
        it.finish = () => {
          clearInterval(steps);
          send(length - at);
          return it.ended();
        };
        return it;
      };

      it('a slow body that holds memory that others need is aborted; small or steady ones are not', async () => {
        const small = sender(40 << 10, 30 << 10, 1);
        const steady = sender(440 << 10, 70 << 10, 5 << 10);
        const began = Date.now();
        const slow = sender(700 << 10, 600 << 10, 1);
        await slow.ended();
        assert.doesNotMatch(slow.got, /^HTTP\/1\.1 2/);
        const took = Date.now() - began;
        assert.ok(took >= 3000, `it was given its time: ${took} ms`);
        assert.deepEqual([small.closed, steady.closed], [false, false]);
        // Other requests continue.
        const large = await sender(900 << 10, 900 << 10, 0).ended();
        assert.match(large.got, /^HTTP\/1\.1 200/);
        for (const { got } of [await small.finish(), await steady.finish()]) assert.match(got, /^HTTP\/1\.1 200/);
      });

      it('a slow body is not aborted while nobody else needs its memory', async () => {
        const slow = sender(400 << 10, 300 << 10, 1);
        await until('more than one look at it', () => slow.steps > 20 || slow.closed, 60);
        assert.match((await slow.finish()).got, /^HTTP\/1\.1 200/);
      });

      it('a client that does not read the response is disconnected', async () => {
        const call = (method, path, body) => fetch(`${tight.base}${path}`, { method, body, headers: { Authorization: `Basic ${btoa(`${ADMIN}:${PASSWORD}`)}` } });
        const bytes = 48 << 20;
        assert.equal((await call('PUT', '/slow')).status, 201);
        assert.equal((await call('PUT', '/slow/doc/att', Buffer.alloc(bytes))).status, 201);
        const aborted = async () => (await (await call('GET', '/_node/_local/_stats/couchdb/httpd/aborted_requests')).json()).value;
        const before = await aborted();
        const socket = net.connect(tight.port, '127.0.0.1');
        socket.pause();
        socket.write(`GET /slow/doc/att HTTP/1.1\r\nHost: a\r\n${auth}\r\n`);
        await until('the answer to be given up', async () => (await aborted()) > before, 60);
        let got = 0;
        socket.on('data', (part) => (got += part.length));
        socket.on('error', () => {});
        const closed = new Promise((resolve) => socket.on('close', resolve));
        socket.resume();
        await closed;
        assert.ok(got < bytes, `${got} of ${bytes} bytes`);
      });
    });

    it('a URI and headers that are too long', async () => {
      const db = await api.db();
      // The server closes the connection without reading the rest, so a reset may overtake the answer.
      const answered = async (req, options) => {
        for (let attempt = 1; ; attempt += 1) {
          try {
            return await api.call(req, { ...options, fresh: true });
          } catch (error) {
            if (attempt === 20 || !['ECONNRESET', 'EPIPE'].includes(error.code)) throw error;
          }
        }
      };
      const uri = await answered(`GET /${db}/x?a=${'x'.repeat(100_000)}`);
      assert.equal(uri.status, 414, uri.text.slice(0, 200));
      const head = await answered(`GET /${db}`, { send: { 'X-Big': 'x'.repeat(500_000) } });
      assert.equal(head.status, 431, head.text.slice(0, 200));
      assert.equal((await api.call(`GET /${db}`)).status, 200);
    });
  });

  describe('invalid values of all parameters', () => {
    const values = ['', '""', '[]', '{}', '-1', '1e99', '99999999999999999999999999', 'null', 'true', '%00', '%FF', '%', '%zz', '0x10', "'", '"', '[[[[', '\u20ac'.split('').map(encodeURIComponent).join('')];
    const parameters = {
      'GET /{db}/doc': ['rev', 'revs', 'revs_info', 'open_revs', 'conflicts', 'latest', 'atts_since', 'attachments', 'local_seq', 'meta'],
      'PUT /{db}/new': ['rev', 'new_edits', 'batch', 'w'],
      'DELETE /{db}/doc': ['rev'],
      'GET /{db}/_all_docs': ['key', 'keys', 'startkey', 'endkey', 'limit', 'skip', 'descending', 'include_docs', 'inclusive_end', 'update_seq', 'conflicts', 'startkey_docid'],
      'GET /{db}/_changes': ['since', 'limit', 'style', 'descending', 'include_docs', 'filter', 'seq_interval', 'doc_ids', 'feed', 'heartbeat', 'last-event-id', 'conflicts'],
      'GET /{db}/_design_docs': ['key', 'limit'],
      'GET /{db}/_local_docs': ['key', 'limit', 'keys'],
      'PUT /{db}new': ['q', 'n', 'partitioned', 'placement'],
      'GET /_all_dbs': ['startkey', 'limit', 'descending', 'skip'],
      'GET /_uuids': ['count'],
      'GET /_db_updates': ['since', 'limit', 'heartbeat', 'feed'],
    };
    for (const [req, names] of Object.entries(parameters)) {
      it(`${req}: never a 5xx`, async () => {
        const db = await api.db();
        await api.ok(`PUT /${db}/doc`, { body: {} });
        for (const name of names) {
          for (const value of values) {
            const line = `${req.replace('{db}', db)}?timeout=1&${name}=${value}`;
            const answer = await api.call(line, { body: req.startsWith('PUT') ? '{}' : undefined, send: req.startsWith('PUT') ? json : {}, fresh: true, onStream: (stream, call) => {
              const parts = [];
              return new Promise((resolve) => {
                // Some values start a live feed; it ends by its timeout or here.
                const limit = setTimeout(() => { call.destroy(); resolve({ status: stream.statusCode, text: 'cut' }); }, 500);
                stream.on('data', (part) => parts.push(part));
                stream.on('error', () => {});
                stream.on('close', () => { clearTimeout(limit); resolve({ status: stream.statusCode, text: Buffer.concat(parts).toString() }); });
              });
            } });
            assert.ok(answer.status < 500, `${line}: ${answer.status} ${answer.text}`);
            if (req.startsWith('PUT /{db}new') && answer.status === 201) await api.ok(`DELETE /${db}new`);
          }
        }
        assert.equal((await api.call(`GET /${db}`)).status, 200);
      });
    }

    const bodies = [null, true, 5, 'text', [], [null], [[]], {}, { docs: null }, { docs: [null] }, { docs: [[]] }, { docs: [{ _id: null }] }, { docs: [{ _id: {} }] }, { docs: [{ _rev: [] }] }, { docs: [{ _attachments: [] }] }, { docs: [{ _attachments: { a: null } }] }, { docs: [{ _attachments: { a: { data: {} } } }] }, { docs: [{ _attachments: { '': { data: '' } } }] }, { docs: [{ _revisions: 5 }] }, { docs: [{ _revisions: { start: -1, ids: ['a'] } }] }, { docs: [{ _revisions: { start: 1e300, ids: ['a'] } }] }, { docs: [{ _revisions: { start: 1, ids: [] } }] }, { docs: [{ _revisions: { start: 1, ids: ['a', 'b', 'c'] } }] }, { docs: [{ _id: 'x', _revisions: { start: 0, ids: ['a'] } }], new_edits: false }, { docs: [{ _id: 'x', _revisions: { start: 99999999999, ids: ['a'] } }], new_edits: false }, { docs: [{ _id: 'x', _revisions: { start: 2, ids: ['a', 'a'] } }], new_edits: false }, { docs: [{ _id: 'x', _rev: '-1-a' }], new_edits: false }, { docs: [{ _id: 'x', _rev: '1-' }], new_edits: false }, { docs: [{ _id: 'x', _rev: `1-${'r'.repeat(5000)}` }], new_edits: false }, { keys: {} }, { keys: [null, 5, [], {}] }, { queries: [null] }, { queries: [5] }, { queries: [{ limit: 'x' }] }, { a: null }, { a: {} }, { a: [null] }, { a: [5] }, { a: ['1-a', ['x']] }, { doc_ids: 5 }, { doc_ids: [null] }, { selector: 5 }, { selector: [] }, { selector: { a: { $in: 5 } } }, { selector: { $and: {} } }, { selector: { a: { $regex: '(' } } }];
    for (const req of ['PUT /{db}/doc', 'POST /{db}', 'POST /{db}/_bulk_docs', 'POST /{db}/_bulk_get', 'POST /{db}/_revs_diff', 'POST /{db}/_missing_revs', 'POST /{db}/_purge', 'POST /{db}/_all_docs', 'POST /{db}/_all_docs/queries', 'POST /{db}/_design_docs', 'POST /{db}/_local_docs', 'POST /{db}/_changes', 'POST /{db}/_changes?filter=_doc_ids', 'POST /{db}/_changes?filter=_selector', 'PUT /{db}/_security', 'PUT /{db}/_revs_limit', 'PUT /{db}/_purged_infos_limit', 'PUT /{db}/_local/x', 'POST /{db}/_compact', 'POST /{db}/_ensure_full_commit', 'POST /_dbs_info', 'POST /_session', 'PUT /_node/_local/_config/test_settee/x']) {
      it(`${req} with bodies of every type: never a 5xx`, { skip: external ? 'CouchDB does answer 500 here and there' : false }, async () => {
        const db = await api.db();
        for (const body of bodies) {
          const answer = await api.call(req.replace('{db}', db), { body: JSON.stringify(body), send: json });
          assert.ok(answer.status < 500, `${req} ${JSON.stringify(body)}: ${answer.status} ${answer.text}`);
          if (answer.status >= 400) assert.ok(answer.json?.error, `${req} ${JSON.stringify(body)}: ${answer.text}`);
        }
        assert.equal((await api.call(`GET /${db}`)).status, 200);
      });
    }
  });

  describe('connections that break', { skip: !!external }, () => {
    const put = (db, id, length, part) => `PUT /${db}/${id} HTTP/1.1\r\nHost: a\r\n${auth}Content-Type: application/json\r\nContent-Length: ${length}\r\n\r\n${part}`;

    it('a truncated body writes nothing', async () => {
      const db = await api.db();
      const answer = await raw(api.server.port, put(db, 'cut', 100, '{"a":1}'), { end: true });
      assert.ok(answer === '' || /^HTTP\/1\.1 4/.test(answer), answer);
      assert.equal((await api.call(`GET /${db}/cut`)).status, 404);
    });

    it('a truncated attachment writes nothing', async () => {
      const db = await api.db();
      const text = `PUT /${db}/doc/att HTTP/1.1\r\nHost: a\r\n${auth}Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n${'x'.repeat(5000)}`;
      await raw(api.server.port, text, { end: true });
      await raw(api.server.port, text.replace('Content-Length: 1000000', 'Transfer-Encoding: chunked').replace('\r\n\r\nxxx', '\r\n\r\n1388\r\nxxx'), { end: true });
      assert.equal((await api.call(`GET /${db}/doc`)).status, 404);
    });

    it('a malformed chunked body', async () => {
      const db = await api.db();
      const answer = await raw(api.server.port, `PUT /${db}/c HTTP/1.1\r\nHost: a\r\n${auth}Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`, { end: true });
      assert.ok(answer === '' || /^HTTP\/1\.1 4/.test(answer), answer);
      assert.equal((await api.call(`GET /${db}/c`)).status, 404);
    });

    it('input that is not HTTP', async () => {
      for (const text of ['\0\0\0\0\r\n\r\n', 'GET\r\n\r\n', 'GET / HTTP/9.9\r\n\r\n', 'HELLO / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n', 'GET no-slash HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n', '\x16\x03\x01\x02\x00\x01\x00']) {
        const answer = await raw(api.server.port, text, { end: true });
        assert.ok(!/^HTTP\/1\.1 5/.test(answer), `${JSON.stringify(text)}: ${answer}`);
      }
      assert.equal((await api.call('GET /_up')).status, 200);
    });

    it('Content-Length together with Transfer-Encoding', async () => {
      const db = await api.db();
      await raw(api.server.port, `POST /${db} HTTP/1.1\r\nHost: a\r\n${auth}Content-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPUT /${db}/smuggled HTTP/1.1\r\nHost: a\r\n${auth}Content-Length: 2\r\nConnection: close\r\n\r\n{}`, { end: true });
      // The connection is closed after the ambiguous request: what follows it is not read as a request.
      assert.equal((await api.call(`GET /${db}/smuggled`)).status, 404);
    });

    it('clients that disconnect during a response', async () => {
      const db = await api.db();
      const docs = Array.from({ length: 500 }, (_, n) => ({ _id: `d${n}`, text: 'x'.repeat(10_000) }));
      await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
      for (let n = 0; n < 20; n += 1) {
        await api.call(`GET /${db}/_all_docs?include_docs=true`, { fresh: true, onStream: (stream, call) => new Promise((resolve) => {
          stream.on('error', () => {});
          stream.once('data', () => { call.destroy(); resolve(); });
        }) });
      }
      await until('answers as before', async () => (await api.call(`GET /${db}`)).json?.doc_count === 500);
    });

    it('a write whose client disconnects is applied completely or not at all', async () => {
      const db = await api.db();
      const body = JSON.stringify({ docs: Array.from({ length: 200 }, (_, n) => ({ _id: `v${n}` })) });
      const text = `POST /${db}/_bulk_docs HTTP/1.1\r\nHost: a\r\n${auth}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
      await Promise.all(Array.from({ length: 10 }, () => raw(api.server.port, text, { done: () => true })));
      const count = await until('the count stands', async () => {
        const info = await api.ok(`GET /${db}`);
        return [0, 200].includes(info.doc_count) && String(info.doc_count);
      });
      assert.ok(['0', '200'].includes(count));
    });

    it('Expect: 100-continue is answered', async () => {
      const db = await api.db();
      const answer = await raw(api.server.port, `PUT /${db}/e HTTP/1.1\r\nHost: a\r\n${auth}Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n{}`);
      assert.match(answer, /201/);
    });

    it('HTTP/1.0', async () => {
      const answer = await raw(api.server.port, 'GET /_up HTTP/1.0\r\n\r\n');
      assert.match(answer, /^HTTP\/1\.[01] 200/);
      assert.ok(!/transfer-encoding/i.test(answer));
    });
  });
});
