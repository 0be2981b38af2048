// Drives a headless Chromium through its debugging pipe (file descriptors 3 and 4, JSON that ends with a zero
// byte): opens a page, evaluates code in it, makes a picture of it.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The command of the browser, or null where none is installed. */
export function chromium() {
  const names = [process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome'].filter(Boolean);
  return names.find((name) => spawnSync(name, ['--version']).status === 0) ?? null;
}

export class Page {
  /** Starts a browser with a fresh profile that accepts every certificate, and opens `url`. */
  static async open(url, { flags = [] } = {}) {
    const page = new Page();
    page.profile = mkdtempSync(join(tmpdir(), 'settee-chromium-'));
    page.browser = spawn(
      chromium(),
      [
        '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--ignore-certificate-errors',
        '--no-first-run', '--disable-background-networking', '--remote-debugging-pipe',
        `--user-data-dir=${page.profile}`, ...flags, 'about:blank',
      ],
      // In a process group of its own, so that all its processes can be killed.
      { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'], detached: true },
    );
    page.exited = new Promise((resolve) => page.browser.on('exit', resolve));
    // What waits for the browser fails when it ends.
    page.ended = page.exited.then(() => Promise.reject(new Error('the browser has ended')));
    page.ended.catch(() => {});
    for (const pipe of [3, 4]) page.browser.stdio[pipe].on('error', () => {});
    try {
      await page.#begin(url);
      return page;
    } catch (error) {
      await page.close();
      throw error;
    }
  }

  async #begin(url) {
    this.calls = new Map();
    this.waiting = new Map();
    this.last = 0;
    let rest = '';
    this.browser.stdio[4].setEncoding('utf8').on('data', (part) => {
      const messages = (rest + part).split('\0');
      rest = messages.pop();
      for (const message of messages) this.#take(JSON.parse(message));
    });
    const { targetId } = await this.#call('Target.createTarget', { url: 'about:blank' });
    ({ sessionId: this.session } = await this.#call('Target.attachToTarget', { targetId, flatten: true }));
    await this.#call('Page.enable');
    const loaded = this.#event('Page.loadEventFired');
    const { errorText } = await this.#call('Page.navigate', { url });
    if (errorText) throw new Error(`${url}: ${errorText}`);
    await Promise.race([loaded, this.ended]);
  }

  #take(message) {
    const call = this.calls.get(message.id);
    this.calls.delete(message.id);
    if (call && message.error) call.reject(new Error(message.error.message));
    else if (call) call.resolve(message.result);
    this.waiting.get(message.method)?.(message.params);
  }

  #event(method) {
    return new Promise((resolve) => this.waiting.set(method, resolve));
  }

  #call(method, params = {}) {
    const id = ++this.last;
    this.browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId: this.session })}\0`);
    return Promise.race([new Promise((resolve, reject) => this.calls.set(id, { resolve, reject })), this.ended]);
  }

  /** Evaluates an expression, which may be a promise, and resolves to its value. */
  async evaluate(expression) {
    const params = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.#call('Runtime.evaluate', params);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Writes a picture of the page. */
  async picture(path) {
    const { data } = await this.#call('Page.captureScreenshot', { format: 'png' });
    writeFileSync(path, Buffer.from(data, 'base64'));
  }

  async close() {
    // Ends the browser's other processes first, which write to the profile as long as they run.
    this.session = undefined;
    this.#call('Browser.close').catch(() => {});
    const killed = setTimeout(() => process.kill(-this.browser.pid, 'SIGKILL'), 10_000);
    await this.exited;
    clearTimeout(killed);
    await rm(this.profile, { recursive: true, force: true, maxRetries: 50, retryDelay: 100 });
  }
}
