// From the part of the address behind `#` to a screen. Only that part changes, so that the console works below any
// path. A route is a pattern; a segment that begins with `:` is a parameter, and `*` takes the rest.

const ROUTES = [
  ['/', 'home'],
  ['/connect', 'connect'],
  ['/databases', 'databases'],
  ['/db/:db', 'documents'],
  ['/db/:db/doc/:id', 'document'],
  ['/db/:db/new', 'document'],
  ['/db/:db/query', 'query'],
  ['/db/:db/design', 'designs'],
  ['/db/:db/design/:ddoc', 'design'],
  ['/db/:db/view/:ddoc/:view', 'view'],
  ['/db/:db/settings', 'database'],
  ['/db/:db/import', 'import'],
  ['/conflicts', 'conflicts'],
  ['/conflicts/:db', 'conflicts'],
  ['/conflicts/:db/:id', 'conflict'],
  ['/sync', 'sync'],
  ['/sync/:tab', 'sync'],
  ['/replication/new', 'replication'],
  ['/replication/:id', 'replication'],
  ['/users', 'users'],
  ['/users/:name', 'user'],
  ['/server', 'server'],
  ['/server/:tab', 'server'],
].map(([pattern, screen]) => ({ parts: pattern.split('/').slice(1), screen }));

const decode = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

/** `{screen, params, query}` of a hash; `screen` is null where no route fits. */
export function match(hash) {
  const [path, search = ''] = split(hash.replace(/^#/, '') || '/');
  const parts = path.split('/').slice(1);
  const query = new URLSearchParams(search);
  for (const route of ROUTES) {
    if (route.parts.length !== parts.length) continue;
    const params = {};
    const fits = route.parts.every((own, at) => {
      if (!own.startsWith(':')) return own === parts[at];
      params[own.slice(1)] = decode(parts[at]);
      return parts[at] !== '';
    });
    if (fits) return { screen: route.screen, params, query, path };
  }
  return { screen: null, params: {}, query, path };
}

function split(text) {
  const at = text.indexOf('?');
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

/** The address of a screen: `link('db', name, 'doc', id)`, with parameters in a last object. */
export function link(...segments) {
  const query = typeof segments.at(-1) === 'object' ? segments.pop() : null;
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== '') search.set(name, value);
  }
  const tail = search.size > 0 ? `?${search}` : '';
  return `#/${segments.map((segment) => encodeURIComponent(segment)).join('/')}${tail}`;
}

/** Opens a screen. `replace` leaves no entry in the browser's history. */
export function go(address, { replace = false } = {}) {
  if (!replace) {
    location.hash = address;
    return;
  }
  history.replaceState(null, '', address);
  window.dispatchEvent(new HashChangeEvent('hashchange'));
}

let guard = null;
let current = '';

/** Changes the address of the present screen without opening it again: for what it already shows, as a search. */
export function rewrite(address) {
  history.replaceState(null, '', address);
  current = location.hash;
}

/** Until the screen is left, asks `mayLeave` (which may be async) before another one opens. Returns its removal. */
export function guardLeaving(mayLeave, signal) {
  guard = mayLeave;
  const warn = (event) => event.preventDefault();
  addEventListener('beforeunload', warn);
  const remove = () => {
    removeEventListener('beforeunload', warn);
    if (guard === mayLeave) guard = null;
  };
  signal?.addEventListener('abort', remove, { once: true });
  return remove;
}

/** Calls `open` for the present address and each one after it. */
export function startRouter(open) {
  current = location.hash;
  const changed = async () => {
    const wanted = location.hash;
    if (wanted === '#main') {
      history.replaceState(null, '', current || '#/');
      document.getElementById('main').focus();
      return;
    }
    if (guard && wanted !== current) {
      const asked = guard;
      history.replaceState(null, '', current || '#/');
      if (!(await asked())) return;
      if (guard === asked) guard = null;
      history.pushState(null, '', wanted);
    }
    current = location.hash;
    open(match(current));
  };
  addEventListener('hashchange', changed);
  open(match(current));
}
