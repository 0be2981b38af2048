// The first screen of everybody: what this is, and the form to sign in.

import { root, serverAddress } from '../api.js';
import { h, put } from '../dom.js';
import { signInForm } from '../elements/sign-in-form.js';

export const title = 'Sign in';
export const styles = ['styles/home.css'];

/** The page that asked for a sign-in (`session.html?return=PATH`), if it is one of this server; null otherwise. */
function cameFrom() {
  const path = new URLSearchParams(location.search).get('return');
  if (!path) return null;
  try {
    const url = new URL(path, location.origin);
    return url.origin === location.origin && url.href.startsWith(root.href) ? url.href : null;
  } catch {
    return null;
  }
}

export async function show(main, params, { query, again }) {
  const done = async () => {
    const back = cameFrom();
    if (back) location.assign(back);
    else again();
  };
  const reason = query.get('reason') ?? new URLSearchParams(location.search).get('reason');
  put(main, h('div', { class: 'sign-in' },
    h('div', { class: 'brand large' }, h('img', { src: 'icon.svg', alt: '', width: 40, height: 40 }), h('h1', {}, 'settee')),
    h('p', { class: 'quiet' }, 'A sync server for apps that work offline. It speaks the CouchDB replication protocol.'),
    reason ? h('p', { class: 'notice info' }, reason) : null,
    h('div', { class: 'panel' }, h('h2', {}, 'Sign in'), signInForm({ done })),
    h('details', { class: 'sign-in-help' }, h('summary', {}, 'I have no name and password'),
      h('p', {}, 'The first start of the server makes an admin, with the name and password in COUCHDB_USER and COUCHDB_PASSWORD. Without them, it prints a password once. To set another one, run this on the machine of the server:'),
      h('pre', {}, h('code', {}, 'settee admin NAME'))),
    h('p', { class: 'quiet small-text' }, serverAddress())));
  main.querySelector('input')?.focus();
}
