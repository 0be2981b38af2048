// Asks for the password again when a session has ended, without losing what is on the page.

import { openDialog } from './dialog.js';
import { signInForm } from './sign-in-form.js';
import { h } from '../dom.js';
import { session } from '../session.js';

/** Resolves to whether the same user signed in again. */
export async function signInDialog() {
  const before = session.name;
  const done = await openDialog({
    title: 'Sign in again',
    fill: (close) => [h('p', {}, 'Your session has ended. What you were writing is still here.'), signInForm({ name: before ?? '', done: () => close(true) })],
  });
  const same = session.name === before;
  if (done && !same) dispatchEvent(new Event('settee:session'));
  // What one user began is not done in the name of another.
  return done === true && same;
}
