// Who is signed in. The session is a cookie that scripts cannot read; nothing about it is stored in the browser.

import * as api from './api.js';

/** The user of this page; `name` is null while nobody is signed in. `admin`: of the whole server. */
export const session = { name: null, roles: [], admin: false };

function take({ name = null, roles = [] } = {}) {
  session.name = name;
  session.roles = roles;
  session.admin = roles.includes('_admin');
  return session;
}

/** Loads the session from the server. Without a session, a server with `require_valid_user` answers 401. */
export async function loadSession({ browserSignsIn = false } = {}) {
  try {
    const { userCtx } = await api.get('_session', { again: false, browserSignsIn });
    return take(userCtx);
  } catch (error) {
    if (error.status !== 401) throw error;
    return take();
  }
}

/** Signs in; throws an `ApiError` when the server refuses. `token` is the code of a second factor. */
export async function signIn(name, password, token) {
  const body = { name, password, ...(token ? { token } : {}) };
  await api.post('_session', body, { again: false });
  return loadSession();
}

/** Signs out on this device. Returns false where the browser goes on sending a name and password by itself. */
export async function signOut() {
  await api.del('_session', { again: false });
  take();
  const still = await api.getOrNull('_session').catch(() => null);
  return !still?.userCtx?.name;
}
