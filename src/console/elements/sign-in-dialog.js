// Asks for the password again when a session has ended, without losing what is on the page.

import { openDialog } from './dialog.js';
import { signInForm } from './sign-in-form.js';
import { h } from '../dom.js';
import { session } from '../session.js';

/** Resolves to whether the user signed in again. */
export async function signInDialog() {
  const before = session.name;
  const done = await openDialog({
    title: 'Sign in again',
    fill: (close) => [h('p', {}, 'Your session has ended. What you were writing is still here.'), signInForm({ name: before ?? '', done: () => close(true) })],
  });
  if (done && session.name !== before) dispatchEvent(new Event('settee:session'));
  return done === true;
}
