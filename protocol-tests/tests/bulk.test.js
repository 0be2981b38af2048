// Bulk requests: CouchDB docs `api/database/bulk-api.rst`, `api/database/misc.rst`.

import { gzipSync } from 'node:zlib';
import { suite, it, assert } from '../harness/rows.js';
import { external, until } from '../harness/server.js';
import { revision } from '../harness/revision.js';

suite('bulk', (api) => {
  api.rows('_bulk_docs', [
    {
      name: 'new edits, results in the order of the request',
      req: 'POST /{db}/_bulk_docs',
      body: { docs: [{ _id: 'a', n: 1 }, { n: 2 }, { _id: 'a', n: 3 }, { _id: 'c', _rev: '1-967a00dff5e02add41819138abb3284d' }] },
      status: 201,
      like: [
        { ok: true, id: 'a', rev: revision({ n: 1 }) },
        { ok: true, id: /^[0-9a-f]{32}$/, rev: revision({ n: 2 }) },
        { id: 'a', error: 'conflict', reason: 'Document update conflict.', ok: undefined, rev: undefined },
        { id: 'c', error: 'conflict' },
      ],
      save: { rev: ({ json }) => json[0].rev },
    },
    { name: 'update and delete', req: 'POST /{db}/_bulk_docs', body: (w) => ({ docs: [{ _id: 'a', _rev: w.rev, n: 4 }, { _id: 'gone', _deleted: true }] }), status: 201, like: [{ ok: true, rev: /^2-/ }, { ok: true, id: 'gone', rev: /^1-/ }] },
    { name: 'no documents', req: 'POST /{db}/_bulk_docs', body: { docs: [] }, status: 201, like: [] },
    { name: 'without docs', req: 'POST /{db}/_bulk_docs', body: {}, status: 400, error: 'bad_request', reason: 'POST body must include `docs` parameter.' },
    { name: 'docs of the wrong type', req: 'POST /{db}/_bulk_docs', body: { docs: {} }, status: 400, error: 'bad_request', reason: '`docs` parameter must be an array.' },
    { name: 'a document that is not an object', req: 'POST /{db}/_bulk_docs', body: { docs: [5] }, status: 400, error: 'bad_request', reason: 'Document must be a JSON object' },
    { name: 'new_edits of the wrong type', req: 'POST /{db}/_bulk_docs', body: { docs: [], new_edits: 'no' }, status: 400, error: 'bad_request', reason: '`new_edits` parameter must be a boolean.' },
    { name: 'a body that is not an object', req: 'POST /{db}/_bulk_docs', body: [], status: 400, error: 'bad_request', reason: 'Request body must be a JSON object' },
    { name: 'a reserved id fails the whole request', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: 'fine' }, { _id: '_bad' }] }, status: 400, error: 'illegal_docid' },
    { name: '... and nothing is written', req: 'GET /{db}/fine', status: 404, error: 'not_found' },
    { name: 'an unknown underscore member fails the whole request', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: 'fine', _x: 1 }] }, status: 400, error: 'doc_validation' },
    { name: 'without a content type', req: 'POST /{db}/_bulk_docs', body: '{"docs":[]}', status: 415, error: 'bad_content_type' },
    { name: 'a gzip body', req: 'POST /{db}/_bulk_docs', body: gzipSync('{"docs":[{"_id":"zipped"}]}'), send: { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip' }, status: 201, like: [{ ok: true, id: 'zipped' }] },
    { name: 'a body declared as gzip that is not gzipped', req: 'POST /{db}/_bulk_docs', body: '{"docs":[]}', send: { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip' }, status: 400, error: 'bad_request', reason: 'Request body is not properly gzipped.' },
    { name: 'an unknown content encoding', req: 'POST /{db}/_bulk_docs', body: '{"docs":[]}', send: { 'Content-Type': 'application/json', 'Content-Encoding': 'br' }, status: 415, error: 'bad_content_type', reason: 'br is not a supported content encoding.' },
    { name: 'GET', req: 'GET /{db}/_bulk_docs', status: 405, error: 'method_not_allowed', reason: 'Only POST allowed', headers: { Allow: 'POST' } },
  ]);

  api.rows('_bulk_docs with new_edits=false', [
    {
      name: 'returns no rows for accepted revisions',
      req: 'POST /{db}/_bulk_docs',
      body: { new_edits: false, docs: [{ _id: 'd', _rev: '1-abc', n: 1 }, { _id: 'd', _revisions: { start: 3, ids: ['c', 'b', 'a'] }, n: 3 }, { _id: 'd', _revisions: { start: 3, ids: ['x', 'b', 'a'] }, _deleted: true }] },
      status: 201,
      like: [],
    },
    { name: 'the tree is merged', req: 'GET /{db}/d?meta=true', status: 200, like: { _rev: '3-c', _conflicts: ['1-abc'], _deleted_conflicts: ['3-x'], _revs_info: [{ rev: '3-c' }, { rev: '2-b', status: 'missing' }, { rev: '1-a', status: 'missing' }] } },
    { name: 'the document has one row in _changes', req: 'GET /{db}/_changes', status: 200, like: { results: [{ id: 'd' }] }, save: { seq: 'last_seq' } },
    { name: 'a known revision', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [{ _id: 'd', _rev: '1-abc', n: 1 }] }, status: 201, like: [] },
    { name: '... takes no sequence', req: 'GET /{db}/_changes?since={seq}', status: 200, like: { results: [] } },
    { name: 'a child of an existing leaf', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [{ _id: 'd', _revisions: { start: 2, ids: ['abd', 'abc'] } }] }, status: 201, like: [] },
    { name: '... replaces that leaf', req: 'GET /{db}/d?conflicts=true', status: 200, like: { _conflicts: ['2-abd'] } },
    { name: 'without a revision', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [{ _id: 'e' }] }, status: 400, error: 'bad_request', reason: 'When `new_edits: false`, the document needs `_rev` or `_revisions` specified' },
    { name: 'a bad revision', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [{ _id: 'e', _rev: 'x' }] }, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
  ]);

  const nested = (depth) => JSON.parse(`${'['.repeat(depth)}1${']'.repeat(depth)}`);

  // CouchDB refuses the whole request. PouchDB then stops at this batch for good, and goes on only after a row with `forbidden`.
  api.rows('_bulk_docs with new_edits=false refuses single documents', [
    {
      name: 'each in its own row',
      req: 'POST /{db}/_bulk_docs',
      body: {
        new_edits: false,
        docs: [
          { _id: 'first', _rev: '1-a' },
          { _id: '_reserved', _rev: '1-a' },
          { _id: 'l'.repeat(8000), _rev: '1-a' },
          { _id: 'deep', _rev: '1-a', a: nested(600) },
          { _id: 'half', _rev: '1-a', '\ud83d': 'half \ud83d' },
          { _id: 'half \ude00', _rev: '1-a' },
          { _id: 'member', _rev: '1-a', _x: 1 },
          { _id: 'data', _rev: '1-a', _attachments: { f: { content_type: 'text/plain', data: '!' } } },
          { _id: 'gzip', _rev: '1-a', _attachments: { _f: { content_type: 'text/plain', data: '' } } },
          { _id: 'follows', _rev: '1-a', _attachments: { f: { content_type: 'text/plain', follows: true } } },
          { _id: 'rev', _rev: '99999999999999999999-a' },
          { _id: `_local/${'l'.repeat(8000)}`, _rev: '0-1' },
          { _id: 'last', _rev: '1-a' },
        ],
      },
      status: 201,
      couch: 400,
      like: [
        { id: '_reserved', rev: '1-a', error: 'forbidden', reason: /^illegal_docid: Only reserved/ },
        { id: 'l'.repeat(8000), rev: '1-a', error: 'forbidden', reason: /^illegal_docid: / },
        { id: 'deep', rev: '1-a', error: 'forbidden', reason: 'bad_request: JSON is nested deeper than 512 levels' },
        { id: 'half', rev: '1-a', error: 'forbidden', reason: 'bad_request: invalid UTF-8 JSON' },
        { id: 'half \ude00', rev: '1-a', error: 'forbidden', reason: 'bad_request: invalid UTF-8 JSON' },
        { id: 'member', rev: '1-a', error: 'forbidden', reason: 'doc_validation: Bad special document member: _x' },
        { id: 'data', rev: '1-a', error: 'forbidden', reason: 'bad_request: Invalid attachment data for f' },
        { id: 'gzip', rev: '1-a', error: 'forbidden', reason: /^bad_request: Attachment name '_f'/ },
        { id: 'follows', rev: '1-a', error: 'forbidden', reason: /^bad_request: attachment f/ },
        { id: 'rev', rev: '99999999999999999999-a', error: 'forbidden', reason: 'bad_request: Invalid rev format' },
        { id: /^_local/, error: 'forbidden', reason: 'bad_request: Invalid _local document id.' },
      ],
    },
    { name: 'the rest is written', req: 'GET /{db}/_all_docs', status: 200, couch: 200, check: ({ json }) => assert.deepEqual(json.rows.map(({ id }) => id), ['first', 'last']) },
    { name: 'a value that is no document fails the request', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [5] }, status: 400, error: 'bad_request', reason: 'Document must be a JSON object' },
  ]);

  // CouchDB's replicator sends a document with attachments like this, and retries for ever after most other answers.
  api.rows('PUT with new_edits=false refuses the document', [
    { name: 'too deep', req: 'PUT /{db}/deep?new_edits=false', body: { _rev: '1-a', a: nested(600) }, status: 403, error: 'forbidden', reason: 'bad_request: JSON is nested deeper than 512 levels' },
    { name: 'half of a surrogate pair', req: 'PUT /{db}/half?new_edits=false', body: '{"_rev":"1-a","half":"\\ud83d"}', status: 403, error: 'forbidden', reason: 'bad_request: invalid UTF-8 JSON' },
    { name: 'no server has stored a member that is reserved', req: 'PUT /{db}/member?new_edits=false', body: { _rev: '1-a', _x: 1 }, status: 400, error: 'doc_validation', reason: 'Bad special document member: _x' },
    {
      name: 'too deep, with an attachment',
      req: 'PUT /{db}/att?new_edits=false',
      send: { 'Content-Type': 'multipart/related;boundary="b"' },
      body: `--b\r\n\r\n${JSON.stringify({ _rev: '1-a', a: nested(600), _attachments: { f: { follows: true, length: 1 } } })}\r\n--b\r\n\r\nx\r\n--b--`,
      status: 403,
      error: 'forbidden',
      reason: 'bad_request: JSON is nested deeper than 512 levels',
    },
    { name: 'a design document that does not compile', req: 'PUT /{db}/_design/d?new_edits=false', body: { _rev: '1-a', views: { v: { map: 'function (' } } }, status: 403, error: 'forbidden', reason: /^compilation_error: / },
    { name: 'no JSON is a wrong request', req: 'PUT /{db}/a?new_edits=false', body: '{"_rev":"1-a",', status: 400, error: 'bad_request', reason: 'invalid UTF-8 JSON' },
    { name: 'so is no revision', req: 'PUT /{db}/a?new_edits=false', body: {}, status: 400, error: 'bad_request' },
    { name: 'without new_edits=false', req: 'PUT /{db}/member', body: { _x: 1 }, status: 400, error: 'doc_validation' },
  ]);

  it('what a function throws refuses a replicated document alone', async () => {
    const db = await api.db();
    const validator = "function (doc) { if (doc.type) doc.no.where; if (doc.text) throw 'a text'; if (doc.odd) throw ({ odd: 'so' }); }";
    await api.ok(`PUT /${db}/_design/v`, { body: { validate_doc_update: validator } });
    const docs = [
      { _id: 'first', _rev: '1-a' },
      { _id: 'type', _rev: '1-a', type: 1 },
      { _id: 'text', _rev: '1-a', text: 1 },
      { _id: 'odd', _rev: '1-a', odd: 1 },
      { _id: '_design/d', _rev: '1-a', views: { v: { map: 'function (' } } },
      { _id: '_design/e', _rev: '1-a', views: 5 },
      { _id: 'last', _rev: '1-a' },
    ];
    const rows = await api.ok(`POST /${db}/_bulk_docs`, { body: { new_edits: false, docs } });
    assert.deepEqual(rows.map(({ id, error }) => [id, error]), docs.slice(1, -1).map(({ _id }) => [_id, 'forbidden']));
    assert.equal((await api.ok(`GET /${db}`)).doc_count, 3);
    const one = await api.call(`PUT /${db}/type?new_edits=false`, { body: docs[1] });
    assert.deepEqual([one.status, one.json.error], [403, 'forbidden']);
    assert.notEqual((await api.call(`PUT /${db}/type`, { body: { type: 1 } })).json.error, 'forbidden');
    // Nothing can be written until it is mended: what is refused as forbidden would not be sent again.
    await api.ok(`PUT /${db}/_design/w`, { body: { validate_doc_update: 'function (' } });
    const [row] = await api.ok(`POST /${db}/_bulk_docs`, { body: { new_edits: false, docs: [{ _id: 'x', _rev: '1-a' }] } });
    assert.equal(row.error, 'compilation_error');
  });

  it('the log names replicated documents that were refused', { skip: !!external }, async () => {
    const db = await api.db();
    const docs = Array.from({ length: 15 }, (_, n) => ({ _id: `deep ${n}`, _rev: '1-a', a: nested(600) }));
    assert.equal((await api.ok(`POST /${db}/_bulk_docs`, { body: { new_edits: false, docs } })).length, 15);
    // The log is written by a thread of its own.
    const lines = await until('the lines', () => {
      const found = api.server.log().split('\n').filter((line) => line.includes(`${db}`) && line.includes('refused'));
      return found.some((line) => line.includes('more=5')) && found;
    });
    assert.equal(lines.length, 11);
    assert.match(lines[0], /doc="deep 0".*JSON is nested deeper/);
    assert.match(lines[10], /more=5/);
  });

  it('a request of several megabytes with one document that is too deep', { skip: !!external }, async () => {
    const db = await api.db();
    const docs = Array.from({ length: 40 }, (_, n) => ({ _id: `d${String(n).padStart(2, '0')}`, text: 'x'.repeat(100_000) }));
    docs[20] = { _id: 'd20', a: nested(600) };
    const rows = await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
    assert.deepEqual(rows.map(({ id }) => id), docs.map(({ _id }) => _id));
    assert.deepEqual(rows[20], { id: 'd20', error: 'bad_request', reason: 'JSON is nested deeper than 512 levels' });
    assert.equal((await api.ok(`GET /${db}`)).doc_count, 39);
    // What CouchDB refuses, too, fails the whole request there and here.
    docs[20] = { _id: 'd20', _x: 1 };
    const refused = await api.call(`POST /${db}/_bulk_docs`, { body: { docs } });
    assert.deepEqual([refused.status, refused.json], [400, { error: 'doc_validation', reason: 'Bad special document member: _x' }]);
  });

  api.rows('_bulk_get', [
    { name: 'documents with branches', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [{ _id: 'a', _revisions: { start: 2, ids: ['b', 'a'] } }, { _id: 'a', _revisions: { start: 2, ids: ['c', 'a'] } }, { _id: 'z', _rev: '1-z', n: 1 }] }, status: 201 },
    {
      name: 'results in the order of the request, with errors in place',
      req: 'POST /{db}/_bulk_get',
      body: { docs: [{ id: 'z' }, { id: 'a', rev: '2-b' }, { id: 'none' }, { id: 'none', rev: '1-x' }, { id: 'a', rev: '7-nope' }] },
      status: 200,
      like: {
        results: [
          { id: 'z', docs: [{ ok: { _id: 'z', _rev: '1-z', n: 1 } }] },
          { id: 'a', docs: [{ ok: { _rev: '2-b', _revisions: undefined } }] },
          { id: 'none', docs: [{ error: { id: 'none', rev: 'undefined', error: 'not_found', reason: 'missing' } }] },
          { id: 'none', docs: [{ error: { id: 'none', rev: '1-x', error: 'not_found', reason: 'missing' } }] },
          { id: 'a', docs: [{ error: { id: 'a', rev: '7-nope', error: 'not_found', reason: 'missing' } }] },
        ],
      },
    },
    { name: 'without rev: all leaves', req: 'POST /{db}/_bulk_get', body: { docs: [{ id: 'a' }] }, status: 200, check: ({ json }) => assert.deepEqual(json.results[0].docs.map((d) => d.ok._rev).sort(), ['2-b', '2-c']) },
    { name: 'revs=true', req: 'POST /{db}/_bulk_get?revs=true', body: { docs: [{ id: 'a', rev: '2-b' }] }, status: 200, like: { results: [{ docs: [{ ok: { _revisions: { start: 2, ids: ['b', 'a'] } } }] }] } },
    { name: 'latest=true', req: 'POST /{db}/_bulk_get?latest=true&revs=true', body: { docs: [{ id: 'a', rev: '1-a' }] }, status: 200, check: ({ json }) => assert.deepEqual(json.results[0].docs.map((d) => d.ok._rev).sort(), ['2-b', '2-c']) },
    { name: 'one document twice', req: 'POST /{db}/_bulk_get', body: { docs: [{ id: 'z' }, { id: 'z' }] }, status: 200, like: { results: [{ id: 'z' }, { id: 'z' }] } },
    { name: 'no documents', req: 'POST /{db}/_bulk_get', body: { docs: [] }, status: 200, like: { results: [] } },
    { name: 'an entry without id', req: 'POST /{db}/_bulk_get', body: { docs: [{ rev: '1-x' }] }, status: 200, like: { results: [{ id: null, docs: [{ error: { id: null, rev: null, error: 'bad_request', reason: 'document id missed' } }] }] } },
    { name: 'an entry that is not an object', req: 'POST /{db}/_bulk_get', body: { docs: [5] }, status: 200, like: { results: [{ docs: [{ error: { error: 'bad_request', reason: 'document must be a JSON object' } }] }] } },
    { name: 'an illegal id', req: 'POST /{db}/_bulk_get', body: { docs: [{ id: '_x' }] }, status: 200, like: { results: [{ id: '_x', docs: [{ error: { error: 'illegal_docid' } }] }] } },
    { name: 'a bad revision', req: 'POST /{db}/_bulk_get', body: { docs: [{ id: 'a', rev: 'x' }] }, status: 200, like: { results: [{ id: 'a', docs: [{ error: { rev: 'x', error: 'bad_request', reason: 'Invalid rev format' } }] }] } },
    { name: 'bad atts_since', req: 'POST /{db}/_bulk_get', body: { docs: [{ id: 'a', atts_since: 'x' }] }, status: 200, like: { results: [{ id: 'a', docs: [{ error: { error: 'bad_request', reason: 'att_since value must be array of revs.' } }] }] } },
    { name: 'without docs', req: 'POST /{db}/_bulk_get', body: {}, status: 400, error: 'bad_request', reason: "Missing JSON list of 'docs'." },
    { name: 'with a parameter of GET', req: 'POST /{db}/_bulk_get?rev=1-z', body: { docs: [] }, status: 400, error: 'bad_request', reason: '"rev" query parameter is not acceptable' },
    { name: 'with open_revs', req: 'POST /{db}/_bulk_get?open_revs=all', body: { docs: [] }, status: 400, error: 'bad_request', reason: '"open_revs" query parameter is not acceptable' },
    { name: 'GET', req: 'GET /{db}/_bulk_get', status: 405, error: 'method_not_allowed', headers: { Allow: 'POST' } },
  ]);

  api.rows('_revs_diff and _missing_revs', [
    { name: 'a history', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [{ _id: 'a', _revisions: { start: 3, ids: ['c', 'b', 'a'] } }, { _id: 'e', _rev: '1-e' }] }, status: 201 },
    { name: 'missing revisions and their possible ancestors', req: 'POST /{db}/_revs_diff', body: { a: ['3-c', '4-d', '2-x'], e: ['1-e'], none: ['1-n'] }, status: 200, text: /.*/, check: ({ json }) => { assert.deepEqual(Object.keys(json).sort(), ['a', 'none']); assert.deepEqual([...json.a.missing].sort(), ['2-x', '4-d']); assert.deepEqual(json.a.possible_ancestors, ['3-c']); assert.deepEqual(json.none, { missing: ['1-n'] }); } },
    { name: 'known ancestors are not missing', req: 'POST /{db}/_revs_diff', body: { a: ['1-a', '2-b'] }, status: 200, check: ({ json }) => assert.deepEqual(json, {}) },
    { name: 'an empty request', req: 'POST /{db}/_revs_diff', body: {}, status: 200, check: ({ json }) => assert.deepEqual(json, {}) },
    { name: 'a bad revision', req: 'POST /{db}/_revs_diff', body: { a: ['x'] }, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'not an object', req: 'POST /{db}/_revs_diff', body: [], status: 400, error: 'bad_request', reason: 'Request body must be a JSON object' },
    { name: 'GET', req: 'GET /{db}/_revs_diff', status: 405, error: 'method_not_allowed', headers: { Allow: 'POST' } },
    { name: '_missing_revs', req: 'POST /{db}/_missing_revs', body: { a: ['3-c', '4-d'], e: ['1-e'] }, status: 200, check: ({ json }) => assert.deepEqual(json, { missing_revs: { a: ['4-d'] } }) },
    { name: '_missing_revs with a bad revision', req: 'POST /{db}/_missing_revs', body: { a: ['x'] }, status: 400, error: 'bad_request' },
    { name: 'an id with half of a surrogate pair', req: 'POST /{db}/_revs_diff', body: { 'half \ud83d': ['1-a'], '\ude00\ud83d\ude00': ['1-b'], e: ['1-e'] }, status: 200, couch: 400, check: ({ json }) => assert.deepEqual(json, { 'half \ud83d': { missing: ['1-a'] }, '\ude00\ud83d\ude00': { missing: ['1-b'] } }) },
    { name: '_missing_revs GET', req: 'GET /{db}/_missing_revs', status: 405, error: 'method_not_allowed', headers: { Allow: 'POST' } },
  ]);

  it('10,000 documents in one request, read from _changes in pages', async () => {
    const db = await api.db();
    const docs = Array.from({ length: 10_000 }, (_, n) => ({ _id: `d${String(n).padStart(5, '0')}`, n }));
    const answer = await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
    assert.equal(answer.length, 10_000);
    assert.ok(answer.every((row, n) => row.ok && row.id === docs[n]._id));
    assert.equal((await api.ok(`GET /${db}`)).doc_count, 10_000);
    let since = '0';
    const seen = new Set();
    for (;;) {
      const page = await api.ok(`GET /${db}/_changes?limit=1000&since=${encodeURIComponent(since)}`);
      for (const row of page.results) seen.add(row.id);
      since = page.last_seq;
      if (page.results.length === 0) break;
      assert.equal(page.pending, 10_000 - seen.size);
    }
    assert.equal(seen.size, 10_000);
    const got = await api.ok(`POST /${db}/_bulk_get`, { body: { docs: docs.slice(0, 1000).map(({ _id }) => ({ id: _id })) } });
    assert.ok(got.results.every((row, n) => row.docs[0].ok.n === n));
  });
});
