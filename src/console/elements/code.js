// A field for code: line numbers, colours for JSON and JavaScript, Tab for two spaces, and a mark at the line of an error.
// It is a `<textarea>` over a coloured copy of its text, so that typing, undo and screen readers work as everywhere.

import { freshId, h, put } from '../dom.js';

/** Longer texts are shown without colours, which would make typing slow. */
const COLOURED = 60_000;
const TOKENS = {
  json: /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b)|\b(true|false|null)\b/g,
  js: /(\/\/[^\n]*|\/\*[\s\S]*?\*\/)|("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)|(\b\d+(?:\.\d+)?\b)|\b(function|return|var|let|const|if|else|for|in|of|while|do|throw|new|typeof|instanceof|null|true|false|undefined|switch|case|break|continue|try|catch|this)\b/g,
};

function colours(text, language) {
  const parts = document.createDocumentFragment();
  let at = 0;
  for (const found of text.matchAll(TOKENS[language])) {
    const kind = language === 'json'
      ? (found[1] ? (found[2] ? 'json-key' : 'tok-string') : found[3] ? 'tok-number' : 'tok-word')
      : (found[1] ? 'quiet' : found[2] ? 'tok-string' : found[3] ? 'tok-number' : 'tok-word');
    const shown = language === 'json' && found[1] ? found[1] : found[0];
    parts.append(text.slice(at, found.index), h('span', { class: kind }, shown));
    at = found.index + shown.length;
  }
  // A line end at the very end has no height of its own in a `<pre>`.
  parts.append(text.slice(at), '\n');
  return parts;
}

/**
 * A code field. `label` is its name for screen readers, `language` is json or js, `rows` its least height in lines.
 * The element has `value`, `control`, and `fail(text, line, column)` (no text: no error); `oninput` hears of changes.
 */
export function codeField({ label, value = '', language = 'json', rows = 8, most = 34, readonly = false, oninput, save }) {
  const error = h('p', { class: 'field-error', id: freshId('error'), role: 'alert', hidden: true });
  const numbers = h('pre', { class: 'code-numbers', 'aria-hidden': 'true' });
  const copy = h('pre', { class: 'code-copy', 'aria-hidden': 'true' });
  const control = h('textarea', { class: 'code-text', 'aria-label': label, 'aria-describedby': error.id, spellcheck: false, autocapitalize: 'none', autocomplete: 'off', wrap: 'off', readonly });
  const frame = h('div', { class: 'code-frame' }, numbers, h('div', { class: 'code-area' }, copy, control));
  const box = h('div', { class: 'code-field' }, frame, error);
  let wrong = 0;
  let lines = 0;
  const draw = () => {
    const text = control.value;
    const coloured = text.length <= COLOURED;
    frame.classList.toggle('coloured', coloured);
    put(copy, coloured ? colours(text, language) : null);
    const now = text.split('\n').length;
    if (now !== lines || wrong) number(now);
  };
  const number = (now) => {
    lines = now;
    const all = Array.from({ length: now }, (_, at) => `${at + 1}\n`);
    put(numbers, wrong ? [all.slice(0, wrong - 1).join(''), h('span', { class: 'code-wrong' }, String(wrong)), '\n', all.slice(wrong).join('')] : all.join(''));
    frame.style.height = `calc(${Math.min(most, Math.max(rows, now))} * var(--code-line) + 18px)`;
  };
  const follow = () => {
    copy.style.transform = `translate(${-control.scrollLeft}px, ${-control.scrollTop}px)`;
    numbers.style.transform = `translateY(${-control.scrollTop}px)`;
  };
  control.addEventListener('scroll', follow);
  control.addEventListener('input', () => { box.fail(); draw(); follow(); oninput?.(); });
  control.addEventListener('keydown', (event) => typed(event, control, save));
  box.control = control;
  box.fail = (text, line, column) => {
    error.textContent = text ?? '';
    error.hidden = !text;
    control.setAttribute('aria-invalid', String(Boolean(text)));
    const before = wrong;
    wrong = text && line ? line : 0;
    if (wrong || before) number(control.value.split('\n').length);
    if (wrong) show(control, wrong, column);
  };
  Object.defineProperty(box, 'value', { get: () => control.value, set: (text) => { control.value = text; draw(); follow(); } });
  box.value = value;
  return box;
}

/** Puts the cursor at a place and scrolls there. */
function show(control, line, column = 1) {
  const start = control.value.split('\n').slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0) + column - 1;
  control.focus();
  control.setSelectionRange(start, start);
  const height = Number.parseFloat(getComputedStyle(control).lineHeight) || 20;
  control.scrollTop = Math.max(0, (line - 4) * height);
}

function typed(event, control, save) {
  if ((event.ctrlKey || event.metaKey) && ['s', 'Enter'].includes(event.key) && save) {
    event.preventDefault();
    save();
  } else if (event.key === 'Escape') {
    // The next Tab leaves the field, for people who use no mouse.
    control.dataset.leave = 'true';
  } else if (event.key === 'Tab' && !event.shiftKey && !event.ctrlKey && !event.altKey && !control.readOnly && !control.dataset.leave) {
    event.preventDefault();
    document.execCommand('insertText', false, '  ');
  } else if (event.key === 'Enter' && !control.readOnly) {
    const before = control.value.slice(0, control.selectionStart);
    const indent = /[^\n]*$/.exec(before)[0].match(/^\s*/)[0];
    const deeper = /[{[(]\s*$/.test(before) ? '  ' : '';
    if (!indent && !deeper) return;
    event.preventDefault();
    document.execCommand('insertText', false, `\n${indent}${deeper}`);
  } else if (event.key !== 'Shift') {
    delete control.dataset.leave;
  }
}
