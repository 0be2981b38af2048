// Which web pages may use the server (CORS): shows the list, and adds an origin to it.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { field, form } from '../elements/field.js';
import { toast } from '../elements/toast.js';

const PATH = '_node/_local/_config/cors';

/** The origins that are allowed now, as a list; null if the user may not know. */
export async function allowedOrigins(signal) {
  const section = await api.getOrNull(PATH, { signal });
  if (!section) return null;
  return String(section.origins ?? '').split(',').map((each) => each.trim()).filter(Boolean);
}

/** The origin of an address, or null if it has none. */
function originOf(text) {
  try {
    const { origin } = new URL(text.includes('://') ? text : `https://${text}`);
    return origin === 'null' ? null : origin;
  } catch {
    return null;
  }
}

/** A form that adds an origin; `list` is what is allowed now. */
export function originsForm(list) {
  const shown = h('ul', { class: 'origins plain-list row' });
  const draw = () => put(shown, list.map((origin) => h('li', { class: 'badge' }, origin === '*' ? 'every page (*)' : origin)));
  draw();
  const origin = field({ label: 'Address of your web app', name: 'origin', placeholder: 'https://app.example.com', required: true });
  const add = form({ fields: [origin], submit: 'Allow this page', action: async (values) => {
    const wanted = originOf(values.origin.trim());
    if (!wanted) {
      origin.fail('That is not an address, as https://app.example.com.');
      return;
    }
    if (!list.includes(wanted)) {
      await api.putJson(`${PATH}/origins`, [...list, wanted].join(','));
      list.push(wanted);
    }
    await api.putJson(`${PATH}/credentials`, 'true');
    draw();
    origin.value = '';
    toast(`Pages of ${wanted} may use this server now.`);
  } });
  add.classList.add('inline-form');
  return h('div', { class: 'stack tight' }, h('p', { class: 'quiet small-text' }, 'Allowed now:'), shown, add);
}
