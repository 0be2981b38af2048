// The changes feed: CouchDB docs `api/database/changes.rst`, `test/elixir/test/changes*_test.exs`.

import http from 'node:http';
import { suite, it, assert, describe } from '../harness/rows.js';
import { ADMIN, PASSWORD, until } from '../harness/server.js';

const idsOf = (answer) => answer.json.results.map((row) => row.id);
const given = (...expected) => (answer) => assert.deepEqual(idsOf(answer).sort(), expected.sort());
const enc = encodeURIComponent;

suite('changes', (api) => {
  api.rows('normal', [
    { name: 'an empty database', req: 'GET /{db}/_changes', status: 200, like: { results: [], last_seq: /^0/, pending: 0 }, keys: ['last_seq', 'pending', 'results'], save: { start: 'last_seq' } },
    { name: 'some documents', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: 'a', n: 1 }, { _id: 'b', n: 2 }, { _id: 'c', n: 3 }] }, status: 201, save: { a: ({ json }) => json[0].rev, b: ({ json }) => json[1].rev } },
    { name: 'one row per document', req: 'GET /{db}/_changes', status: 200, check: given('a', 'b', 'c'), like: { last_seq: /^3-/, pending: 0 }, save: { seq3: 'last_seq' }, headers: { ETag: /^"/ } },
    { name: 'a row has seq, id and the winning revision', req: 'GET /{db}/_changes?limit=1', status: 200, check: ({ json }) => { const [row] = json.results; assert.deepEqual(Object.keys(row).sort(), ['changes', 'id', 'seq']); assert.deepEqual(Object.keys(row.changes[0]), ['rev']); }, save: { seq1: ({ json }) => json.results[0].seq } },
    { name: 'limit ends the feed, pending counts the rest', req: 'GET /{db}/_changes?limit=1', status: 200, like: { results: [Object], last_seq: /^1-/, pending: 2 } },
    { name: 'limit=0 returns at most one row', req: 'GET /{db}/_changes?limit=0', status: 200, check: ({ json }) => assert.ok(json.results.length <= 1) },
    { name: 'since continues after that sequence', req: 'GET /{db}/_changes?since={seq1}', status: 200, like: { results: [Object, Object] } },
    { name: 'since=0', req: 'GET /{db}/_changes?since=0', status: 200, like: { results: [Object, Object, Object] } },
    { name: 'since=now', req: 'GET /{db}/_changes?since=now', status: 200, like: { results: [], last_seq: /^3-/ } },
    { name: 'since the last sequence', req: 'GET /{db}/_changes?since={seq3}', status: 200, like: { results: [] } },
    { name: 'a malformed since', req: 'GET /{db}/_changes?since=nonsense', status: 400, error: 'bad_request', reason: "Malformed sequence supplied in 'since' parameter." },
    { name: 'last-event-id works like since', req: 'GET /{db}/_changes?last-event-id={seq3}', status: 200, like: { results: [] } },
    { name: 'an update moves the row', req: 'PUT /{db}/a', body: (w) => ({ _rev: w.a, n: 4 }), status: 201 },
    { name: '... to the end of the feed', req: 'GET /{db}/_changes', status: 200, check: (answer) => assert.equal(idsOf(answer).at(-1), 'a'), like: { results: [Object, Object, { changes: [{ rev: /^2-/ }] }] } },
    { name: 'a deletion is marked', req: 'DELETE /{db}/b?rev={b}', status: 200 },
    { name: '...', req: 'GET /{db}/_changes?since={seq3}', status: 200, check: ({ json }) => assert.deepEqual(json.results.map((r) => [r.id, r.deleted]), [['a', undefined], ['b', true]]) },
    { name: 'descending', req: 'GET /{db}/_changes?descending=true', status: 200, check: (answer) => assert.deepEqual(idsOf(answer), ['b', 'a', 'c']) },
    { name: 'descending leaves nothing', req: 'GET /{db}/_changes?descending=true', status: 200, like: { pending: 0 } },
    { name: 'descending with limit', req: 'GET /{db}/_changes?descending=true&limit=1', status: 200, check: (answer) => assert.deepEqual(idsOf(answer), ['b']), like: { pending: 2 } },
    { name: 'include_docs, including tombstones', req: 'GET /{db}/_changes?include_docs=true', status: 200, check: ({ json }) => { const by = Object.fromEntries(json.results.map((r) => [r.id, r.doc])); assert.equal(by.a.n, 4); assert.equal(by.b._deleted, true); assert.match(by.c._rev, /^1-/); } },
    { name: 'seq_interval', req: 'GET /{db}/_changes?seq_interval=3', status: 200, check: ({ json }) => assert.ok(json.results.length === 3 && json.last_seq) },
    { name: 'If-None-Match', req: 'GET /{db}/_changes', status: 200, save: { etag: ({ headers }) => headers.etag } },
    { name: '... 304 while nothing changes', req: 'GET /{db}/_changes', send: { 'If-None-Match': '{etag}' }, status: 304 },
    { name: 'POST without a body', req: 'POST /{db}/_changes', body: '', send: { 'Content-Type': 'application/json' }, status: 200, like: { results: [Object, Object, Object] } },
    { name: 'POST with a body that is not an object', req: 'POST /{db}/_changes', body: [], status: 400, error: 'bad_request', reason: 'Request body must be a JSON object' },
    { name: 'POST with a body that is not JSON', req: 'POST /{db}/_changes', body: '{', send: { 'Content-Type': 'application/json' }, status: 400, error: 'bad_request', reason: 'invalid UTF-8 JSON' },
    { name: 'PUT', req: 'PUT /{db}/_changes', body: {}, status: 405, error: 'method_not_allowed', headers: { Allow: 'GET,POST,HEAD' } },
    { name: 'an unknown feed', req: 'GET /{db}/_changes?feed=what', status: 400, error: 'bad_request', reason: 'Supported `feed` types: normal, continuous, live, longpoll, eventsource' },
    { name: 'an invalid limit', req: 'GET /{db}/_changes?limit=x', status: 400, error: 'bad_request', reason: 'The limit parameter should be a non-negative integer' },
    { name: 'a negative limit', req: 'GET /{db}/_changes?limit=-1', status: 400, error: 'bad_request', reason: 'The limit value should be a non-negative integer' },
    { name: 'an invalid heartbeat', req: 'GET /{db}/_changes?heartbeat=x', status: 400, error: 'bad_request', reason: 'Invalid heartbeat value. Expecting a positive integer value (in milliseconds).' },
    { name: 'a heartbeat of 0', req: 'GET /{db}/_changes?heartbeat=0', status: 400, error: 'bad_request', reason: 'The heartbeat value should be a positive integer (in milliseconds).' },
    { name: 'an invalid timeout', req: 'GET /{db}/_changes?timeout=x', status: 400, error: 'bad_request', reason: 'The timeout parameter should be a non-negative integer' },
    { name: 'a negative timeout', req: 'GET /{db}/_changes?timeout=-1', status: 400, error: 'bad_request', reason: 'The timeout value should be a non-negative integer' },
    { name: 'a seq_interval of 0', req: 'GET /{db}/_changes?seq_interval=0', status: 400, error: 'bad_request', reason: 'invalid_seq_interval' },
    { name: 'an unknown style', req: 'GET /{db}/_changes?style=what', status: 400, couch: 500, error: 'bad_request' },
    { name: 'a missing database', req: 'GET /{db}none/_changes', status: 404, error: 'not_found', reason: 'Database does not exist.' },
  ]);

  api.rows('style', [
    { name: 'a conflict', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [{ _id: 'k', _rev: '1-a' }, { _id: 'k', _rev: '1-b' }, { _id: 'k', _revisions: { start: 2, ids: ['d', 'x'] }, _deleted: true }] }, status: 201 },
    { name: 'main_only returns the winner', req: 'GET /{db}/_changes', status: 200, check: ({ json }) => assert.deepEqual(json.results[0].changes, [{ rev: '1-b' }]) },
    { name: 'all_docs returns all leaves including deleted ones, winner first', req: 'GET /{db}/_changes?style=all_docs', status: 200, check: ({ json }) => { assert.deepEqual(json.results[0].changes.map((c) => c.rev), ['1-b', '1-a', '2-d']); assert.equal(json.results[0].deleted, undefined); } },
    { name: 'conflicts=true lists the conflicts in the document', req: 'GET /{db}/_changes?include_docs=true&conflicts=true', status: 200, like: { results: [{ doc: { _rev: '1-b', _conflicts: ['1-a'] } }] } },
  ]);

  api.rows('filters', [
    { name: 'documents', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: 'a', type: 'x' }, { _id: 'b', type: 'y', n: 5 }, { _id: 'c', type: 'x', n: 9 }, { _id: '_design/d', language: 'query' }, { _id: 'gone', _deleted: true, type: 'x' }] }, status: 201 },
    { name: '_doc_ids by POST', req: 'POST /{db}/_changes?filter=_doc_ids', body: { doc_ids: ['b', 'none', 'c'] }, status: 200, check: given('b', 'c'), like: { pending: 0 } },
    { name: '_doc_ids by GET', req: `GET /{db}/_changes?filter=_doc_ids&doc_ids=${enc('["a"]')}`, status: 200, check: given('a') },
    { name: '_doc_ids with a deleted document', req: 'POST /{db}/_changes?filter=_doc_ids', body: { doc_ids: ['gone'] }, status: 200, like: { results: [{ id: 'gone', deleted: true }] } },
    { name: '_doc_ids with limit', req: 'POST /{db}/_changes?filter=_doc_ids&limit=1', body: { doc_ids: ['a', 'b', 'c'] }, status: 200, check: given('a') },
    { name: '_doc_ids since now', req: 'POST /{db}/_changes?filter=_doc_ids&since=now', body: { doc_ids: ['a', 'b'] }, status: 200, like: { results: [] } },
    { name: '_doc_ids with documents', req: 'POST /{db}/_changes?filter=_doc_ids&include_docs=true', body: { doc_ids: ['b'] }, status: 200, like: { results: [{ doc: { n: 5 } }] } },
    { name: '_doc_ids with an empty list', req: 'POST /{db}/_changes?filter=_doc_ids', body: { doc_ids: [] }, status: 200, like: { results: [] } },
    { name: 'more ids than documents', req: 'POST /{db}/_changes?filter=_doc_ids', body: { doc_ids: Array.from({ length: 5000 }, (_, n) => `id${n}`).concat('c') }, status: 200, check: given('c') },
    { name: 'many documents', req: 'POST /{db}/_bulk_docs', body: { docs: Array.from({ length: 6000 }, (_, n) => ({ _id: `many${n}` })) }, status: 201 },
    { name: '_doc_ids with many ids returns each document once, in feed order', req: 'POST /{db}/_changes?filter=_doc_ids', body: { doc_ids: Array.from({ length: 2500 }, (_, n) => `many${n * 2}`).reverse() }, status: 200, check: (answer) => assert.deepEqual(idsOf(answer), Array.from({ length: 2500 }, (_, n) => `many${n * 2}`)), like: { pending: 0 } },
    { name: '... stops at the limit', req: 'POST /{db}/_changes?filter=_doc_ids&limit=1500', body: { doc_ids: Array.from({ length: 2500 }, (_, n) => `many${n * 2}`) }, status: 200, save: { seq1500: 'last_seq' } },
    { name: '... and continues from there to the end', req: 'POST /{db}/_changes?filter=_doc_ids&since={seq1500}', body: { doc_ids: Array.from({ length: 2500 }, (_, n) => `many${n * 2}`) }, status: 200, check: (answer) => assert.equal(answer.json.results.length, 1000) },
    { name: '_doc_ids without ids', req: 'POST /{db}/_changes?filter=_doc_ids', body: {}, status: 400, error: 'bad_request', reason: '`doc_ids` filter parameter is not a list of doc ids.' },
    { name: '_doc_ids of the wrong type', req: 'POST /{db}/_changes?filter=_doc_ids', body: { doc_ids: [5] }, status: 400, error: 'bad_request' },
    { name: '_design', req: 'GET /{db}/_changes?filter=_design', status: 200, check: given('_design/d') },
    { name: '_selector', req: 'POST /{db}/_changes?filter=_selector', body: { selector: { type: 'x' } }, status: 200, check: ({ json }) => assert.deepEqual(json.results.filter((r) => !r.deleted).map((r) => r.id).sort(), ['a', 'c']) },
    { name: '_selector with an operator', req: 'POST /{db}/_changes?filter=_selector', body: { selector: { n: { $gt: 5 } } }, status: 200, check: given('c') },
    { name: '_selector with a combination', req: 'POST /{db}/_changes?filter=_selector', body: { selector: { $or: [{ n: 5 }, { _id: 'a' }] } }, status: 200, check: given('a', 'b') },
    { name: '_selector with fields', req: 'POST /{db}/_changes?filter=_selector&include_docs=true', body: { selector: { n: { $gt: 5 } }, fields: ['n', '_id', 'none'] }, status: 200, like: { results: [{ doc: (doc) => { assert.deepEqual(Object.keys(doc).sort(), ['_id', 'n']); } }] } },
    { name: '... of which the document has none', req: 'POST /{db}/_changes?filter=_selector&include_docs=true', body: { selector: { n: { $gt: 5 } }, fields: ['none.at.all'] }, status: 200, like: { results: [{ doc: (doc) => { assert.deepEqual(doc, {}); } }] } },
    { name: '... that overlap', req: 'POST /{db}/_changes?filter=_selector&include_docs=true', body: { selector: { n: { $gt: 5 } }, fields: ['n', 'n.x', 'type', 'n', 'type'] }, status: 200, like: { results: [{ doc: (doc) => { assert.deepEqual(doc, { n: 9, type: 'x' }); } }] } },
    { name: '_selector by the deletion', req: 'POST /{db}/_changes?filter=_selector&include_docs=true', body: { selector: { _deleted: true }, fields: ['_deleted', 'type', '_id'] }, status: 200, like: { results: [{ id: 'gone', deleted: true, doc: (doc) => { assert.equal(doc._deleted, true); assert.equal(doc._id, 'gone'); } }] } },
    { name: '_selector by attachments, of which there are none', req: 'POST /{db}/_changes?filter=_selector', body: { selector: { _attachments: { $exists: true } } }, status: 200, check: given() },
    { name: 'an empty list of fields is the whole document', req: 'POST /{db}/_changes?filter=_selector&include_docs=true', body: { selector: { n: { $gt: 5 } }, fields: [] }, status: 200, like: { results: [{ doc: { _id: 'c', _rev: String, type: 'x' } }] } },
    { name: 'fields of the wrong type', req: 'POST /{db}/_changes?filter=_selector', body: { selector: {}, fields: 'n' }, status: 400, error: 'bad_request', reason: 'Selector error: fields must be JSON array' },
    { name: 'a field of the wrong type', req: 'POST /{db}/_changes?filter=_selector', body: { selector: {}, fields: [1] }, status: 400, error: 'bad_request', reason: 'Invalid JSON for field spec: 1' },
    { name: 'fields without a selector are ignored', req: 'POST /{db}/_changes?filter=_doc_ids&include_docs=true', body: { doc_ids: ['c'], fields: ['n'] }, status: 200, like: { results: [{ doc: { _id: 'c' } }] } },
    { name: '_selector without a selector', req: 'POST /{db}/_changes?filter=_selector', body: {}, status: 400, error: 'bad_request', reason: 'Selector error: expected a JSON object' },
    { name: '_selector by GET', req: 'GET /{db}/_changes?filter=_selector', status: 400, error: 'bad_request', reason: 'Selector must be specified in POST payload' },
    { name: '_selector with an unknown operator', req: 'POST /{db}/_changes?filter=_selector', body: { selector: { a: { $what: 1 } } }, status: 400, error: 'bad_request' },
    { name: 'an unknown builtin', req: 'GET /{db}/_changes?filter=_what', status: 400, error: 'bad_request', reason: 'unknown builtin filter name' },
    { name: 'a missing design document', req: 'GET /{db}/_changes?filter=none/f', status: 404, error: 'not_found' },
    { name: 'a missing function', req: 'GET /{db}/_changes?filter=d/none', status: 404, error: 'not_found' },
    { name: 'a malformed filter name', req: 'GET /{db}/_changes?filter=a/b/c', status: 400, error: 'bad_request', reason: '`filter` must be of the form `designname/filtername`' },
    ...['d/', '/f'].map((filter) => ({ name: `the filter ${filter}`, req: `GET /{db}/_changes?filter=${filter}`, status: 400, error: 'bad_request', reason: '`filter` must be of the form `designname/filtername`' })),
    { name: '_view without a view', req: 'GET /{db}/_changes?filter=_view', status: 400, error: 'bad_request', reason: '`view` filter parameter is not provided.' },
  ]);

  describe('longpoll', () => {
    it('returns immediately if there are changes', async () => {
      const db = await api.db();
      await api.ok(`PUT /${db}/a`, { body: {} });
      const answer = await api.ok(`GET /${db}/_changes?feed=longpoll`);
      assert.deepEqual(answer.results.map((r) => r.id), ['a']);
    });

    it('waits for the next change and ends after it', async () => {
      const db = await api.db();
      await api.ok(`PUT /${db}/a`, { body: {} });
      for (const from of ['now', 'last_seq']) {
        const { last_seq } = await api.ok(`GET /${db}/_changes`);
        const since = from === 'now' ? 'now' : last_seq;
        let done = false;
        const feed = await api.lines(`GET /${db}/_changes?feed=longpoll&timeout=20000&since=${enc(since)}`);
        const whole = (async () => {
          let text = '';
          for (let line = await feed.next(); line !== null; line = await feed.next()) text += line;
          done = true;
          return JSON.parse(text);
        })();
        assert.equal(feed.status, 200, 'the head comes before a change does');
        assert.equal(done, false);
        const { id } = await api.ok(`POST /${db}`, { body: {} });
        const answer = await whole;
        assert.deepEqual(answer.results.map((r) => r.id), [id]);
        assert.notEqual(answer.last_seq, last_seq);
      }
    });

    it('returns no rows after the timeout', async () => {
      const db = await api.db();
      const answer = await api.ok(`GET /${db}/_changes?feed=longpoll&timeout=100`);
      assert.deepEqual(answer.results, []);
      assert.match(String(answer.last_seq), /^0/);
    });

    it('sends heartbeats while it waits', async () => {
      const db = await api.db();
      const feed = await api.lines(`GET /${db}/_changes?feed=longpoll&heartbeat=50&since=now`);
      assert.match(await feed.next(), /results/);
      assert.equal(await feed.next(), '');
      assert.equal(await feed.next(), '');
      await api.ok(`PUT /${db}/a`, { body: {} });
      assert.equal(JSON.parse((await feed.row()).replace(/,\r?$/, '')).id, 'a');
      feed.close();
    });

    it('with a filter, waits for a change that passes it', async () => {
      const db = await api.db();
      const waiting = api.call(`POST /${db}/_changes?feed=longpoll&filter=_doc_ids&timeout=20000`, { body: { doc_ids: ['yes'] }, fresh: true });
      const selected = api.call(`POST /${db}/_changes?feed=longpoll&filter=_selector&timeout=20000`, { body: { selector: { go: true } }, fresh: true });
      await api.ok(`PUT /${db}/no`, { body: {} });
      await api.ok(`PUT /${db}/yes`, { body: { go: true } });
      assert.deepEqual((await waiting).json.results.map((r) => r.id), ['yes']);
      assert.deepEqual((await selected).json.results.map((r) => r.id), ['yes']);
    });

    it('ends when the database is deleted', async () => {
      const db = await api.db();
      const feed = await api.lines(`GET /${db}/_changes?feed=longpoll&timeout=30000`);
      await feed.next();
      await api.ok(`DELETE /${db}`);
      while ((await feed.next()) !== null);
    });

    it('a hundred waiting requests all receive one change', async () => {
      const db = await api.db();
      const feeds = await Promise.all(Array.from({ length: 100 }, () => api.lines(`GET /${db}/_changes?feed=longpoll&timeout=30000&since=now`)));
      await Promise.all(feeds.map((feed) => feed.next()));
      await api.ok(`PUT /${db}/a`, { body: {} });
      for (const feed of feeds) assert.equal(JSON.parse((await feed.row()).replace(/,\r?$/, '')).id, 'a');
    });
  });

  for (const name of ['continuous', 'live']) {
    describe(name, () => {
      it('returns existing changes, then new ones, one line each', async () => {
        const db = await api.db();
        await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
        const feed = await api.lines(`GET /${db}/_changes?feed=${name}&timeout=20000&include_docs=true`);
        const first = JSON.parse(await feed.row());
        assert.equal(first.id, 'a');
        assert.equal(first.doc.n, 1);
        for (const id of ['b', 'c', 'd']) {
          await api.ok(`PUT /${db}/${id}`, { body: {} });
          assert.equal(JSON.parse(await feed.row()).id, id);
        }
        feed.close();
      });

      it('ends with last_seq after limit rows', async () => {
        const db = await api.db();
        await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'a' }, { _id: 'b' }, { _id: 'c' }] } });
        const feed = await api.lines(`GET /${db}/_changes?feed=${name}&limit=2&timeout=20000`);
        assert.equal(JSON.parse(await feed.row()).id, 'a');
        assert.equal(JSON.parse(await feed.row()).id, 'b');
        const end = JSON.parse(await feed.row());
        assert.match(String(end.last_seq), /^2/);
        assert.equal(await feed.row(), null);
      });

      it('ends with last_seq when the timeout passes', async () => {
        const db = await api.db();
        const feed = await api.lines(`GET /${db}/_changes?feed=${name}&timeout=100`);
        const end = JSON.parse(await feed.row());
        assert.match(String(end.last_seq), /^0/);
        assert.equal(end.pending, 0);
        assert.equal(await feed.row(), null);
      });

      it('heartbeats are empty lines and keep the feed open', async () => {
        const db = await api.db();
        const feed = await api.lines(`GET /${db}/_changes?feed=${name}&heartbeat=30&timeout=60`);
        for (let n = 0; n < 5; n += 1) assert.equal(await feed.next(), '');
        await api.ok(`PUT /${db}/a`, { body: {} });
        assert.equal(JSON.parse(await feed.row()).id, 'a');
        feed.close();
      });

      it('does not miss changes while it switches from reading to waiting', async () => {
        const db = await api.db();
        const feed = await api.lines(`GET /${db}/_changes?feed=${name}&timeout=20000&since=now`);
        const writers = Array.from({ length: 4 }, async (_, w) => {
          for (let n = 0; n < 50; n += 1) await api.ok(`PUT /${db}/w${w}-${n}`, { body: {} });
        });
        const seen = new Set();
        let last = 0;
        while (seen.size < 200) {
          const row = JSON.parse(await feed.row());
          const at = Number(String(row.seq).split('-')[0]);
          assert.ok(at > last, 'sequences go up');
          last = at;
          assert.ok(!seen.has(row.id), `${row.id} came twice`);
          seen.add(row.id);
        }
        await Promise.all(writers);
        feed.close();
      });
    });
  }

  describe('eventsource', () => {
    it('sends text/event-stream', async () => {
      const db = await api.db();
      await api.ok(`PUT /${db}/a`, { body: {} });
      const feed = await api.lines(`GET /${db}/_changes?feed=eventsource&heartbeat=50`);
      assert.match(feed.headers['content-type'], /^text\/event-stream/);
      assert.equal(feed.headers['cache-control'], 'no-cache');
      const data = await feed.row();
      assert.match(data, /^data: \{/);
      const row = JSON.parse(data.slice(6));
      assert.equal(row.id, 'a');
      const id = await feed.row();
      assert.equal(id, `id: ${JSON.stringify(row.seq)}`);
      let line = await feed.row();
      assert.equal(line, 'event: heartbeat');
      line = await feed.row();
      assert.match(line, /^data: ?$/);
      assert.equal(await feed.row(), id, 'a heartbeat says where to go on');
      feed.close();
    });

    it('continues after the Last-Event-ID header', async () => {
      const db = await api.db();
      await api.ok(`PUT /${db}/a`, { body: {} });
      const { last_seq } = await api.ok(`GET /${db}/_changes`);
      await api.ok(`PUT /${db}/b`, { body: {} });
      const feed = await api.lines(`GET /${db}/_changes?feed=eventsource&since=0&timeout=5000`, { send: { 'Last-Event-ID': String(last_seq) } });
      assert.equal(JSON.parse((await feed.row()).slice(6)).id, 'b');
      feed.close();
    });
  });

  it('a filtered feed tells its progress to clients that ask for it', async () => {
    const db = await api.db();
    const docs = Array.from({ length: 25 }, (_, number) => ({ _id: `d${number}`, number }));
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
    const selector = { number: { $gt: 100 } };
    const { last_seq } = await api.ok(`GET /${db}/_changes`);
    for (const feed of ['eventsource', 'continuous']) {
      const events = await api.lines(`POST /${db}/_changes?feed=${feed}&filter=_selector&seq_interval=10&heartbeat=50`, { body: { selector } });
      if (feed === 'continuous') {
        assert.deepEqual(JSON.parse(await events.row()), { last_seq, pending: 0 });
        await api.ok(`PUT /${db}/passes`, { body: { number: 101 } });
        assert.equal(JSON.parse(await events.row()).id, 'passes', 'the feed goes on');
      } else {
        assert.equal(await events.row(), 'event: heartbeat');
        await events.row();
        assert.equal(await events.row(), `id: ${JSON.stringify(last_seq)}`);
      }
      events.close();
    }
    // Others must not see such a line: some take it for the end of the feed.
    const plain = await api.lines(`POST /${db}/_changes?feed=continuous&filter=_selector&heartbeat=50`, { body: { selector } });
    assert.equal(JSON.parse(await plain.row()).id, 'passes');
    plain.close();
  });

  it('a since of a deleted and recreated database reads from the start', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'a' }, { _id: 'b' }, { _id: 'c' }] } });
    const { last_seq } = await api.ok(`GET /${db}/_changes`);
    await api.ok(`DELETE /${db}`);
    await api.ok(`PUT /${db}`);
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'x' }, { _id: 'y' }] } });
    const { results } = await api.ok(`GET /${db}/_changes?since=${enc(last_seq)}`);
    assert.deepEqual(results.map((r) => r.id).sort(), ['x', 'y']);
  });

  for (const order of ['descending=false', 'descending=true']) {
    it(`a list is cut off when its database is deleted meanwhile (${order})`, async () => {
      const db = await api.db();
      // More than the buffers on the way can hold.
      for (let part = 0; part < 6; part += 1) {
        const docs = Array.from({ length: 5000 }, (_, n) => ({ _id: `${part * 5000 + n}-${'x'.repeat(900)}` }));
        await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
      }
      const read = await new Promise((resolve, reject) => {
        const send = { method: 'GET', auth: `${ADMIN}:${PASSWORD}`, agent: false };
        http.request(`${api.server.base}/${db}/_changes?${order}`, send, (answer) => {
          const parts = [];
          answer.once('data', async (part) => {
            parts.push(part);
            answer.pause();
            await api.ok(`DELETE /${db}`);
            answer.on('data', (more) => parts.push(more));
            answer.resume();
          });
          answer.on('error', () => {});
          answer.on('close', () => resolve({ complete: answer.complete, rows: Buffer.concat(parts).toString().split('\n').length }));
        }).on('error', reject).end();
      });
      assert.equal(read.complete, false, `${read.rows} rows`);
    });
  }

  it('clients can disconnect from live feeds', async () => {
    const db = await api.db();
    for (let n = 0; n < 20; n += 1) {
      const feed = await api.lines(`GET /${db}/_changes?feed=continuous&heartbeat=1000&since=now`);
      feed.close();
    }
    await api.ok(`PUT /${db}/a`, { body: {} });
    await until('the server answers as before', async () => (await api.call(`GET /${db}/a`)).status === 200);
  });
});
