// The console against what is hostile or broken: documents made to be run as script, very large ones, a server that is slow,
// that fails or stops; and without a mouse, on a narrow window, below a path of a proxy.

import { afterEach } from 'node:test';
import http from 'node:http';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD, until } from '../harness/server.js';
import { Browser, noConsole } from '../harness/console.js';

const SCRIPT = '<script>globalThis.owned = 1</script><img src=x onerror="globalThis.owned = 1">';

describe('the console under bad conditions', { skip: noConsole }, () => {
  const api = new Api();
  let browser;
  let window;
  before(async () => {
    await api.start();
    browser = await Browser.start();
  });
  after(async () => {
    await browser?.close();
    await api.stop();
  });
  afterEach(async () => {
    await window?.close();
    window = null;
  });
  const opened = async (hash = '', options = {}) => {
    window = await browser.window(options.base ?? api.base, options);
    await window.signIn(ADMIN, PASSWORD);
    if (hash) await window.open(hash);
    return window.page;
  };
  const unharmed = async () => {
    assert.equal(await window.page.evaluate(() => globalThis.owned), undefined, 'no script of a document ran');
    assert.equal(await window.page.locator('main script, main img[src="x"]').count(), 0);
    window.quiet();
  };

  it('shows script in ids, names and values as text', async () => {
    const db = await api.db();
    const id = `a ${SCRIPT}`;
    const path = encodeURIComponent(id);
    await api.ok(`PUT /${db}/${path}`, { body: { [SCRIPT]: SCRIPT, link: 'javascript:globalThis.owned=1', list: [SCRIPT] } });
    const { _rev: rev } = await api.ok(`GET /${db}/${path}`);
    await api.ok(`PUT /${db}/${path}/${encodeURIComponent('x<b>.html')}?rev=${rev}`, { send: { 'Content-Type': 'text/html' }, body: SCRIPT });
    await api.ok(`PUT /${db}/_design/${path}`, { body: { views: { [SCRIPT]: { map: `function (doc) { emit(doc._id, ${JSON.stringify(SCRIPT)}); }` } }, filters: { [SCRIPT]: 'function () { return true; }' } } });
    const page = await opened(`#/db/${db}`);
    await page.getByText(id, { exact: true }).waitFor();
    await window.check();
    await window.open(`#/db/${db}?as=json`);
    await unharmed();
    await window.open(`#/db/${db}/doc/${path}`);
    await page.getByRole('heading', { name: id, level: 1 }).waitFor();
    await page.getByRole('button', { name: 'Preview x<b>.html' }).click();
    await page.getByRole('dialog').getByText('globalThis.owned').waitFor();
    await unharmed();
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await unharmed();
    await page.keyboard.press('Escape');
    await window.open(`#/db/${db}/design`);
    await unharmed();
    await window.open(`#/db/${db}/design/${path}`);
    await unharmed();
    await window.open(`#/db/${db}/view/${path}/${encodeURIComponent(SCRIPT)}`);
    await page.getByText(`"${SCRIPT.replaceAll('"', '\\"')}"`).first().waitFor();
    await unharmed();
    await window.open(`#/db/${db}/doc/${encodeURIComponent(`no ${SCRIPT}`)}`);
    await page.getByText('This did not work').waitFor();
    await unharmed();
  });

  it('reaches nothing else by a name that leads to another folder', async () => {
    const [db, victim] = [await api.db(), await api.db()];
    await api.ok(`PUT /${db}/a`, { body: { _attachments: { [`../../${victim}`]: { content_type: 'text/plain', data: 'aGVsbG8=' }, '..': { content_type: 'text/plain', data: 'aGVsbG8=' }, 'a/b.txt': { content_type: 'text/plain', data: 'aGVsbG8=' } } } });
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: '..', n: 1 }, { _id: `../${victim}`, n: 1 }, { _id: '.%2e', n: 1 }] } });
    const page = await opened(`#/db/${db}/doc/a`);
    await page.getByRole('button', { name: `Preview ../../${victim}` }).click();
    await page.getByRole('dialog').getByText('hello').waitFor();
    await page.keyboard.press('Escape');
    const saved = page.waitForEvent('download');
    await page.getByRole('link', { name: `Download ../../${victim}` }).click();
    assert.match(new URL((await saved).url()).pathname, new RegExp(`^/${db}/a/`));
    await page.getByRole('button', { name: `Delete ../../${victim}` }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('heading', { name: 'Attachments (2)' }).waitFor();
    assert.equal((await api.call(`GET /${victim}`)).status, 200, 'the database is there');
    await page.getByRole('button', { name: 'Preview a/b.txt' }).click();
    await page.getByRole('dialog').getByText('hello').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: 'Delete ..', exact: true }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByText('A browser cannot ask for something whose name is one or two dots.').waitFor();
    await page.keyboard.press('Escape');
    await window.open(`#/db/${db}/doc/..`);
    await page.getByText('A browser cannot ask for something whose name is one or two dots.').waitFor();
    for (const id of [`../${victim}`, '.%2e']) {
      await window.open(`#/db/${db}`);
      await page.getByRole('link', { name: id, exact: true }).click();
      await page.getByRole('heading', { name: id, level: 1 }).waitFor();
      await page.getByRole('button', { name: 'Delete', exact: true }).click();
      await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
      await page.getByText('Deleted.').waitFor();
      assert.equal((await api.call(`GET /${db}/${encodeURIComponent(id)}`)).status, 404);
      await page.locator('#toasts').evaluate((toasts) => toasts.replaceChildren());
    }
    assert.equal((await api.call(`GET /${victim}`)).status, 200);
    window.quiet();
  });

  it('does nothing in the name of somebody else who signs in', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/_security`, { body: { admins: {}, members: { names: ['eve'] } } });
    await api.ok('PUT /_users/org.couchdb.user:eve', { body: { name: 'eve', password: 'pass of eve', roles: [], type: 'user' } });
    const page = await opened(`#/db/${db}/new`);
    await page.getByLabel('Id', { exact: true }).fill('kept');
    const writes = [];
    page.on('request', (request) => { if (request.method() === 'PUT') writes.push(request.url()); });
    await window.context.clearCookies();
    await page.getByRole('button', { name: 'Make the document' }).click();
    const dialog = page.getByRole('dialog', { name: 'Sign in again' });
    await dialog.getByLabel('Name', { exact: true }).fill('eve');
    await dialog.getByLabel('Password', { exact: true }).fill('pass of eve');
    await dialog.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.locator('#who').getByText('eve').waitFor();
    await window.settled();
    assert.equal(writes.length, 1, 'only the one that was refused');
    assert.equal((await api.call(`GET /${db}/kept`)).status, 404, 'the document of the admin is not written');
    await api.ok(`DELETE /_users/org.couchdb.user:eve?rev=${(await api.ok('GET /_users/org.couchdb.user:eve'))._rev}`);
  });

  it('exports large documents without holding many of them, and imports them again', async () => {
    const [db, copy] = [await api.db(), await api.db()];
    for (let n = 0; n < 5; n += 1) await api.ok(`PUT /${db}/${n}`, { body: { text: 'x'.repeat(7_900_000), n } });
    const page = await opened(`#/db/${db}`);
    await page.getByRole('button', { name: 'Export', exact: true }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('With revision numbers (_rev)').uncheck();
    const saved = page.waitForEvent('download');
    let largest = 0;
    page.on('response', async (response) => {
      if (!response.url().includes('include_docs')) return;
      const limit = Number(new URL(response.url()).searchParams.get('limit'));
      if (limit <= 8) largest = Math.max(largest, limit);
    });
    await dialog.getByRole('button', { name: 'Export', exact: true }).click();
    const file = await (await saved).path();
    assert.ok(largest > 0, 'pages of many such documents are given up');
    await window.open(`#/db/${copy}/import`);
    await page.locator('input[type=file]').setInputFiles(file);
    await page.getByRole('button', { name: 'Import', exact: true }).click();
    await until('all documents', async () => (await api.ok(`GET /${copy}`)).doc_count === 5, 60);
    assert.equal((await api.ok(`GET /${copy}/3`)).text.length, 7_900_000);
    await window.open(`#/db/${db}/query`);
    await page.getByRole('button', { name: 'Run' }).click();
    await page.getByText('too much for this page. Ask for fewer documents').waitFor();
    assert.deepEqual(await window.violations(), []);
    window.quiet();
  });

  it('opens a document of 8 MB, and lists the page it is on', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/large`, { body: { text: 'x'.repeat(7_900_000), n: 1 } });
    await api.ok(`PUT /${db}/small`, { body: { n: 1 } });
    const page = await opened(`#/db/${db}`);
    await page.getByText('The documents of this page are large').waitFor();
    await page.getByRole('link', { name: 'large', exact: true }).click();
    await page.getByText('This document has 7.5 MB.').waitFor();
    await page.getByRole('button', { name: /^Show 100000 of 7900000 characters/ }).waitFor();
    await window.check();
    const size = await page.evaluate(() => document.querySelector('main').innerText.length);
    assert.ok(size < 10_000, `${size} characters are shown at first`);
    window.quiet();
  });

  it('opens a document with 10,000 members and one with 1,000 revisions', async () => {
    const db = await api.db();
    const wide = Object.fromEntries(Array.from({ length: 10_000 }, (_, n) => [`member ${n}`, n]));
    await api.ok(`PUT /${db}/wide`, { body: wide });
    let rev;
    for (let n = 0; n < 1000; n += 1) ({ rev } = await api.ok(`PUT /${db}/old`, { body: { _rev: rev, n } }));
    const page = await opened(`#/db/${db}?as=json`);
    await page.getByRole('button', { name: /^Show 100 of 9\d+ more/ }).waitFor();
    const started = Date.now();
    await window.open(`#/db/${db}/doc/wide`);
    await page.getByLabel('Text of the document wide').waitFor();
    assert.ok(Date.now() - started < 8000);
    assert.match(await page.getByLabel('Text of the document wide').inputValue(), /"member 9999": 9999/);
    await window.open(`#/db/${db}/doc/old`);
    await page.getByRole('heading', { name: 'Revisions (1000)' }).waitFor();
    assert.ok((await page.locator('.side-list li').count()) < 50);
    await page.getByRole('button', { name: 'Show more of 1000' }).click();
    await window.check();
  });

  it('says that it waits for a slow server, and that a server failed, and tries again', async () => {
    const db = await api.db();
    const page = await opened('#/');
    let state = 'slow';
    let release;
    const held = new Promise((resolve) => { release = resolve; });
    await page.route(`**/${db}/_all_docs*`, async (route) => {
      if (state === 'slow') {
        await held;
        await route.continue();
      } else if (state === 'proxy') await route.fulfill({ status: 502, contentType: 'text/html', body: '<h1>Bad Gateway</h1>' });
      else if (state === 'error') await route.fulfill({ status: 500, contentType: 'application/json', body: '{"error":"internal","reason":"The store has failed."}' });
      else if (state === 'rubbish') await route.fulfill({ status: 200, contentType: 'application/json', body: '{"rows":[' });
      else if (state === 'gone') await route.abort('failed');
      else await route.continue();
    });
    await page.evaluate((to) => { location.hash = to; }, `#/db/${db}`);
    await page.getByText('Loading…').waitFor();
    release();
    await page.getByText('This database is empty').waitFor();
    for (const [next, words] of [['proxy', 'The proxy in front of settee does not reach it.'], ['error', 'The store has failed.'], ['rubbish', 'This did not work'], ['gone', 'The server does not answer.']]) {
      state = next;
      await window.open(`#/db/${db}`);
      await page.getByText(words).waitFor();
      assert.deepEqual(await window.violations(), []);
    }
    state = 'well';
    await page.getByRole('button', { name: 'Try again' }).click();
    await page.getByText('This database is empty').waitFor();
    assert.deepEqual(window.strangers, []);
  });

  it('leaves a screen whose answer never comes', async () => {
    const db = await api.db();
    const page = await opened('#/');
    await page.route(`**/${db}/_all_docs*`, () => {});
    await page.evaluate((to) => { location.hash = to; }, `#/db/${db}`);
    await page.getByText('Loading…').waitFor();
    await page.getByRole('link', { name: 'Databases', exact: true }).click();
    await page.getByRole('heading', { name: 'Databases', level: 1 }).waitFor();
    window.quiet();
  });

  it('works with the keyboard alone', async () => {
    window = await browser.window(api.base);
    const { page } = window;
    await page.goto(window.address);
    const type = (text) => page.keyboard.type(text);
    const press = (key, times = 1) => Array.from({ length: times }).reduce((before) => before.then(() => page.keyboard.press(key)), Promise.resolve());
    const focused = () => page.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim());
    const tabTo = async (label) => {
      for (let n = 0; n < 40; n += 1) {
        await press('Tab');
        if ((await focused()) === label) return;
      }
      throw new Error(`Tab does not reach ${label}`);
    };
    await page.getByLabel('Name', { exact: true }).waitFor();
    await type(ADMIN);
    await press('Tab');
    await type(PASSWORD);
    await press('Enter');
    await page.getByRole('heading', { name: 'Home', level: 1 }).waitFor();
    await page.evaluate(() => document.activeElement.blur());
    await tabTo('Skip to the content');
    await press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
    await window.open('#/databases');
    await tabTo('New database');
    await press('Enter');
    await type('keys');
    await press('Enter');
    await page.getByText('This database is empty').waitFor();
    await tabTo('New document');
    await press('Enter');
    await page.getByLabel('Text of the new document').waitFor();
    await type('"n": 1');
    // Tab indents in the field for code; Escape and then Tab leaves it.
    await press('Escape');
    await tabTo('Make the document');
    await press('Enter');
    await page.getByText('Made.', { exact: true }).waitFor();
    await api.ok('PUT /keys/!a', { body: { n: 1 } });
    await api.ok('PUT /keys/!b', { body: { n: 2 } });
    await window.open('#/db/keys');
    await page.getByRole('link', { name: '!a', exact: true }).focus();
    await press('ArrowUp');
    await press('ArrowDown');
    assert.equal(await focused(), '!b');
    await press('Enter');
    await page.getByRole('heading', { name: '!b', level: 1 }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.tagName), 'H1', 'the focus is at the new screen');
    window.quiet();
  });

  it('fits a window of 360 pixels, in light and in dark', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: '_design/app', views: { by_n: { map: 'function (doc) { emit(doc.n); }' } } }, ...Array.from({ length: 60 }, (_, n) => ({ _id: `document-with-a-rather-long-id-${'x'.repeat(100)}-${n}`, n, text: 'long text '.repeat(40) }))] } });
    for (const scheme of ['light', 'dark']) {
      const page = await opened('', { width: 360, height: 740, scheme });
      for (const hash of ['#/', '#/connect', '#/databases', `#/db/${db}`, `#/db/${db}?as=json`, `#/db/${db}/doc/${`document-with-a-rather-long-id-${'x'.repeat(100)}-1`}`, `#/db/${db}/new`, `#/db/${db}/query`,
        `#/db/${db}/design`, `#/db/${db}/design/app`, `#/db/${db}/view/app/by_n`, `#/db/${db}/import`, `#/db/${db}/settings`]) {
        await window.open(hash);
        await window.check().catch((error) => { throw new Error(`${hash} (${scheme}): ${error.message}`); });
      }
      await page.getByRole('button', { name: 'Menu' }).click();
      await page.locator('#nav').getByRole('link', { name: 'Databases', exact: true }).click();
      await page.getByRole('heading', { name: 'Databases', level: 1 }).waitFor();
      assert.equal(await page.locator('#sidebar[data-open]').count(), 0, 'the menu closes');
      await window.close();
      window = null;
    }
  });

  it('works below a path of a proxy', async () => {
    const target = new URL(api.base);
    const proxy = http.createServer((asked, answer) => {
      if (!asked.url.startsWith('/couch/')) return answer.writeHead(404).end();
      const onward = http.request({ host: target.hostname, port: target.port, method: asked.method, path: asked.url.slice('/couch'.length), headers: asked.headers }, (got) => {
        answer.writeHead(got.statusCode, got.rawHeaders);
        got.pipe(answer);
      });
      onward.on('error', () => answer.destroy());
      answer.on('close', () => onward.destroy());
      asked.pipe(onward);
      return undefined;
    });
    await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
    try {
      const db = await api.db();
      await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
      const base = `http://127.0.0.1:${proxy.address().port}`;
      const outside = [];
      window = await browser.window(base, { path: '/couch/_utils/' });
      window.context.on('request', (request) => { if (!request.url().startsWith(`${base}/couch/`)) outside.push(request.url()); });
      await window.signIn(ADMIN, PASSWORD);
      await window.open(`#/db/${db}`);
      await window.page.getByRole('link', { name: 'a', exact: true }).click();
      await window.page.getByRole('heading', { name: 'a', level: 1 }).waitFor();
      await window.open('#/databases');
      await api.ok(`PUT /${db}/b`, { body: { n: 1 } });
      await until('the list follows', async () => /\t2\t/.test(await window.page.getByRole('row').filter({ hasText: db }).innerText()), 15);
      await window.open(`#/connect?db=${db}`);
      await window.page.getByText(`${base}/couch/${db}`).first().waitFor();
      assert.deepEqual(outside, []);
      window.quiet();
    } finally {
      await window?.close();
      window = null;
      proxy.closeAllConnections();
      await new Promise((resolve) => proxy.close(resolve));
    }
  });
});
