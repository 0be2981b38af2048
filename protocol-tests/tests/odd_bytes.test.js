// Bytes that clients send now and then: U+0000 in ids and names, characters beyond ASCII in headers, and the destinations of COPY.

import { suite, it, assert } from '../harness/rows.js';
import { external } from '../harness/server.js';

// node sends header values as Latin-1: this makes it send UTF-8.
const utf8 = (text) => Buffer.from(text).toString('latin1');
const JSON_TYPE = { 'Content-Type': 'application/json' };

suite('odd bytes', (api) => {
  api.rows('U+0000', [
    { name: 'in the ids of documents', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: 'a\0b', n: 1 }, { _id: '\0' }, { _id: '_design/d\0' }, { _id: '_local/l\0', n: 2 }] }, status: 201, like: [{ ok: true }, { ok: true }, { ok: true }, { ok: true }], save: { rev: ({ json }) => json[0].rev, design: ({ json }) => json[2].rev } },
    { name: 'GET of the document', req: 'GET /{db}/a%00b', status: 200, like: { _id: 'a\0b', n: 1 } },
    { name: 'HEAD of the document', req: 'HEAD /{db}/%00', status: 200 },
    { name: 'PUT of the document', req: 'PUT /{db}/a%00b', body: (w) => ({ _rev: w.rev, n: 3 }), status: 201, like: { id: 'a\0b' }, headers: { Location: /\/a%00b$/ }, save: { rev: 'rev' } },
    { name: 'PUT of an attachment', req: 'PUT /{db}/a%00b/f%00.txt?rev={rev}', body: 'text', send: { 'Content-Type': 'text/plain' }, status: 201, save: { rev: 'rev' } },
    { name: 'GET of the attachment', req: 'GET /{db}/a%00b/f%00.txt', status: 200, text: 'text' },
    { name: 'the attachment by its name', req: 'GET /{db}/a%00b', status: 200, check: ({ json }) => assert.deepEqual(Object.keys(json._attachments), ['f\0.txt']) },
    { name: 'DELETE of the attachment', req: 'DELETE /{db}/a%00b/f%00.txt?rev={rev}', status: 200, save: { rev: 'rev' } },
    { name: 'DELETE of the document', req: 'DELETE /{db}/a%00b?rev={rev}', status: 200 },
    { name: 'GET of the design document', req: 'GET /{db}/_design/d%00', status: 200, like: { _id: '_design/d\0' } },
    { name: 'DELETE of the design document', req: 'DELETE /{db}/_design%2Fd%00?rev={design}', status: 200 },
    { name: 'GET of the local document', req: 'GET /{db}/_local/l%00', status: 200, like: { _id: '_local/l\0', n: 2 } },
    { name: 'DELETE of the local document', req: 'DELETE /{db}/_local/l%00?rev=0-1', status: 200 },
    { name: '_all_docs', req: 'GET /{db}/_all_docs?startkey=%22%5Cu0000%22', status: 200, check: ({ json }) => assert.deepEqual(json.rows.map(({ id }) => id), ['\0']) },
  ]);

  api.rows('characters beyond ASCII in headers', [
    { name: 'a content type', req: 'PUT /{db}/a/f', body: 'x', send: { 'Content-Type': utf8('text/plain; name="é.txt"') }, status: 201 },
    { name: '... is kept', req: 'GET /{db}/a', status: 200, like: { _attachments: { f: { content_type: 'text/plain; name="é.txt"' } } } },
    { name: '... is returned', req: 'GET /{db}/a/f', status: 200, headers: { 'Content-Type': utf8('text/plain; name="é.txt"') } },
    { name: 'a content type in Latin-1', req: 'PUT /{db}/l/f', body: 'x', send: { 'Content-Type': 'text/plain; name="é.txt"' }, status: 201 },
    { name: '... is kept as text', req: 'GET /{db}/l', status: 200, like: { _attachments: { f: { content_type: external ? /^text\/plain/ : 'text/plain; name="é.txt"' } } } },
    { name: 'a content type of JSON', req: 'POST /{db}/_bulk_docs', body: '{"docs":[]}', send: { 'Content-Type': utf8('application/json; by=é') }, status: 201 },
    { name: 'a source of COPY', req: 'PUT /{db}/from', body: { n: 1 }, status: 201, save: { from: 'rev' } },
    { name: 'the destination of COPY', req: 'COPY /{db}/from', send: { Destination: utf8('copy é') }, status: 201, like: { id: 'copy é' } },
    { name: 'a destination that is not UTF-8', req: 'COPY /{db}/from', send: { Destination: 'copy é' }, status: 400, error: 'illegal_docid', reason: 'Document id must be valid UTF-8' },
    { name: 'If-None-Match', req: 'GET /{db}/from', send: { 'If-None-Match': utf8('"é", "{from}"') }, status: 304 },
    { name: 'Accept', req: 'GET /{db}/from', send: { Accept: utf8('text/é, application/json') }, status: 200, headers: { 'Content-Type': 'application/json' } },
  ]);

  it('a session holds beside a cookie beyond ASCII', async () => {
    const [name, password] = Buffer.from(api.headers().Authorization.slice(6), 'base64').toString().split(/:(.*)/s);
    const signed = await api.call('POST /_session', { as: null, body: { name, password } });
    const session = signed.headers['set-cookie'][0].split(';')[0];
    for (const other of [utf8('name=Jürgen'), 'name=Jürgen', 'name=\u0080']) {
      for (const cookie of [`${other}; ${session}`, `${session}; ${other}`]) {
        const answer = await api.call('GET /_session', { as: null, send: { Cookie: cookie } });
        assert.equal(answer.json.userCtx.name, name, cookie);
      }
    }
  });

  it('a multipart part with a name or type beyond ASCII', async () => {
    const db = await api.db();
    const json = JSON.stringify({ _attachments: { 'é.txt': { follows: true, length: 1 }, 'ü.txt': { follows: true, length: 1 } } });
    const part = (name, type, text) => `--b\r\nContent-Disposition: attachment; filename="${name}"\r\nContent-Type: ${type}\r\n\r\n${text}\r\n`;
    const body = Buffer.from(`--b\r\nContent-Type: application/json; by=é\r\n\r\n${json}\r\n${part('ü.txt', 'text/ü', 'u')}${part('é.txt', 'text/é', 'e')}--b--`);
    const answer = await api.call(`PUT /${db}/m`, { body, send: { 'Content-Type': 'multipart/related; boundary=b' } });
    assert.equal(answer.status, 201, answer.text);
    if (external) return;
    const { _attachments: found } = await api.ok(`GET /${db}/m`);
    assert.deepEqual(Object.fromEntries(Object.entries(found).map(([name, { content_type }]) => [name, content_type])), { 'é.txt': 'text/é', 'ü.txt': 'text/ü' });
    assert.equal((await api.call(`GET /${db}/m/${encodeURIComponent('é.txt')}`)).text, 'e');
  });

  api.rows('the destination of COPY', [
    { name: 'a document', req: 'PUT /{db}/from', body: { n: 1 }, status: 201 },
    { name: 'a URL of this database', req: 'COPY /{db}/from', send: { Destination: `${'{base}'}/{db}/to` }, status: 400, error: 'bad_request', reason: 'Destination URL must be relative.' },
    { name: 'a URL of another database', req: 'COPY /{db}/from', send: { Destination: `${'{base}'}/{other}/to` }, status: 400, error: 'bad_request', reason: 'Destination URL must be relative.' },
    { name: '... copies nothing', req: 'GET /{db}/to', status: 404, error: 'not_found' },
    { name: 'an id that begins with a slash', req: 'COPY /{db}/from', send: { Destination: '/x' }, status: 201, like: { id: '/x' }, headers: { Location: /\/%2Fx$/ } },
    { name: '... is read by that id', req: 'GET /{db}/%2Fx', status: 200, like: { _id: '/x', n: 1 } },
    { name: 'a path of another database is an id', req: 'COPY /{db}/from', send: { Destination: '/{other}/to' }, status: 201, check: ({ json }, w) => assert.equal(json.id, `/${w.other}/to`) },
    { name: 'an escaped plus, and a plus for a space', req: 'COPY /{db}/from', send: { Destination: 'a%2Bb+c' }, status: 201, like: { id: 'a+b c' } },
    { name: 'a design document', req: 'COPY /{db}/from', send: { Destination: '_design/x' }, status: 201, like: { id: '_design/x' } },
  ], { prepare: async () => ({ other: await api.db(), base: api.base }) });

  it('declarations before a function of a design document', async () => {
    const db = await api.db();
    const before = 'var kinds = ["a", "b"];\nfunction known(kind) { return kinds.indexOf(kind) >= 0; }\n';
    await api.ok(`PUT /${db}/_design/d`, {
      body: {
        validate_doc_update: `${before}function (doc) { if (!doc._deleted && !known(doc.kind)) throw({ forbidden: 'unknown kind' }); }`,
        views: { v: { map: `"use strict";\n${before}function (doc) { emit(doc.kind, known(doc.kind) ? 1 : 0); }`, reduce: `var none = 0;\nfunction (keys, values) { return values.reduce(function (a, b) { return a + b; }, none); }` } },
        filters: { f: `${before}function (doc, req) { return known(doc.kind); }` },
        shows: { s: `${before}function (doc, req) { return known(doc.kind) ? 'known' : 'unknown'; }` },
        lists: { l: `${before}function (head, req) { var row, n = 0; while (row = getRow()) if (known(row.key)) n++; return String(n); }` },
        updates: { u: `${before}function (doc, req) { doc.kind = kinds[1]; return [doc, 'done']; }` },
        kind: 'a',
      },
    });
    assert.equal((await api.call(`PUT /${db}/fine`, { body: { kind: 'a' } })).status, 201);
    const refused = await api.call(`PUT /${db}/not`, { body: { kind: 'z' } });
    assert.deepEqual([refused.status, refused.json], [403, { error: 'forbidden', reason: 'unknown kind' }]);
    assert.deepEqual((await api.ok(`GET /${db}/_design/d/_view/v`)).rows, [{ key: null, value: 1 }]);
    assert.deepEqual((await api.ok(`GET /${db}/_changes?filter=d/f`)).results.map(({ id }) => id).sort(), ['_design/d', 'fine']);
    assert.equal((await api.call(`GET /${db}/_design/d/_show/s/fine`)).text.trim(), 'known');
    assert.equal((await api.call(`GET /${db}/_design/d/_list/l/v?reduce=false`)).text.trim(), '1');
    assert.equal((await api.call(`POST /${db}/_design/d/_update/u/fine`, { body: '', send: JSON_TYPE })).text, 'done');
    assert.equal((await api.ok(`GET /${db}/fine`)).kind, 'b');
  });
});
