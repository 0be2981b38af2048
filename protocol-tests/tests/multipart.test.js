// multipart/related and multipart/mixed: CouchDB docs `replication/protocol.rst`,
// `test/elixir/test/attachments_multipart_test.exs`.

import { suite, it, assert } from '../harness/rows.js';
import { multipart } from '../harness/http.js';

const related = (parts, boundary = 'bnd') => ({
  send: { 'Content-Type': `multipart/related;boundary="${boundary}"` },
  body: Buffer.concat([
    ...parts.flatMap(({ head = '', body }) => [Buffer.from(`--${boundary}\r\n${head}\r\n`), Buffer.from(body), Buffer.from('\r\n')]),
    Buffer.from(`--${boundary}--`),
  ]),
});
const doc = (members) => ({ head: 'Content-Type: application/json\r\n', body: JSON.stringify(members) });
const follows = (length, type = 'application/octet-stream') => ({ follows: true, content_type: type, length });

suite('multipart', (api) => {
  api.rows('PUT multipart/related', [
    {
      name: 'a document and its attachments, in the order of the members',
      req: 'PUT /{db}/m',
      ...related([doc({ n: 1, _attachments: { 'a.bin': follows(5), 'b.bin': follows(3) } }), { body: 'first' }, { body: 'two' }]),
      status: 201,
      like: { ok: true, id: 'm' },
      save: { rev: 'rev' },
    },
    { name: 'the first attachment', req: 'GET /{db}/m/a.bin', status: 200, text: 'first' },
    { name: 'the second attachment', req: 'GET /{db}/m/b.bin', status: 200, text: 'two' },
    {
      name: 'a stub and a new attachment',
      req: 'PUT /{db}/m?rev={rev}',
      ...related([doc({ n: 2, _attachments: { 'a.bin': { stub: true }, 'c.bin': follows(5) } }), { body: 'third' }]),
      status: 201,
    },
    { name: 'the stub keeps its attachment', req: 'GET /{db}/m/a.bin', status: 200, text: 'first' },
    { name: 'the new attachment is stored', req: 'GET /{db}/m/c.bin', status: 200, text: 'third' },
    { name: 'new_edits=false with _revisions', req: 'PUT /{db}/r?new_edits=false', ...related([doc({ _id: 'r', _revisions: { start: 2, ids: ['bb', 'aa'] }, _attachments: { x: follows(1) } }), { body: 'x' }]), status: 201, like: { rev: '2-bb' } },
    { name: 'content that resembles a boundary', req: 'PUT /{db}/look', ...related([doc({ _attachments: { x: follows(15) } }), { body: '\r\n--bn\r\n--bn_x\r' }]), status: 201 },
    { name: '... is returned unchanged', req: 'GET /{db}/look/x', status: 200, text: '\r\n--bn\r\n--bn_x\r' },
    { name: 'a missing part', req: 'PUT /{db}/bad', ...related([doc({ _attachments: { x: follows(5) } })]), status: 400, error: 'bad_request' },
    { name: 'a part that is shorter than its declared length', req: 'PUT /{db}/bad', ...related([doc({ _attachments: { x: follows(50) } }), { body: 'short' }]), status: 400, error: 'bad_request' },
    { name: 'a first part that is not JSON', req: 'PUT /{db}/bad', ...related([{ head: 'Content-Type: application/json\r\n', body: '{nope' }]), status: 400, error: 'bad_request' },
    { name: 'a first part that is not a document', req: 'PUT /{db}/bad', ...related([doc([1])]), status: 400, error: 'bad_request' },
    { name: 'no parts', req: 'PUT /{db}/bad', send: { 'Content-Type': 'multipart/related;boundary="bnd"' }, body: '', status: 400 },
    { name: 'no boundary', req: 'PUT /{db}/bad', send: { 'Content-Type': 'multipart/related;x=y' }, body: '{}', status: 400 },
    { name: 'no rejected request was stored', req: 'GET /{db}/bad', status: 404, error: 'not_found' },
  ]);

  it('GET with attachments as multipart/related', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/m`, related([doc({ n: 1, _attachments: { 'a.bin': follows(5), 'b.bin': follows(3) } }), { body: 'first' }, { body: 'two' }]));
    const answer = await api.call(`GET /${db}/m?attachments=true`, { send: { Accept: 'multipart/related,application/json' } });
    assert.equal(answer.status, 200);
    assert.match(answer.headers['content-type'], /^multipart\/related; ?boundary="/);
    assert.equal(Number(answer.headers['content-length']), answer.body.length);
    const [head, ...parts] = multipart(answer.headers['content-type'], answer.body);
    assert.equal(head.headers['content-type'], 'application/json');
    const json = JSON.parse(head.body);
    assert.equal(json.n, 1);
    for (const [index, name] of Object.keys(json._attachments).entries()) {
      const info = json._attachments[name];
      assert.equal(info.follows, true);
      assert.equal(info.stub, undefined);
      assert.equal(parts[index].body.length, info.length);
      assert.equal(parts[index].headers['content-disposition'], `attachment; filename="${name}"`);
      assert.equal(parts[index].headers['content-length'], String(info.length));
      assert.equal(parts[index].headers['content-type'], 'application/octet-stream');
    }
    assert.equal(parts.length, 2);
    assert.deepEqual(parts.map((part) => part.body.toString()).sort(), ['first', 'two']);
  });

  it('a text attachment is sent gzipped, as stored', async () => {
    const db = await api.db();
    const text = 'text '.repeat(500);
    await api.ok(`PUT /${db}/t/t.txt`, { body: text, send: { 'Content-Type': 'text/plain' } });
    const answer = await api.call(`GET /${db}/t?attachments=true`, { send: { Accept: 'multipart/related' } });
    const [head, part] = multipart(answer.headers['content-type'], answer.body);
    const info = JSON.parse(head.body)._attachments['t.txt'];
    assert.equal(info.encoding, 'gzip');
    assert.equal(info.encoded_length, part.body.length);
    assert.equal(info.length, text.length);
    assert.equal(part.headers['content-encoding'], 'gzip');
    const { gunzipSync } = await import('node:zlib');
    assert.equal(gunzipSync(part.body).toString(), text);
    // The parts can be written to another document unchanged, as CouchDB's replicator does.
    const json = JSON.parse(head.body);
    json._id = 't2';
    const put = await api.call(`PUT /${db}/t2?new_edits=false`, related([doc(json), { body: part.body }]));
    assert.equal(put.status, 201, put.text);
    assert.equal((await api.call(`GET /${db}/t2/t.txt`)).text, text);
    assert.equal((await api.ok(`GET /${db}/t2`))._attachments['t.txt'].digest, info.digest);
  });

  it('open_revs as multipart/mixed: one part per revision, multipart/related if it has attachments', async () => {
    const db = await api.db();
    const put = (id, members) => api.ok(`PUT /${db}/${id}?new_edits=false`, { body: members });
    await put('o', { _revisions: { start: 2, ids: ['bb', 'aa'] }, _attachments: { 'x.bin': { content_type: 'application/octet-stream', data: 'AAEC' } } });
    await put('o', { _revisions: { start: 2, ids: ['cc', 'aa'] } });
    const answer = await api.call(`GET /${db}/o?open_revs=["2-bb","2-cc","9-no"]&revs=true`, { send: { Accept: 'multipart/mixed' } });
    assert.equal(answer.status, 200);
    assert.match(answer.headers['content-type'], /^multipart\/mixed; ?boundary="/);
    const parts = multipart(answer.headers['content-type'], answer.body);
    assert.equal(parts.length, 3);
    let seen = 0;
    for (const part of parts) {
      const type = part.headers['content-type'];
      if (/error="true"/.test(type)) {
        assert.deepEqual(JSON.parse(part.body), { missing: '9-no' });
      } else if (type.startsWith('multipart/related')) {
        const [head, data] = multipart(type, part.body);
        assert.equal(JSON.parse(head.body)._rev, '2-bb');
        assert.deepEqual(JSON.parse(head.body)._revisions, { start: 2, ids: ['bb', 'aa'] });
        assert.deepEqual([...data.body], [0, 1, 2]);
      } else {
        assert.equal(type, 'application/json');
        assert.equal(JSON.parse(part.body)._rev, '2-cc');
      }
      seen += 1;
    }
    assert.equal(seen, 3);
    // */* means multipart/mixed, as in CouchDB.
    const any = await api.call(`GET /${db}/o?open_revs=all`, { send: { Accept: '*/*' } });
    assert.match(any.headers['content-type'], /^multipart\/mixed/);
    const json = await api.call(`GET /${db}/o?open_revs=all`, { send: { Accept: 'application/json' } });
    assert.match(json.headers['content-type'], /^application\/json/);
  });

  it('open_revs with atts_since omits attachments that the client has', async () => {
    const db = await api.db();
    const one = await api.ok(`PUT /${db}/s`, { body: { _attachments: { 'old.bin': { content_type: 'application/octet-stream', data: 'AAEC' } } } });
    const two = await api.ok(`PUT /${db}/s`, { body: { _rev: one.rev, _attachments: { 'old.bin': { stub: true }, 'new.bin': { content_type: 'application/octet-stream', data: 'AwQF' } } } });
    const answer = await api.call(`GET /${db}/s?open_revs=["${two.rev}"]&atts_since=["${one.rev}"]&revs=true`, { send: { Accept: 'multipart/mixed' } });
    const [part] = multipart(answer.headers['content-type'], answer.body);
    const [head, ...data] = multipart(part.headers['content-type'], part.body);
    const atts = JSON.parse(head.body)._attachments;
    assert.equal(atts['old.bin'].stub, true);
    assert.equal(atts['new.bin'].follows, true);
    assert.equal(data.length, 1);
    assert.deepEqual([...data[0].body], [3, 4, 5]);
  });

  it('_bulk_get as multipart', async () => {
    const db = await api.db();
    const one = await api.ok(`PUT /${db}/a`, { body: { n: 1, _attachments: { 'x.bin': { content_type: 'application/octet-stream', data: 'AAEC' } } } });
    await api.ok(`PUT /${db}/b`, { body: { n: 2 } });
    for (const type of ['multipart/mixed', 'multipart/related']) {
      const answer = await api.call(`POST /${db}/_bulk_get?revs=true`, { body: { docs: [{ id: 'a', rev: one.rev }, { id: 'b' }, { id: 'none' }] }, send: { Accept: type } });
      assert.equal(answer.status, 200);
      assert.ok(answer.headers['content-type'].startsWith(`${type}; boundary=`), answer.headers['content-type']);
      const parts = multipart(answer.headers['content-type'], answer.body);
      assert.equal(parts.length, 3, answer.text);
      assert.equal(parts[0].headers['x-doc-id'], 'a');
      assert.equal(parts[0].headers['x-rev-id'], one.rev);
      const [head, data] = multipart(parts[0].headers['content-type'], parts[0].body);
      assert.equal(JSON.parse(head.body).n, 1);
      assert.deepEqual([...data.body], [0, 1, 2]);
      assert.equal(parts[1].headers['content-type'], 'application/json');
      assert.equal(JSON.parse(parts[1].body).n, 2);
      assert.match(parts[2].headers['content-type'], /error="true"/);
      assert.equal(JSON.parse(parts[2].body).error, 'not_found');
    }
  });

  const odd = [...Array(32).keys(), 0x7f, 0x85].map((code) => `f${String.fromCharCode(code)}g`)
    .concat('a%00b', 'a\0b', 'f"g', 'f', 'a\r\nContent-Encoding: gzip\r\nX: y', 'a\r\n\r\nb', '\\', 'é');
  const oddly = (each) => Object.fromEntries(odd.map((name, at) => [name, { content_type: `x/${name}`, ...each(at) }]));

  it('names and types with control characters: read as CouchDB writes them, and as settee does', async () => {
    const db = await api.db();
    // `couch_httpd_multipart` writes both unescaped.
    const parts = odd.map((name, at) => ({
      head: `Content-Disposition: attachment; filename="${name}"\r\nContent-Type: x/${name}\r\nContent-Length: ${at + 1}\r\n`,
      body: 'x'.repeat(at + 1),
    }));
    const json = { _id: 'odd', _revisions: { start: 1, ids: ['aa'] }, _attachments: oddly((at) => ({ follows: true, length: at + 1 })) };
    const put = await api.call(`PUT /${db}/odd?new_edits=false`, related([doc(json), ...parts]));
    assert.equal(put.status, 201, put.text);
    const stored = (await api.ok(`GET /${db}/odd`))._attachments;
    const lengths = (atts) => Object.fromEntries(Object.entries(atts).map(([name, { length, content_type }]) => [name, [content_type, length]]));
    assert.deepEqual(lengths(stored), lengths(oddly((at) => ({ length: at + 1 }))));

    const clean = (part) => {
      for (const value of Object.values(part.headers)) assert.doesNotMatch(value, /[\x00-\x08\x0a-\x1f\x7f]/);
      assert.deepEqual(Object.keys(part.headers).sort(), ['content-disposition', 'content-length', 'content-type']);
    };
    const read = async (type, body, id) => {
      const [head, ...contents] = multipart(type, body);
      contents.forEach(clean);
      assert.equal(contents.length, odd.length);
      const again = await api.call(`PUT /${db}/${id}?new_edits=false`, related([doc({ ...JSON.parse(head.body), _id: id }), ...contents.map((part) => ({
        head: Object.entries(part.headers).map(([name, value]) => `${name}: ${value}\r\n`).join(''),
        body: part.body,
      }))]));
      assert.equal(again.status, 201, again.text);
      assert.deepEqual((await api.ok(`GET /${db}/${id}`))._attachments, stored);
    };
    const whole = await api.call(`GET /${db}/odd?attachments=true&revs=true`, { send: { Accept: 'multipart/related' } });
    await read(whole.headers['content-type'], whole.body, 'whole');
    const leaves = await api.call(`GET /${db}/odd?open_revs=all&revs=true`, { send: { Accept: 'multipart/mixed' } });
    const [leaf] = multipart(leaves.headers['content-type'], leaves.body);
    await read(leaf.headers['content-type'], leaf.body, 'leaf');
    const bulk = await api.call(`POST /${db}/_bulk_get?revs=true`, { body: { docs: [{ id: 'odd' }] }, send: { Accept: 'multipart/mixed' } });
    const [row] = multipart(bulk.headers['content-type'], bulk.body);
    await read(row.headers['content-type'], row.body, 'row');
  });

  it('an attachment whose type no header can have is read on its own', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'd', _attachments: oddly(() => ({ data: 'eHh4' })) }] } });
    for (const name of odd) {
      const type = /[\x00-\x08\x0a-\x1f\x7f]/.test(name) ? 'application/octet-stream' : `x/${name}`;
      for (const method of ['GET', 'HEAD']) {
        const answer = await api.call(`${method} /${db}/d/${encodeURIComponent(name)}`);
        assert.equal(answer.status, 200, JSON.stringify(name));
        assert.equal(answer.text, method === 'GET' ? 'xxx' : '');
        const found = answer.headers['content-type'];
        assert.ok([type, Buffer.from(type).toString('latin1')].includes(found), JSON.stringify([name, found]));
        assert.equal(answer.headers['content-encoding'], undefined);
        assert.equal(answer.headers.x, undefined);
      }
      const ranges = await api.call(`GET /${db}/d/${encodeURIComponent(name)}`, { send: { Range: 'bytes=0-0,2-2' } });
      assert.equal(ranges.status, 206);
      assert.equal(multipart(ranges.headers['content-type'], ranges.body).length, 2);
    }
  });

  it('a multipart/form-data POST of a browser form', async () => {
    const db = await api.db();
    const form = [
      '--f\r\nContent-Disposition: form-data; name="_doc"\r\n\r\n{"n":1}\r\n',
      '--f\r\nContent-Disposition: form-data; name="_attachments"; filename="up.bin"\r\nContent-Type: application/octet-stream\r\n\r\nDATA\r\n',
      '--f--\r\n',
    ].join('');
    const answer = await api.call(`POST /${db}/form`, { body: form, send: { 'Content-Type': 'multipart/form-data; boundary=f', Referer: `${api.base}/` } });
    assert.equal(answer.status, 201, answer.text);
    assert.equal((await api.ok(`GET /${db}/form`)).n, 1);
    assert.equal((await api.call(`GET /${db}/form/up.bin`)).text, 'DATA');
  });
});
