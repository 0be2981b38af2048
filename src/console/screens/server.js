// The server: pictures and tasks, settings, logs, audit, backups; one file in server/ for each tab.

import { h, put } from '../dom.js';
import { heading } from '../elements/heading.js';
import { failure, notice } from '../elements/states.js';
import { link } from '../router.js';
import { session } from '../session.js';
import * as audit from '../server/audit.js';
import * as backups from '../server/backups.js';
import * as logs from '../server/logs.js';
import * as overview from '../server/overview.js';
import * as settings from '../server/settings.js';

export const title = 'Server';
export const styles = ['styles/lists.css', 'styles/chart.css'];

const TABS = [
  ['overview', 'Overview', overview],
  ['settings', 'Settings', settings],
  ['logs', 'Log', logs],
  ['audit', 'Audit', audit],
  ['backups', 'Backups and check', backups],
];

export async function show(main, { tab = 'overview' }, { signal, query }) {
  const body = h('div', { class: 'stack' });
  const [name, , part] = TABS.find(([key]) => key === tab) ?? TABS[0];
  put(main,
    heading({ title: 'Server', tabs: TABS.map(([key, label]) => ({ label, href: key === 'overview' ? link('server') : link('server', key), current: key === name })) }),
    body);
  if (!session.admin) {
    put(body, notice('info', 'Only server admins see this.'));
    return;
  }
  main.querySelector('.tabs [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  const open = async () => {
    try {
      await part.fill(body, { signal, query });
    } catch (error) {
      if (!signal.aborted) put(body, failure(error, open));
    }
  };
  await open();
}
