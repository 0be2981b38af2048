// Makes elements. Text always becomes a text node and never markup, so that nothing from a document can become
// part of the page.

const SVG = 'http://www.w3.org/2000/svg';

/** Properties that have no attribute of the same effect. */
const PROPERTIES = new Set(['value', 'checked', 'indeterminate', 'disabled', 'selected', 'open', 'hidden', 'spellcheck']);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'dataset') Object.assign(element.dataset, value);
    else if (PROPERTIES.has(name) && name in element) element[name] = value;
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false) element.setAttribute(name, value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Makes an HTML element: `h('a', { href: '#/', class: 'brand', onclick: go }, 'text', otherElement)`. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** Makes an SVG element. */
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Replaces the content of an element. The focus stays on the control that has it, or goes to the one that replaces it. */
export function put(element, ...children) {
  const focused = document.activeElement;
  const inside = element !== focused && element.contains(focused);
  const parts = document.createDocumentFragment();
  append(parts, children);
  element.replaceChildren(parts);
  if (inside) successor(focused, element)?.focus({ preventScroll: true });
  return element;
}

/** The control in `element` that replaces `control`: itself, or the only one of its kind that says the same. */
function successor(control, element) {
  if (control.isConnected) return control;
  const said = (of) => JSON.stringify([of.textContent, ...['type', 'name', 'href', 'aria-label'].map((name) => of.getAttribute(name))]);
  const same = [...element.querySelectorAll(control.localName)].filter((other) => said(other) === said(control));
  return same.length === 1 ? same[0] : null;
}

let last = 0;
/** An id for an element that a label or a description refers to. */
export const freshId = (prefix = 'e') => `${prefix}${++last}`;

/** Calls `action` when no call came for `wait` milliseconds. */
export function debounce(action, wait = 250) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), wait);
  };
}

/** Resolves after `ms`, or at once when the signal is aborted. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** Puts a file into the browser's downloads. */
export function download(name, blob) {
  const address = URL.createObjectURL(blob);
  h('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
