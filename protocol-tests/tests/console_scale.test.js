// The console over very many documents and databases. A run in CI has fewer of both; SETTEE_SCALE=full has a million
// documents and 10,000 databases, and prints how long the screens take and how much memory the browser holds.

import { readFileSync } from 'node:fs';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD } from '../harness/server.js';
import { Browser, noConsole } from '../harness/console.js';

const full = process.env.SETTEE_SCALE === 'full';
const DOCUMENTS = full ? 1_000_000 : 20_000;
const DATABASES = full ? 10_000 : 500;
const BATCH = 5000;
/** What a screen may hold, however much there is. */
const MEMORY = 100_000_000;
const REQUESTS = 130;
const BYTES = 3_000_000;
const ELEMENTS = 5000;

const comma = (number) => number.toLocaleString('en');
/** Resident memory of a process that it shares with no other, in bytes. */
const memoryOf = (pid) => [...readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8').matchAll(/^Private_(?:Clean|Dirty): +(\d+) kB/gm)].reduce((sum, [, kb]) => sum + Number(kb) * 1024, 0);

describe('the console over very much', { skip: noConsole }, () => {
  const api = new Api();
  let browser;
  let window;
  let cdp;
  let bare;
  before(async () => {
    await api.start();
    await api.ok('PUT /many');
    await api.ok('PUT /many/_design/app', { body: { views: { by_n: { map: 'function (doc) { emit(doc.n); }' } } } });
    for (let from = 0; from < DOCUMENTS; from += BATCH) {
      const docs = Array.from({ length: BATCH }, (_, at) => ({ _id: `doc-${String(from + at).padStart(8, '0')}`, n: from + at, title: `Document ${from + at}`, text: 'some text of a small document '.repeat(4) }));
      await api.ok('POST /many/_bulk_docs', { body: { docs } });
    }
    for (let from = 0; from < DATABASES; from += 50) {
      await Promise.all(Array.from({ length: 50 }, (_, at) => api.ok(`PUT /db-${String(from + at).padStart(6, '0')}`)));
    }
    browser = await Browser.start();
    window = await browser.window(api.base);
    await window.page.goto('about:blank');
    cdp = await window.context.newCDPSession(window.page);
    await cdp.send('Performance.enable');
    bare = await pageMemory();
    await window.signIn(ADMIN, PASSWORD);
    window.page.setDefaultTimeout(120_000);
  });
  after(async () => {
    await browser?.close();
    await api.stop();
  });

  /** The private memory of the processes that show pages. */
  async function pageMemory() {
    const session = await browser.browser.newBrowserCDPSession();
    const { processInfo } = await session.send('SystemInfo.getProcessInfo');
    await session.detach();
    return processInfo.filter(({ type }) => type === 'renderer').reduce((sum, { id }) => sum + memoryOf(id), 0);
  }

  /** Opens a screen and waits for a text; checks what it asked for and holds. */
  async function opens(hash, text) {
    const { page } = window;
    await window.open('#/nowhere');
    const sizes = [];
    const count = (request) => sizes.push(request.sizes().then(({ responseBodySize }) => responseBodySize, () => 0));
    page.on('requestfinished', count);
    const started = performance.now();
    await page.evaluate((to) => { location.hash = to; }, hash);
    await page.getByText(text).first().waitFor();
    const shown = performance.now() - started;
    await window.settled();
    page.off('requestfinished', count);
    const [requests, bytes] = [sizes.length, (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)];
    await cdp.send('HeapProfiler.collectGarbage');
    const metrics = Object.fromEntries((await cdp.send('Performance.getMetrics')).metrics.map(({ name, value }) => [name, value]));
    const [elements, rows, private_] = [await page.evaluate(() => document.querySelectorAll('*').length), await page.locator('#main tbody tr').count(), await pageMemory()];
    console.log(`${hash}: ${Math.round(shown)} ms, ${requests} requests, ${comma(bytes)} bytes, ${rows} rows, ${elements} elements, heap ${comma(metrics.JSHeapUsedSize)}, memory ${comma(private_)} (an empty page: ${comma(bare)})`);
    assert.ok(requests <= REQUESTS, `${requests} requests`);
    assert.ok(bytes <= BYTES, `${bytes} bytes`);
    assert.ok(rows <= 110 && elements <= ELEMENTS, `${rows} rows, ${elements} elements`);
    assert.ok(metrics.JSHeapUsedSize < MEMORY, `a heap of ${metrics.JSHeapUsedSize} bytes`);
    assert.ok(private_ - bare < MEMORY, `${private_ - bare} bytes more than an empty page`);
    if (full) assert.ok(shown < 1000, `${Math.round(shown)} ms`);
    window.quiet();
  }

  it('opens the documents, one of them, and their last page, with exact counts', async () => {
    const { doc_count: total } = await api.ok('GET /many');
    assert.equal(total, DOCUMENTS + 1);
    await opens('#/db/many', `of ${comma(total)} documents`);
    await opens('#/db/many?as=json', `of ${comma(total)} documents`);
    await opens(`#/db/many?search=doc-${String(DOCUMENTS - 7).padStart(8, '0').slice(0, -1)}`, `doc-${String(DOCUMENTS - 1).padStart(8, '0')}`);
    await opens(`#/db/many/doc/doc-${String(DOCUMENTS >> 1).padStart(8, '0')}`, 'Revisions (1)');
    await opens('#/db/many/settings', comma(total));
    await opens('#/conflicts/many', /no conflict|No conflict|Nothing/i);
  });

  it('opens a query and a view', async () => {
    await opens('#/db/many/query', 'Run');
    await window.page.getByLabel('Query as JSON').fill('{"selector": {"_id": {"$gt": null}}, "limit": 3000}');
    await window.page.getByRole('button', { name: 'Run' }).click();
    await window.page.getByText('The first 500 are shown.').waitFor();
    assert.equal(await window.page.locator('#main tbody tr').count(), 500);
    await opens('#/db/many/design', 'app');
    await api.ok('GET /many/_design/app/_view/by_n?limit=1');
    await opens('#/db/many/view/app/by_n', 'doc-00000003');
  });

  it('opens the list of databases, its last page, and the first page of the console', async () => {
    const total = (await api.ok('GET /_all_dbs')).length;
    assert.ok(total > DATABASES);
    await opens('#/databases', `1–50 of ${comma(total)} databases`);
    await opens(`#/databases?from=${total - 10}`, `${comma(total - 9)}–${comma(total)} of ${comma(total)} databases`);
    await opens('#/databases?search=many', '1–1 of 1 databases');
    await opens('#/', comma(total - 2));
    await opens('#/connect', 'Choose a database');
    await opens('#/conflicts', /No conflict|no conflict|Nothing/i);
  });
});
