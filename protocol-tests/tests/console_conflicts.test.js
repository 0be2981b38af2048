// The console's screens of conflicts, in a real browser: conflicts that two stock PouchDBs make are resolved by hand, and
// both PouchDBs converge.

import { createRequire } from 'node:module';
import { after, before, beforeEach, describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { Browser, noConsole } from '../harness/console.js';
import { request } from '../harness/http.js';
import { ADMIN, PASSWORD, Server, until } from '../harness/server.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));


describe('the console: conflicts', { skip: noConsole }, () => {
  let server;
  let browser;
  let window;
  let page;
  const locals = [];

  before(async () => {
    server = await new Server().start();
    browser = await Browser.start();
    window = await (await browser.window(server.base)).signIn();
    page = window.page;
    page.setDefaultTimeout(15_000);
  });
  // A message of the test before must not be taken for one of this test.
  beforeEach(() => page.locator('#toasts').evaluate((toasts) => toasts.replaceChildren()));
  after(async () => {
    await browser?.close();
    await Promise.all(locals.map((local) => local.destroy()));
    await server?.stop();
  });

  const ask = (method, path, body) => request(server.base, {
    method, path, fresh: true, body: body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body),
    headers: { 'Content-Type': 'application/json', Accept: 'application/json', Authorization: `Basic ${Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64')}` },
  });
  const read = async (path) => JSON.parse((await ask('GET', path)).text);
  const field = (name) => page.getByRole('group', { name, exact: true });
  const save = () => page.getByRole('button', { name: 'Save the merged document' });
  const message = (text) => page.locator('#toasts').getByText(text).first().waitFor();

  /** Two devices that share a database `name`, and go offline. */
  async function devices(name) {
    await ask('PUT', `/${name}`);
    const remote = `${server.address}/${name}`;
    const pair = [0, 1].map((number) => new PouchDB(`${name}-${number}-${Date.now()}`, { adapter: 'memory' }));
    locals.push(...pair);
    const sync = async () => {
      // Twice: what the second one pushes must come to the first one.
      for (const local of [...pair, ...pair]) await local.sync(remote);
    };
    return { pair, sync };
  }

  /** Both devices know the same document, then change it apart from each other, and meet again. */
  async function conflict(name, id, first, [left, right]) {
    const { pair, sync } = await devices(name);
    await pair[0].put({ _id: id, ...first });
    await sync();
    for (const [local, change] of [[pair[0], left], [pair[1], right]]) {
      const now = await local.get(id);
      await local.put(typeof change === 'function' ? change(now) : { _id: id, _rev: now._rev, ...change });
    }
    await sync();
    return { pair, sync };
  }

  /** Both devices and the server have one version, the same. */
  async function converged(name, id, { pair, sync }) {
    await sync();
    const wanted = await read(`/${name}/${encodeURIComponent(id)}?conflicts=true`);
    assert.equal(wanted._conflicts, undefined);
    for (const local of pair) assert.deepEqual(await local.get(id, { conflicts: true }), wanted);
    return wanted;
  }

  it('says on an empty server that there are none, and what they are', async () => {
    await window.open('#/conflicts');
    await page.getByRole('heading', { name: 'No conflicts' }).waitFor();
    await window.check();
  });

  it('merges by hand what two PouchDBs changed, field by field, so that both converge', async () => {
    const both = await conflict('notes', 'shopping', { title: 'Shopping', items: ['milk', 'bread'], done: false, owner: { name: 'Ann', mail: 'a@x' } }, [
      { title: 'Shopping today', items: ['milk', 'bread', 'apples'], done: false, owner: { name: 'Ann', mail: 'a@y' } },
      { title: 'Groceries', items: ['bread', 'cheese'], done: true, owner: { name: 'Ann B.', mail: 'a@x' } },
    ]);
    await window.open('#/conflicts');
    await page.getByText('1 document is in conflict').waitFor();
    await window.check();
    await page.getByRole('link', { name: 'shopping' }).click();
    await page.getByText('2 fields need your decision.').waitFor();
    await window.check();
    assert.ok(await save().isDisabled());
    await field('title').getByRole('radio', { name: 'Something else' }).check();
    await page.getByLabel('Value of title').fill('Shopping for the week');
    await page.getByText('1 field needs your decision.').waitFor();
    await field('items').getByRole('radio', { name: /^Both/ }).check();
    await page.getByText('Everything is decided.').waitFor();
    const preview = JSON.parse(await page.getByLabel('The merged document').textContent());
    await window.check();
    await save().click();
    await message('Merged.');
    await page.getByRole('heading', { name: 'No conflict here' }).waitFor();
    const result = await converged('notes', 'shopping', both);
    const { _rev, ...body } = result;
    assert.deepEqual(body, preview);
    assert.equal(body.title, 'Shopping for the week');
    assert.deepEqual([...body.items].sort(), ['apples', 'bread', 'cheese']);
    assert.deepEqual([body.done, body.owner], [true, { name: 'Ann B.', mail: 'a@y' }]);
    assert.match(_rev, /^3-/);
    await window.open('#/conflicts');
    await page.getByRole('heading', { name: 'No conflicts' }).waitFor();
  });

  it('keeps the versions that lost readable, also after a compaction', async () => {
    await ask('POST', '/notes/_compact', {});
    await until('the compaction to end', async () => !(await read('/notes')).compact_running);
    await window.open('#/conflicts/notes/shopping');
    await page.getByText('1 version closed earlier').click();
    const [loser] = (await read('/notes/shopping?deleted_conflicts=true'))._deleted_conflicts;
    const record = await read(`/notes/shopping?rev=${loser}`);
    assert.ok(['Shopping today', 'Groceries'].includes(record.title) && record._deleted);
    await page.locator('.records').getByText(record.title).waitFor();
    await window.check();
  });

  it('keeps 64-bit numbers, the order of members and attachments of both sides', async () => {
    await ask('PUT', '/exact');
    const file = (text) => ({ content_type: 'text/plain', data: Buffer.from(text).toString('base64') });
    const docs = [
      `{"_id":"d","_rev":"1-a","z":9007199254740993,"10":1.10,"a":1}`,
      `{"_id":"d","_rev":"2-b","_revisions":{"start":2,"ids":["b","a"]},"z":9007199254740993,"10":1.10,"a":18446744073709551615,"_attachments":${JSON.stringify({ mine: file('mine') })}}`,
      `{"_id":"d","_rev":"2-c","_revisions":{"start":2,"ids":["c","a"]},"z":9007199254740995,"10":1.10,"a":2,"_attachments":${JSON.stringify({ theirs: file('theirs') })}}`,
    ];
    await ask('POST', '/exact/_bulk_docs', `{"new_edits":false,"docs":[${docs.join(',')}]}`);
    await window.open('#/conflicts/exact/d');
    await field('a').locator('.choice').first().waitFor();
    const versions = await field('a').locator('.choice').allTextContents();
    const other = versions.findIndex((text) => text.includes('18446744073709551615'));
    await field('a').locator('.choice').nth(other).click();
    await save().click();
    await until('the merged document', async () => (await read('/exact/d'))._rev.startsWith('3-'));
    const { text } = await ask('GET', '/exact/d?attachments=true');
    assert.match(text, /"z":9007199254740995,"10":1\.10,"a":18446744073709551615/);
    const { _attachments: files } = JSON.parse(text);
    assert.deepEqual(Object.keys(files).sort(), ['mine', 'theirs']);
    for (const [name, { data }] of Object.entries(files)) assert.equal(Buffer.from(data, 'base64').toString(), name);
  });

  it('asks about everything that differs when the common ancestor is compacted away', async () => {
    const both = await conflict('old', 'd', { a: 1, b: 1 }, [{ a: 2, b: 1 }, { a: 1, b: 2 }]);
    await ask('POST', '/old/_compact', {});
    await until('the ancestor to go', async () => {
      const { _revisions: { ids } } = await read('/old/d?revs=true');
      return (await ask('GET', `/old/d?rev=1-${ids[1]}`)).status === 404;
    });
    await window.open('#/conflicts/old/d');
    await page.getByText('is not known any more').waitFor();
    await page.getByText('2 fields need your decision.').waitFor();
    await window.check();
    const [a, b] = [field('a'), field('b')];
    const pick = async (group, text) => group.locator('label.choice').filter({ hasText: text }).first().click();
    await pick(a, '2');
    await pick(b, '2');
    await save().click();
    await message('Merged.');
    const { a: left, b: right } = await converged('old', 'd', both);
    assert.deepEqual([left, right], [2, 2]);
  });

  it('merges with the keyboard alone', async () => {
    const both = await conflict('keys', 'd', { a: 1 }, [{ a: 2 }, { a: 3 }]);
    await window.open('#/conflicts/keys/d');
    await page.getByRole('button', { name: 'All from B' }).focus();
    await page.keyboard.press('Enter');
    await page.getByText('Everything is decided.').waitFor();
    const wanted = JSON.parse(await page.getByLabel('The merged document').textContent()).a;
    for (let step = 0; step < 30 && !(await save().evaluate((button) => button === document.activeElement)); step += 1) await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await message('Merged.');
    assert.equal((await converged('keys', 'd', both)).a, wanted);
  });

  it('settles a deletion against an edit, either way', async () => {
    for (const [keep, name] of [[true, 'kept'], [false, 'gone']]) {
      const both = await conflict(name, 'd', { text: 'first' }, [{ text: 'edited' }, (now) => ({ ...now, _deleted: true })]);
      await window.open(`#/conflicts/${name}?list=deleted`);
      await page.getByRole('link', { name: 'd', exact: true }).click();
      await page.getByText('One device deleted this document').waitFor();
      await window.check();
      await page.getByRole('button', { name: keep ? 'Keep the edited document' : 'Delete it' }).click();
      await message(keep ? 'The document stays.' : 'Deleted on every device');
      await both.sync();
      if (keep) assert.equal((await converged(name, 'd', both)).text, 'edited');
      else for (const local of both.pair) await assert.rejects(local.get('d'), { status: 404 });
      await window.open(`#/conflicts/${name}?list=deleted`);
      await page.getByRole('heading', { name: 'Nothing was deleted against an edit' }).waitFor();
    }
  });

  it('merges more versions than it compares in several rounds', async () => {
    await ask('PUT', '/many');
    const docs = Array.from({ length: 7 }, (_, number) => ({ _id: 'd', _rev: `1-${number}`, n: number }));
    await ask('POST', '/many/_bulk_docs', { new_edits: false, docs });
    await window.open('#/conflicts/many/d');
    for (const left of [3, 0]) {
      if (left > 0) await page.getByText('3 more versions wait').waitFor();
      await page.getByRole('button', { name: 'All from A' }).click();
      await save().click();
      await page.waitForFunction((wait) => !document.body.textContent.includes('more versions wait') || !wait, left > 0);
      await page.waitForFunction(() => !document.querySelector('[aria-busy], .loading'));
    }
    await page.getByRole('heading', { name: 'No conflict here' }).waitFor();
    const result = await read('/many/d?conflicts=true');
    assert.deepEqual([result.n, result._conflicts], [6, undefined]);
  });

  it('saves nothing when somebody was faster, and shows what is there now', async () => {
    await conflict('race', 'd', { a: 1 }, [{ a: 2 }, { a: 3 }]);
    await window.open('#/conflicts/race/d');
    await page.getByRole('button', { name: 'All from A' }).click();
    const winner = await read('/race/d');
    await ask('PUT', '/race/d', { _rev: winner._rev, a: 'newer' });
    await save().click();
    await message('Somebody changed the document in the meantime.');
    await page.getByText('newer').first().waitFor();
    const { a, _conflicts } = await read('/race/d?conflicts=true');
    assert.deepEqual([a, _conflicts.length], ['newer', 1]);
  });

  it('closes no version when somebody writes at the same moment', async () => {
    await conflict('moment', 'd', { a: 1 }, [{ a: 2 }, { a: 3 }]);
    await window.open('#/conflicts/moment/d');
    await page.getByRole('button', { name: 'All from A' }).click();
    const before = await read('/moment/d?conflicts=true');
    const loser = (await read(`/moment/d?rev=${before._conflicts[0]}`)).a;
    await page.locator('#toasts').evaluate((toasts) => toasts.replaceChildren());
    await page.route('**/moment/_bulk_docs', async (route) => {
      await ask('PUT', '/moment/d', { _rev: before._rev, a: 'newer' });
      await route.continue();
    }, { times: 1 });
    await save().click();
    await message('Somebody changed the document in the meantime.');
    const now = await read('/moment/d?conflicts=true');
    const bodies = [now.a, ...(await Promise.all(now._conflicts.map(async (rev) => (await read(`/moment/d?rev=${rev}`)).a)))];
    assert.deepEqual(new Set(bodies), new Set(['newer', loser]));
  });

  it('shows why a database refuses the merged document', async () => {
    await conflict('strict', 'd', { a: 1 }, [{ a: 2 }, { a: 3 }]);
    await ask('PUT', '/strict/_design/rules', { validate_doc_update: 'function (doc) { if (!doc._deleted && !doc.title) throw {forbidden: "A <b>title</b> is needed."}; }' });
    await window.open('#/conflicts/strict/d');
    await page.getByRole('button', { name: 'All from A' }).click();
    await save().click();
    await message('A <b>title</b> is needed.');
    assert.equal((await read('/strict/d?conflicts=true'))._conflicts.length, 1);
    await window.check();
  });

  it('shows hostile documents as text', async () => {
    await ask('PUT', '/hostile');
    const id = '<script>alert(1)</script>/..?#%20"\'';
    const body = (n) => ({ '<img src=x onerror=alert(2)>': `<svg onload=alert(${n})>`, toString: n, constructor: { prototype: n }, 'javascript:alert(3)': n, long: 'x'.repeat(50_000) + n, ...Object.fromEntries(Array.from({ length: 10_000 }, (_, at) => [`field${at}`, at % 25 === 0 ? n : at])) });
    await ask('POST', '/hostile/_bulk_docs', { new_edits: false, docs: [{ _id: id, _rev: '1-a', ...body(1) }, { _id: id, _rev: '1-b', ...body(2) }] });
    await window.open('#/conflicts/hostile');
    const begin = Date.now();
    await page.getByRole('link', { name: id }).click();
    await page.getByText('405 fields need your decision.').waitFor();
    assert.ok(Date.now() - begin < 5000, `opened in ${Date.now() - begin} ms`);
    assert.ok((await page.locator('.field-choice').count()) <= 100);
    assert.equal(await page.locator('main img, main script, main svg').count(), 0);
    window.quiet();
    await page.getByRole('button', { name: 'All from B' }).click();
    await save().click();
    await message('Merged.');
    await window.check();
  });

  it('is usable on a telephone, and when the server breaks', async () => {
    await conflict('small', 'a-quite-long-name-of-a-document-that-does-not-fit-into-one-line-of-a-telephone', { title: 'x', items: [1] }, [{ title: 'y', items: [1, 2] }, { title: 'z', items: [] }]);
    const small = await browser.window(server.base, { width: 360, height: 740, scheme: 'dark', touch: true });
    await small.signIn();
    for (const hash of ['#/conflicts', '#/conflicts/small', '#/conflicts/small/a-quite-long-name-of-a-document-that-does-not-fit-into-one-line-of-a-telephone']) {
      await small.open(hash);
      await small.check();
    }
    await small.page.route('**/_conflicts*', (route) => route.fulfill({ status: 503, body: 'busy' }));
    await small.open('#/conflicts');
    await small.page.locator('.failure').waitFor();
    await small.check();
    await small.page.unroute('**/_conflicts*');
    await small.page.locator('.failure').getByRole('button').click();
    await small.page.getByText('in conflict').first().waitFor();
    await small.close();
  });
});
