// The head of a screen: where it belongs, its title, its actions and tabs.

import { h } from '../dom.js';

/**
 * `crumbs` are `[label, address]`, `actions` are buttons and links, `tabs` are `{label, href, current, note}`. `lead` is a
 * sentence about the screen.
 */
export function heading({ title, crumbs = [], actions = [], tabs: list, lead, mono = false }) {
  return h('header', { class: 'heading' },
    crumbs.length > 0 ? h('nav', { class: 'crumbs', 'aria-label': 'You are here' }, h('ol', {}, crumbs.map(([label, href]) => h('li', {}, h('a', { href }, label))))) : null,
    h('div', { class: 'heading-line' }, h('h1', { class: mono ? 'mono' : '' }, title), actions.length > 0 ? h('div', { class: 'row' }, actions) : null),
    lead ? h('p', { class: 'lead' }, lead) : null,
    list ? tabs(list) : null);
}

/** Links that change between the parts of a subject. */
export const tabs = (list, label = 'Parts') => h('nav', { class: 'tabs', 'aria-label': label },
  list.map(({ label: text, href, current, note }) => h('a', { href, 'aria-current': current ? 'page' : null }, text, note != null ? h('span', { class: 'count' }, note) : null)));
