// Single documents: CouchDB docs `api/document/common.rst`.

import { suite, it, assert } from '../harness/rows.js';
import { revision, Float } from '../harness/revision.js';

suite('documents', (api) => {
  api.rows('write and read', [
    {
      name: 'PUT creates a document',
      req: 'PUT /{db}/a',
      body: { n: 1 },
      status: 201,
      keys: ['id', 'ok', 'rev'],
      like: { ok: true, id: 'a', rev: revision({ n: 1 }) },
      save: { rev1: 'rev' },
      headers: { ETag: `"${revision({ n: 1 })}"`, Location: (got, { db }) => new URL(got).pathname === `/${db}/a` },
    },
    { name: 'GET returns it, starting with _id and _rev', req: 'GET /{db}/a', status: 200, text: /^\{"_id":"a","_rev":"1-[0-9a-f]{32}","n":1\}\n?$/, headers: { ETag: '"{rev1}"', 'Cache-Control': 'must-revalidate', 'Content-Type': 'application/json' } },
    { name: 'HEAD returns the same headers', req: 'HEAD /{db}/a', status: 200, text: '', headers: { ETag: '"{rev1}"', 'Content-Length': /^[1-9]\d*$/ } },
    { name: 'If-None-Match with the ETag: 304', req: 'GET /{db}/a', send: { 'If-None-Match': '"{rev1}"' }, status: 304, text: '', headers: { ETag: '"{rev1}"' } },
    { name: 'If-None-Match with another ETag', req: 'GET /{db}/a', send: { 'If-None-Match': '"1-0"' }, status: 200, like: { n: 1 } },
    { name: 'HEAD with If-None-Match', req: 'HEAD /{db}/a', send: { 'If-None-Match': '"{rev1}"' }, status: 304 },
    { name: 'PUT without the revision is a conflict', req: 'PUT /{db}/a', body: { n: 2 }, status: 409, error: 'conflict', reason: 'Document update conflict.' },
    { name: 'PUT with a wrong revision is a conflict', req: 'PUT /{db}/a', body: { _rev: '1-967a00dff5e02add41819138abb3284d' }, status: 409, error: 'conflict' },
    { name: 'rejected writes change nothing', req: 'GET /{db}/a', status: 200, like: { n: 1 } },
    { name: 'PUT with _rev', req: 'PUT /{db}/a', body: (w) => ({ _rev: w.rev1, n: 2 }), status: 201, save: { rev2: 'rev' }, check: ({ json }, w) => assert.equal(json.rev, revision({ n: 2 }, { parent: w.rev1 })) },
    { name: 'PUT with ?rev', req: 'PUT /{db}/a?rev={rev2}', body: { n: 3 }, status: 201, save: { rev3: 'rev' } },
    { name: 'PUT with If-Match', req: 'PUT /{db}/a', send: { 'If-Match': '"{rev3}"' }, body: { n: 4 }, status: 201, save: { rev4: 'rev' } },
    { name: 'two different revisions', req: 'PUT /{db}/a?rev={rev3}', body: (w) => ({ _rev: w.rev4 }), status: 400, error: 'bad_request', reason: 'Document rev from request body and query string have different values' },
    { name: 'If-Match that differs from ?rev', req: 'PUT /{db}/a?rev={rev4}', send: { 'If-Match': '"{rev3}"' }, body: {}, status: 400, error: 'bad_request', reason: 'Document rev and etag have different values' },
    { name: 'an older revision can be read', req: 'GET /{db}/a?rev={rev1}', status: 200, like: { _rev: (r) => r.startsWith('1-'), n: 1 } },
    { name: 'a revision that never existed', req: 'GET /{db}/a?rev=1-967a00dff5e02add41819138abb3284d', status: 404, error: 'not_found', reason: 'missing' },
    { name: 'revs', req: 'GET /{db}/a?revs=true', status: 200, like: { _revisions: { start: 4, ids: (ids) => ids.length === 4 } } },
    { name: 'revs_info', req: 'GET /{db}/a?revs_info=true', status: 200, like: { _revs_info: (infos) => infos.length === 4 && infos.every((i) => i.status === 'available') && infos[0].rev.startsWith('4-') } },
    { name: 'local_seq', req: 'GET /{db}/a?local_seq=true', status: 200, like: { _local_seq: (seq) => seq !== undefined } },
    { name: 'meta without conflicts', req: 'GET /{db}/a?meta=true', status: 200, like: { _revs_info: Array, _conflicts: undefined, _deleted_conflicts: undefined } },
    { name: 'conflicts without any: the revision is the ETag', req: 'GET /{db}/a?conflicts=true&deleted_conflicts=true', status: 200, headers: { ETag: '"{rev4}"' } },
    { name: '... and If-None-Match works', req: 'GET /{db}/a?conflicts=true', send: { 'If-None-Match': '"{rev4}"' }, status: 304 },
    { name: 'meta has no ETag', req: 'GET /{db}/a?meta=true', send: { 'If-None-Match': '"{rev4}"' }, status: 200, headers: { ETag: null } },
    { name: 'latest with an unknown rev returns the newest, too', req: 'GET /{db}/a?rev=7-unknown&latest=true', status: 200, like: { n: 4 } },
    { name: 'latest with an old rev returns the newest', req: 'GET /{db}/a?rev={rev1}&latest=true', status: 200, like: { n: 4 } },
    { name: 'an unknown parameter is ignored', req: 'GET /{db}/a?unknown=1', status: 200, like: { n: 4 } },
    { name: 'only `true` is true', req: 'GET /{db}/a?revs=TRUE', status: 200, like: { _revisions: undefined } },
    { name: 'a bad rev', req: 'GET /{db}/a?rev=bad', status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'a bad rev in an update', req: 'PUT /{db}/a?rev=bad', body: {}, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'a _rev of the wrong type', req: 'PUT /{db}/a', body: { _rev: 7 }, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'DELETE without rev', req: 'DELETE /{db}/a', status: 409, error: 'conflict' },
    { name: 'an empty rev in an update', req: 'PUT /{db}/a?rev=', body: {}, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: '... of a new document', req: 'PUT /{db}/unwritten?rev=', body: {}, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: '... of an attachment', req: 'PUT /{db}/unwritten/f?rev=', body: 'x', status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'an empty rev in DELETE', req: 'DELETE /{db}/a?rev=', status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'DELETE with an old rev', req: 'DELETE /{db}/a?rev={rev1}', status: 409, error: 'conflict' },
    { name: 'DELETE', req: 'DELETE /{db}/a?rev={rev4}', status: 200, keys: ['id', 'ok', 'rev'], like: { ok: true, rev: /^5-/ }, save: { rev5: 'rev' }, headers: { ETag: '"{rev5}"' }, check: ({ json }, w) => assert.equal(json.rev, revision({}, { parent: w.rev4, deleted: true })) },
    { name: 'it is deleted', req: 'GET /{db}/a', status: 404, error: 'not_found', reason: 'deleted' },
    { name: 'the tombstone by its revision', req: 'GET /{db}/a?rev={rev5}', status: 200, keys: ['_deleted', '_id', '_rev'], like: { _deleted: true } },
    { name: 'DELETE twice', req: 'DELETE /{db}/a?rev={rev5}', status: 404, error: 'not_found', reason: 'deleted' },
    { name: 'recreating continues from the tombstone', req: 'PUT /{db}/a', body: { n: 6 }, status: 201, like: { rev: /^6-/ } },
    { name: 'GET of a missing document', req: 'GET /{db}/none', status: 404, error: 'not_found', reason: 'missing' },
    { name: 'HEAD of a missing document', req: 'HEAD /{db}/none', status: 404, text: '' },
    { name: 'DELETE of a missing document', req: 'DELETE /{db}/none', status: 404, error: 'not_found', reason: 'missing' },
    { name: 'PUT with a revision to a missing document', req: 'PUT /{db}/none', body: { _rev: '1-967a00dff5e02add41819138abb3284d' }, status: 409, error: 'conflict' },
    { name: 'PUT with _deleted writes a tombstone with a body', req: 'PUT /{db}/t', body: { _deleted: true, left: 'note' }, status: 200, like: { rev: revision({ left: 'note' }, { deleted: true }) }, save: { t: 'rev' } },
    { name: '... whose body can be read', req: 'GET /{db}/t?rev={t}', status: 200, like: { _deleted: true, left: 'note' } },
    { name: 'DELETE with If-Match: create the document', req: 'PUT /{db}/im', body: {}, status: 201, save: { im: 'rev' } },
    { name: '... If-Match replaces ?rev', req: 'DELETE /{db}/im', send: { 'If-Match': '"{im}"' }, status: 200 },
    { name: 'an unsupported method', req: 'PATCH /{db}/a', status: 405, error: 'method_not_allowed', headers: { Allow: 'DELETE,GET,HEAD,POST,PUT,COPY' } },
    { name: 'batch=ok', req: 'PUT /{db}/b?batch=ok', body: {}, status: 202, keys: ['id', 'ok'] },
  ]);

  api.rows('members with an underscore', [
    { name: 'unknown', req: 'PUT /{db}/u', body: { _what: 1 }, status: 400, error: 'doc_validation', reason: 'Bad special document member: _what' },
    { name: '_deleted of the wrong type', req: 'PUT /{db}/u', body: { _deleted: 'yes' }, status: 400, error: 'doc_validation', reason: 'Bad special document member: _deleted' },
    { name: '_attachments of the wrong type', req: 'PUT /{db}/u', body: { _attachments: 5 }, status: 400, error: 'doc_validation' },
    { name: '_revisions.start of the wrong type', req: 'PUT /{db}/u?new_edits=false', body: { _revisions: { start: 'a', ids: ['b'] } }, status: 400, error: 'doc_validation', reason: "_revisions.start isn't an integer." },
    { name: '_revisions.ids of the wrong type', req: 'PUT /{db}/u?new_edits=false', body: { _revisions: { start: 1, ids: 'b' } }, status: 400, error: 'doc_validation', reason: "_revisions.ids isn't a array." },
    { name: 'a revision id of the wrong type', req: 'PUT /{db}/u?new_edits=false', body: { _revisions: { start: 1, ids: [5] } }, status: 400, error: 'doc_validation', reason: "RevId isn't a string" },
    { name: 'members that GET adds are ignored', req: 'PUT /{db}/u', body: { _revs_info: [], _conflicts: [], _local_seq: 1, _deleted_conflicts: [], a: 1 }, status: 201, like: { rev: revision({ a: 1 }) } },
    { name: '... and not stored', req: 'GET /{db}/u', status: 200, keys: ['_id', '_rev', 'a'] },
    { name: 'underscore members in nested objects are allowed', req: 'PUT /{db}/v', body: { in: { _id: 1, _what: 2 } }, status: 201 },
    { name: '... and stored', req: 'GET /{db}/v', status: 200, like: { in: { _id: 1, _what: 2 } } },
    { name: 'the id in the path overrides _id', req: 'PUT /{db}/w', body: { _id: 'other' }, status: 201, like: { id: 'w' } },
  ]);

  api.rows('ids', [
    { name: 'an escaped slash', req: 'PUT /{db}/a%2Fb', body: { n: 1 }, status: 201, like: { id: 'a/b' } },
    { name: '... is returned', req: 'GET /{db}/a%2Fb', status: 200, like: { _id: 'a/b' } },
    { name: 'Unicode', req: 'PUT /{db}/%E2%82%AC%F0%9F%98%80', body: {}, status: 201, like: { id: '€😀' } },
    { name: 'an escaped plus is a plus', req: 'PUT /{db}/a%2Bb', body: {}, status: 201, like: { id: 'a+b' } },
    { name: 'an unescaped plus is a space, as in CouchDB', req: 'PUT /{db}/a+b', body: {}, status: 201, like: { id: 'a b' } },
    { name: 'a space', req: 'GET /{db}/a%20b', status: 200, like: { _id: 'a b' } },
    { name: 'an underscore is reserved', req: 'PUT /{db}/_nope', body: {}, status: 400, error: 'illegal_docid', reason: 'Only reserved document ids may start with underscore.' },
    { name: '... also in a body', req: 'POST /{db}', body: { _id: '_nope' }, status: 400, error: 'illegal_docid', reason: 'Only reserved document ids may start with underscore.' },
    ...['GET', 'DELETE', 'COPY'].map((verb) => ({ name: `${verb} of an endpoint that does not exist`, req: `${verb} /{db}/_nope`, send: { Destination: 'x' }, status: 404, error: 'not_found', reason: 'missing' })),
    { name: 'a path below one', req: 'GET /{db}/_nope/more', status: 404, error: 'not_found', reason: 'missing' },
    { name: '_design/ alone', req: 'POST /{db}', body: { _id: '_design/' }, status: 400, error: 'illegal_docid', reason: 'Illegal document id `_design/`' },
    { name: 'bytes that are not UTF-8', req: 'PUT /{db}/%FF%FE', body: {}, status: 400, error: 'illegal_docid', reason: 'Document id must be valid UTF-8' },
    { name: 'a design document by path', req: 'PUT /{db}/_design/d', body: { views: {} }, status: 201, like: { id: '_design/d' } },
    { name: '... with an escaped slash', req: 'GET /{db}/_design%2Fd', status: 200, couch: 301 },
    { name: 'a long id', req: `PUT /{db}/${'i'.repeat(5000)}`, body: {}, status: 201 },
    { name: 'names of JavaScript object members', req: 'PUT /{db}/constructor', body: { toString: 1, constructor: 2 }, status: 201 },
    { name: '... are stored and returned', req: 'GET /{db}/constructor', status: 200, check: ({ json }) => assert.equal(Object.getOwnPropertyDescriptor(json, 'constructor').value, 2) },
  ]);

  api.rows('branches', [
    { name: 'one branch', req: 'PUT /{db}/c?new_edits=false', body: { _revisions: { start: 2, ids: ['b', 'a'] }, side: 'b' }, status: 201, like: { id: 'c', rev: '2-b', ok: true } },
    { name: 'another', req: 'PUT /{db}/c?new_edits=false', body: { _revisions: { start: 2, ids: ['c', 'a'] }, side: 'c' }, status: 201 },
    { name: 'a third, deleted branch', req: 'PUT /{db}/c?new_edits=false', body: { _revisions: { start: 3, ids: ['d', 'x', 'a'] }, _deleted: true }, status: 200 },
    { name: 'with _rev only', req: 'PUT /{db}/c?new_edits=false', body: { _rev: '1-z', side: 'z' }, status: 201, like: { rev: '1-z' } },
    { name: 'without any revision', req: 'PUT /{db}/c?new_edits=false', body: {}, status: 400, error: 'bad_request', reason: 'When `new_edits: false`, the document needs `_rev` or `_revisions` specified' },
    { name: 'the winner is the highest leaf that is not deleted', req: 'GET /{db}/c', status: 200, like: { _rev: '2-c', side: 'c' } },
    { name: 'conflicts', req: 'GET /{db}/c?conflicts=true', status: 200, like: { _conflicts: ['2-b', '1-z'] }, headers: { ETag: null } },
    { name: '... whatever If-None-Match says', req: 'GET /{db}/c?conflicts=true', send: { 'If-None-Match': '"2-c"' }, status: 200 },
    { name: 'latest with a losing leaf returns that leaf', req: 'GET /{db}/c?rev=2-b&latest=true', status: 200, like: { _rev: '2-b' } },
    { name: 'deleted_conflicts', req: 'GET /{db}/c?deleted_conflicts=true', status: 200, like: { _deleted_conflicts: ['3-d'] } },
    { name: 'meta', req: 'GET /{db}/c?meta=true', status: 200, like: { _conflicts: ['2-b', '1-z'], _deleted_conflicts: ['3-d'], _revs_info: [{ rev: '2-c', status: 'available' }, { rev: '1-a', status: 'missing' }] } },
    {
      name: 'open_revs=all',
      req: 'GET /{db}/c?open_revs=all',
      send: { Accept: 'application/json' },
      status: 200,
      check: ({ json }) => assert.deepEqual(json.map((leaf) => leaf.ok._rev), ['1-z', '2-b', '2-c', '3-d']),
    },
    { name: 'open_revs shows each revision once, the missing ones last', req: 'GET /{db}/c?open_revs=["9-no","2-c","2-b","2-c","9-no","1-a"]', send: { Accept: 'application/json' }, status: 200, like: [{ ok: { _rev: '2-b' } }, { ok: { _rev: '2-c' } }, { missing: '1-a' }, { missing: '9-no' }] },
    { name: 'open_revs with a missing revision', req: 'GET /{db}/c?open_revs=["2-b","9-nope"]', send: { Accept: 'application/json' }, status: 200, like: [{ ok: { _rev: '2-b' } }, { missing: '9-nope' }] },
    { name: 'open_revs with a known revision without a body', req: 'GET /{db}/c?open_revs=["1-a"]', send: { Accept: 'application/json' }, status: 200, like: [{ missing: '1-a' }] },
    { name: 'latest returns the leaves', req: 'GET /{db}/c?open_revs=["1-a"]&latest=true', send: { Accept: 'application/json' }, status: 200, check: ({ json }) => assert.deepEqual(json.map((leaf) => leaf.ok._rev).sort(), ['2-b', '2-c', '3-d']) },
    { name: 'open_revs with revs', req: 'GET /{db}/c?open_revs=["2-b"]&revs=true', send: { Accept: 'application/json' }, status: 200, like: [{ ok: { _revisions: { start: 2, ids: ['b', 'a'] } } }] },
    { name: 'open_revs with an empty list is as if it were not there', req: 'GET /{db}/c?open_revs=[]', send: { Accept: 'application/json' }, status: 200, like: { _rev: '2-c', side: 'c' } },
    { name: 'open_revs that is not JSON', req: 'GET /{db}/c?open_revs=nope', send: { Accept: 'application/json' }, status: 400, error: 'bad_request' },
    { name: 'open_revs that is not a list', req: 'GET /{db}/c?open_revs=%7B%7D', send: { Accept: 'application/json' }, status: 400, error: 'bad_request' },
    { name: 'open_revs with a bad revision', req: 'GET /{db}/c?open_revs=["x"]', send: { Accept: 'application/json' }, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'open_revs of a missing document', req: 'GET /{db}/none?open_revs=all', send: { Accept: 'application/json' }, status: 404, error: 'not_found', reason: 'missing' },
    { name: 'writing the same branch again changes nothing', req: 'PUT /{db}/c?new_edits=false', body: { _revisions: { start: 2, ids: ['b', 'a'] }, side: 'changed?' }, status: 201 },
    { name: '... and keeps its body', req: 'GET /{db}/c?rev=2-b', status: 200, like: { side: 'b' } },
    { name: 'deleting all leaves but the winner', req: 'DELETE /{db}/c?rev=2-b', status: 200 },
    { name: '...', req: 'DELETE /{db}/c?rev=1-z', status: 200 },
    { name: '... resolves the conflict', req: 'GET /{db}/c?conflicts=true', status: 200, like: { _rev: '2-c', _conflicts: undefined } },
    { name: 'deleting the last leaf', req: 'DELETE /{db}/c?rev=2-c', status: 200 },
    { name: '... deletes the document', req: 'GET /{db}/c', status: 404, reason: 'deleted', error: 'not_found' },
  ]);

  api.rows('COPY', [
    { name: 'a document to copy', req: 'PUT /{db}/from', body: { n: 1, _attachments: { 't.bin': { content_type: 'application/octet-stream', data: 'AAEC' } } }, status: 201, save: { from: 'rev' } },
    { name: 'to a new id', req: 'COPY /{db}/from', send: { Destination: 'to' }, status: 201, like: { ok: true, id: 'to', rev: /^1-/ }, save: { to: 'rev' }, headers: { ETag: (got, w) => got.startsWith('"1-'), Location: /\/to$/ } },
    { name: 'the copy is equal, including attachments', req: 'GET /{db}/to', status: 200, like: { n: 1, _attachments: { 't.bin': { length: 3, stub: true } } } },
    { name: 'to an existing document without its revision', req: 'COPY /{db}/from', send: { Destination: 'to' }, status: 409, error: 'conflict' },
    { name: 'with its revision', req: 'COPY /{db}/from', send: { Destination: 'to?rev={to}' }, status: 201, like: { rev: /^2-/ } },
    { name: 'COPY of a revision', req: 'COPY /{db}/from?rev={from}', send: { Destination: 'to2' }, status: 201 },
    { name: 'a document to delete', req: 'PUT /{db}/gone', body: { n: 1 }, status: 201, save: { gone: 'rev' } },
    { name: '...', req: 'DELETE /{db}/gone?rev={gone}', status: 200, save: { tombstone: 'rev' } },
    { name: 'COPY of a tombstone is a tombstone', req: 'COPY /{db}/gone?rev={tombstone}', send: { Destination: 'to3' }, status: 201, save: { to3: 'rev' } },
    { name: '...', req: 'GET /{db}/to3?rev={to3}', status: 200, like: { _deleted: true } },
    { name: 'an escaped destination', req: 'COPY /{db}/from', send: { Destination: 'a%2Fcopy' }, status: 201, like: { id: 'a/copy' } },
    { name: 'without a destination', req: 'COPY /{db}/from', status: 400, error: 'bad_request', reason: 'Destination header is mandatory for COPY.' },
    { name: 'to a whole URL', req: 'COPY /{db}/from', send: { Destination: 'http://example.org/x' }, status: 400, error: 'bad_request', reason: 'Destination URL must be relative.' },
    { name: 'COPY of a missing document', req: 'COPY /{db}/none', send: { Destination: 'x' }, status: 404, error: 'not_found' },
    { name: 'to a reserved id', req: 'COPY /{db}/from', send: { Destination: '_x' }, status: 400, error: 'illegal_docid' },
    { name: 'with a bad destination revision', req: 'COPY /{db}/from', send: { Destination: 'to?rev=x' }, status: 400, error: 'bad_request' },
  ]);

  it('a document that is created again with attachments has the revision that CouchDB computes', async () => {
    const db = await api.db();
    const remove = async (rev) => (await api.ok(`DELETE /${db}/d?rev=${rev}`)).rev;
    await remove((await api.ok(`PUT /${db}/d`, { body: { a: 1 } })).rev);
    await remove((await api.ok(`PUT /${db}/d`, { body: { a: 2 } })).rev);
    const again = await api.ok(`PUT /${db}/d`, { body: { a: 2, _attachments: { f: { content_type: 'text/plain', data: 'aGVsbG8=' } } } });
    assert.equal(again.rev, '5-f47730dba4c42e60cb322b442c0de44f');
  });

  it('computes the same revisions as CouchDB', async () => {
    const db = await api.db();
    const bodies = [
      ['{}', {}],
      ['{"b":1,"a":2}', { b: 1, a: 2 }],
      ['{"t":"tëxt \\u20ac \\ud83d\\ude00 \\u0000"}', { t: 'tëxt € 😀 \0' }],
      ['{"n":[0,255,256,-1,2147483647,2147483648,-2147483649]}', { n: [0, 255, 256, -1, 2147483647, 2147483648, -2147483649] }],
      ['{"s":[1,2,3],"e":[],"o":{}}', { s: [1, 2, 3], e: [], o: {} }],
      ['{"f":[1.5,-0.25,1e10,1.0]}', { f: [1.5, -0.25, new Float(1e10), new Float(1)] }],
      ['{"big":123456789012345678901234567890}', { big: 123456789012345678901234567890n }],
      ['{"l":[true,false,null,{"a":[{"b":"c"}]}]}', { l: [true, false, null, { a: [{ b: 'c' }] }] }],
    ];
    for (const [index, [text, value]] of bodies.entries()) {
      const first = await api.ok(`PUT /${db}/r${index}`, { body: text });
      assert.equal(first.rev, revision(value), text);
      const second = await api.ok(`PUT /${db}/r${index}?rev=${first.rev}`, { body: text });
      assert.equal(second.rev, revision(value, { parent: first.rev }), `${text} on top of itself`);
      const gone = await api.ok(`DELETE /${db}/r${index}?rev=${second.rev}`);
      assert.equal(gone.rev, revision({}, { parent: second.rev, deleted: true }));
    }
  });

  it('preserves member order and large numbers of a body', async () => {
    const db = await api.db();
    const text = '{"z":1,"a":12345678901234567890,"n":1.10,"e":1E2,"u":"\\u00e9","q":"\\"\\\\"}';
    await api.ok(`PUT /${db}/k`, { body: text });
    const answer = await api.call(`GET /${db}/k`);
    assert.deepEqual(Object.keys(answer.json), ['_id', '_rev', 'z', 'a', 'n', 'e', 'u', 'q']);
    assert.match(answer.text, /12345678901234567890/);
    assert.equal(answer.json.u, 'é');
  });

  it('keeps only the last of duplicate members', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/d`, { body: '{"a":1,"b":{"x":1,"x":2},"a":3}' });
    const { text, json } = await api.call(`GET /${db}/d`);
    assert.equal(text.match(/"a":/g).length, 1);
    assert.equal(json.a, 3);
    assert.equal(json.b.x, 2);
  });

  it('concurrent edits of one document by many clients lose no update', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/n`, { body: { n: 0 } });
    let conflicts = 0;
    const add = async () => {
      for (;;) {
        const doc = await api.ok(`GET /${db}/n`);
        const answer = await api.call(`PUT /${db}/n`, { body: { ...doc, n: doc.n + 1 } });
        if (answer.status === 201) return;
        assert.equal(answer.status, 409);
        conflicts += 1;
      }
    };
    await Promise.all(Array.from({ length: 16 }, async () => {
      for (let n = 0; n < 5; n += 1) await add();
    }));
    const doc = await api.ok(`GET /${db}/n?conflicts=true`);
    assert.equal(doc.n, 80);
    assert.match(doc._rev, /^81-/);
    assert.equal(doc._conflicts, undefined);
    assert.ok(conflicts > 0);
  });
});
