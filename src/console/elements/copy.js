// Buttons that copy a text, and blocks of code with one.

import { h } from '../dom.js';

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without TLS browsers offer no clipboard; the old command still works.
    const area = h('textarea', { class: 'offscreen', value: text, 'aria-hidden': 'true' });
    (document.querySelector('dialog[open]') ?? document.body).append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

/** A button that copies; `text` may be a function. */
export function copyButton(text, label = 'Copy') {
  const button = h('button', { type: 'button', class: 'small copy' }, label);
  button.addEventListener('click', async () => {
    const done = await copy(typeof text === 'function' ? text() : text);
    button.textContent = done ? 'Copied' : 'Not copied: select it and press Ctrl+C';
    button.focus();
    setTimeout(() => { button.textContent = label; }, 2000);
  });
  button.setAttribute('aria-live', 'polite');
  return button;
}

/** A block of code with a button that copies it. */
export const codeBlock = (text, label = 'Code') => h('div', { class: 'code-block' },
  h('pre', { tabindex: '0', role: 'region', 'aria-label': label }, h('code', {}, text)), copyButton(text));
