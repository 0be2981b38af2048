// Server endpoints: CouchDB docs `api/server/common.rst`.

import { suite, it, assert } from '../harness/rows.js';
import { raw } from '../harness/http.js';
import { external } from '../harness/server.js';

const notAllowed = (name, req, allow) => ({
  name,
  req,
  status: 405,
  error: 'method_not_allowed',
  reason: `Only ${allow} allowed`,
  headers: { Allow: allow },
});

suite('server', (api) => {
  api.rows('welcome and health', [
    {
      name: 'GET / returns Welcome',
      req: 'GET /',
      as: null,
      status: 200,
      like: { couchdb: 'Welcome', version: /^\d+\.\d+\.\d+/, uuid: /^[0-9a-f]{32}$/, features: Array, vendor: { name: String } },
      headers: { 'Content-Type': 'application/json', 'X-Couch-Request-ID': /^[0-9a-f]{10}$/, Server: /./ },
      save: { uuid: 'uuid' },
    },
    {
      name: 'the uuid stays the same',
      req: 'GET /',
      as: null,
      status: 200,
      check: (answer, words) => assert.equal(answer.json.uuid, words.uuid),
    },
    {
      name: 'a malformed Authorization header counts as anonymous',
      req: 'GET /',
      as: null,
      send: { Authorization: 'Basic: bm9ib2R5OnB3' },
      status: 200,
      like: { couchdb: 'Welcome' },
    },
    { name: 'HEAD / has no body', req: 'HEAD /', as: null, status: 200, text: '' },
    notAllowed('POST / is not allowed', 'POST /', 'GET,HEAD'),
    { name: '_up needs no authentication', req: 'GET /_up', as: null, status: 200, like: { status: 'ok', seeds: Object } },
    { name: 'HEAD _up', req: 'HEAD /_up', as: null, status: 200, text: '' },
    { name: 'favicon.ico', req: 'GET /favicon.ico', as: null, status: 200 },
    { name: 'an unknown underscore name is not a database', req: 'GET /_nothing_like_it', status: 404, error: 'not_found', reason: 'Database does not exist.' },
  ]);

  api.rows('uuids', [
    {
      name: 'one uuid, never cached',
      req: 'GET /_uuids',
      as: null,
      status: 200,
      like: { uuids: [/^[0-9a-f]{32}$/] },
      headers: { 'Cache-Control': /no-cache/, Pragma: 'no-cache', ETag: /./ },
    },
    {
      name: 'count returns that many distinct uuids',
      req: 'GET /_uuids?count=1000',
      as: null,
      status: 200,
      check: ({ json }) => assert.equal(new Set(json.uuids).size, 1000),
    },
    { name: 'count=0', req: 'GET /_uuids?count=0', as: null, status: 200, like: { uuids: [] } },
    { name: 'a count above the limit', req: 'GET /_uuids?count=1001', as: null, status: 400, error: 'bad_request', reason: 'count parameter too large' },
    { name: 'a negative count', req: 'GET /_uuids?count=-1', as: null, status: 400, error: 'bad_request' },
    { name: 'a count that is not a number', req: 'GET /_uuids?count=abc', as: null, status: 400, error: 'bad_request' },
    notAllowed('POST _uuids', 'POST /_uuids', 'GET'),
  ]);

  api.rows('lists of databases', [
    {
      name: '_all_dbs lists the database',
      req: 'GET /_all_dbs',
      status: 200,
      check: ({ json }, { db }) => {
        assert.ok(json.includes(db));
        assert.deepEqual(json, [...json].sort(), 'in order');
      },
    },
    { name: 'start_key and end_key', req: 'GET /_all_dbs?start_key=%22{db}%22&end_key=%22{db}%22', status: 200, check: ({ json }, { db }) => assert.deepEqual(json, [db]) },
    { name: 'limit', req: 'GET /_all_dbs?limit=0', status: 200, like: [] },
    { name: 'a limit that is not a number', req: 'GET /_all_dbs?limit=x', status: 400, error: 'query_parse_error' },
    { name: 'descending', req: 'GET /_all_dbs?descending=true', status: 200, check: ({ json }) => assert.deepEqual(json, [...json].sort().reverse()) },
    { name: 'anonymous listing is denied', req: 'GET /_all_dbs', as: null, status: 401, error: 'unauthorized' },
    notAllowed('PUT _all_dbs', 'PUT /_all_dbs', 'GET,HEAD'),
    {
      name: '_dbs_info by keys, with an error for the unknown',
      req: 'POST /_dbs_info',
      body: (words) => ({ keys: [words.db, 'nosuchdb'] }),
      status: 200,
      check: ({ json }, { db }) => {
        assert.equal(json[0].key, db);
        assert.equal(json[0].info.db_name, db);
        assert.deepEqual(json[1], { key: 'nosuchdb', error: 'not_found' });
      },
    },
    { name: '_dbs_info GET', req: 'GET /_dbs_info?start_key=%22{db}%22&limit=1', status: 200, check: ({ json }, { db }) => assert.equal(json[0].info.db_name, db) },
    {
      name: '_dbs_info with the time of the last write, which CouchDB does not have',
      req: 'POST /_dbs_info',
      body: ({ db }) => ({ keys: [db, 'none'], last_write: true }),
      status: 200,
      check: ({ json }) => {
        if (external) return;
        assert.deepEqual(json.map((row) => Object.keys(row)), [['key', 'info', 'last_write'], ['key', 'error']]);
        assert.ok(Math.abs(json[0].last_write - Date.now()) < 600_000, JSON.stringify(json[0]));
      },
    },
    { name: '_dbs_info without keys', req: 'POST /_dbs_info', body: {}, status: 400, error: 'bad_request', reason: '`keys` member must exist.' },
    { name: '_dbs_info keys of the wrong type', req: 'POST /_dbs_info', body: { keys: 'a' }, status: 400, error: 'bad_request', reason: '`keys` member must be an array.' },
    {
      name: '_dbs_info with more than 100 keys',
      req: 'POST /_dbs_info',
      body: { keys: Array.from({ length: 101 }, (_, n) => `db${n}`) },
      status: 400,
      error: 'bad_request',
      reason: 'too_many_keys',
    },
    notAllowed('PUT _dbs_info', 'PUT /_dbs_info', 'GET,HEAD,POST'),
  ]);

  api.rows('monitoring', [
    { name: '_active_tasks', req: 'GET /_active_tasks', status: 200, like: Array },
    notAllowed('POST _active_tasks', 'POST /_active_tasks', 'GET,HEAD'),
    { name: '_membership', req: 'GET /_membership', status: 200, keys: ['all_nodes', 'cluster_nodes'], like: { all_nodes: Array, cluster_nodes: Array } },
    { name: '_node/_local names the node', req: 'GET /_node/_local', status: 200, like: { name: /@/ }, save: { node: 'name' } },
    { name: '_stats', req: 'GET /_node/_local/_stats', status: 200, like: { couchdb: Object } },
    { name: '_stats of one metric', req: 'GET /_node/_local/_stats/couchdb/request_time', status: 200, like: Object },
    { name: '_system', req: 'GET /_node/_local/_system', status: 200, like: { uptime: Number, memory: Object } },
    { name: '_versions', req: 'GET /_node/_local/_versions', status: 200, like: Object },
    { name: '_prometheus is text', req: 'GET /_node/_local/_prometheus', status: 200, headers: { 'Content-Type': /text\/plain/ }, text: /couchdb_/ },
    { name: 'the node by its name', req: 'GET /_node/{node}/_system', status: 200, like: { uptime: Number } },
    { name: 'anonymous access to _stats is denied', req: 'GET /_node/_local/_stats', as: null, status: 401, error: 'unauthorized' },
    { name: 'anonymous access to _active_tasks is denied', req: 'GET /_active_tasks', as: null, status: 401, error: 'unauthorized' },
  ]);

  it('_db_updates lists changes of databases', async () => {
    const { last_seq: since } = await api.ok('GET /_db_updates');
    const db = await api.db();
    await api.ok(`PUT /${db}/a`, { body: {} });
    await api.ok(`DELETE /${db}`);
    const { results, last_seq } = await api.ok(`GET /_db_updates?since=${encodeURIComponent(since)}`);
    const mine = results.filter((row) => row.db_name === db);
    assert.ok(mine.length > 0, JSON.stringify(results));
    assert.equal(mine.at(-1).type, 'deleted');
    assert.ok(mine.every((row) => ['created', 'updated', 'deleted'].includes(row.type) && row.seq !== undefined));
    const after = await api.ok(`GET /_db_updates?since=${encodeURIComponent(last_seq)}`);
    assert.deepEqual(after.results.filter((row) => row.db_name === db), []);
  });

  it('_db_updates longpoll returns on a change', async () => {
    const { last_seq } = await api.ok('GET /_db_updates');
    const waiting = api.call(`GET /_db_updates?feed=longpoll&timeout=20000&since=${encodeURIComponent(last_seq)}`, { fresh: true });
    const db = await api.db();
    const answer = await waiting;
    assert.equal(answer.status, 200);
    assert.ok(answer.json.results.some((row) => row.db_name === db && row.type === 'created'), answer.text);
  });

  it('_db_updates continuous sends one line per change', async () => {
    const { last_seq } = await api.ok('GET /_db_updates');
    const feed = await api.lines(`GET /_db_updates?feed=continuous&timeout=20000&since=${encodeURIComponent(last_seq)}`);
    const db = await api.db();
    let row;
    do row = JSON.parse(await feed.row());
    while (row.db_name !== db);
    assert.equal(row.type, 'created');
    feed.close();
  });

  it('browsers get an HTML page', async () => {
    const answer = await api.call('GET /', { as: null, send: { Accept: 'text/html,application/xhtml+xml,*/*;q=0.8' } });
    assert.equal(answer.status, 200);
    if (!external) {
      assert.match(answer.headers['content-type'], /text\/html/);
      assert.match(answer.text, /settee/i);
    }
    const utils = await api.call('GET /_utils/', { as: null, send: { Accept: 'text/html' } });
    assert.equal(utils.status, 200);
  });

  it('pipelined requests are answered in order', { skip: !!external }, async () => {
    const one = `GET /_up HTTP/1.1\r\nHost: a\r\n\r\n`;
    const two = `GET /_uuids?count=2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`;
    const text = await raw(api.server.port, one + two);
    assert.equal(text.match(/HTTP\/1\.1 200/g).length, 2);
    assert.ok(text.indexOf('"status"') < text.indexOf('"uuids"'));
  });

  it('responses are compressed if the client accepts gzip', async () => {
    const answer = await api.call('GET /_uuids?count=1000', { send: { 'Accept-Encoding': 'gzip' } });
    assert.equal(answer.status, 200);
    if (external) return;
    assert.equal(answer.headers['content-encoding'], 'gzip');
    const { gunzipSync } = await import('node:zlib');
    assert.equal(JSON.parse(gunzipSync(answer.body)).uuids.length, 1000);
  });
});
