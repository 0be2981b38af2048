// The console in a headless Chromium: starts the browser, signs in, checks what every page must hold (no error, no
// request to anywhere else, no violation that axe finds, nothing wider than the window).

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { spawnSync } from 'node:child_process';
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { ADMIN, PASSWORD, external } from './server.js';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** The browser's command, or null where none is installed. */
function browserCommand() {
  const names = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].filter(Boolean);
  return names.find((name) => spawnSync(name, ['--version']).status === 0) ?? null;
}

/** Why the tests of the console are skipped; else false. */
export const noConsole = external ? 'needs a server of its own' : browserCommand() ? false : 'no Chromium is installed';

/** One browser with an empty profile. */
export class Browser {
  static async start() {
    const one = new Browser();
    one.browser = await chromium.launch({
      executablePath: browserCommand(),
      args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking', '--no-first-run'],
    });
    return one;
  }

  /** A window on the console of the server at `base`, with cookies of its own. */
  async window(base, { width = 1280, height = 860, scheme = 'light', path = '/_utils/', touch = false } = {}) {
    const context = await this.browser.newContext({
      viewport: { width, height }, colorScheme: scheme, acceptDownloads: true, hasTouch: touch, reducedMotion: 'reduce',
    });
    const page = await context.newPage();
    return new Window(context, page, `${base}${path}`);
  }

  async close() {
    await this.browser.close();
  }
}

export class Window {
  constructor(context, page, address) {
    this.context = context;
    this.page = page;
    this.address = address;
    /** Errors of scripts and of the page's policy. */
    this.errors = [];
    /** Requests to other origins. */
    this.strangers = [];
    const { origin } = new URL(address);
    context.on('request', (request) => {
      const url = request.url();
      if (!url.startsWith(`${origin}/`) && !url.startsWith('blob:') && !url.startsWith('data:')) this.strangers.push(url);
    });
    page.on('pageerror', (error) => this.errors.push(error.stack ?? error.message));
    page.on('console', (message) => {
      // The browser reports each status of 400 and more here; the console shows those itself.
      if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) this.errors.push(message.text());
    });
    page.on('dialog', (dialog) => {
      this.dialogs = [...(this.dialogs ?? []), dialog.message()];
      dialog.accept();
    });
  }

  /** Opens the console and signs in through its form. */
  async signIn(name = ADMIN, password = PASSWORD, hash = '') {
    await this.page.goto(this.address + hash);
    await this.page.getByLabel('Name', { exact: true }).fill(name);
    await this.page.getByLabel('Password', { exact: true }).fill(password);
    await this.page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await this.page.locator('#nav a').first().waitFor({ state: 'attached' });
    return this;
  }

  /** Opens a screen (`#/databases`) and waits until its heading stands there and nothing loads. */
  async open(hash) {
    await this.page.evaluate((to) => {
      document.querySelector('#main').replaceChildren();
      if (location.hash === to) dispatchEvent(new HashChangeEvent('hashchange'));
      else location.hash = to;
    }, hash);
    await this.settled();
  }

  /** Waits until the screen has a heading and nothing says that it loads. */
  async settled() {
    await this.page.locator('#main h1, #main .failure').first().waitFor();
    await this.page.waitForFunction(() => !document.querySelector('#main .loading, #main [aria-busy=true]'));
  }

  /** The violations that axe finds, as `rule: selector` lines. */
  async violations() {
    await this.page.evaluate(axe);
    const found = await this.page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }));
    return found.violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target.join(' ')}: ${failureSummary}`));
  }

  /** What every screen must hold. */
  async check() {
    assert.deepEqual(await this.violations(), []);
    const [wide, width] = await this.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= width, `the page is ${wide} wide in a window of ${width}`);
    this.quiet();
  }

  /** No script failed, nothing was asked of anybody else, no dialog of a script opened. */
  quiet() {
    assert.deepEqual(this.errors, []);
    assert.deepEqual(this.strangers, []);
    assert.deepEqual(this.dialogs ?? [], []);
  }

  close() {
    return this.context.close();
  }
}
