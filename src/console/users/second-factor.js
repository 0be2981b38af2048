// The card for one-time codes (TOTP) of an account.

import { h, put } from '../dom.js';
import { field } from '../elements/field.js';
import { ask } from '../elements/dialog.js';
import { copyButton } from '../elements/copy.js';
import { toast } from '../elements/toast.js';
import { hasTotp, setTotp } from './accounts.js';
import { canCheck, matches, newKey, otpauth } from './totp.js';

/** The card; `open` reads the account again after a change. */
export function secondFactor({ name, user }, open) {
  const card = h('section', { class: 'panel', 'aria-label': 'Second factor' });
  put(card, ...(hasTotp(user) ? switchOff(name, open) : offer(card, name, open)));
  return card;
}

function switchOff(name, open) {
  const off = h('button', { type: 'button', class: 'danger', onclick: async () => {
    const sure = await ask({
      title: 'Switch the second factor off?', confirm: 'Switch it off',
      body: `${name} then signs in with the password alone.`,
    });
    if (!sure) return;
    try {
      await setTotp(name, null);
      toast('The second factor is off.');
      await open();
    } catch (error) {
      toast(error.message, { kind: 'error' });
    }
  } }, 'Switch it off');
  return [
    h('h2', {}, 'Second factor'),
    h('p', {}, 'On: signing in takes the password and a code from an authenticator app.'),
    h('p', { class: 'quiet' }, 'Apps that send name and password with each request cannot sign in to this account; they need a session or tokens.'),
    h('div', { class: 'row' }, off),
  ];
}

function offer(card, name, open) {
  return [
    h('h2', {}, 'Second factor'),
    h('p', { class: 'quiet' }, 'Off. When it is on, signing in takes a code from an authenticator app besides the password, and apps that send name and password with each request are refused.'),
    h('div', { class: 'row' }, h('button', { type: 'button', onclick: () => {
      put(card, ...setUp(name, open));
      card.querySelector('input')?.focus();
    } }, 'Set it up')),
  ];
}

function setUp(name, open) {
  const key = newKey();
  const problem = h('p', { class: 'form-error', role: 'alert' });
  const check = canCheck();
  const form = h('form', { onsubmit: async (event) => {
    event.preventDefault();
    problem.textContent = '';
    if (check && !(await matches(key, form.elements.code.value))) {
      problem.textContent = 'This is not the code of now. Look at the app again; if it stays wrong, check the clocks of both devices.';
      return;
    }
    try {
      await setTotp(name, key);
      toast('The second factor is on. Sessions that are open stay open: sign the devices out to end them.');
      await open();
    } catch (error) {
      problem.textContent = `It was not switched on: ${error.message}`;
    }
  } },
  check ? field({ label: 'Code that the app shows', name: 'code', required: true, inputmode: 'numeric', autocomplete: 'one-time-code', pattern: '[0-9 ]{6,7}' }) : null,
  problem,
  h('div', { class: 'row' }, h('button', { class: 'primary' }, 'Switch it on'), h('button', { type: 'button', onclick: open }, 'Cancel')));
  return [
    h('h2', {}, 'Second factor'),
    h('p', {}, 'Add this key to an authenticator app (as a time-based code):'),
    h('p', { class: 'row apart' }, h('code', { class: 'key break' }, key.match(/.{4}/g).join(' ')), copyButton(key)),
    h('p', {}, h('a', { href: otpauth(name, key) }, 'Open it in an app of this device')),
    form,
  ];
}
