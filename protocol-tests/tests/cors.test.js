// CORS: CouchDB docs `config/http.rst`, section CORS; and settee's more permissive default.

import { suite, it, assert } from '../harness/rows.js';
import { external } from '../harness/server.js';

const preflight = (origin, more = {}) => ({ Origin: origin, 'Access-Control-Request-Method': 'PUT', 'Access-Control-Request-Headers': 'content-type, authorization', ...more });

suite('CORS', (api) => {
  const skip = external ? 'the defaults are settee\'s own' : false;
  api.rows('by default', [
    ...['http://localhost', 'http://localhost:8080', 'https://localhost:3000', 'http://127.0.0.1:5173', 'capacitor://localhost', 'ionic://localhost', 'tauri://localhost', 'http://tauri.localhost', 'https://tauri.localhost', 'app://obsidian.md'].map((origin) => ({
      name: `${origin} is let in with credentials`,
      skip,
      req: 'GET /',
      as: null,
      send: { Origin: origin },
      status: 200,
      headers: { 'Access-Control-Allow-Origin': origin, 'Access-Control-Allow-Credentials': 'true', 'Access-Control-Expose-Headers': /etag/i },
    })),
    ...['http://example.org', 'http://localhost.example.org', 'http://127.0.0.1.example.org', 'http://notlocalhost', 'null'].map((origin) => ({
      name: `${origin} is not`,
      skip,
      req: 'GET /',
      as: null,
      send: { Origin: origin },
      status: 200,
      headers: { 'Access-Control-Allow-Origin': null, 'Access-Control-Allow-Credentials': null },
    })),
    {
      name: 'a preflight needs no authentication',
      skip,
      req: 'OPTIONS /{db}/doc',
      as: null,
      send: preflight('http://localhost:8080'),
      status: 204,
      headers: {
        'Access-Control-Allow-Origin': 'http://localhost:8080',
        'Access-Control-Allow-Credentials': 'true',
        'Access-Control-Allow-Methods': /PUT/,
        'Access-Control-Allow-Headers': /content-type/i,
        'Access-Control-Max-Age': /^\d+$/,
      },
    },
    { name: 'a preflight of another origin', skip, req: 'OPTIONS /{db}/doc', as: null, send: preflight('http://example.org'), status: 401, headers: { 'Access-Control-Allow-Origin': null } },
    { name: 'no CORS headers without an Origin', req: 'GET /', as: null, status: 200, headers: { 'Access-Control-Allow-Origin': null } },
    { name: 'errors have CORS headers too, so that pages can read them', skip, req: 'GET /{db}none', send: { Origin: 'http://localhost:8080' }, status: 404, headers: { 'Access-Control-Allow-Origin': 'http://localhost:8080' } },
    { name: 'failed authentication has them too', skip, req: 'GET /{db}', as: 'a:b', send: { Origin: 'http://localhost:8080' }, status: 401, headers: { 'Access-Control-Allow-Origin': 'http://localhost:8080' } },
  ]);

  it('configured origins take effect immediately', async () => {
    const at = '/_node/_local/_config';
    await api.ok(`PUT ${at}/chttpd/enable_cors`, { body: '"true"' });
    await api.ok(`PUT ${at}/cors/origins`, { body: '"https://app.example.org, https://two.example.org"' });
    await api.ok(`PUT ${at}/cors/credentials`, { body: '"true"' });
    const allowed = await api.call('GET /', { send: { Origin: 'https://app.example.org' } });
    assert.equal(allowed.headers['access-control-allow-origin'], 'https://app.example.org');
    assert.equal(allowed.headers['access-control-allow-credentials'], 'true');
    const refused = await api.call('GET /', { send: { Origin: 'https://three.example.org' } });
    assert.equal(refused.headers['access-control-allow-origin'], undefined);
    await api.ok(`PUT ${at}/cors/origins`, { body: '"*"' });
    const any = await api.call('GET /', { send: { Origin: 'https://any.example.org' } });
    assert.ok(['*', 'https://any.example.org'].includes(any.headers['access-control-allow-origin']));
    for (const key of ['cors/origins', 'cors/credentials', 'chttpd/enable_cors']) await api.ok(`DELETE ${at}/${key}`);
  });

  it('live feeds have CORS headers', { skip }, async () => {
    const db = await api.db();
    const feed = await api.lines(`GET /${db}/_changes?feed=continuous&timeout=100`, { send: { Origin: 'http://localhost:8080' } });
    assert.equal(feed.headers['access-control-allow-origin'], 'http://localhost:8080');
    feed.close();
  });
});
