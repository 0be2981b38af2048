// Dialogs: the browser's own `<dialog>`, which keeps the focus inside and closes on Escape.

import { freshId, h } from '../dom.js';
import { field, form } from './field.js';

/** Opens a dialog with a heading. `fill(close)` returns its content. Resolves to what `close` was called with. */
export function openDialog({ title, fill, wide = false, kind = '' }) {
  return new Promise((resolve) => {
    const id = freshId('dialog');
    let result;
    const dialog = h('dialog', { 'aria-labelledby': id, class: `${wide ? 'wide' : ''} ${kind}` });
    const close = (value) => {
      result = value;
      dialog.close();
    };
    dialog.append(h('div', { class: 'dialog-head' }, h('h2', { id }, title),
      h('button', { type: 'button', class: 'plain close', 'aria-label': 'Close', onclick: () => close() }, '×')), ...[fill(close)].flat());
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    const first = dialog.querySelector('[autofocus], input:not([type=hidden]), textarea, select, .row button');
    first?.focus();
  });
}

const cancel = (close) => h('button', { type: 'button', onclick: () => close() }, 'Cancel');

/**
 * Asks before something is done. `typed`: a name that must be typed first, for what cannot be undone. `action`, if given,
 * runs in the dialog, which stays open and shows the error when it fails. Resolves to whether it was confirmed.
 */
export async function ask({ title, body, confirm = 'OK', typed, danger = Boolean(typed), action }) {
  const text = [body].flat().filter(Boolean).map((each) => (typeof each === 'string' ? h('p', {}, each) : each));
  const name = typed ? field({ label: `Type “${typed}” to confirm`, name: 'typed' }) : null;
  const answer = await openDialog({ title, kind: danger ? 'danger' : '', fill: (close) => [...text, form({
    fields: name ? [name] : [],
    submit: confirm,
    danger,
    extra: [cancel(close)],
    action: async () => {
      if (typed && name.value !== typed) {
        name.fail('That is not the name.');
        return;
      }
      await action?.();
      close(true);
    },
  })] });
  return answer === true;
}

/** A form in a dialog. `action(values)` runs on submit; the dialog closes with its result, or shows its error. */
export function formDialog({ title, intro, fields, submit, action, wide }) {
  return openDialog({ title, wide, fill: (close) => [intro ? (typeof intro === 'string' ? h('p', {}, intro) : intro) : null, form({
    fields,
    submit,
    extra: [cancel(close)],
    action: async (values, element) => {
      const result = await action(values, element);
      if (result !== false) close(result ?? true);
    },
  })].filter(Boolean) });
}
