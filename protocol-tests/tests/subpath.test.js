// A server below a sub-path of a proxy, as nginx (`location /couch/ { proxy_pass http://127.0.0.1:5984/; }`) and Caddy (`handle_path
// /couch/*`) serve it: the proxy removes the prefix from the path, and may report it in `X-Forwarded-Prefix`.

import http from 'node:http';
import { createRequire } from 'node:module';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { request } from '../harness/http.js';
import { external } from '../harness/server.js';

const PouchDB = createRequire(import.meta.url)('pouchdb-9');

describe('below a sub-path', { skip: !!external }, () => {
  const api = new Api();
  let proxy;
  let reports = true;
  let base;
  let admin;

  before(async () => {
    await api.start();
    const target = new URL(api.base);
    proxy = http.createServer((asked, answer) => {
      if (!asked.url.startsWith('/couch/')) return answer.writeHead(404).end();
      const headers = { ...asked.headers, ...(reports ? { 'x-forwarded-prefix': '/couch' } : {}) };
      const onward = http.request({ host: target.hostname, port: target.port, method: asked.method, path: asked.url.slice('/couch'.length), headers }, (got) => {
        answer.writeHead(got.statusCode, got.rawHeaders);
        got.pipe(answer);
      });
      asked.pipe(onward);
      return undefined;
    });
    await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
    base = `http://127.0.0.1:${proxy.address().port}`;
    const [name, password] = Buffer.from(api.headers().Authorization.slice(6), 'base64').toString().split(/:(.*)/s);
    admin = { name, password };
  });
  after(async () => {
    proxy.closeAllConnections();
    await new Promise((resolve) => proxy.close(resolve));
    await api.stop();
  });

  const ask = (method, path, { headers = api.headers(), body } = {}) => request(base, { method, path, headers, body });

  it('the console is reached by its redirects', async () => {
    for (reports of [true, false]) {
      const moved = await ask('GET', '/couch/_utils', { headers: {} });
      assert.equal(moved.status, 301);
      const to = new URL(moved.headers.location, `${base}/couch/_utils`);
      assert.equal(to.href, `${base}/couch/_utils/`);
      assert.equal((await ask('GET', to.pathname, { headers: { Accept: 'text/html' } })).status, 200);
    }
  });

  it('a browser without a right is sent to the sign-in page', async () => {
    await ask('PUT', '/couch/secret');
    for (reports of [true, false]) {
      for (const path of ['/couch/secret', '/couch/secret/doc', '/couch/secret/_design/d/_view/v', '/couch/_all_dbs']) {
        const sent = await ask('GET', path, { headers: { Accept: 'text/html' } });
        assert.equal(sent.status, 302, path);
        const to = new URL(sent.headers.location, base + path);
        assert.equal(to.pathname, '/couch/_utils/session.html', path);
        assert.equal((await ask('GET', to.pathname, { headers: { Accept: 'text/html' } })).status, 200);
      }
    }
  });

  it('Location is below the prefix that the proxy reports', async () => {
    reports = true;
    const made = [
      await ask('PUT', '/couch/located'),
      await ask('PUT', '/couch/located/a', { body: {} }),
      await ask('POST', '/couch/located', { body: { _id: 'b' } }),
      await ask('PUT', '/couch/located/c/f.txt', { headers: { ...api.headers(), 'Content-Type': 'text/plain' }, body: 'x' }),
      await ask('COPY', '/couch/located/a', { headers: { ...api.headers(), Destination: 'copy' } }),
    ];
    const paths = made.map(({ status, headers }) => [status, new URL(headers.location).pathname]);
    assert.deepEqual(paths, ['located', 'located/a', 'located/b', 'located/c/f.txt', 'located/copy'].map((path) => [201, `/couch/${path}`]));
    for (const [, path] of paths) assert.equal((await ask('GET', path)).status, 200, path);
    const page = await ask('GET', '/couch/', { headers: { Accept: 'text/html' } });
    // The page computes the URL that it shows from its own address, and its files are below the sub-path.
    assert.match(page.text, /<base href="_utils\/">/);
    const files = [...page.text.matchAll(/<(?:script|link)[^>]* (?:src|href)="([^"]+)"/g)].map(([, name]) => name);
    assert.ok(files.length > 1);
    for (const name of files) assert.equal((await ask('GET', `/couch/_utils/${name}`)).status, 200, name);
  });

  it('a session by cookie is valid below the sub-path', async () => {
    const signed = await ask('POST', '/couch/_session', { headers: {}, body: admin });
    assert.equal(signed.status, 200);
    const [cookie, ...attributes] = signed.headers['set-cookie'][0].split('; ');
    assert.ok(attributes.includes('Path=/'));
    assert.equal((await ask('GET', '/couch/_session', { headers: { Cookie: cookie } })).json.userCtx.name, admin.name);
    const next = await ask('POST', '/couch/_session?next=/_utils/', { headers: {}, body: admin });
    assert.deepEqual([next.status, next.headers.location], [302, `${base}/couch/_utils/`]);
  });

  it('PouchDB syncs', async () => {
    reports = false;
    const at = new URL(`${base}/couch/synced`);
    at.username = admin.name;
    at.password = encodeURIComponent(admin.password);
    const db = new PouchDB(at.href);
    await db.put({ _id: 'a', _attachments: { 'f.txt': { content_type: 'text/plain', data: Buffer.from('text').toString('base64') } } });
    assert.equal((await db.getAttachment('a', 'f.txt')).toString(), 'text');
    const seen = await new Promise((resolve, reject) => {
      const feed = db.changes({ live: true, since: 0 }).on('change', (change) => {
        feed.cancel();
        resolve(change.id);
      });
      feed.on('error', reject);
    });
    assert.equal(seen, 'a');
    await db.destroy();
  });
});
