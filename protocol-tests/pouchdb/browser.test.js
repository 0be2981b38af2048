// Live databases of a page in a headless Chromium: over HTTP/2 any number of them, over HTTP/1.1 six.

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, it, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD, external, freePort, until } from '../harness/server.js';
import { Page, chromium } from '../harness/chromium.js';

const here = dirname(fileURLToPath(import.meta.url));
const samples = join(here, '..', '..', 'src', 'net', 'tls', 'samples');
const pouchdb = readFileSync(join(here, '..', 'node_modules', 'pouchdb-9', 'dist', 'pouchdb.min.js'), 'utf8');
const DATABASES = 30;

/** In the page: begins live replication of all databases, and notes when each document arrives. */
const begin = (names, auth) => `(() => {
  globalThis.told = {};
  globalThis.active = 0;
  document.body.innerHTML = '<h1>Live databases</h1><pre id="list" style="columns: 3"></pre>';
  globalThis.show = () => {
    const line = (name) => name + ': ' + Object.keys(told).filter((id) => id.startsWith(name + '/')).length;
    document.getElementById('list').textContent = ${JSON.stringify(names)}.map(line).join('\\n');
  };
  for (const name of ${JSON.stringify(names)}) {
    const remote = new PouchDB(location.origin + '/' + name, { auth: ${JSON.stringify(auth)}, skip_setup: true });
    new PouchDB('local-' + name).sync(remote, { live: true, retry: true })
      .on('change', ({ direction, change }) => {
        if (direction === 'pull') for (const doc of change.docs) told[name + '/' + doc._id] = Date.now();
        show();
      })
      .on('error', (error) => { told['error ' + name] = String(error); });
  }
  show();
})()`;

describe('live databases of one page', { skip: !!external || (chromium() ? false : 'no Chromium') }, () => {
  const start = async (http2) => {
    const port = await freePort();
    const env = {
      SETTEE_SSL__CERT_FILE: join(samples, 'one.pem'),
      SETTEE_SSL__KEY_FILE: join(samples, 'one.key'),
      SETTEE_SETTEE__HTTP2: String(http2),
    };
    const api = new Api({ env, args: ['--tls-bind', `127.0.0.1:${port}`] });
    await api.start();
    const names = await Promise.all(Array.from({ length: DATABASES }, () => api.db()));
    const all = { api, names };
    try {
      all.page = await Page.open(`https://localhost:${port}/_up`);
      await all.page.evaluate(pouchdb);
      await all.page.evaluate(begin(names, { username: ADMIN, password: PASSWORD }));
      return all;
    } catch (error) {
      await stop(all);
      throw error;
    }
  };
  const stop = async ({ api, page }) => {
    try {
      await page?.close();
    } finally {
      await api.stop();
    }
  };
  const waiting = (api) => api.ok('GET /_node/_local/_stats/couchdb/httpd/clients_requesting_changes');

  it('30 over one connection with HTTP/2, each told of a change within 200 ms', async () => {
    const all = await start(true);
    const { api, names, page } = all;
    try {
      await until('all of them wait', async () => (await waiting(api)).value === DATABASES, 60);
      const { settee } = await api.ok('GET /_node/_local/_stats');
      assert.equal(settee.open_http2_connections.value, 1);
      const times = [];
      for (const name of names) {
        const wrote = Date.now();
        await api.ok(`PUT /${name}/change`, { body: { a: 1 } });
        const told = await until(`${name} is told`, () => page.evaluate(`told['${name}/change']`), 20);
        times.push(told - wrote);
      }
      times.sort((a, b) => a - b);
      console.log(`told within ${times[0]} to ${times.at(-1)} ms, half of them within ${times[DATABASES / 2]} ms`);
      // The machine of a test may be busy for a moment.
      assert.ok(times[Math.floor(DATABASES * 0.8)] <= 200, `${times}`);
      // All at once.
      await Promise.all(names.map((name) => api.ok(`PUT /${name}/again`, { body: { a: 1 } })));
      const count = `Object.keys(told).filter((id) => id.endsWith('/again')).length`;
      await until('all are told', async () => (await page.evaluate(count)) === DATABASES, 20);
      assert.deepEqual(await page.evaluate(`Object.keys(told).filter((id) => id.startsWith('error'))`), []);
      assert.equal((await api.ok('GET /_node/_local/_stats/settee')).open_http2_connections.value, 1);
      if (process.env.PICTURE) await page.picture(process.env.PICTURE);
    } finally {
      await stop(all);
    }
  });

  it('six with HTTP/1.1, because a browser opens no more connections', async () => {
    const all = await start(false);
    const { api, page } = all;
    try {
      await until('six of them wait', async () => (await waiting(api)).value === 6, 60);
      const { settee } = await api.ok('GET /_node/_local/_stats');
      assert.equal(settee.open_http2_connections.value, 0);
      assert.equal((await waiting(api)).value, 6);
    } finally {
      await stop(all);
    }
  });
});
