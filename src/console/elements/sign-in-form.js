// Name, password and, when the account has one, the code of the second factor.

import { field, form } from './field.js';
import { h } from '../dom.js';
import { signIn } from '../session.js';

/** A form that signs in and then calls `done`. */
export function signInForm({ name = '', done }) {
  const user = field({ label: 'Name', name: 'name', value: name, autocomplete: 'username', required: true });
  const password = field({ label: 'Password', name: 'password', type: 'password', autocomplete: 'current-password', required: true });
  const code = field({ label: 'Code', name: 'token', autocomplete: 'one-time-code', inputmode: 'numeric', hint: 'From your authenticator app.' });
  code.hidden = true;
  const second = h('button', { type: 'button', class: 'plain', onclick: () => { code.hidden = false; second.hidden = true; code.control.focus(); } }, 'I have a second factor');
  const element = form({
    fields: [user, password, code],
    submit: 'Sign in',
    extra: [second],
    action: async (values) => {
      try {
        await signIn(values.name, values.password, values.token.trim());
      } catch (error) {
        password.control.select();
        throw error;
      }
      await done();
    },
  });
  element.classList.add('sign-in-form');
  if (name) password.control.setAttribute('autofocus', '');
  return element;
}
