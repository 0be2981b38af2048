// Settings over HTTP: CouchDB docs `api/server/configuration.rst`.

import { suite, it, assert } from '../harness/rows.js';
import { external } from '../harness/server.js';

suite('configuration', (api) => {
  const at = '/_node/_local/_config';
  api.rows('_config', [
    { name: 'all sections', req: `GET ${at}`, status: 200, like: { couchdb: Object, chttpd: Object } },
    { name: 'one section', req: `GET ${at}/couchdb`, status: 200, like: { max_document_size: String } },
    { name: 'a missing section', req: `GET ${at}/nosuch`, status: 200, check: ({ json }) => assert.deepEqual(json, {}) },
    { name: 'a missing key', req: `GET ${at}/nosuch/key`, status: 404, error: 'not_found', reason: 'unknown_config_value' },
    { name: 'an unknown key is stored', req: `PUT ${at}/test_settee/key`, body: '"one"', status: 200, text: /^""\s*$/ },
    { name: '... PUT returns the old value', req: `PUT ${at}/test_settee/key`, body: '"two"', status: 200, text: /^"one"\s*$/ },
    { name: '... GET returns the new value', req: `GET ${at}/test_settee/key`, status: 200, text: /^"two"\s*$/ },
    { name: '... DELETE returns it', req: `DELETE ${at}/test_settee/key`, status: 200, text: /^"two"\s*$/ },
    { name: '... a second DELETE fails', req: `DELETE ${at}/test_settee/key`, status: 404, error: 'not_found', reason: 'unknown_config_value' },
    { name: 'a value that is not a string', req: `PUT ${at}/test_settee/key`, body: '5', status: 400, error: 'bad_request', reason: 'a JSON string expected' },
    { name: 'the name of this node', req: 'PUT /_node/nonode@nohost/_config/test_settee/n', body: '"x"', status: 200, couch: 404 },
    { name: '_reload', req: `POST ${at}/_reload`, body: {}, status: 200, like: { ok: true } },
    { name: 'POST', req: `POST ${at}`, body: {}, status: 405, error: 'method_not_allowed', headers: { Allow: 'GET' } },
    { name: 'POST a key', req: `POST ${at}/a/b`, body: '"x"', status: 405, error: 'method_not_allowed', headers: { Allow: 'GET,PUT,DELETE' } },
    { name: 'anonymous reads are denied', req: `GET ${at}`, as: null, status: 401, error: 'unauthorized' },
    { name: 'anonymous writes are denied', req: `PUT ${at}/a/b`, as: null, body: '"x"', status: 401, error: 'unauthorized' },
    { name: 'passwords are not shown', req: `GET ${at}`, status: 200, not: ['pass word:1'] },
  ]);

  it('accepts and returns the settings that Obsidian LiveSync writes', async () => {
    const settings = {
      'chttpd/require_valid_user': 'true',
      'chttpd_auth/require_valid_user': 'true',
      'httpd/WWW-Authenticate': 'Basic realm="couchdb"',
      'httpd/enable_cors': 'true',
      'chttpd/enable_cors': 'true',
      'chttpd/max_http_request_size': '4294967296',
      'couchdb/max_document_size': '50000000',
      'cors/credentials': 'true',
      'cors/origins': 'app://obsidian.md,capacitor://localhost,http://localhost',
    };
    for (const [key, value] of Object.entries(settings)) {
      await api.ok(`PUT ${at}/${key}`, { body: JSON.stringify(value) });
      assert.equal(await api.ok(`GET ${at}/${key}`), value, key);
    }
    const nobody = await api.call('GET /', { as: null });
    assert.equal(nobody.status, 401, 'require_valid_user holds at once');
    assert.ok(nobody.headers['www-authenticate']);
    for (const key of Object.keys(settings)) {
      const value = key.includes('require_valid_user') ? '"false"' : null;
      if (value) await api.ok(`PUT ${at}/${key}`, { body: value });
      else await api.ok(`DELETE ${at}/${key}`);
    }
    assert.equal((await api.call('GET /', { as: null })).status, 200);
  });

  it('settings persist across restarts', { skip: !!external }, async () => {
    await api.ok(`PUT ${at}/couchdb/max_document_size`, { body: '"12345"' });
    await api.ok(`PUT ${at}/test_settee/kept`, { body: '"yes"' });
    await api.server.restart('SIGTERM');
    assert.equal(await api.ok(`GET ${at}/couchdb/max_document_size`), '12345');
    assert.equal(await api.ok(`GET ${at}/test_settee/kept`), 'yes');
    await api.ok(`DELETE ${at}/couchdb/max_document_size`);
  });
});
