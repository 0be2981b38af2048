// Accounts: search, and making one. One account is screens/user.js.

import { debounce, h, put } from '../dom.js';
import * as api from '../api.js';
import { heading } from '../elements/heading.js';
import { empty, failure, loading } from '../elements/states.js';
import { dataTable } from '../elements/table.js';
import { field } from '../elements/field.js';
import { toast } from '../elements/toast.js';
import { plural } from '../format.js';
import { go, link } from '../router.js';
import { session } from '../session.js';
import { create, hasTotp, isLocked, list, nameOf, randomPassword, withRole } from '../users/accounts.js';

export const title = 'Users and devices';
export const styles = ['styles/lists.css'];

/** Roles as somebody types them: commas between them. */
export const splitRoles = (text) => [...new Set(text.split(',').map((role) => role.trim()).filter(Boolean))];

export async function show(main, params, { signal, query }) {
  if (!session.admin) {
    go(link('users', session.name), { replace: true });
    return;
  }
  const results = h('div');
  const form = newUser();
  form.hidden = query.get('new') === null;
  const name = h('input', { type: 'search', name: 'q', placeholder: 'Name begins with…', 'aria-label': 'Name begins with', autocomplete: 'off', spellcheck: 'false' });
  const role = h('input', { type: 'search', name: 'role', placeholder: 'Has role…', 'aria-label': 'Has role', autocomplete: 'off', spellcheck: 'false' });
  const search = () => find(results, { prefix: name.value.trim(), role: role.value.trim(), openForm }, signal);
  const openForm = () => {
    form.hidden = false;
    form.elements.name.focus();
  };
  for (const input of [name, role]) input.addEventListener('input', debounce(search));
  put(main,
    heading({ title: 'Users and devices', actions: [h('button', { type: 'button', class: 'primary', onclick: openForm }, 'New user')] }),
    form,
    h('search', { class: 'row' }, h('span', { class: 'grow' }, name), role),
    results,
    await admins(signal));
  if (!form.hidden) form.elements.name.focus();
  await search();
}

let latest = 0;

async function find(results, wanted, signal) {
  latest += 1;
  const mine = latest;
  const page = (from) => (wanted.role
    ? withRole(wanted.role, { bookmark: from?.bookmark, signal })
    : list({ prefix: wanted.prefix, after: from ? nameOf(from.users.at(-1)) : undefined, signal }));
  try {
    if (!results.firstChild) put(results, loading('Reading the accounts…'));
    const first = await page();
    if (mine === latest && !signal.aborted) put(results, ...table(first, page, wanted));
  } catch (error) {
    if (mine === latest && !signal.aborted) put(results, failure(error, () => find(results, wanted, signal)));
  }
}

function table(first, page, { prefix, role, openForm }) {
  const matching = (users) => users.filter((user) => nameOf(user).startsWith(prefix));
  if (first.users.length === 0 && (prefix || role)) {
    return [empty({ title: 'Nobody found', text: role ? `No account has the role ${role}.` : `No account has a name that begins with ${prefix}.` })];
  }
  if (first.users.length === 0) {
    return [empty({
      title: 'No users yet',
      text: 'An account is what an app signs in with. Give each person one: then every device can be seen, and signed out, by itself.',
      actions: [h('button', { type: 'button', class: 'primary', onclick: openForm }, 'Make the first user')],
    })];
  }
  const rows = matching(first.users);
  const element = dataTable({ label: 'Users', columns: COLUMNS, rows, key: nameOf, href: (user) => link('users', nameOf(user)) });
  const more = h('button', { type: 'button' }, 'Show more');
  more.hidden = !first.more;
  let from = first;
  more.addEventListener('click', async () => {
    more.disabled = true;
    try {
      from = await page(from);
      rows.push(...matching(from.users));
      element.update(rows);
      more.hidden = !from.more;
    } catch (error) {
      toast(error.message, { kind: 'error' });
    }
    more.disabled = false;
  });
  return [element, more];
}

const quiet = (text) => h('span', { class: 'quiet' }, text);
const rolesOf = (user) => (Array.isArray(user.roles) ? user.roles : []);
const COLUMNS = [
  { label: 'Name', cell: nameOf },
  { label: 'Roles', cell: (user) => (rolesOf(user).length > 0 ? h('span', { class: 'row' }, rolesOf(user).map((role) => h('span', { class: 'badge' }, String(role)))) : quiet('none')) },
  { label: 'Second factor', minor: true, cell: (user) => (hasTotp(user) ? 'on' : quiet('off')) },
  { label: 'State', cell: (user) => (isLocked(user) ? h('span', { class: 'badge error' }, 'locked') : quiet('active')) },
];

/** The form for a new account. */
function newUser() {
  const problem = h('p', { class: 'form-error', role: 'alert' });
  const form = h('form', { class: 'panel', 'aria-label': 'New user', autocomplete: 'off' },
    h('h2', {}, 'New user'),
    h('div', { class: 'fields' },
      field({ label: 'Name', name: 'name', required: true, autocomplete: 'off', spellcheck: 'false', hint: 'It cannot be changed later.' }),
      field({ label: 'Password', name: 'password', required: true, autocomplete: 'new-password', spellcheck: 'false', hint: 'Made up for you. Copy it now: only its hash is kept.' }),
      field({ label: 'Roles', name: 'roles', autocomplete: 'off', spellcheck: 'false', hint: 'Optional. Databases name roles to say who may use them; commas between several.' })),
    problem,
    h('div', { class: 'row' },
      h('button', { class: 'primary' }, 'Make the user'),
      h('button', { type: 'button', onclick: () => { form.hidden = true; } }, 'Cancel')));
  form.elements.password.value = randomPassword();
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const submit = form.querySelector('button.primary');
    const { name: { value: name }, password, roles } = form.elements;
    problem.textContent = '';
    submit.disabled = true;
    try {
      await create({ name: name.trim(), password: password.value, roles: splitRoles(roles.value) });
      toast(`${name.trim()} can sign in now.`);
      go(link('users', name.trim()));
    } catch (error) {
      problem.textContent = error.status === 409 ? 'There is an account of this name already.' : `The account was not made: ${error.message}`;
      submit.disabled = false;
    }
  });
  return form;
}

/** Server admins are settings, not accounts. */
async function admins(signal) {
  const found = await api.getOrNull('_node/_local/_config/admins', { signal });
  const names = Object.keys(found ?? {});
  return h('section', { class: 'panel', 'aria-label': 'Server admins' },
    h('h2', {}, 'Server admins'),
    h('p', {}, names.map((name) => h('a', { class: 'badge', href: link('users', name) }, name))),
    h('p', { class: 'quiet' }, `${plural(names.length, 'admin')} of the whole server, kept in the settings and not as accounts. Apps should not sign in as one.`));
}
