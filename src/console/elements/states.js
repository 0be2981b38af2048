// What stands where content would be: while it loads, when there is none, when it failed.

import { h } from '../dom.js';

/** Shown while something loads. */
export const loading = (text = 'Loading…') => h('p', { class: 'loading', role: 'status' }, h('span', { class: 'spinner', 'aria-hidden': 'true' }), text);

/** Says that there is nothing, why that may be, and what to do; `actions` are buttons and links. */
export const empty = ({ title, text, actions = [] }) => h('div', { class: 'empty' },
  h('h2', {}, title), text ? h('p', {}, text) : null, actions.length > 0 ? h('div', { class: 'row center' }, actions) : null);

const ADVICE = [
  [(error) => error.status === 0, 'Check that the server runs and that this machine reaches it.'],
  [(error) => error.status === 401 || error.status === 403, 'Your account may not do this. A server admin can give you the right.'],
  [(error) => error.status === 404, 'It may have been deleted or renamed since this page was opened.'],
  [(error) => error.status === 429, 'The server limits how fast one client may ask.'],
  [(error) => error.status >= 500, 'The cause is in the log of the server.'],
];

/** Says what failed in the words of the server, what can be done, and offers to try again. `heading` is h1 where it stands for a whole screen. */
export function failure(error, retry, heading = 'h2') {
  const advice = ADVICE.find(([fits]) => fits(error))?.[1];
  return h('div', { class: 'failure', role: 'alert' },
    h(heading, {}, 'This did not work'),
    h('p', {}, error instanceof TypeError ? 'The answer of the server is not what this page expects. Another version of the server, or a proxy in between, may have made it.' : error.reason ?? error.message ?? String(error)),
    advice ? h('p', { class: 'quiet' }, advice) : null,
    retry ? h('div', { class: 'row' }, h('button', { type: 'button', onclick: () => retry() }, 'Try again')) : null);
}

/** A short message inside a page: `kind` is info, good, warning or error. */
export const notice = (kind, ...children) => h('div', { class: `notice ${kind}`, role: kind === 'error' ? 'alert' : null }, ...children);
