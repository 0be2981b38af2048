// Sets up Obsidian's plugin Self-hosted LiveSync: asks for the password, which the server keeps as a hash only, and shows the
// link and the QR code that the server makes of it.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { codeBlock, copyButton } from '../elements/copy.js';
import { field, form } from '../elements/field.js';
import { notice } from '../elements/states.js';
import { grant } from '../security.js';
import { session } from '../session.js';

/** The panel for `{url, db, user}`. */
export function obsidianPanel({ url, db, user }) {
  const result = h('div', { class: 'stack', role: 'status' });
  const address = field({ label: 'Address for the devices', name: 'url', type: 'url', value: url, required: true, hint: addressHint(url) });
  const password = field({ label: `Password of ${user}`, name: 'password', type: 'password', autocomplete: 'off', required: true, hint: 'It goes into the link, encrypted. The server does not keep it.' });
  const encrypt = field({ label: 'End-to-end encryption', name: 'encrypt', type: 'checkbox', checked: true, hint: 'The server stores the notes, and cannot read them.' });
  const phrase = field({ label: 'Passphrase of the vault', name: 'vault_passphrase', type: 'password', autocomplete: 'off', hint: 'Empty: a new one is made up. If the vault has notes already, type its passphrase.' });
  const rebuild = session.admin ? field({ label: `${user} may rebuild the vault`, name: 'rebuild', type: 'checkbox', checked: true, hint: 'The plugin then deletes the database and fills it again.' }) : null;
  encrypt.control.addEventListener('change', () => { phrase.hidden = !encrypt.value; });
  const fields = [address, password, encrypt, phrase, rebuild].filter(Boolean);
  const make = form({ fields, submit: 'Make link and QR code', action: async (values) => {
    put(result);
    const asked = { url: values.url.trim(), db, name: user, password: values.password, encrypt: values.encrypt, ...(values.encrypt && values.vault_passphrase ? { vault_passphrase: values.vault_passphrase } : {}) };
    const made = await api.post('_livesync/link', asked);
    if (values.rebuild) await allowRebuild(db, user, values.encrypt);
    password.value = '';
    phrase.value = '';
    put(result, made.vault_passphrase === null ? null : notice('warning', 'Keep the passphrases: they are shown only now.'), steps(made));
    result.scrollIntoView({ block: 'nearest' });
  } });
  return h('section', { class: 'panel', 'aria-label': 'Set up Obsidian' }, h('h2', {}, 'Set up Obsidian'),
    h('p', {}, 'A link, or its QR code, sets up the plugin Self-hosted LiveSync on each device.'), make, result);
}

function addressHint(url) {
  const { protocol, hostname } = new URL(url);
  if (['localhost', '127.0.0.1', '[::1]'].includes(hostname)) return 'Only this machine reaches the server by this address. For other devices, type the one by which they do.';
  return protocol === 'http:' ? 'Phones need an address with https.' : 'The link contains it.';
}

/** What the plugin's "rebuild" needs: an admin of the database, which is known as a vault. */
async function allowRebuild(db, user, encrypted) {
  await grant(db, user, 'admins');
  await api.putJson(`_node/_local/_config/livesync/${api.part(db)}`, encrypted ? 'encrypted' : 'plain');
}

const secret = (label, text) => h('div', { class: 'stack tight' }, h('p', { class: 'quiet' }, label), codeBlock(text, label));

/** What to do on each device, with the link and its picture. */
function steps({ link, passphrase, vault_passphrase: vault, qr_svg: svg }) {
  const picture = svg ? h('img', { class: 'qr-code', src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`, alt: 'QR code of the setup link', width: 320, height: 320 }) : null;
  return h('ol', { class: 'stack device-steps' },
    h('li', {}, 'On the device, install the plugin “Self-hosted LiveSync” in Obsidian.'),
    h('li', {}, h('div', { class: 'stack tight' }, h('p', {}, picture ? 'Scan this code with the camera, or open the link.' : 'Open the link.'), picture,
      h('div', { class: 'row' }, h('a', { class: 'button', href: link }, 'Open in Obsidian'), copyButton(link, 'Copy the link')))),
    h('li', {}, secret('Type this when the plugin asks for the passphrase of the link:', passphrase)),
    vault === null ? h('li', {}, 'The notes are not encrypted on the server.') : h('li', {}, secret('The link contains the passphrase of the vault. Keep it: without it nobody can read the notes.', vault)),
    h('li', {}, 'More devices use the same link and the same passphrase.'));
}
