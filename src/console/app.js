// The frame of the console: starts it, keeps the navigation, and shows one screen at a time.

import { ApiError, onSignedOut } from './api.js';
import { freshId, h, put } from './dom.js';
import { signInDialog } from './elements/sign-in-dialog.js';
import { failure, loading } from './elements/states.js';
import { match, startRouter } from './router.js';
import { loadSession, session, signOut } from './session.js';
import { toast } from './elements/toast.js';

const element = (id) => document.getElementById(id);
const main = element('main');

const PERSON = 'M10 10a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4ZM3.5 17c.6-3 3.2-4.600 6.5-4.600s5.900 1.600 6.5 4.600';
/** With `admin: true` for admins only, with `false` for the others only. */
const NAVIGATION = [
  { label: 'Home', href: '#/', screens: ['home', 'connect'], icon: 'M3 9.5 10 3l7 6.5M5 8.5V17h10V8.5' },
  { label: 'Databases', href: '#/databases', screens: ['databases', 'documents', 'document', 'query', 'designs', 'design', 'view', 'database', 'import'],
    icon: 'M4 5c0-1.1 2.7-2 6-2s6 .9 6 2-2.7 2-6 2-6-.9-6-2Zm0 0v10c0 1.1 2.7 2 6 2s6-.9 6-2V5M4 10c0 1.1 2.7 2 6 2s6-.9 6-2' },
  { label: 'Conflicts', href: '#/conflicts', screens: ['conflicts', 'conflict'], icon: 'M6 3v5c0 2 1.5 3 4 4v5M14 3v5c0 2-1.5 3-4 4M4 5l2-2 2 2M12 5l2-2 2 2' },
  { label: 'Sync', href: '#/sync', screens: ['sync', 'replication'], icon: 'M16 8a6 6 0 0 0-11-1.5M4 3.5v3h3M4 12a6 6 0 0 0 11 1.5M16 16.5v-3h-3' },
  { label: 'Account', href: '#/users', screens: ['user'], icon: PERSON, admin: false },
  { label: 'Users', href: '#/users', screens: ['users', 'user'], icon: PERSON, admin: true },
  { label: 'Server', href: '#/server', screens: ['server'], icon: 'M3.5 4h13v5h-13zM3.5 11h13v5h-13zM6 6.5h.01M6 13.5h.01', admin: true },
];

const icon = (path) => {
  const picture = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  picture.setAttribute('viewBox', '0 0 20 20');
  picture.setAttribute('aria-hidden', 'true');
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  line.setAttribute('d', path);
  picture.append(line);
  return picture;
};

function showMenu(open) {
  element('sidebar').toggleAttribute('data-open', open);
  element('menu').setAttribute('aria-expanded', String(open));
}

function showFrame(screen) {
  const signedIn = session.name !== null;
  for (const id of ['top-bar', 'sidebar']) element(id).hidden = !signedIn;
  document.body.classList.toggle('signed-in', signedIn);
  if (!signedIn) return;
  put(element('nav'), NAVIGATION.filter(({ admin }) => admin === undefined || admin === session.admin).map(({ label, href, screens, icon: path }) =>
    h('a', { href, 'aria-current': screens.includes(screen) ? 'page' : null }, icon(path), label)));
  const role = session.admin ? 'Server admin' : session.roles.join(', ') || 'User';
  put(element('who'),
    h('a', { class: 'who-name', href: `#/users/${encodeURIComponent(session.name)}`, title: session.name }, h('strong', {}, session.name), h('span', { class: 'quiet' }, role)),
    h('button', { type: 'button', class: 'plain', onclick: leave }, 'Sign out'));
}

async function leave() {
  try {
    const out = await signOut();
    if (!out) toast('Your browser goes on sending the name and password that it asked you for. Close it to sign out.', { kind: 'error' });
    location.hash = '#/';
    showFrame();
    open({ screen: 'home', params: {}, query: new URLSearchParams() });
  } catch (error) {
    toast(`Not signed out: ${error.message}`, { kind: 'error' });
  }
}

let closing = new AbortController();
let first = true;

/** Shows the screen of a route. What the screen before began is aborted. */
async function open(next) {
  closing.abort();
  closing = new AbortController();
  const { signal } = closing;
  showMenu(false);
  showFrame(next.screen);
  const area = h('div', { class: 'screen', 'aria-busy': 'true' });
  const wait = setTimeout(() => { if (!area.hasChildNodes()) put(area, loading()); }, 150);
  put(main, area);
  scrollTo(0, 0);
  try {
    const name = session.name === null ? 'sign-in' : next.screen;
    if (name === null) {
      notFound(area);
      return;
    }
    const screen = await import(`./screens/${name}.js`);
    await Promise.all((screen.styles ?? []).map(addStyles));
    if (signal.aborted) return;
    const title = typeof screen.title === 'function' ? screen.title(next.params) : screen.title;
    document.title = `${title} – settee`;
    await screen.show(area, next.params, { signal, query: next.query, again: () => open(match(location.hash)) });
    if (signal.aborted) return;
    showCurrentTab(area);
    if (!first) focusHeading(area);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) console.error(error);
    put(area, failure(error, () => open(match(location.hash)), 'h1'));
  } finally {
    clearTimeout(wait);
    area.removeAttribute('aria-busy');
    first = false;
  }
}

const sheets = new Map();

/** Adds the style sheet of a screen, once. */
function addStyles(address) {
  if (!sheets.has(address)) {
    sheets.set(address, new Promise((resolve) => {
      document.head.append(h('link', { rel: 'stylesheet', href: address, onload: resolve, onerror: resolve }));
    }));
  }
  return sheets.get(address);
}

/** On a narrow window the tabs scroll; the current one should be seen. */
function showCurrentTab(area) {
  const current = area.querySelector('.tabs [aria-current]');
  if (current) current.parentElement.scrollLeft = current.offsetLeft - (current.parentElement.clientWidth - current.clientWidth) / 2;
}

/** A screen reader goes on at the heading of the new screen, as after the load of a page. */
function focusHeading(area) {
  if (area.contains(document.activeElement) || document.querySelector('dialog[open]')) return;
  const heading = area.querySelector('h1');
  if (!heading) return;
  heading.tabIndex = -1;
  heading.id ||= freshId('title');
  heading.focus({ preventScroll: true });
}

function notFound(area) {
  document.title = 'Not found – settee';
  put(area, h('h1', {}, 'There is no such page'), h('p', {}, 'The address may be from another version of settee. '), h('p', {}, h('a', { href: '#/' }, 'Go to the home page')));
}

element('menu').addEventListener('click', () => showMenu(!element('sidebar').hasAttribute('data-open')));
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || !element('sidebar').hasAttribute('data-open')) return;
  showMenu(false);
  element('menu').focus();
});
document.addEventListener('click', (event) => {
  const open = element('sidebar').hasAttribute('data-open');
  if (open && !event.target.closest('#sidebar, #menu')) showMenu(false);
});
addEventListener('settee:session', () => open(match(location.hash)));

async function start() {
  // The server shows this page at its root too, with the console's folder as the base of addresses.
  const base = new URL('.', document.baseURI);
  if (!location.href.startsWith(base.href)) history.replaceState(null, '', new URL(location.hash || '#/', base));
  try {
    await loadSession({ browserSignsIn: true });
  } catch (error) {
    put(main, h('div', { class: 'screen' }, failure(error, start, 'h1')));
    return;
  }
  onSignedOut(signInDialog);
  startRouter(open);
}

start();
