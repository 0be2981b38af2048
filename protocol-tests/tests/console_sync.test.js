// The console's screen of clients that replicate, in a real browser: who is behind, what was refused, and a replication made
// with the form.

import { createRequire } from 'node:module';
import { after, before, describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { Browser, noConsole } from '../harness/console.js';
import { Api } from '../harness/rows.js';
import { until } from '../harness/server.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));


describe('the console: sync', { skip: noConsole }, () => {
  const api = new Api();
  const locals = [];
  let browser;
  let window;
  let page;
  before(async () => {
    await api.start();
    await api.ok('PUT /_users/org.couchdb.user:ann', { body: { name: 'ann', password: 'pass', roles: [], type: 'user' } });
    await api.ok('PUT /notes');
    await api.ok('PUT /notes/_security', { body: { members: { names: ['ann'] } } });
    await api.ok('PUT /notes/_design/rules', { body: { validate_doc_update: 'function (doc) { if (doc.secret) throw {forbidden: "No <b>secrets</b> here."}; }' } });
    browser = await Browser.start();
    window = await (await browser.window(api.base)).signIn();
    page = window.page;
    page.setDefaultTimeout(30_000);
  });
  after(async () => {
    await browser?.close();
    await Promise.all(locals.map((local) => local.destroy()));
    await api.stop();
  });

  const local = () => {
    const made = new PouchDB(`console-sync-${locals.length}-${Date.now()}`, { adapter: 'memory' });
    locals.push(made);
    return made;
  };
  const remote = (device) => new PouchDB(`${api.base}/notes`, {
    auth: { username: 'ann', password: 'pass' }, skip_setup: true,
    fetch: (url, options) => {
      options.headers.set('X-Settee-Device', device);
      return PouchDB.fetch(url, options);
    },
  });
  const row = (device) => page.locator('.device').filter({ hasText: device });

  it('says on an empty server that no device has synced', async () => {
    await window.open('#/sync');
    await page.getByRole('heading', { name: 'No device has synced yet' }).waitFor();
    await page.getByRole('link', { name: 'Connect an app' }).waitFor();
    await window.check();
  });

  it('shows who is behind, and by how much', async () => {
    const phone = local();
    await phone.replicate.from(remote('Phone of Ann'));
    await api.ok('POST /notes/_bulk_docs', { body: { docs: [{ _id: 'a' }, { _id: 'b' }, { _id: 'c' }] } });
    await window.open('#/sync');
    await row('Phone of Ann').getByText('3 changes behind').first().waitFor();
    await window.check();
    await phone.replicate.from(remote('Phone of Ann'));
    await row('Phone of Ann').getByText('up to date').first().waitFor();
  });

  it('shows live clients, and notices that they stop, without a reload', async () => {
    const laptop = local();
    const sync = laptop.sync(remote('Laptop'), { live: true, retry: true });
    await row('Laptop').getByText('syncing live').waitFor();
    sync.cancel();
    await row('Laptop').getByText('online').waitFor();
  });

  it('names refused documents and their reasons as text, and warns when they are sent again', async () => {
    const tablet = local();
    const id = '<img src=x onerror=alert(1)>';
    await tablet.put({ _id: id, secret: true });
    await tablet.replicate.to(remote('<b>Tablet</b>'));
    await tablet.put({ ...(await tablet.get(id)), again: true });
    await tablet.replicate.to(remote('<b>Tablet</b>'));
    await window.open('#/sync');
    const tabletRow = row('<b>Tablet</b>');
    await tabletRow.getByText('2 refused').waitFor();
    await tabletRow.getByText('1 database').click();
    await tabletRow.getByRole('link', { name: id }).waitFor();
    await tabletRow.getByText('forbidden: No <b>secrets</b> here.').waitFor();
    await page.getByRole('region', { name: 'Alerts' }).getByText('2 times in notes').waitFor();
    assert.equal(await page.locator('main img, main .device b b').count(), 0);
    await page.getByText('What happened').click();
    await page.getByText('a document was refused').first().waitFor();
    await window.check();
  });

  it('tells devices apart that look alike, by their checkpoints', async () => {
    const twins = [local(), local()];
    for (const twin of twins) await twin.replicate.from(remote('Twin'));
    await api.ok('PUT /notes/for-twins', { body: {} });
    await twins[0].replicate.from(remote('Twin'));
    await window.open('#/sync');
    await row('Twin').getByText('1 checkpoint behind').waitFor();
    await row('Twin').getByText('1 database').click();
    const copies = row('Twin').getByRole('region', { name: 'Checkpoints of notes' });
    await copies.getByText('2 checkpoints of notes').waitFor();
    assert.deepEqual(await copies.locator('.badge').allTextContents(), ['up to date', '1 change behind']);
    await window.check();
    await twins[1].replicate.from(remote('Twin'));
    await row('Twin').getByText('1 checkpoint behind').waitFor({ state: 'detached' });
    await api.ok(`DELETE /notes/for-twins?rev=${(await api.ok('GET /notes/for-twins'))._rev}`);
  });

  it('shows a user his own devices only, and no addresses', async () => {
    const own = await browser.window(api.base, { width: 360, height: 740, scheme: 'dark', touch: true });
    await own.signIn('ann', 'pass');
    await own.open('#/sync');
    await own.page.locator('.device').filter({ hasText: 'Phone of Ann' }).waitFor();
    assert.equal(await own.page.getByText('from 127.0.0.1').count(), 0);
    assert.equal(await own.page.getByRole('link', { name: 'Replications' }).count(), 0);
    await own.check();
    await own.close();
  });

  it('makes a replication with the form, after a test of both ends, and cancels it', async () => {
    await window.open('#/sync/replications');
    await page.getByRole('heading', { name: 'No replications' }).waitFor();
    await window.check();
    await page.getByRole('link', { name: 'New replication' }).click();
    const [from, to] = [page.getByRole('group', { name: 'From' }), page.getByRole('group', { name: 'To' })];
    await from.getByLabel('Database', { exact: true }).fill('notes');
    await to.getByLabel('Database', { exact: true }).fill('copy');
    await page.getByRole('button', { name: 'Test the connections' }).click();
    await from.getByText('The connection works.').waitFor();
    await page.getByRole('button', { name: 'Make the replication' }).click();
    await page.getByText('so the replication was not made').waitFor();
    await window.check();
    await page.getByLabel('Create the target').check();
    await page.getByRole('button', { name: 'Make the replication' }).click();
    await page.locator('#toasts').getByText('The replication is made.').waitFor();
    await until('the copy', async () => (await api.call('GET /copy')).json?.doc_count === 4);
    await window.open('#/sync/replications');
    await page.getByRole('table', { name: 'Replications' }).getByText('running').waitFor();
    await window.check();
    await page.getByRole('table', { name: 'Replications' }).getByRole('link').first().click();
    await page.getByRole('button', { name: /Cancel/ }).first().click();
    await page.getByRole('dialog').getByRole('button', { name: /Cancel the replication|Cancel it/ }).click();
    await page.getByRole('heading', { name: 'No replications' }).waitFor();
  });

  it('tries a replication that failed again at once', async () => {
    await api.ok('PUT /_replicator/waits', { body: { source: 'notes', target: 'later' } });
    await window.open('#/replication/waits');
    await page.getByText('could not open later').first().waitFor();
    await api.ok('PUT /later');
    const started = async () => (await api.ok('GET /_scheduler/docs/_replicator/waits')).state;
    assert.equal(await started(), 'crashing', 'it waits for half a minute');
    await page.getByRole('button', { name: 'Try again now' }).click();
    await page.locator('#toasts').getByText('It begins again.').waitFor();
    // Waits for the server's last write of the document, so that the deletion does not conflict with it.
    const state = async () => (await api.ok('GET /_replicator/waits'))._replication_state;
    await until('the end', async () => (await state()) === 'completed', 15);
    assert.equal((await api.ok('GET /later')).doc_count, 4);
    await api.ok(`DELETE /_replicator/waits?rev=${(await api.ok('GET /_replicator/waits'))._rev}`);
  });

  it('stays usable when the server breaks', async () => {
    await page.route('**/_sync/**', (route) => route.fulfill({ status: 503, contentType: 'application/json', body: '{"error":"busy","reason":"Come back later."}' }));
    await window.open('#/sync');
    await page.locator('.failure').first().waitFor();
    await window.check();
    await page.unroute('**/_sync/**');
    await page.locator('.failure').getByRole('button').first().click();
    await row('Phone of Ann').waitFor();
  });
});
