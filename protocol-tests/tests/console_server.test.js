// The console's screen of the server, in a real browser: pictures over time, settings, log, audit, backups and check.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD, until } from '../harness/server.js';
import { Browser, noConsole } from '../harness/console.js';

describe('the console: the server', { skip: noConsole }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'settee-backups-'));
  const api = new Api({ env: { SETTEE_BACKUP_FOLDER: folder, SETTEE_UUIDS__MAX_COUNT: '77' } });
  let browser;
  let window;
  let page;
  before(async () => {
    await api.start();
    browser = await Browser.start();
    window = await (await browser.window(api.base)).signIn();
    page = window.page;
    page.setDefaultTimeout(15_000);
  });
  after(async () => {
    await browser?.close();
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const setting = (key) => page.locator('form.setting').filter({ has: page.locator('label', { hasText: new RegExp(`^${key}$`) }) });
  const value = async (section, key) => (await api.ok(`GET /_node/_local/_config/${section}/${key}`));

  it('shows what the server is, does and did', async () => {
    await window.open('#/server');
    const about = page.getByRole('region', { name: 'This server' });
    await about.getByText('Open connections').waitFor();
    assert.match(await about.innerText(), /settee \d+\.\d+/);
    await page.getByText('None now.').waitFor();
    assert.equal(await page.locator('figure.chart').count(), 6);
    await until('a sample', async () => (await api.ok('GET /_node/_local/_history')).samples.length > 0, 30);
    await page.getByRole('button', { name: 'Last day' }).click();
    await page.getByRole('button', { name: 'Last hour' }).click();
    await page.locator('figure.chart svg path.chart-line').first().waitFor({ state: 'attached' });
    assert.match(await page.locator('figure.chart svg').first().getAttribute('aria-label'), /Requests a second\. requests: last/);
    await page.locator('figure.chart summary').first().click();
    await page.locator('figure.chart table tbody tr').first().waitFor();
    await window.check();
  });

  it('lists the nodes where there are several, and says what is wrong with them', async () => {
    await window.open('#/server');
    assert.equal(await page.getByRole('region', { name: 'Nodes' }).count(), 0, 'one alone is no list');
    const node = (name, more) => ({ name, this: false, alive: true, address: '10.0.0.1:5984', version: '1.0.0', started: Date.now() - 3_600_000, last_seen: Date.now(), updates_seq: '7', epoch: 1, tasks: 0, ...more });
    const nodes = [node('settee@one', { this: true }), node('<img src=x onerror=alert(1)>', { version: '1.1.0' })];
    await page.route('**/_node/_local/_nodes', (route) => route.fulfill({ json: { nodes } }));
    await window.open('#/server');
    const list = page.getByRole('region', { name: 'Nodes' }).first();
    await list.getByText('answers you', { exact: true }).waitFor();
    await list.getByText('The nodes run different versions: 1.0.0, 1.1.0.').waitFor();
    assert.equal(await page.locator('main img').count(), 0);
    await window.check();
    nodes[1] = node('settee@two', { alive: false, last_seen: Date.now() - 60_000 });
    await list.getByText('settee@two tells nothing any more.').waitFor();
    await list.getByText('silent').waitFor();
    await page.unroute('**/_node/_local/_nodes');
    // A server without this list is asked once.
    let asked = 0;
    await page.route('**/_node/_local/_nodes', (route) => { asked += 1; return route.fulfill({ status: 404, json: { error: 'not_found', reason: 'missing' } }); });
    await window.open('#/server');
    await page.waitForResponse((answer) => answer.url().endsWith('/_active_tasks'));
    assert.equal(asked, 1);
    await page.unroute('**/_node/_local/_nodes');
  });

  it('changes a setting in place, refuses a wrong value, and goes back to the default', async () => {
    await window.open('#/server/settings?q=max_count');
    const row = setting('max_count');
    await row.getByText('from the environment').waitFor();
    await window.check();
    const input = row.getByRole('textbox');
    await input.fill('many');
    await row.getByRole('button', { name: 'Save' }).click();
    await row.getByText(/a whole number from 1 to 1000000/).waitFor();
    assert.equal(await value('uuids', 'max_count'), '77');
    await window.check();
    await input.fill('99');
    await page.keyboard.press('Enter');
    await row.getByText('changed here').waitFor();
    assert.equal(await value('uuids', 'max_count'), '99');
    await row.getByRole('button', { name: 'Back to the default' }).click();
    await row.getByText('default', { exact: true }).waitFor();
    assert.equal(await value('uuids', 'max_count'), '1000');
    assert.equal(await input.inputValue(), '1000');
  });

  it('finds settings by a word of their description, chooses among words, and shows no secret', async () => {
    await window.open('#/server/settings');
    assert.equal(await page.locator('form.setting').count(), 0, 'sections are closed');
    await window.check();
    await page.getByLabel('Search settings').fill('CSP attachments');
    await setting('attachments_enable').waitFor();
    await setting('attachments_enable').getByRole('combobox').selectOption('false');
    await setting('attachments_enable').getByRole('button', { name: 'Save' }).click();
    await setting('attachments_enable').getByText('changed here').waitFor();
    assert.equal(await value('csp', 'attachments_enable'), 'false');
    await page.getByLabel('Search settings').fill('chttpd_auth/secret');
    const secret = setting('secret').getByRole('textbox').or(setting('secret').locator('input[type=password]'));
    assert.deepEqual([await secret.inputValue(), await secret.getAttribute('placeholder')], ['', 'set, never shown']);
    await page.getByLabel('Search settings').fill('backup_folder');
    assert.ok(await setting('backup_folder').getByRole('textbox').isDisabled());
    await setting('backup_folder').getByText(/Set at the start only/).waitFor();
    await page.getByLabel('Search settings').fill('no such thing');
    await page.getByText('No such setting').waitFor();
    await window.check();
  });

  it('shows the log as it grows, by level and text', async () => {
    await window.open('#/server/logs');
    const log = page.getByRole('log');
    await log.getByText('settee::request').first().waitFor();
    await window.check();
    await api.call('GET /followed-by-the-log');
    await log.getByText('followed-by-the-log').waitFor();
    await page.getByLabel('Contains').fill('FOLLOWED-by');
    await page.waitForFunction(() => { const lines = [...document.querySelectorAll('.log > div')]; return lines.length > 0 && lines.every((line) => line.textContent.includes('followed-by')); });
    await page.getByLabel('Level').selectOption('error');
    await page.getByText('No line fits.').waitFor();
    await page.getByRole('button', { name: 'Following' }).click();
    assert.equal(await page.getByRole('button', { name: 'Paused' }).getAttribute('aria-pressed'), 'false');
    await window.check();
  });

  it('filters the audit log', async () => {
    await api.call('GET /_all_dbs', { as: 'mallory:guessed' });
    await window.open('#/server/audit');
    const table = page.getByRole('table', { name: 'Audit log' });
    await table.getByText('mallory').first().waitFor();
    await table.getByText('signed in').first().waitFor();
    await window.check();
    await page.getByLabel('Event').selectOption('config_changed');
    await table.getByText('mallory').first().waitFor({ state: 'detached' });
    await table.getByText('uuids/max_count').first().waitFor();
    assert.equal(await table.getByText('mallory').count(), 0);
    await page.getByLabel('Event').selectOption('');
    await page.getByLabel('User').fill('mall');
    await page.waitForFunction(() => document.querySelectorAll('#main tbody tr').length === 1);
    await table.getByText('sign-in failed').waitFor();
    await page.getByLabel('User').fill('nobody-of-this-name');
    await page.getByText('Nothing recorded').waitFor();
    await window.check();
  });

  it('makes a backup and lists it, and checks what is stored', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ n: 1 }, { n: 2 }] } });
    await window.open('#/server/backups');
    await page.getByText('There is no backup yet.').waitFor();
    await page.getByText('Nothing was checked since the server started.').waitFor();
    await window.check();
    await page.getByRole('button', { name: 'Back up now' }).click();
    const table = page.getByRole('table', { name: 'List of backups' });
    await table.getByText(/settee-\d{8}-\d{6}\.backup/).waitFor();
    assert.match(readdirSync(folder).join(), /^settee-\d{8}-\d{6}\.backup$/);
    await page.getByRole('button', { name: 'Check now' }).click();
    await page.getByText(/Everything was fine/).waitFor();
    await window.check();
  });

  it('fits a phone, in the dark', async () => {
    const narrow = await (await browser.window(api.base, { width: 360, height: 740, scheme: 'dark', touch: true })).signIn();
    for (const tab of ['', '/settings?q=cors', '/logs', '/audit', '/backups']) {
      await narrow.open(`#/server${tab}`);
      await narrow.check();
    }
    await narrow.close();
  });

  it('is for server admins', async () => {
    await api.ok('PUT /_users/org.couchdb.user:ann', { body: { name: 'ann', password: 'a long password', roles: [], type: 'user' } });
    const other = await (await browser.window(api.base)).signIn('ann', 'a long password');
    assert.equal(await other.page.locator('#nav').getByText('Server').count(), 0);
    await other.open('#/server/settings');
    await other.page.getByText('Only server admins see this.').waitFor();
    await other.check();
    await other.close();
  });

  it('says how to set a folder for backups where none is set', async () => {
    const bare = new Api();
    await bare.start();
    try {
      const plain = await (await browser.window(bare.base)).signIn(ADMIN, PASSWORD);
      await plain.open('#/server/backups');
      await plain.page.getByText('No folder for backups is set').waitFor();
      await plain.check();
      await plain.close();
    } finally {
      await bare.stop();
    }
  });
});
