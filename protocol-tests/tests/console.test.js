// The frame of the console in a real browser, from an empty server: signing in, the first page, databases and their settings.

import { afterEach } from 'node:test';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD, until } from '../harness/server.js';
import { Browser, noConsole } from '../harness/console.js';
import { open } from '../harness/livesync.js';

describe('the console', { skip: noConsole }, () => {
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
  const opened = async (hash = '', options) => {
    window = await browser.window(api.base, options);
    await window.signIn(ADMIN, PASSWORD);
    if (hash) await window.open(hash);
    return window.page;
  };

  it('refuses a wrong password in words, signs in, and signs out', async () => {
    window = await browser.window(api.base);
    const { page } = window;
    await page.goto(window.address);
    await page.getByLabel('Name', { exact: true }).fill(ADMIN);
    await window.check();
    await page.getByLabel('Password', { exact: true }).fill('wrong');
    await page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.getByText('Name or password is incorrect.').waitFor();
    await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Home', level: 1 }).waitFor();
    assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length), 0, 'nothing is stored in the browser');
    assert.equal(await page.evaluate(() => document.cookie), '', 'scripts cannot read the session');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('button', { name: 'Sign in', exact: true }).waitFor();
    assert.equal((await page.evaluate(async () => (await (await fetch('../_session')).json()).userCtx)).name, null);
    window.quiet();
  });

  it('loads less than 100 KB for its first screens, and no file twice', async () => {
    window = await browser.window(api.base);
    const { page, context } = window;
    const files = [];
    context.on('requestfinished', async (request) => {
      if (request.url().includes('/_utils/')) files.push(request.response().then(async (answer) => [answer.status(), (await request.sizes()).responseBodySize, answer.headers()['content-encoding']]));
    });
    const loaded = async (work) => {
      files.length = 0;
      await work();
      await window.settled();
      return Promise.all(files);
    };
    const first = await loaded(async () => {
      await window.signIn();
      await page.getByRole('heading', { name: 'Home', level: 1 }).waitFor();
    });
    const bytes = first.reduce((sum, [, size]) => sum + size, 0);
    assert.ok(first.length > 10 && bytes > 10_000 && bytes < 100_000, `${first.length} files, ${bytes} bytes`);
    const plain = first.filter(([, size, encoding]) => size > 2000 && !encoding);
    assert.deepEqual(plain, [], 'large files are compressed');
    const second = await loaded(async () => {
      await page.reload();
      await page.getByRole('heading', { name: 'Home', level: 1 }).waitFor();
    });
    assert.ok(second.length > 10 && second.every(([status, size]) => status === 304 || size === 0), JSON.stringify(second));
    window.quiet();
  });

  it('opens at the root of the server too', async () => {
    window = await browser.window(api.base, { path: '/' });
    await window.signIn();
    assert.equal(new URL(window.page.url()).pathname, '/_utils/');
    await window.open('#/databases');
    await window.page.getByRole('link', { name: '_users', exact: true }).waitFor();
    window.quiet();
  });

  it('says on an empty server what is left to do, and allows the page of an app', async () => {
    const page = await opened();
    await page.getByText('What is left to do: 3').waitFor();
    await window.check();
    await page.getByText('Connect an app').first().click();
    await page.getByText('The app is a web page at another address').click();
    await page.getByLabel('Address of your web app').fill('app.example.com/start');
    await page.getByRole('button', { name: 'Allow this page' }).click();
    await page.getByText('Pages of https://app.example.com may use this server now.').waitFor();
    const origins = await api.ok('GET /_node/_local/_config/cors/origins');
    assert.match(origins.text ?? String(origins), /^http:\/\/localhost,.*,https:\/\/app\.example\.com/, 'the others are kept');
    await window.check();
  });

  it('returns to the page of this server that asked for a sign-in, and to no other', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
    for (const [path, ends] of [[`/${db}/a`, `/${db}/a`], ['//example.com/x', '/_utils/session.html'], ['https://example.com/', '/_utils/session.html'], ['javascript:alert(1)', '/_utils/session.html'], ['/\\\\example.com', '/_utils/session.html']]) {
      window = await browser.window(api.base, { path: `/_utils/session.html?return=${encodeURIComponent(path)}&reason=${encodeURIComponent('Sign in <b>first</b>')}` });
      const { page } = window;
      await page.goto(window.address);
      await page.getByText('Sign in <b>first</b>').waitFor();
      await page.getByLabel('Name', { exact: true }).fill(ADMIN);
      await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
      await page.keyboard.press('Enter');
      if (ends === path) await page.waitForURL(`${api.base}${path}`);
      else await page.getByRole('heading', { name: 'Home', level: 1 }).waitFor();
      assert.equal(new URL(page.url()).pathname, ends);
      window.quiet();
      await window.close();
      window = null;
    }
  });

  it('makes a database, shows it, and deletes it only when its name is typed', async () => {
    const page = await opened('#/databases');
    await page.getByRole('button', { name: 'New database' }).first().click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Name').fill('Notes');
    await dialog.getByRole('button', { name: 'Make the database' }).click();
    await dialog.getByText('This name is not allowed').waitFor();
    await window.check();
    await dialog.getByLabel('Name').fill('made/here');
    await dialog.getByRole('button', { name: 'Make the database' }).click();
    await page.getByRole('heading', { name: 'made/here', level: 1 }).waitFor();
    await page.getByText('This database is empty').waitFor();
    await window.check();
    assert.equal((await api.call('GET /made%2Fhere')).status, 200);
    await page.getByRole('link', { name: 'Settings' }).click();
    await window.settled();
    await page.getByRole('button', { name: 'Delete this database' }).click();
    await dialog.getByLabel(/Type .*made\/here/).fill('made');
    await dialog.getByRole('button', { name: 'Delete the database' }).click();
    await dialog.getByText('That is not the name.').waitFor();
    assert.equal((await api.call('GET /made%2Fhere')).status, 200);
    await dialog.getByLabel(/Type .*made\/here/).fill('made/here');
    await dialog.getByRole('button', { name: 'Delete the database' }).click();
    await page.getByText('made/here is deleted.').waitFor();
    assert.equal((await api.call('GET /made%2Fhere')).status, 404);
    window.quiet();
  });

  it('counts very many databases exactly, and says where it stopped counting', async () => {
    const page = await opened();
    for (const [there, shown] of [[10_001, '10,001'], [20_000, '20,000'], [20_001, 'more than 20,000']]) {
      const names = ['_replicator', '_users', ...Array.from({ length: there }, (_, at) => `db${String(at).padStart(6, '0')}`)];
      // As the server does: `start_key`, then `limit`.
      await page.route('**/_all_dbs*', (route) => {
        const { searchParams } = new URL(route.request().url());
        const from = JSON.parse(searchParams.get('start_key') ?? '""');
        return route.fulfill({ json: names.filter((name) => name >= from).slice(0, Number(searchParams.get('limit'))) });
      });
      await window.open('#/');
      assert.equal(await page.locator('.fact').filter({ hasText: 'Databases' }).locator('dd').innerText(), shown);
      await page.unroute('**/_all_dbs*');
    }
    window.quiet();
  });

  it('shows changes of databases as they happen', async () => {
    const db = await api.db();
    const page = await opened('#/databases');
    const row = page.getByRole('row').filter({ has: page.getByRole('link', { name: db, exact: true }) });
    assert.match(await row.innerText(), /\t0\t/);
    await page.getByRole('link', { name: db, exact: true }).focus();
    const wrote = Date.now();
    await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
    await until('the row counts the document', async () => /\t1\t/.test(await row.innerText()), 10);
    assert.ok(Date.now() - wrote < 5000);
    assert.equal(await page.evaluate(() => document.activeElement.textContent), db, 'the focus stays in a row that is drawn again');
    await until('the row says when', async () => /just now|second/.test(await row.innerText()), 15);
    const quiet = page.getByRole('row').filter({ has: page.getByRole('link', { name: '_replicator', exact: true }) });
    assert.match(await quiet.innerText(), /ago|just now|not since the server started/);
    const other = await api.db();
    await page.getByRole('link', { name: other, exact: true }).waitFor();
    window.quiet();
  });

  it('pages through many databases with an exact count, and searches them', async () => {
    const names = Array.from({ length: 120 }, (_, at) => `many${String(at).padStart(3, '0')}`);
    for (const name of names) await api.ok(`PUT /${name}`);
    const total = (await api.ok('GET /_all_dbs')).length;
    const page = await opened('#/databases');
    await page.getByText(`1–50 of ${total} databases`).waitFor();
    await page.getByRole('link', { name: 'Next' }).click();
    await page.getByText(`51–100 of ${total} databases`).waitFor();
    await page.getByRole('link', { name: 'Previous' }).click();
    await page.getByText(`1–50 of ${total} databases`).waitFor();
    await page.getByLabel('Search databases by name').fill('many11');
    await page.getByText('1–10 of 10 databases').waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.type), 'search', 'one can go on typing');
    for (const name of names) await api.ok(`DELETE /${name}`);
    window.quiet();
  });

  it('says what the rights of a database mean, and saves them', async () => {
    const db = await api.db();
    const page = await opened(`#/db/${db}/settings`);
    await page.getByText('Nobody but admins may read or write documents.').waitFor();
    await page.getByLabel('Members: names').fill('ann, ben');
    await page.getByLabel('Members: roles').fill('');
    await page.getByText('These may read and write documents: ann and ben.').waitFor();
    await page.getByLabel('Members: names').fill('');
    await page.getByLabel('Admins: roles').fill('');
    await page.getByText('Everybody who reaches the server may read and write documents').waitFor();
    await page.getByLabel('Members: names').fill('ann');
    await page.getByRole('button', { name: 'Save the rights' }).click();
    await page.getByText('The rights are saved.').waitFor();
    assert.deepEqual((await api.ok(`GET /${db}/_security`)).members, { names: ['ann'], roles: [] });
    await page.getByLabel('Revisions kept of each document').fill('50');
    await page.getByRole('button', { name: 'Save the limits' }).click();
    await page.getByText('The limits are saved.').waitFor();
    assert.equal((await api.call(`GET /${db}/_revs_limit`)).text.trim(), '50');
    await page.getByRole('button', { name: 'Compact now' }).click();
    await page.getByText(/^Done: /).waitFor();
    await window.check();
  });

  it('gives code that connects an app with the chosen database and user', async () => {
    const db = await api.db();
    await api.ok('PUT /_users/org.couchdb.user:o\'neil', { body: { name: 'o\'neil', password: 'x', roles: [], type: 'user' } });
    const page = await opened(`#/connect?db=${db}`);
    await page.getByLabel('User').selectOption('o\'neil');
    await page.getByText(`o'neil may not use ${db} yet.`).waitFor();
    const code = page.getByRole('region', { name: /^Code for/ });
    assert.match(await code.innerText(), new RegExp(`new PouchDB\\('${api.base}/${db}', \\{\\s+auth: \\{ username: 'o\\\\'neil', password: 'PASSWORD' \\}`));
    for (const [client, line] of [['RxDB', `url: '${api.base}/${db}/'`], ['nano', `nano.use('${db}')`], ['curl', `curl -u 'o'\\''neil' -X PUT ${api.base}/${db}/first`], ['Obsidian', `--vault ${db}`]]) {
      await page.getByRole('button', { name: client, exact: true }).click();
      assert.ok((await code.innerText()).includes(line), `${line} in ${await code.innerText()}`);
    }
    await window.check();
    await api.ok(`DELETE /_users/org.couchdb.user:o'neil?rev=${(await api.ok('GET /_users/org.couchdb.user:o\'neil'))._rev}`);
  });

  it('sets up Obsidian with a link and a QR code, for an account that gets the right with one click', async () => {
    const db = await api.db();
    await api.ok('PUT /_users/org.couchdb.user:olga', { body: { name: 'olga', password: 'pass of olga', roles: [], type: 'user' } });
    const page = await opened(`#/connect?db=${db}&user=olga&client=obsidian`);
    const panel = page.getByRole('region', { name: 'Set up Obsidian' });
    const make = panel.getByRole('button', { name: 'Make link and QR code' });
    await make.click();
    await panel.getByText('This is needed.').waitFor();
    await panel.getByLabel('Password of olga').fill('wrong');
    await make.click();
    await panel.getByText('Name or password is incorrect.').waitFor();
    await panel.getByLabel('Password of olga').fill('pass of olga');
    await make.click();
    await panel.getByText('You are not allowed to access this db.').waitFor();
    await window.check();
    await page.getByRole('button', { name: 'Let olga use it' }).click();
    await page.getByText(`olga may read and write ${db} now.`).waitFor();
    assert.deepEqual((await api.ok(`GET /${db}/_security`)).members, { names: ['olga'], roles: ['_admin'] });
    await panel.getByLabel('Address for the devices').fill('https://sync.example.com/');
    await panel.getByLabel('Password of olga').press('Enter');
    const picture = panel.getByRole('img', { name: 'QR code of the setup link' });
    await picture.waitFor();
    assert.ok(await picture.evaluate(async (image) => { await image.decode(); return image.naturalWidth > 0; }));
    assert.equal(await panel.getByLabel('Password of olga').inputValue(), '', 'the password does not stay on the page');
    await window.check();
    const link = await panel.getByRole('link', { name: 'Open in Obsidian' }).getAttribute('href');
    const settings = await open(link, (await panel.getByRole('region', { name: /passphrase of the link/ }).innerText()).trim());
    assert.deepEqual([settings.couchDB_URI, settings.couchDB_USER, settings.couchDB_PASSWORD, settings.couchDB_DBNAME], ['https://sync.example.com', 'olga', 'pass of olga', db]);
    assert.equal(settings.passphrase, (await panel.getByRole('region', { name: /passphrase of the vault/ }).innerText()).trim());
    const { admins } = await api.ok(`GET /${db}/_security`);
    assert.deepEqual(admins, { roles: ['_admin'], names: ['olga'] }, 'the owner may rebuild the vault');
    assert.equal((await api.call(`DELETE /${db}`, { as: 'olga:pass of olga' })).status, 200);
    await panel.getByLabel('End-to-end encryption').uncheck();
    assert.equal(await panel.getByLabel('Passphrase of the vault', { exact: true }).isVisible(), false);
    await window.close();
    window = await browser.window(api.base, { width: 360, height: 740, scheme: 'dark' });
    await window.signIn('olga', 'pass of olga');
    await window.open(`#/connect?db=${db}&client=obsidian`);
    await window.page.getByLabel('Password of olga').fill('pass of olga');
    await window.page.getByRole('button', { name: 'Make link and QR code' }).click();
    await window.page.getByRole('img', { name: 'QR code of the setup link' }).waitFor();
    await window.check();
    await api.ok(`DELETE /_users/org.couchdb.user:olga?rev=${(await api.ok('GET /_users/org.couchdb.user:olga'))._rev}`);
  });

  it('works where the server asks everybody for a password, and the browser asks for it', async () => {
    const settings = '/_node/_local/_config/chttpd/require_valid_user';
    await api.ok(`PUT ${settings}`, { body: '"true"' });
    try {
      const context = await browser.browser.newContext({ httpCredentials: { username: ADMIN, password: PASSWORD } });
      const page = await context.newPage();
      await page.goto(`${api.base}/_utils/`);
      await page.getByRole('heading', { name: 'Home', level: 1 }).waitFor();
      await page.getByRole('button', { name: 'Sign out' }).click();
      await page.getByText('Your browser goes on sending the name and password').waitFor();
      await page.getByRole('button', { name: 'Sign in', exact: true }).waitFor();
      // A browser that was asked for no password must not ask in a window of its own, but by the page.
      const asked = await page.evaluate(async () => {
        const answer = await fetch('../_session', { credentials: 'omit', headers: { Accept: 'application/json', 'X-CouchDB-WWW-Authenticate': 'Cookie' } });
        return [answer.status, answer.headers.get('WWW-Authenticate')];
      });
      assert.deepEqual(asked, [401, 'Cookie']);
      const sent = [];
      page.on('request', (request) => { if (!request.url().includes('/_utils/')) sent.push(request.headers()['x-couchdb-www-authenticate']); });
      await page.getByLabel('Name', { exact: true }).fill(ADMIN);
      await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
      await page.keyboard.press('Enter');
      await page.getByRole('heading', { name: 'Home', level: 1 }).waitFor();
      assert.ok(sent.length > 3 && sent.every((value) => value === 'Cookie'), JSON.stringify(sent));
      await context.close();
    } finally {
      await api.ok(`DELETE ${settings}`);
    }
  });

  it('opens the dialog of a new database from the first page', async () => {
    const fresh = new Api();
    await fresh.start();
    try {
      window = await browser.window(fresh.base);
      await window.signIn();
      await window.page.getByRole('link', { name: 'Make a database' }).click();
      await window.page.getByRole('dialog', { name: 'New database' }).getByLabel('Name').fill('first');
      await window.page.keyboard.press('Enter');
      await window.page.getByRole('heading', { name: 'first', level: 1 }).waitFor();
      window.quiet();
    } finally {
      await fresh.stop();
    }
  });

  it('lets somebody who is not an admin see what is his', async () => {
    const db = await api.db();
    await api.ok('PUT /_users/org.couchdb.user:ann', { body: { name: 'ann', password: 'correct horse', roles: [], type: 'user' } });
    await api.ok(`PUT /${db}/_security`, { body: { admins: { names: [], roles: [] }, members: { names: ['ann'], roles: [] } } });
    await api.ok(`PUT /${db}/mine`, { body: { n: 1 } });
    window = await browser.window(api.base);
    await window.signIn('ann', 'correct horse');
    const { page } = window;
    await page.getByRole('heading', { name: 'Hello, ann' }).waitFor();
    const menu = () => page.locator('#nav a').allTextContents();
    assert.deepEqual(await menu(), ['Home', 'Databases', 'Conflicts', 'Sync', 'Account']);
    await window.check();
    await page.locator('#nav').getByRole('link', { name: 'Account' }).click();
    await page.getByRole('heading', { name: 'ann', level: 1 }).waitFor();
    assert.deepEqual(await menu(), ['Home', 'Databases', 'Conflicts', 'Sync', 'Account']);
    await window.open('#/conflicts');
    await page.getByText('Which of your databases do you want to look at?').waitFor();
    await window.check();
    await page.getByLabel('Database').fill(db);
    await page.getByRole('button', { name: 'Show its conflicts' }).click();
    await page.getByRole('heading', { name: db, level: 1 }).waitFor();
    // A database that one of his devices syncs is on his first page.
    await api.ok(`PUT /${db}/_local/checkpoint`, { as: 'ann:correct horse', body: { last_seq: `0-x`, history: [] } });
    await window.open('#/');
    await page.getByRole('link', { name: db, exact: true }).click();
    await page.getByRole('heading', { name: db, level: 1 }).waitFor();
    await window.open('#/databases');
    await page.getByLabel('Name of a database').fill(db);
    await page.getByRole('button', { name: 'Open' }).click();
    await page.getByRole('link', { name: 'mine', exact: true }).waitFor();
    await window.open('#/db/_users');
    await page.getByText('Your account may not do this.').waitFor();
    window.quiet();
  });

  it('asks for the password again when the session ends, and loses nothing', async () => {
    const db = await api.db();
    const page = await opened(`#/db/${db}/new`);
    await page.getByLabel('Id', { exact: true }).fill('kept');
    await page.getByLabel('Text of the new document').fill('{"text":"long work"}');
    await window.context.clearCookies();
    await page.getByRole('button', { name: 'Make the document' }).click();
    const dialog = page.getByRole('dialog', { name: 'Sign in again' });
    await dialog.getByLabel('Password', { exact: true }).fill(PASSWORD);
    await dialog.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.getByRole('heading', { name: 'kept', level: 1 }).waitFor();
    assert.equal((await api.ok(`GET /${db}/kept`)).text, 'long work');
    window.quiet();
  });
});
