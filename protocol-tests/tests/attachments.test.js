// Attachments: CouchDB docs `api/document/attachments.rst`, `test/elixir/test/attachment*_test.exs`.

import { createHash, randomBytes } from 'node:crypto';
import { gunzipSync, gzipSync } from 'node:zlib';
import { Readable } from 'node:stream';
import { suite, it, assert } from '../harness/rows.js';
import { revision } from '../harness/revision.js';
import { external } from '../harness/server.js';

const md5 = (bytes) => createHash('md5').update(bytes).digest();
const digest = (bytes) => `md5-${md5(bytes).toString('base64')}`;
const TEXT = 'This is a base64 encoded text';
const BASE64 = Buffer.from(TEXT).toString('base64');
const BYTES = Buffer.from([0, 1, 2, 250, 251, 252]);
const octets = { 'Content-Type': 'application/octet-stream' };

suite('attachments', (api) => {
  api.rows('standalone', [
    {
      name: 'PUT to a missing document creates it',
      req: 'PUT /{db}/d/a.bin',
      body: BYTES,
      send: octets,
      status: 201,
      keys: ['id', 'ok', 'rev'],
      like: { ok: true, id: 'd', rev: revision({}, { attachments: [{ name: 'a.bin', type: 'application/octet-stream', md5: md5(BYTES) }] }) },
      save: { rev1: 'rev' },
      headers: { Location: /\/d\/a\.bin$/ },
    },
    {
      name: 'GET returns the bytes',
      req: 'GET /{db}/d/a.bin',
      status: 200,
      headers: {
        'Content-Type': 'application/octet-stream',
        'Content-Length': '6',
        'Accept-Ranges': 'bytes',
        ETag: `"${md5(BYTES).toString('base64')}"`,
        'Cache-Control': 'must-revalidate',
        'Content-Security-Policy': 'sandbox',
      },
      check: ({ body }) => assert.deepEqual(body, BYTES),
    },
    { name: 'HEAD', req: 'HEAD /{db}/d/a.bin', status: 200, text: '', headers: { 'Content-Length': '6', 'Content-Type': 'application/octet-stream' } },
    { name: 'If-None-Match', req: 'GET /{db}/d/a.bin', send: { 'If-None-Match': `"${md5(BYTES).toString('base64')}"` }, status: 304, text: '' },
    {
      name: 'the document has a stub',
      req: 'GET /{db}/d',
      status: 200,
      check: ({ json }) => assert.deepEqual(json._attachments, { 'a.bin': { content_type: 'application/octet-stream', revpos: 1, digest: digest(BYTES), length: 6, stub: true } }),
    },
    { name: 'PUT without the revision', req: 'PUT /{db}/d/a.bin', body: BYTES, send: octets, status: 409, error: 'conflict' },
    { name: 'PUT with a wrong revision', req: 'PUT /{db}/d/a.bin?rev=1-967a00dff5e02add41819138abb3284d', body: BYTES, send: octets, status: 409, error: 'not_found', reason: 'missing_rev' },
    { name: 'PUT another attachment with the revision', req: 'PUT /{db}/d/b%2Fc.bin?rev={rev1}', body: Buffer.from('xyz'), send: octets, status: 201, like: { rev: /^2-/ }, save: { rev2: 'rev' } },
    { name: 'a name with an unescaped slash', req: 'GET /{db}/d/b/c.bin', status: 200, text: 'xyz' },
    { name: 'a name with an escaped slash', req: 'GET /{db}/d/b%2Fc.bin', status: 200, text: 'xyz' },
    { name: 'Unicode name and If-Match', req: 'PUT /{db}/d/%E2%82%AC%20%2B.bin', send: { ...octets, 'If-Match': '"{rev2}"' }, body: Buffer.from('u'), status: 201, save: { rev3: 'rev' } },
    { name: 'the document lists all three', req: 'GET /{db}/d', status: 200, check: ({ json }) => assert.deepEqual(Object.keys(json._attachments).sort(), ['a.bin', 'b/c.bin', '€ +.bin'].sort()) },
    { name: 'without a content type', req: 'PUT /{db}/d/n?rev={rev3}', body: Buffer.from('n'), status: 201, save: { rev4: 'rev' } },
    { name: '... defaults to application/octet-stream', req: 'GET /{db}/d/n', status: 200, headers: { 'Content-Type': 'application/octet-stream' } },
    { name: 'empty', req: 'PUT /{db}/d/e?rev={rev4}', body: Buffer.alloc(0), send: octets, status: 201, save: { rev5: 'rev' } },
    { name: '... is returned', req: 'GET /{db}/d/e', status: 200, text: '', headers: { 'Content-Length': '0' } },
    { name: 'GET from an older revision', req: 'GET /{db}/d/a.bin?rev={rev1}', status: 200, headers: { 'Content-Length': '6' } },
    { name: 'GET from an older revision that does not have it', req: 'GET /{db}/d/n?rev={rev1}', status: 404, error: 'not_found', reason: 'Document is missing attachment' },
    { name: 'DELETE without the revision', req: 'DELETE /{db}/d/a.bin', status: 409, error: 'conflict' },
    { name: 'DELETE of a missing attachment', req: 'DELETE /{db}/d/none?rev={rev5}', status: 404, error: 'not_found', reason: 'Document is missing attachment' },
    { name: 'DELETE', req: 'DELETE /{db}/d/a.bin?rev={rev5}', status: 200, like: { ok: true, rev: /^6-/ }, save: { rev6: 'rev' } },
    { name: 'the deleted attachment is missing', req: 'GET /{db}/d/a.bin', status: 404, error: 'not_found', reason: 'Document is missing attachment' },
    { name: '... but the previous revision still has it', req: 'GET /{db}/d/a.bin?rev={rev5}', status: 200 },
    { name: 'GET from a missing document', req: 'GET /{db}/none/a', status: 404, error: 'not_found', reason: 'missing' },
    { name: 'a reserved document id', req: 'PUT /{db}/_nope/a', body: Buffer.from('a'), send: octets, status: 400 },
    { name: 'a name with an underscore', req: 'PUT /{db}/x/_a', body: Buffer.from('a'), send: octets, status: 400, error: 'bad_request', reason: "Attachment name '_a' starts with prohibited character '_'" },
    { name: 'a name that is not UTF-8', req: 'PUT /{db}/x/%FF', body: Buffer.from('a'), send: octets, status: 400, error: 'bad_request', reason: 'Attachment name is not UTF-8 encoded' },
    { name: 'an unknown content encoding', req: 'PUT /{db}/x/a', body: Buffer.from('a'), send: { ...octets, 'Content-Encoding': 'br' }, status: 415, error: 'bad_content_type' },
    ...[['octets', BYTES, octets], ['text, which is compressed', BYTES, { 'Content-Type': 'text/plain' }], ['gzip', gzipSync(BYTES), { 'Content-Type': 'text/plain', 'Content-Encoding': 'gzip' }]].flatMap(([what, body, send], at) => [
      { name: `a wrong Content-MD5 of ${what}`, req: `PUT /{db}/m${at}/a`, body, send: { ...send, 'Content-MD5': md5('other').toString('base64') }, status: 400, error: 'bad_request', reason: /MD5/ },
      { name: `the Content-MD5 of ${what} as it is sent`, req: `PUT /{db}/m${at}/a`, body, send: { ...send, 'Content-MD5': md5(body).toString('base64') }, status: 201 },
    ]),
    { name: 'an unsupported method', req: 'POST /{db}/d/a.bin', body: Buffer.from('a'), send: octets, status: 405, error: 'method_not_allowed', headers: { Allow: 'DELETE,GET,HEAD,PUT' } },
    { name: 'PUT to a deleted document: create the document', req: 'PUT /{db}/del', body: {}, status: 201, save: { del: 'rev' } },
    { name: '...', req: 'DELETE /{db}/del?rev={del}', status: 200 },
    { name: '... PUT recreates the document', req: 'PUT /{db}/del/a', body: BYTES, send: octets, status: 201, like: { rev: /^3-/ } },
  ]);

  const octetDoc = { _attachments: { 'foo.txt': { content_type: 'application/octet-stream', data: BASE64 } } };
  const range = (name, value, status, text, contentRange) => ({
    name,
    req: 'GET /{db}/r/foo.txt',
    send: { Range: value },
    status,
    ...(text === undefined ? {} : { text }),
    headers: status === 416 ? {} : { 'Content-Range': contentRange ?? null },
  });
  api.rows('ranges', [
    { name: 'an attachment', req: 'PUT /{db}/r', body: octetDoc, status: 201 },
    range('a range of the whole attachment is 206', 'bytes=0-28', 206, TEXT, 'bytes 0-28/29'),
    range('an open range from 0 is 200', 'bytes=0-', 200, TEXT),
    range('... even if it is requested three times', 'bytes=0-,0-,0-', 200, TEXT),
    range('a malformed range is ignored', 'bytes:0-', 200, TEXT),
    range('to the end', 'bytes=2-', 206, TEXT.slice(2), 'bytes 2-28/29'),
    range('the beginning', 'bytes=0-3', 206, 'This', 'bytes 0-3/29'),
    range('the middle', 'bytes=10-15', 206, 'base64', 'bytes 10-15/29'),
    range('the last bytes', 'bytes=-3', 206, 'ext', 'bytes 26-28/29'),
    range('a range beyond the end is truncated', 'bytes=20-100', 206, TEXT.slice(20), 'bytes 20-28/29'),
    { name: 'the whole has its digest', req: 'GET /{db}/r/foo.txt', status: 200, headers: { ETag: /^"/ }, save: { etag: ({ headers }) => headers.etag.slice(1, -1) } },
    { name: '... in Content-MD5', req: 'GET /{db}/r/foo.txt', status: 200, check: external ? undefined : ({ headers }, w) => assert.equal(headers['content-md5'], w.etag) },
    { name: '... which a part has not', req: 'GET /{db}/r/foo.txt', send: { Range: 'bytes=0-3' }, status: 206, headers: { 'Content-MD5': null, ETag: '"{etag}"' } },
    range('a reversed range', 'bytes=5-3', 416),
    range('a range outside the attachment', 'bytes=300-310', 416),
    range('too many ranges', 'bytes=0-1,0-1,0-1,0-1,0-1,0-1,0-1,0-1,0-1,0-1', 200, TEXT),
    {
      name: 'two ranges are returned as multipart/byteranges',
      req: 'GET /{db}/r/foo.txt',
      send: { Range: 'bytes=0-3,10-15' },
      status: 206,
      headers: { 'Content-Type': /^multipart\/byteranges; ?boundary=/ },
      check: ({ text }) => assert.ok(text.includes('bytes 0-3/29') && text.includes('bytes 10-15/29') && text.includes('base64')),
    },
    {
      name: 'HEAD returns the length',
      req: 'HEAD /{db}/r/foo.txt',
      status: 200,
      headers: { 'Content-Length': '29', 'Accept-Ranges': 'bytes' },
    },
  ]);

  const plain = 'compress me '.repeat(1000);
  api.rows('compressible types', [
    { name: 'a text', req: 'PUT /{db}/t/t.txt', body: plain, send: { 'Content-Type': 'text/plain' }, status: 201, save: { rev: 'rev' } },
    { name: 'is returned uncompressed, without range support', req: 'GET /{db}/t/t.txt', status: 200, text: plain, headers: { 'Content-Encoding': null, 'Accept-Ranges': 'none', 'Content-Type': 'text/plain', Vary: /Accept-Encoding/i } },
    {
      name: 'is returned gzipped, as stored, if the client accepts gzip',
      req: 'GET /{db}/t/t.txt',
      send: { 'Accept-Encoding': 'gzip' },
      status: 200,
      headers: { 'Content-Encoding': 'gzip', Vary: /Accept-Encoding/i },
      save: { etag: ({ headers }) => headers.etag, digest: ({ body }) => digest(body), encoded: ({ body }) => body.length },
      check: ({ body }) => assert.equal(gunzipSync(body).toString(), plain),
    },
    {
      name: 'length is that of the text, digest that of the stored bytes',
      req: 'GET /{db}/t',
      status: 200,
      check: ({ json }, w) => assert.deepEqual(json._attachments['t.txt'], { content_type: 'text/plain', revpos: 1, digest: w.digest, length: plain.length, stub: true }),
    },
    {
      name: 'att_encoding_info',
      req: 'GET /{db}/t?att_encoding_info=true',
      status: 200,
      check: ({ json }, w) => {
        assert.equal(json._attachments['t.txt'].encoding, 'gzip');
        assert.equal(json._attachments['t.txt'].encoded_length, w.encoded);
      },
    },
    { name: 'inline data is the uncompressed text', req: 'GET /{db}/t?attachments=true', send: { Accept: 'application/json' }, status: 200, check: ({ json }) => assert.equal(Buffer.from(json._attachments['t.txt'].data, 'base64').toString(), plain) },
    { name: 'HEAD varies, too', req: 'HEAD /{db}/t/t.txt', status: 200, headers: { Vary: /Accept-Encoding/i } },
    { name: '... and 304', req: 'GET /{db}/t/t.txt', send: { 'If-None-Match': '{etag}' }, status: 304, headers: { Vary: /Accept-Encoding/i } },
    { name: '... also with att_encoding_info', req: 'GET /{db}/t?attachments=true&att_encoding_info=true', send: { Accept: 'application/json' }, status: 200, check: ({ json }, w) => {
      const { data, encoding, encoded_length } = json._attachments['t.txt'];
      assert.equal(Buffer.from(data, 'base64').toString(), plain);
      assert.deepEqual({ encoding, encoded_length }, { encoding: 'gzip', encoded_length: w.encoded });
    } },
    { name: 'encoding is ignored in inline data', req: 'PUT /{db}/e', body: { _attachments: { 'e.txt': { content_type: 'text/plain', encoding: 'gzip', data: Buffer.from(plain).toString('base64') } } }, status: 201 },
    { name: '...', req: 'GET /{db}/e/e.txt', status: 200, text: plain },
    { name: '... also if the data is gzip', req: 'PUT /{db}/e2', body: { _attachments: { 'e.txt': { content_type: 'text/plain', encoding: 'gzip', data: gzipSync(plain).toString('base64') } } }, status: 201 },
    { name: '...', req: 'GET /{db}/e2/e.txt', status: 200, headers: { 'Content-Encoding': null }, check: ({ body }) => assert.equal(gunzipSync(body).toString(), plain) },
    { name: 'gzip sent by the client is stored unchanged', req: 'PUT /{db}/g/g.txt', body: gzipSync(plain), send: { 'Content-Type': 'text/plain', 'Content-Encoding': 'gzip' }, status: 201 },
    { name: '... and returned as text', req: 'GET /{db}/g/g.txt', status: 200, text: plain },
    { name: '... and as gzip', req: 'GET /{db}/g/g.txt', send: { 'Accept-Encoding': 'gzip' }, status: 200, headers: { 'Content-Encoding': 'gzip' }, check: ({ body }) => assert.equal(gunzipSync(body).toString(), plain) },
    { name: 'an image is not compressed', req: 'PUT /{db}/p/p.png', body: BYTES, send: { 'Content-Type': 'image/png' }, status: 201 },
    { name: '... even if the client accepts gzip', req: 'GET /{db}/p/p.png', send: { 'Accept-Encoding': 'gzip' }, status: 200, headers: { 'Content-Encoding': null }, check: ({ body }) => assert.deepEqual(body, BYTES) },
  ]);

  api.rows('inline', [
    { name: 'base64 in a PUT', req: 'PUT /{db}/i', body: octetDoc, status: 201, save: { rev1: 'rev' }, like: { rev: revision({}, { attachments: [{ name: 'foo.txt', type: 'application/octet-stream', md5: md5(TEXT) }] }) } },
    { name: 'is returned', req: 'GET /{db}/i/foo.txt', status: 200, text: TEXT },
    { name: 'attachments=true returns the data', req: 'GET /{db}/i?attachments=true', send: { Accept: 'application/json' }, status: 200, check: ({ json }) => assert.deepEqual(json._attachments['foo.txt'], { content_type: 'application/octet-stream', revpos: 1, digest: digest(TEXT), data: BASE64 }) },
    { name: 'a stub keeps the attachment', req: 'PUT /{db}/i', body: (w) => ({ _rev: w.rev1, n: 2, _attachments: { 'foo.txt': { stub: true } } }), status: 201, save: { rev2: 'rev' } },
    { name: '... with its revpos', req: 'GET /{db}/i', status: 200, like: { _attachments: { 'foo.txt': { stub: true, revpos: 1, length: 29 } } } },
    { name: 'a stub with another revpos', req: 'PUT /{db}/i', body: (w) => ({ _rev: w.rev2, _attachments: { 'foo.txt': { stub: true, revpos: 10 } } }), status: 412, error: 'missing_stub' },
    { name: 'a stub of a missing attachment', req: 'PUT /{db}/i', body: (w) => ({ _rev: w.rev2, _attachments: { 'bar.txt': { stub: true, content_type: 'text/plain' } } }), status: 412, error: 'missing_stub' },
    { name: 'a stub in a new document', req: 'PUT /{db}/new', body: { _attachments: { 'foo.txt': { stub: true, content_type: 'text/plain' } } }, status: 412, error: 'missing_stub' },
    { name: 'an attachment that an update omits is removed', req: 'PUT /{db}/i', body: (w) => ({ _rev: w.rev2, _attachments: { 'two.bin': { content_type: 'application/octet-stream', data: 'AAEC' } } }), status: 201, save: { rev3: 'rev' } },
    { name: '... the document no longer lists it', req: 'GET /{db}/i', status: 200, check: ({ json }) => assert.deepEqual(Object.keys(json._attachments), ['two.bin']) },
    { name: 'atts_since returns stubs of older attachments', req: 'GET /{db}/i?atts_since=["{rev3}"]', send: { Accept: 'application/json' }, status: 200, like: { _attachments: { 'two.bin': { stub: true, data: undefined } } } },
    { name: '... and the data of newer ones', req: 'GET /{db}/i?atts_since=["{rev2}"]', send: { Accept: 'application/json' }, status: 200, like: { _attachments: { 'two.bin': { data: 'AAEC' } } } },
    { name: 'atts_since that is not a list', req: 'GET /{db}/i?atts_since=5', status: 400, error: 'bad_request' },
    { name: 'data that is not base64', req: 'PUT /{db}/bad', body: { _attachments: { a: { content_type: 'text/plain', data: 'notBase64Encoded=' } } }, status: 400 },
    { name: 'data of the wrong type', req: 'PUT /{db}/bad', body: { _attachments: { a: { content_type: 'text/plain', data: 5 } } }, status: 400 },
    { name: 'an attachment that is not an object', req: 'PUT /{db}/bad', body: { _attachments: { a: 5 } }, status: 201 },
    { name: '... is not stored', req: 'GET /{db}/bad', status: 200, keys: ['_id', '_rev'] },
    { name: 'a name with an underscore', req: 'PUT /{db}/bad2', body: { _attachments: { _a: { content_type: 'text/plain', data: '' } } }, status: 400, error: 'bad_request', reason: "Attachment name '_a' starts with prohibited character '_'" },
    { name: 'an empty _attachments', req: 'PUT /{db}/none', body: { _attachments: {} }, status: 201 },
    { name: '... is not stored', req: 'GET /{db}/none', status: 200, keys: ['_id', '_rev'] },
  ]);

  it('_all_docs, _changes and _bulk_get return attachments on request', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/a`, { body: octetDoc });
    const stub = (doc) => assert.deepEqual(doc._attachments['foo.txt'], { content_type: 'application/octet-stream', revpos: 1, digest: digest(TEXT), length: 29, stub: true });
    const whole = (doc) => assert.equal(doc._attachments['foo.txt'].data, BASE64);
    stub((await api.ok(`GET /${db}/_all_docs?include_docs=true`)).rows[0].doc);
    whole((await api.ok(`GET /${db}/_all_docs?include_docs=true&attachments=true`)).rows[0].doc);
    stub((await api.ok(`GET /${db}/_changes?include_docs=true`)).results[0].doc);
    whole((await api.ok(`GET /${db}/_changes?include_docs=true&attachments=true`)).results[0].doc);
    stub((await api.ok(`POST /${db}/_bulk_get`, { body: { docs: [{ id: 'a' }] } })).results[0].docs[0].ok);
    whole((await api.ok(`POST /${db}/_bulk_get?attachments=true`, { body: { docs: [{ id: 'a' }] } })).results[0].docs[0].ok);
  });

  it('inline data is decoded everywhere, also with att_encoding_info', async () => {
    const db = await api.db();
    const { rev } = await api.ok(`PUT /${db}/t/t.txt`, { body: plain, send: { 'Content-Type': 'text/plain' } });
    const query = 'attachments=true&att_encoding_info=true';
    const json = { Accept: 'application/json' };
    const docs = [
      (await api.ok(`GET /${db}/t?open_revs=["${rev}"]&${query}`, { send: json }))[0].ok,
      (await api.ok(`GET /${db}/_all_docs?include_docs=true&${query}`)).rows[0].doc,
      (await api.ok(`GET /${db}/_changes?include_docs=true&${query}`)).results[0].doc,
      (await api.ok(`POST /${db}/_bulk_get?${query}`, { body: { docs: [{ id: 't' }] } })).results[0].docs[0].ok,
    ];
    for (const doc of docs) {
      const { data, encoding } = doc._attachments['t.txt'];
      assert.equal(encoding, 'gzip');
      assert.equal(Buffer.from(data, 'base64').toString(), plain);
    }
    // What was read can be written back.
    await api.ok(`PUT /${db}/copy`, { body: { _attachments: docs[0]._attachments } });
    assert.equal((await api.call(`GET /${db}/copy/t.txt`)).text, plain);
  });

  it('If-Match of a GET names the revision', async () => {
    const db = await api.db();
    const one = await api.ok(`PUT /${db}/d/a`, { body: 'one', send: { 'Content-Type': 'application/x-one' } });
    const two = await api.ok(`PUT /${db}/d/a?rev=${one.rev}`, { body: 'two', send: { 'Content-Type': 'application/x-two' } });
    const get = (query, match) => api.call(`GET /${db}/d/a${query}`, { send: { 'If-Match': match } });
    assert.equal((await get('', `"${one.rev}"`)).text, 'one');
    assert.equal((await get('', two.rev)).text, 'two');
    assert.equal((await get(`?rev=${one.rev}`, one.rev)).text, 'one');
    assert.equal((await get(`?rev=${one.rev}`, two.rev)).status, 400);
    assert.equal((await get('', '"1-unknown"')).status, 404);
    const { etag } = (await api.call(`GET /${db}/d/a`)).headers;
    assert.equal((await get('', etag)).text, 'two', 'the ETag of an attachment names no revision');
  });

  it('an attachment of a deleted leaf leaves it deleted', async () => {
    const db = await api.db();
    const docs = [{ _id: 'd', _rev: '1-a', live: true }, { _id: 'd', _revisions: { start: 2, ids: ['c', 'b'] }, _deleted: true }];
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs, new_edits: false } });
    const put = await api.ok(`PUT /${db}/d/f?rev=2-c`, { body: 'x', send: { 'Content-Type': 'text/plain' } });
    assert.equal((await api.ok(`GET /${db}/d`))._rev, '1-a');
    const leaf = await api.ok(`GET /${db}/d?rev=${put.rev}`);
    assert.ok(leaf._deleted && leaf._attachments.f);
    const removed = await api.ok(`DELETE /${db}/d/f?rev=${put.rev}`);
    assert.equal((await api.ok(`GET /${db}/d?rev=${removed.rev}`))._deleted, true);
  });

  it('a + in the path is a space, or else itself: nano does not encode names', async () => {
    const db = await api.db();
    const inline = (text) => ({ content_type: 'text/plain', data: Buffer.from(text).toString('base64') });
    const { rev } = await api.ok(`PUT /${db}/d`, { body: { _attachments: { 'a+b.png': inline('plus'), 'c+d e/f+.png': inline('both'), 'x y': inline('space') } } });
    const text = async (path) => (await api.call(`GET /${db}/d/${path}`)).text;
    assert.equal(await text('a+b.png'), 'plus');
    assert.equal(await text('a%2Bb.png'), 'plus');
    assert.equal(await text('c+d%20e/f+.png'), 'both');
    assert.equal(await text('x+y'), 'space');
    assert.equal((await api.call(`GET /${db}/d/a%20b.png`)).status, 404);
    const two = await api.ok(`PUT /${db}/d/a+b.png?rev=${rev}`, { body: 'with a space', send: { 'Content-Type': 'text/plain' } });
    assert.equal(await text('a+b.png'), 'with a space', 'the name that CouchDB reads comes first');
    const three = await api.ok(`DELETE /${db}/d/a+b.png?rev=${two.rev}`);
    assert.equal(await text('a+b.png'), 'plus');
    await api.ok(`DELETE /${db}/d/a+b.png?rev=${three.rev}`);
    assert.equal((await api.call(`GET /${db}/d/a+b.png`)).status, 404);
  });

  it('new_edits=false accepts stubs of existing attachments and rejects others', async () => {
    const db = await api.db();
    const first = await api.ok(`PUT /${db}/a`, { body: octetDoc });
    const [start, id] = first.rev.split('-');
    const stubbed = { _id: 'a', _revisions: { start: Number(start) + 1, ids: ['f'.repeat(32), id] }, _attachments: { 'foo.txt': { stub: true, revpos: 1, digest: digest(TEXT) } } };
    const answer = await api.call(`POST /${db}/_bulk_docs`, { body: { docs: [stubbed], new_edits: false } });
    assert.equal(answer.status, 201, answer.text);
    assert.equal((await api.call(`GET /${db}/a/foo.txt`)).text, TEXT);
    const missing = { _id: 'b', _rev: `1-${'a'.repeat(32)}`, _attachments: { x: { stub: true, revpos: 1, content_type: 'text/plain' } } };
    const fine = { _id: 'c', _rev: `1-${'a'.repeat(32)}` };
    const refused = await api.call(`POST /${db}/_bulk_docs`, { body: { docs: [fine, missing, { _id: '_local/l', _rev: '0-1' }], new_edits: false } });
    assert.equal(refused.status, 412, refused.text);
    assert.equal(refused.json.error, 'missing_stub');
    // A rejected request writes nothing; the replicator sends all of it again.
    assert.equal((await api.call(`GET /${db}/c`)).status, 404);
    assert.equal((await api.call(`GET /${db}/_local/l`)).status, 404);
  });

  const streamed = async (mib) => {
    const db = await api.db();
    const chunk = randomBytes(1 << 20);
    const sum = createHash('md5');
    const source = Readable.from(
      (function* () {
        for (let n = 0; n < mib; n += 1) {
          sum.update(chunk);
          yield chunk;
        }
      })(),
    );
    const before = external ? 0 : api.server.rss();
    let most = before;
    const watch = setInterval(() => {
      if (!external) most = Math.max(most, api.server.rss());
    }, 20);
    try {
      const put = await api.call(`PUT /${db}/big/big.bin`, { body: source, send: { ...octets, 'Content-Length': mib << 20 } });
      assert.equal(put.status, 201, put.text);
      const expected = sum.digest('base64');
      const got = await api.call(`GET /${db}/big/big.bin`, {
        fresh: true,
        onStream: (answer) =>
          new Promise((resolve, reject) => {
            const hash = createHash('md5');
            answer.on('data', (part) => hash.update(part));
            answer.on('end', () => resolve({ status: answer.statusCode, length: answer.headers['content-length'], md5: hash.digest('base64') }));
            answer.on('error', reject);
          }),
      });
      assert.deepEqual(got, { status: 200, length: String(mib << 20), md5: expected });
      const tail = await api.call(`GET /${db}/big/big.bin`, { send: { Range: 'bytes=-16' } });
      assert.deepEqual(tail.body, chunk.subarray(-16));
      assert.equal((await api.ok(`GET /${db}/big`))._attachments['big.bin'].digest, `md5-${expected}`);
      const grown = (most - before) / (1 << 20);
      if (!external) assert.ok(grown < 40, `memory grew by ${grown.toFixed(0)} MiB for ${mib} MiB streamed`);
    } finally {
      clearInterval(watch);
    }
  };
  it('uploads and downloads 64 MiB in bounded memory', () => streamed(64));
  it('uploads and downloads 1 GiB in bounded memory', { skip: process.env.LONG ? false : 'set LONG=1' }, () => streamed(1024));

  it('a chunked upload without a length', async () => {
    const db = await api.db();
    const parts = [Buffer.from('one,'), Buffer.from('two,'), Buffer.from('three')];
    const put = await api.call(`PUT /${db}/c/c.bin`, { body: Readable.from(parts), send: octets });
    assert.equal(put.status, 201, put.text);
    assert.equal((await api.call(`GET /${db}/c/c.bin`)).text, 'one,two,three');
  });
});
