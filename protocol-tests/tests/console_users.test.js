// The console's screens of users and devices, in a real browser.

import { after, before, describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { Browser, noConsole } from '../harness/console.js';
import { request } from '../harness/http.js';
import { ADMIN, PASSWORD, Server, until } from '../harness/server.js';
import { code } from '../../src/console/users/totp.js';

const basic = (name, password) => `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`;

describe('the console: users and devices', { skip: noConsole }, () => {
  let server;
  let browser;
  let window;
  let page;

  before(async () => {
    server = await new Server().start();
    browser = await Browser.start();
    window = await (await browser.window(server.base)).signIn();
    page = window.page;
    page.setDefaultTimeout(15_000);
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  const ask = (method, path, { as = [ADMIN, PASSWORD], body, headers } = {}) => request(server.base, {
    method, path, fresh: true, body: body === undefined ? undefined : JSON.stringify(body),
    headers: { 'Content-Type': 'application/json', ...(as ? { Authorization: basic(...as) } : {}), ...headers },
  });
  const signsIn = async (name, password) => (await ask('GET', '/_session', { as: [name, password] })).status === 200;
  /** Signs a device in as an app does; returns its cookie. */
  const device = async (name, password, agent) => {
    const answer = await ask('POST', '/_session', { as: null, body: { name, password }, headers: { 'User-Agent': agent } });
    assert.equal(answer.status, 200);
    return [answer.headers['set-cookie']].flat()[0].split(';')[0];
  };
  const lives = async (cookie) => JSON.parse((await ask('GET', '/_session', { as: null, headers: { Cookie: cookie } })).text ?? '{}')?.userCtx?.name ?? null;
  const card = (name) => page.getByRole('region', { name, exact: true }).or(page.getByRole('form', { name, exact: true }));
  const message = (text) => page.locator('#toasts').getByText(text).first().waitFor();

  it('makes a user from an empty server, with the keyboard alone', async () => {
    await window.open('#/users');
    await page.getByRole('heading', { name: 'No users yet' }).waitFor();
    await window.check();
    await page.getByRole('button', { name: 'Make the first user' }).focus();
    await page.keyboard.press('Enter');
    await page.keyboard.type('ann');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Control+A');
    await page.keyboard.type('a long password');
    await page.keyboard.press('Tab');
    await page.keyboard.type('staff, editors');
    await window.check();
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { level: 1, name: 'ann' }).waitFor();
    assert.ok(await signsIn('ann', 'a long password'));
    await window.open('#/users');
    assert.equal(await page.locator('tbody tr').count(), 1);
    assert.deepEqual(await page.locator('tbody .badge').allTextContents(), ['staff', 'editors']);
    await window.check();
  });

  it('says when a name is taken, and keeps what was typed', async () => {
    await window.open('#/users?new=1');
    await page.getByLabel('Name', { exact: true }).fill('ann');
    await page.getByRole('button', { name: 'Make the user' }).click();
    await page.getByText('There is an account of this name already.').waitFor();
    assert.equal(await page.getByLabel('Name', { exact: true }).inputValue(), 'ann');
  });

  it('searches by name and by role', async () => {
    for (const name of ['bert', 'berta', 'carla']) {
      await ask('PUT', `/_users/org.couchdb.user:${name}`, { body: { name, password: 'x', type: 'user', roles: name === 'carla' ? ['guests'] : [] } });
    }
    await window.open('#/users');
    assert.equal(await page.locator('tbody tr').count(), 4);
    await page.getByRole('searchbox', { name: 'Name begins with' }).fill('ber');
    await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 2);
    await page.getByRole('searchbox', { name: 'Name begins with' }).fill('');
    await page.getByRole('searchbox', { name: 'Has role' }).fill('guests');
    await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1);
    await page.getByRole('searchbox', { name: 'Has role' }).fill('nobody');
    await page.getByRole('heading', { name: 'Nobody found' }).waitFor();
  });

  it('changes roles, and loses nothing that an app keeps in the account', async () => {
    const before = JSON.parse((await ask('GET', '/_users/org.couchdb.user:ann')).text);
    const kept = JSON.stringify({ ...before, number: '@' }).replace('"@"', '9007199254740993');
    const answer = await request(server.base, { method: 'PUT', path: '/_users/org.couchdb.user:ann', fresh: true, body: kept, headers: { 'Content-Type': 'application/json', Authorization: basic(ADMIN, PASSWORD) } });
    assert.ok(answer.status < 300, answer.text);
    await window.open('#/users/ann');
    await card('Roles').getByLabel('Roles').fill('staff, readers , readers');
    await card('Roles').getByRole('button', { name: 'Save the roles' }).click();
    await message('The roles are saved.');
    const { text } = await ask('GET', '/_users/org.couchdb.user:ann');
    assert.deepEqual(JSON.parse(text).roles, ['staff', 'readers']);
    assert.match(text, /"number":9007199254740993/);
    assert.ok(await signsIn('ann', 'a long password'));
  });

  it('signs one device out, and then all', async () => {
    const phone = await device('ann', 'a long password', 'Mozilla/5.0 (Linux; Android 14) Chrome/130.0.0.0 Mobile Safari/537.36');
    const laptop = await device('ann', 'a long password', 'Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0');
    await window.open('#/users/ann');
    await window.check();
    await page.getByRole('button', { name: 'Sign out Chrome 130 on Android' }).click();
    await window.check();
    await page.getByRole('dialog').getByRole('button', { name: 'Sign out' }).click();
    await message('The device is signed out.');
    await page.getByRole('button', { name: 'Sign out Chrome 130 on Android' }).waitFor({ state: 'detached' });
    assert.equal(await lives(phone), null);
    assert.equal(await lives(laptop), 'ann');
    await page.getByRole('button', { name: 'Sign out everywhere' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Sign out' }).click();
    await page.getByText('No device is signed in.').waitFor();
    assert.equal(await lives(laptop), null);
  });

  it('locks an account, unlocks it with the same password, and sets another', async () => {
    const phone = await device('ann', 'a long password', 'phone');
    await window.open('#/users/ann');
    await page.getByRole('button', { name: 'Lock the account' }).click();
    await page.getByText('This account is locked').waitFor();
    assert.equal(await signsIn('ann', 'a long password'), false);
    assert.equal(await lives(phone), null);
    await window.open('#/users');
    await page.getByText('locked', { exact: true }).waitFor();
    await window.open('#/users/ann');
    await page.getByRole('button', { name: 'Unlock the account' }).click();
    await page.getByRole('button', { name: 'Lock the account', exact: true }).waitFor();
    assert.ok(await signsIn('ann', 'a long password'));
    await card('Password').getByLabel('New password').fill('another password');
    await card('Password').getByRole('button', { name: 'Change the password' }).click();
    await message('The password is changed.');
    assert.equal(await signsIn('ann', 'a long password'), false);
    assert.ok(await signsIn('ann', 'another password'));
  });

  it('switches a second factor on only with a right code, and off again', async () => {
    await window.open('#/users/bert');
    await card('Second factor').getByRole('button', { name: 'Set it up' }).click();
    await window.check();
    const key = (await card('Second factor').locator('.key').textContent()).replaceAll(' ', '');
    const right = await code(key, Date.now());
    await page.getByLabel('Code that the app shows').fill(right === '000000' ? '000001' : '000000');
    await page.getByRole('button', { name: 'Switch it on' }).click();
    await page.getByText('This is not the code of now.').waitFor();
    assert.ok(await signsIn('bert', 'x'));
    await page.getByLabel('Code that the app shows').fill(await code(key, Date.now()));
    await page.getByRole('button', { name: 'Switch it on' }).click();
    await page.getByText('On: signing in takes the password and a code').waitFor();
    assert.equal(await signsIn('bert', 'x'), false);
    const answer = await ask('POST', '/_session', { as: null, body: { name: 'bert', password: 'x', token: await code(key, Date.now()) } });
    assert.equal(answer.status, 200);
    await page.getByRole('button', { name: 'Switch it off' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Switch it off' }).click();
    await page.getByRole('button', { name: 'Set it up' }).waitFor();
    assert.ok(await signsIn('bert', 'x'));
  });

  it('makes the database of a user, for nobody else', async () => {
    await window.open('#/users/carla');
    await card('Own database').getByRole('button', { name: 'Make it' }).click();
    await page.getByRole('link', { name: 'userdb-6361726c61' }).waitFor();
    assert.equal((await ask('GET', '/userdb-6361726c61', { as: ['carla', 'x'] })).status, 200);
    assert.equal((await ask('GET', '/userdb-6361726c61', { as: ['bert', 'x'] })).status, 403);
  });

  it('deletes an account after its name was typed', async () => {
    await window.open('#/users/berta');
    await page.getByRole('button', { name: 'Delete the account' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: 'Delete the account' }).click();
    assert.equal((await ask('GET', '/_users/org.couchdb.user:berta')).status, 200);
    await dialog.getByRole('textbox').fill('berta');
    await dialog.getByRole('button', { name: 'Delete the account' }).click();
    await page.getByRole('heading', { level: 1, name: 'Users and devices' }).waitFor();
    assert.equal((await ask('GET', '/_users/org.couchdb.user:berta')).status, 404);
  });

  it('shows names that are markup as text', async () => {
    const name = '<img src=x onerror=alert(1)>';
    await ask('PUT', `/_users/${encodeURIComponent(`org.couchdb.user:${name}`)}`, { body: { name, password: 'x', type: 'user', roles: ['<script>alert(2)</script>'] } });
    await device(name, 'x', '<b>phone</b>');
    await window.open('#/users');
    await page.getByRole('link', { name }).click();
    await page.getByRole('heading', { level: 1, name }).waitFor();
    await page.getByText('<b>phone</b>').waitFor();
    assert.equal(await page.locator('main img, main script').count(), 0);
    await window.check();
  });

  it('shows a user who is no admin his own account only', async () => {
    const other = await browser.window(server.base);
    await other.signIn('ann', 'another password', '#/users');
    await other.settled();
    await other.page.getByRole('heading', { level: 1, name: 'ann' }).waitFor();
    await other.page.getByText('this one').waitFor();
    assert.equal(await other.page.getByRole('button', { name: 'Lock the account' }).count(), 0);
    await other.check();
    await other.page.getByLabel('New password').fill('third password');
    await other.page.getByRole('button', { name: 'Change the password' }).click();
    await other.page.locator('#toasts').getByText('The password is changed.').waitFor();
    assert.ok(await signsIn('ann', 'third password'));
    await other.open('#/users/ann');
    await other.page.getByText('this one').waitFor();
    await other.open('#/users/carla');
    await other.page.locator('.failure').waitFor();
    other.quiet();
    await other.close();
  });

  it('is usable on a telephone and in the dark', async () => {
    const small = await browser.window(server.base, { width: 360, height: 740, scheme: 'dark', touch: true });
    await small.signIn();
    for (const hash of ['#/users', '#/users?new=1', '#/users/ann', `#/users/${ADMIN}`]) {
      await small.open(hash);
      await small.check();
    }
    await small.close();
  });

  it('says what is wrong when the server answers slowly, wrongly or not at all', async () => {
    await page.route('**/_users/_all_docs*', (route) => route.fulfill({ status: 500, contentType: 'application/json', body: '{"error":"internal_server_error","reason":"<b>the disk</b> failed"}' }));
    await window.open('#/users');
    await page.locator('.failure').getByText('<b>the disk</b> failed').waitFor();
    await window.check();
    await page.unroute('**/_users/_all_docs*');
    let slow;
    await page.route('**/_users/_all_docs*', async (route) => {
      await new Promise((resolve) => { slow = resolve; });
      await route.continue();
    });
    await page.locator('.failure').getByRole('button', { name: 'Try again' }).click();
    await until('the request to wait', () => slow);
    slow();
    await page.locator('tbody tr').first().waitFor();
    await page.unroute('**/_users/_all_docs*');
    await page.route('**/_users/_all_docs*', (route) => route.abort());
    await window.open('#/users');
    await page.locator('.failure').getByText('The server does not answer.').waitFor();
    await page.unroute('**/_users/_all_docs*');
    window.quiet();
  });
});
