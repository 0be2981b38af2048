// Short messages at the edge of the window. They live in a live region, so that screen readers say them.

import { h } from '../dom.js';

/** Shows a message: what was done, or (`kind: 'error'`) what was not. `action` is `{label, onclick}`. */
export function toast(text, { kind = 'good', action } = {}) {
  const box = h('div', { class: `toast ${kind}` }, h('span', {}, text));
  const close = () => box.remove();
  if (action) box.append(h('button', { type: 'button', class: 'plain', onclick: () => { close(); action.onclick(); } }, action.label));
  box.append(h('button', { type: 'button', class: 'plain', 'aria-label': 'Close the message', onclick: close }, '×'));
  document.getElementById('toasts').append(box);
  // An error stays until it is closed; so does what can be clicked, for a while longer.
  if (kind !== 'error') setTimeout(close, action ? 12_000 : 5_000);
  return close;
}

/** Runs an action of a button: disables it meanwhile, and shows the error if there is one. */
export async function acting(button, action) {
  button.disabled = true;
  button.setAttribute('aria-busy', 'true');
  try {
    return await action();
  } catch (error) {
    if (error.name !== 'AbortError') toast(error.reason ?? error.message, { kind: 'error' });
    return undefined;
  } finally {
    button.disabled = false;
    button.removeAttribute('aria-busy');
  }
}
