// Every screen of the console under every bad condition: hostile texts, a server that is slow, that fails, that answers
// rubbish or not at all; a narrow window, light and dark; the keyboard alone; and nothing asked of anybody else.

import { readdirSync } from 'node:fs';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ADMIN, PASSWORD } from '../harness/server.js';
import { Browser, noConsole } from '../harness/console.js';
import { fillScreens } from '../harness/console_screens.js';
import { match } from '../../src/console/router.js';

/** Waits until what the page asked for has come: the screens that follow something go on asking. */
const AT_REST = () => !document.querySelector('#main .loading, #main [aria-busy=true]') && document.querySelector('#main h1');

describe('every screen of the console', { skip: noConsole }, () => {
  const api = new Api();
  let browser;
  let screens;
  before(async () => {
    await api.start();
    screens = await fillScreens(api);
    browser = await Browser.start();
  });
  after(async () => {
    await browser?.close();
    await api.stop();
  });
  const opened = async (options) => {
    const window = await browser.window(api.base, options);
    window.page.setDefaultTimeout(20_000);
    return window.signIn(ADMIN, PASSWORD);
  };
  /** Runs a check for each screen; what fails names the screen. */
  const each = async (check) => {
    for (const [name, hash, expected = {}] of screens) {
      await check(hash, expected, name).catch((error) => { throw new Error(`${name} (${hash}): ${error.message}`, { cause: error }); });
    }
  };
  const closed = async (window, work) => {
    try {
      await work();
    } finally {
      await window.close();
    }
  };

  it('is in this list', () => {
    const known = new Set([...screens.map(([, hash]) => match(hash).screen), 'sign-in']);
    assert.deepEqual([...known].sort(), readdirSync(new URL('../../src/console/screens', import.meta.url)).map((file) => file.replace('.js', '')).sort());
  });

  it('shows markup as text', async () => {
    const window = await opened();
    await closed(window, () => each(async (hash, { text }) => {
      await window.open(hash);
      if (text) await window.page.waitForFunction((wanted) => document.querySelector('#main').textContent.includes(wanted) || [...document.querySelectorAll('#main textarea')].some(({ value }) => value.includes(wanted)), text);
      // What is closed is filled when it opens.
      await window.page.evaluate(() => { for (const closed of document.querySelectorAll('#main details')) closed.open = true; });
      await window.page.waitForFunction(() => new Promise((resolve) => { requestAnimationFrame(() => setTimeout(() => resolve(true))); }));
      assert.equal(await window.page.evaluate(() => globalThis.owned), undefined, 'no script of a text ran');
      assert.equal(await window.page.locator('main script, main img[src="x"], main iframe, main object').count(), 0);
      window.quiet();
    }));
  });

  for (const scheme of ['light', 'dark']) {
    it(`fits a window of 360 pixels and has no violation that axe finds (${scheme})`, async () => {
      const window = await opened({ width: 360, height: 740, scheme, touch: true });
      await closed(window, () => each(async (hash) => {
        await window.open(hash);
        await window.check();
      }));
    });
  }

  it('says that it waits for a slow server, and can be left', async () => {
    const window = await opened();
    const { page } = window;
    const files = /\/_utils\//;
    await closed(window, () => each(async (hash, _, name) => {
      const held = [];
      await page.route((url) => !files.test(url.pathname), (route) => held.push(route));
      await page.evaluate((to) => { location.hash = to; }, hash);
      // A form needs no answer; everything else says that it waits.
      await page.waitForFunction(() => document.querySelector('#main .loading, #main form, #main input, #main .screen [aria-busy=true]'));
      await page.unrouteAll({ behavior: 'ignoreErrors' });
      for (const route of held) route.abort().catch(() => {});
      await page.evaluate(() => { location.hash = '#/nowhere'; });
      await page.getByRole('heading', { name: 'There is no such page' }).waitFor().catch(() => { throw new Error(`${name} cannot be left`); });
      window.quiet();
    }));
  });

  for (const [what, answer] of [
    ['fails', (route) => route.fulfill({ status: 500, contentType: 'application/json', body: '{"error":"internal_server_error","reason":"<b>The store</b> has failed."}' })],
    ['is behind a proxy that does not reach it', (route) => route.fulfill({ status: 502, contentType: 'text/html', body: '<h1>Bad Gateway</h1>' })],
    ['answers what is no JSON', (route) => route.fulfill({ status: 200, contentType: 'application/json', body: '{"rows":[' })],
    ['answers what no screen expects', (route) => route.fulfill({ status: 200, contentType: 'application/json', body: 'null' })],
    ['is gone', (route) => route.abort('failed')],
  ]) {
    it(`says what is wrong when the server ${what}, and works when it is well again`, async () => {
      const window = await opened();
      const { page } = window;
      const api = (url) => !/\/_utils\//.test(url.pathname);
      await closed(window, () => each(async (hash) => {
        await page.route(api, answer);
        await page.evaluate((to) => { document.querySelector('#main').replaceChildren(); location.hash = to; }, hash);
        await page.waitForFunction(AT_REST).catch(async () => page.locator('#main .failure').first().waitFor());
        const shown = await page.locator('#main').innerText();
        assert.ok(shown.trim().length > 20, `the screen is empty: ${shown}`);
        assert.ok(!/undefined|\[object|Cannot read|is not a function|not iterable|NaN/.test(shown), shown);
        assert.equal(await page.locator('#main b').filter({ hasText: 'The store' }).count(), 0, 'the reason is text');
        if (what === 'fails') assert.deepEqual(await window.violations(), []);
        await page.unroute(api);
        await window.open('#/nowhere').catch(() => {});
        await window.open(hash);
        assert.equal(await page.locator('#main .failure').count(), 0, 'it is well again');
        assert.deepEqual([window.strangers, window.dialogs ?? []], [[], []]);
      }));
    });
  }

  it('lets the keyboard reach everything, in order, and shows where it is', async () => {
    const window = await opened();
    const { page } = window;
    await closed(window, () => each(async (hash) => {
      await window.open(hash);
      const wanted = await page.evaluate(() => {
        const all = [...document.querySelectorAll('#main a[href], #main button, #main input, #main select, #main textarea, #main summary')];
        const radios = new Set();
        const reachable = all.filter((element) => {
          if (element.disabled || element.tabIndex < 0 || !element.checkVisibility({ visibilityProperty: true }) || element.getClientRects().length === 0) return false;
          if (element.type !== 'radio') return true;
          // Tab goes to one of a group; arrow keys to the others.
          return radios.has(element.name) ? false : (radios.add(element.name), true);
        });
        reachable.forEach((element, at) => { element.dataset.reach = element.type === 'radio' ? `radio ${element.name}` : String(at); });
        for (const element of all) if (element.type === 'radio') element.dataset.reach = `radio ${element.name}`;
        return reachable.map((element) => element.dataset.reach);
      });
      await page.evaluate(() => { const main = document.querySelector('#main'); main.tabIndex = -1; main.focus(); });
      const reached = new Set();
      let inCode = false;
      for (let left = wanted.length + 40; left > 0 && reached.size < new Set(wanted).size; left -= 1) {
        // In a field for code Tab indents; Escape and then Tab leaves it.
        if (inCode) await page.keyboard.press('Escape');
        await page.keyboard.press('Tab');
        const now = await page.evaluate(() => {
          const element = document.activeElement;
          const style = getComputedStyle(element);
          const code = element.matches('textarea.code-text');
          return { code, reach: element.dataset.reach ?? null, inside: Boolean(element.closest('#main')), shows: [style, getComputedStyle(element.closest('.code-frame') ?? element)].some((of) => of.outlineStyle !== 'none' && of.outlineWidth !== '0px'), what: element.outerHTML.slice(0, 120) };
        });
        if (!now.inside) break;
        inCode = now.code;
        assert.ok(now.shows, `the focus cannot be seen at ${now.what}`);
        if (now.reach !== null) reached.add(now.reach);
      }
      const missed = wanted.filter((reach) => !reached.has(reach));
      const what = await page.evaluate((names) => names.map((name) => document.querySelector(`[data-reach="${name}"]`)?.outerHTML.slice(0, 120) ?? name), missed.slice(0, 3));
      assert.deepEqual(what, [], `${missed.length} of ${wanted.length} are not reached by Tab`);
      window.quiet();
    }));
  });

  it('opens what is very large', async () => {
    const db = await api.db();
    const wide = Object.fromEntries(Array.from({ length: 10_000 }, (_, n) => [`member ${n}`, n]));
    await api.ok(`PUT /${db}/large`, { body: { text: 'x'.repeat(7_900_000), n: 1 } });
    await api.ok(`PUT /${db}/_design/app`, { body: { views: { all: { map: 'function (doc) { emit(doc.n, doc); }' } } } });
    for (const [id, body] of [['wide', wide], ['long', { text: 'x'.repeat(3_900_000) }]]) {
      const { rev } = await api.ok(`PUT /${db}/${id}`, { body });
      const parent = rev.split('-')[1];
      await api.ok(`POST /${db}/_bulk_docs`, { body: { new_edits: false, docs: ['a', 'b'].map((letter) => ({ ...body, 'member 5': letter, 'member 9999': letter, text2: letter, _id: id, _rev: `2-${letter.repeat(32)}`, _revisions: { start: 2, ids: [letter.repeat(32), parent] } })) } });
    }
    const window = await opened();
    const { page } = window;
    await closed(window, async () => {
      for (const [hash, shows] of [[`#/conflicts/${db}`, 'wide'], [`#/conflicts/${db}/wide`, 'member 9999'], [`#/conflicts/${db}/long`, 'text2'], [`#/db/${db}/view/app/all`, 'large'], [`#/db/${db}/design/app`, 'all'], [`#/db/${db}/query`, 'Run']]) {
        const started = Date.now();
        await window.open(hash);
        await page.waitForFunction((wanted) => document.querySelector('#main').innerText.includes(wanted), shows).catch((error) => { throw new Error(`${hash}: ${error.message}`); });
        assert.ok(Date.now() - started < 15_000, `${hash} took ${Date.now() - started} ms`);
        const [nodes, text] = await page.evaluate(() => [document.querySelectorAll('#main *').length, document.querySelector('#main').innerText.length]);
        assert.ok(nodes < 5000 && text < 300_000, `${hash}: ${nodes} elements, ${text} characters`);
        window.quiet();
      }
      await page.getByRole('button', { name: 'Run' }).click();
      await page.waitForFunction(AT_REST);
      const [nodes, text] = await page.evaluate(() => [document.querySelectorAll('#main *').length, document.querySelector('#main').innerText.length]);
      assert.ok(nodes < 5000 && text < 300_000, `the query: ${nodes} elements, ${text} characters`);
      window.quiet();
    });
  });
});
