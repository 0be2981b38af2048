// Design documents in the console, in a real browser: functions are edited, tried, and saved only when they compile; indexes
// show their state.

import { afterEach } from 'node:test';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD } from '../harness/server.js';
import { Browser, noConsole } from '../harness/console.js';

describe('design documents in the console', { skip: noConsole }, () => {
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
  const opened = async (hash) => {
    window = await browser.window(api.base);
    await window.signIn(ADMIN, PASSWORD);
    await window.open(hash);
    return window.page;
  };

  it('makes a view from nothing, and shows its rows', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/a`, { body: { kind: 'note', n: 1 } });
    const page = await opened(`#/db/${db}/design`);
    await page.getByText('No design document yet').waitFor();
    await window.check();
    await page.getByRole('button', { name: 'New design document' }).first().click();
    await page.getByRole('dialog').getByLabel('Name').fill('app');
    await page.keyboard.press('Enter');
    await page.getByText('No function yet').waitFor();
    await window.check();
    await page.locator('#main .empty').getByRole('button', { name: 'Add a view' }).click();
    await page.getByRole('dialog').getByLabel('Name').fill('by_kind');
    await page.keyboard.press('Enter');
    await page.getByLabel('map function of by_kind').fill('function (doc) {\n  emit(doc.kind, doc.n);\n}');
    await page.getByLabel('Reduce', { exact: true }).selectOption('_sum');
    await window.check();
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText('Saved.', { exact: true }).waitFor();
    assert.deepEqual((await api.ok(`GET /${db}/_design/app`)).views, { by_kind: { map: 'function (doc) {\n  emit(doc.kind, doc.n);\n}', reduce: '_sum' } });
    await page.getByRole('link', { name: 'Show its rows' }).click();
    await page.getByText('"note"').waitFor();
    await window.open(`#/db/${db}/design`);
    await page.getByText('up to date').waitFor();
    window.quiet();
  });

  it('goes to the function that does not compile, and saves nothing', async () => {
    const db = await api.db();
    const good = 'function (doc) { emit(doc._id); }';
    await api.ok(`PUT /${db}/_design/app`, { body: { views: { one: { map: good }, two: { map: good } }, filters: { f: 'function () { return true; }' }, other: { kept: 1.0 } } });
    const page = await opened(`#/db/${db}/design/app`);
    await page.getByRole('button', { name: 'two', exact: true }).click();
    await page.getByLabel('map function of two').fill('function (doc) {\n  emit(doc._id);\n  if (\n}');
    await page.getByRole('button', { name: 'f', exact: true }).click();
    await page.getByText('Not saved.').waitFor();
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText(/SyntaxError/).waitFor();
    assert.match(await page.getByLabel('map function of two').inputValue(), /if \(/, 'the function with the error is shown');
    assert.equal((await api.ok(`GET /${db}/_design/app`)).views.two.map, good);
    await window.check();
    await page.getByRole('button', { name: 'Discard changes' }).click();
    assert.equal(await page.getByLabel('map function of two').inputValue(), good);
    window.quiet();
  });

  it('adds a validation and a filter, removes a view, and keeps what it does not know', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/_design/app`, { send: { 'Content-Type': 'application/json' }, body: '{"views":{"a":{"map":"function (doc) {}"},"b":{"map":"function (doc) {}","options":{"x":1}}},"rewrites":[],"big":1234567890123456789}' });
    const page = await opened(`#/db/${db}/design/app`);
    await page.getByRole('button', { name: 'Add a validation' }).click();
    await page.getByLabel('validate function of validate_doc_update').fill('function (doc) { if (doc.bad) throw({ forbidden: "no" }); }');
    await page.getByRole('button', { name: 'Add a filter' }).click();
    await page.getByRole('dialog').getByLabel('Name').fill('f');
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'a', exact: true }).click();
    await page.getByRole('button', { name: 'Remove this view' }).click();
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText('Saved.', { exact: true }).waitFor();
    const { text } = await api.call(`GET /${db}/_design/app`);
    assert.match(text, /"big":1234567890123456789/);
    const saved = JSON.parse(text);
    assert.deepEqual([Object.keys(saved.views), Object.keys(saved.filters), saved.views.b.options, saved.rewrites], [['b'], ['f'], { x: 1 }, []]);
    assert.equal((await api.call(`PUT /${db}/x`, { body: { bad: true } })).status, 403);
    window.quiet();
  });

  it('tries a map function on a document before it is saved, and shows an error at its line', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/tent`, { body: { type: 'item', weight: 2400 } });
    await api.ok(`PUT /${db}/_design/app`, { body: { views: { by_type: { map: 'function (doc) {\n  emit(doc.type, doc.weight);\n}', reduce: '_sum' } } } });
    const page = await opened(`#/db/${db}/design/app`);
    const panel = page.getByRole('region', { name: 'Try it' });
    await page.waitForFunction(() => document.querySelector('#main [name=try]')?.value === 'tent');
    await panel.getByRole('button', { name: 'Try', exact: true }).click();
    await panel.getByText('It emits 1 row:').waitFor();
    await panel.getByRole('cell', { name: '"item"' }).waitFor();
    await panel.getByText('Reduced to:').waitFor();
    await window.check();
    const code = page.getByLabel('map function of by_type');
    await code.fill('function (doc) {\n  log(doc.type);\n  doc.owner.name;\n}');
    await panel.getByRole('button', { name: 'Try', exact: true }).click();
    await panel.getByText(/Line 3: TypeError/).waitFor();
    assert.equal(await code.getAttribute('aria-invalid'), 'true');
    await panel.getByText('log() said:').waitFor();
    await window.check();
    await code.fill('function (doc) {\n  emit(doc.type);\n  if (\n}');
    await panel.getByRole('button', { name: 'Try', exact: true }).click();
    await panel.getByText(/Line [34]: SyntaxError/).waitFor();
    assert.match((await api.ok(`GET /${db}/_design/app`)).views.by_type.map, /weight/, 'nothing is saved');
    window.quiet();
  });

  it('tries a filter and a validation', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/a`, { body: { done: true } });
    await api.ok(`PUT /${db}/_design/app`, { body: { filters: { open: 'function (doc) { return !doc.done; }' }, validate_doc_update: 'function (doc, old, user) {\n  if (user.roles.indexOf("staff") < 0) throw({ forbidden: "only staff" });\n}' } });
    const page = await opened(`#/db/${db}/design/app`);
    const panel = page.getByRole('region', { name: 'Try it' });
    await panel.getByRole('button', { name: 'Try', exact: true }).click();
    await panel.getByText('The document passes.').or(panel.getByText('The document does not pass.')).waitFor();
    await page.getByRole('button', { name: 'validate_doc_update', exact: true }).click();
    await panel.getByLabel('Roles').fill('guest');
    await panel.getByRole('button', { name: 'Try', exact: true }).click();
    await panel.getByText('The write is refused (forbidden): only staff').waitFor();
    await panel.getByLabel('Roles').fill('guest, staff');
    await panel.getByRole('button', { name: 'Try', exact: true }).click();
    await panel.getByText('The write is allowed.').waitFor();
    await window.check();
    window.quiet();
  });

  it('names an index that nobody queries', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
    for (const name of ['busy', 'idle']) await api.ok(`PUT /${db}/_design/${name}`, { body: { views: { by_n: { map: `function (doc) { emit(doc.n, '${name}'); }` } } } });
    const page = await opened(`#/db/${db}/design`);
    const row = (name) => page.getByRole('row').filter({ has: page.getByRole('link', { name, exact: true }) });
    await row('idle').getByText('never').waitFor();
    await api.ok(`GET /${db}/_design/busy/_view/by_n`);
    await window.open(`#/db/${db}/design`);
    await row('busy').getByText('1×').waitFor();
    await row('idle').getByText('never').waitFor();
    await window.check();
    window.quiet();
  });

  it('deletes a design document, and leads from a Mango index to the queries', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_index`, { body: { index: { fields: ['n'] }, ddoc: 'mango', name: 'by-n' } });
    await api.ok(`PUT /${db}/_design/app`, { body: { views: {} } });
    const page = await opened(`#/db/${db}/design/mango`);
    await page.getByText('This is an index of Mango queries.').waitFor();
    await window.check();
    await window.open(`#/db/${db}/design/app`);
    await page.getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByText('Deleted.', { exact: true }).waitFor();
    assert.equal((await api.call(`GET /${db}/_design/app`)).status, 404);
    window.quiet();
  });
});
