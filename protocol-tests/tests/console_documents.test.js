// Documents in the console, in a real browser: lists, the editor, attachments, revisions, bulk actions, queries, views,
// import and export.

import { afterEach } from 'node:test';
import { readFileSync, writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD } from '../harness/server.js';
import { Browser, noConsole } from '../harness/console.js';

describe('documents in the console', { skip: noConsole }, () => {
  const api = new Api();
  const folder = mkdtempSync(join(tmpdir(), 'settee-console-'));
  let browser;
  let window;
  before(async () => {
    await api.start();
    browser = await Browser.start();
  });
  after(async () => {
    await browser?.close();
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
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
  const fill = (db, docs) => api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
  const text = async (path) => (await api.call(`GET ${path}`)).text;

  it('makes a document, edits it, and keeps digits and the order of members', async () => {
    const db = await api.db();
    const page = await opened(`#/db/${db}`);
    await page.getByRole('link', { name: 'New document' }).first().click();
    await page.getByLabel('Id', { exact: true }).fill('a/b');
    const code = page.getByLabel(/^Text of the/);
    await code.fill('{"_id": "other"}');
    await page.getByRole('button', { name: 'Make the document' }).click();
    await page.getByText('The member _id is “other”. The id is the one in the field above').waitFor();
    await code.fill('{"10": 1, "2": 1.0, "big": 1234567890123456789, "exp": 1e30, "o": {"__proto__": {"x": 1}}}');
    await page.getByRole('button', { name: 'Make the document' }).click();
    await page.getByRole('heading', { name: 'a/b', level: 1 }).waitFor();
    const body = /"10":1,"2":1\.0,"big":1234567890123456789,"exp":1e30,"o":\{"__proto__":\{"x":1\}\}/;
    assert.match(await text(`/${db}/a%2Fb`), body);
    await window.check();
    const shown = await code.inputValue();
    await code.fill(shown.replace('"x": 1', '"x": 2'));
    await page.getByText('Not saved').waitFor();
    await page.keyboard.press('Control+s');
    await page.getByText('Saved as revision 2.').waitFor();
    assert.match(await text(`/${db}/a%2Fb`), /"10":1,"2":1\.0,"big":1234567890123456789,"exp":1e30,"o":\{"__proto__":\{"x":2\}\}/);
    window.quiet();
  });

  it('points at the line of an error, and keeps what is not saved', async () => {
    const db = await api.db();
    await fill(db, [{ _id: 'a', n: 1 }]);
    const page = await opened(`#/db/${db}/doc/a`);
    const code = page.getByLabel(/^Text of the/);
    await code.fill('{\n  "_id": "a",\n  "n": 01\n}');
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText(/\(line 3, column \d+\)/).waitFor();
    assert.equal((await page.locator('.code-wrong').innerText()).trim(), '3');
    await window.check();
    await page.getByRole('link', { name: 'Databases' }).first().click();
    const dialog = page.getByRole('dialog', { name: 'Leave without saving?' });
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    assert.match(await code.inputValue(), /01/);
    await page.getByRole('link', { name: 'Databases' }).first().click();
    await dialog.getByRole('button', { name: 'Leave' }).click();
    await page.getByRole('heading', { name: 'Databases' }).waitFor();
    window.quiet();
  });

  it('shows what somebody else wrote meanwhile before it writes over it', async () => {
    const db = await api.db();
    const [{ rev }] = await fill(db, [{ _id: 'a', n: 1 }]);
    const page = await opened(`#/db/${db}/doc/a`);
    const code = page.getByLabel(/^Text of the/);
    await code.fill((await code.inputValue()).replace('"n": 1', '"n": "mine"'));
    await api.ok(`PUT /${db}/a`, { body: { _rev: rev, n: 'theirs' } });
    await page.getByRole('button', { name: 'Save' }).click();
    const dialog = page.getByRole('dialog', { name: 'Somebody changed this document meanwhile' });
    await dialog.getByText('"theirs"').waitFor();
    await window.check();
    assert.equal((await api.ok(`GET /${db}/a`)).n, 'theirs');
    await dialog.getByRole('button', { name: 'Save mine over it' }).click();
    await page.getByText('Saved as revision 3.').waitFor();
    assert.equal((await api.ok(`GET /${db}/a`)).n, 'mine');
    window.quiet();
  });

  it('pages through documents exactly, forwards and backwards, and finds ids', async () => {
    const db = await api.db();
    await fill(db, Array.from({ length: 130 }, (_, n) => ({ _id: `doc-${String(n).padStart(3, '0')}`, n, title: `Title ${n}` })));
    const page = await opened(`#/db/${db}`);
    const first = () => page.locator('tbody tr').first().innerText();
    await page.getByText('1–50 of 130 documents').waitFor();
    assert.match(await first(), /doc-000/);
    assert.deepEqual(await page.locator('thead th').allInnerTexts(), ['', 'Id', 'n', 'title', 'Revision']);
    await window.check();
    await page.getByRole('link', { name: 'Next' }).click();
    await page.getByText('51–100 of 130 documents').waitFor();
    await page.getByRole('link', { name: 'Next' }).click();
    await page.getByText('101–130 of 130 documents').waitFor();
    assert.match(await first(), /doc-100/);
    await page.getByRole('button', { name: 'Previous' }).click();
    await page.getByText('51–100 of 130 documents').waitFor();
    assert.match(await first(), /doc-050/);
    const search = page.getByLabel('Search documents by the beginning of their id');
    await search.fill('doc-12');
    await page.getByText('10 documents', { exact: true }).waitFor();
    assert.equal(await page.locator('tbody tr').count(), 10);
    await search.fill('nothing');
    await page.getByText('No document in this range').waitFor();
    await search.fill('doc-007');
    await page.getByText('1 documents').waitFor();
    await search.press('Enter');
    await page.getByRole('heading', { name: 'doc-007', level: 1 }).waitFor();
    await window.open(`#/db/${db}?first=doc-010&last=doc-012&fields=title`);
    assert.deepEqual(await page.locator('tbody tr td:nth-child(3)').allInnerTexts(), ['Title 10', 'Title 11', 'Title 12']);
    await page.getByRole('link', { name: 'JSON' }).click();
    await page.getByText('"Title 11"').waitFor();
    await window.check();
  });

  it('deletes chosen documents, shows a deleted one, and restores it', async () => {
    const db = await api.db();
    await fill(db, [{ _id: 'a', n: 1 }, { _id: 'b', n: 2 }, { _id: 'c', n: 3 }]);
    const page = await opened(`#/db/${db}`);
    await page.getByLabel('Select a', { exact: true }).check();
    await page.getByLabel('Select b', { exact: true }).check();
    await page.getByText('2 chosen').waitFor();
    await window.check();
    await page.locator('.chosen').getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByText('2 documents deleted.').waitFor();
    await page.getByText('1–1 of 1 documents').waitFor();
    assert.equal((await api.ok(`GET /${db}`)).doc_del_count, 2);
    await window.open(`#/db/${db}/doc/a`);
    await page.getByText('This document is deleted.').waitFor();
    await page.getByRole('button', { name: /^Show revision 1-/ }).click();
    await page.getByRole('button', { name: 'Restore this revision' }).click();
    await page.getByText('Restored.').waitFor();
    assert.equal((await api.ok(`GET /${db}/a`)).n, 1);
    await window.check();
  });

  it('uploads an attachment, shows it, and deletes it', async () => {
    const db = await api.db();
    await fill(db, [{ _id: 'a', n: 1 }]);
    const page = await opened(`#/db/${db}/doc/a`);
    const name = 'note <b>1</b>.txt';
    await page.getByLabel('Files to attach').setInputFiles({ name, mimeType: 'text/plain', buffer: Buffer.from('hello from a file') });
    await page.getByRole('heading', { name: 'Attachments (1)' }).waitFor();
    assert.equal(await text(`/${db}/a/${encodeURIComponent(name)}`), 'hello from a file');
    await page.getByRole('button', { name: `Preview ${name}` }).click();
    await page.getByText('hello from a file').waitFor();
    await window.check();
    await page.keyboard.press('Escape');
    const download = page.waitForEvent('download');
    await page.getByRole('link', { name: `Download ${name}` }).click();
    assert.equal(readFileSync(await (await download).path(), 'utf8'), 'hello from a file');
    await page.getByRole('button', { name: `Delete ${name}` }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('heading', { name: 'Attachments', exact: true }).waitFor();
    assert.equal((await api.ok(`GET /${db}/a`))._attachments, undefined);
    window.quiet();
  });

  it('shows earlier revisions and what differs, and returns to one', async () => {
    const db = await api.db();
    let rev;
    for (let n = 1; n <= 3; n += 1) ({ rev } = await api.ok(`PUT /${db}/a`, { body: { _rev: rev, n, same: true } }));
    const page = await opened(`#/db/${db}/doc/a`);
    await page.getByRole('button', { name: /^Show revision 1-/ }).click();
    const dialog = page.getByRole('dialog');
    await dialog.locator('tbody tr').first().waitFor();
    assert.deepEqual(await dialog.locator('tbody tr').allInnerTexts(), ['n\t1\t3']);
    await window.check();
    await dialog.getByRole('button', { name: 'Put this into the editor' }).click();
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText('Saved as revision 4.').waitFor();
    assert.equal((await api.ok(`GET /${db}/a`)).n, 1);
    window.quiet();
  });

  it('runs a query, advises an index, makes it, and explains the plan', async () => {
    const db = await api.db();
    await fill(db, Array.from({ length: 30 }, (_, n) => ({ _id: `d${n}`, kind: n % 2 ? 'odd' : 'even', n, big: 1 })));
    const page = await opened(`#/db/${db}/query`);
    await page.getByLabel('Query as JSON').fill('{"selector": {"kind": "odd", "n": {"$gt": 20}}, "limit": 3}');
    await page.getByRole('button', { name: 'Run' }).click();
    await page.getByText('No index fits, so every document was read.').waitFor();
    await page.getByText(/^3 found; 2\d documents/).waitFor();
    await window.check();
    await page.getByRole('button', { name: 'Make an index of kind, n' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Make the index' }).click();
    await page.getByText('The index is made.').waitFor();
    await page.getByRole('button', { name: 'Run' }).click();
    await page.getByText(/^3 found; [34] documents/).waitFor();
    assert.equal(await page.getByText('No index fits').count(), 0);
    await page.getByRole('button', { name: 'Next page' }).click();
    await page.getByText('2 found').waitFor();
    await page.getByRole('button', { name: 'Explain' }).click();
    await page.getByText(/It uses the index/).waitFor();
    await window.check();
    await page.getByLabel('Query as JSON').fill('{"selector": {"n": {"$wrong": 1}}}');
    await page.getByRole('button', { name: 'Run' }).click();
    await page.getByText('Invalid operator: $wrong').waitFor();
    window.quiet();
  });

  it('shows the rows of a view by key, reduced and grouped', async () => {
    const db = await api.db();
    const map = 'function (doc) { emit([doc.kind, doc.n], 1); }';
    await fill(db, [{ _id: '_design/app', views: { by_kind: { map, reduce: '_count' } } }, ...Array.from({ length: 60 }, (_, n) => ({ _id: `d${n}`, kind: n % 2 ? 'odd' : 'even', n }))]);
    const page = await opened(`#/db/${db}/view/app/by_kind`);
    await page.getByText('1–50 of 60 rows').waitFor();
    await window.check();
    await page.getByRole('link', { name: 'Next' }).click();
    await page.getByText('51–60 of 60 rows').waitFor();
    await page.getByLabel('From key').fill('["odd"');
    await page.getByRole('button', { name: 'Show' }).click();
    await page.getByText(/This is not JSON/).waitFor();
    await page.getByLabel('From key').fill('["odd"]');
    await page.getByLabel('Reduce').selectOption('1');
    await page.getByRole('button', { name: 'Show' }).click();
    await page.getByText('["odd"]', { exact: true }).waitFor();
    assert.deepEqual(await page.locator('tbody tr').allInnerTexts(), ['["odd"]\t30']);
    window.quiet();
  });

  it('imports JSON lines with all digits, and says which lines are refused', async () => {
    const db = await api.db();
    await fill(db, [{ _id: '_design/app', validate_doc_update: 'function (doc) { if (doc.bad === 7) throw({forbidden: {code: 7}}); if (doc.bad) throw({forbidden: "no bad ones"}); }' }, { _id: 'a', old: true }]);
    const file = join(folder, 'in.jsonl');
    writeFileSync(file, ['{"_id":"a","_rev":"7-abc","n":1}', '{"_id":"b","big":12345678901234567890,"2":1,"1":2}', '', '{"_id":"c","bad":true}'].join('\n'));
    const page = await opened(`#/db/${db}/import`);
    await window.check();
    await page.getByLabel('File').setInputFiles(file);
    await page.getByRole('button', { name: 'Import' }).click();
    await page.getByText('1 document written, 1 left as they were, 1 refused.').waitFor();
    await page.getByText('Line 4, c: no bad ones').waitFor();
    assert.match(await text(`/${db}/b`), /"big":12345678901234567890,"2":1,"1":2/);
    assert.equal((await api.ok(`GET /${db}/a`)).old, true);
    await page.getByLabel('A document that is here already').selectOption('replace');
    await page.getByRole('button', { name: 'Import' }).click();
    await page.getByText('2 documents written, 1 refused.').waitFor();
    assert.equal((await api.ok(`GET /${db}/a`)).n, 1);
    writeFileSync(file, '{"_id":"z","bad":7}');
    await page.getByLabel('File').setInputFiles(file);
    await page.getByRole('button', { name: 'Import' }).click();
    await page.getByText('Line 1, z: {"code":7}').waitFor();
    writeFileSync(file, '{"_id":"x"}\n{"_id":"y",}\n');
    await page.getByLabel('File').setInputFiles(file);
    await page.getByRole('button', { name: 'Import' }).click();
    await page.getByText(/^Line 2 is not JSON/).waitFor();
    await window.check();
  });

  it('exports a database as JSON lines that can be imported again', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { send: { 'Content-Type': 'application/json' }, body: `{"docs":[${Array.from({ length: 1203 }, (_, n) => `{"_id":"d${n}","2":${n}.50,"1":1234567890123456789}`)}]}` });
    const page = await opened(`#/db/${db}`);
    await page.getByRole('button', { name: 'Export', exact: true }).click();
    await page.getByLabel('With revision numbers (_rev)').uncheck();
    await window.check();
    const download = page.waitForEvent('download');
    await page.getByRole('dialog').getByRole('button', { name: 'Export' }).click();
    const lines = readFileSync(await (await download).path(), 'utf8').trimEnd().split('\n');
    assert.equal(lines.length, 1203);
    assert.equal(new Set(lines).size, 1203);
    assert.ok(lines.includes('{"_id":"d77","2":77.50,"1":1234567890123456789}'), lines[0]);
    window.quiet();
  });
});
