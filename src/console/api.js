// Every request of the console. Addresses are relative to the server's root, which is the folder above the console,
// also where a proxy serves the server below a path.

/** The server's root, with a slash at the end. */
export const root = new URL('../', document.baseURI);

/** The address of the server for people and for code to paste, without a slash at the end. */
export const serverAddress = () => root.href.replace(/\/$/, '');

/** An answer that says no, or no answer at all (`status` 0). `reason` is a sentence that can be shown. */
export class ApiError extends Error {
  constructor(status, error, reason) {
    super(reason || error);
    this.name = 'ApiError';
    this.status = status;
    this.error = error;
    this.reason = reason || error;
  }
}

/** One part of a path: an id or a name. Design and local documents keep the slash behind their prefix. */
export const part = (text) => encodeURIComponent(text);

export function docPath(db, id) {
  const prefix = /^(_design|_local)\//.exec(id)?.[0] ?? '';
  return `${part(db)}/${prefix}${part(id.slice(prefix.length))}`;
}

/** The path of an attachment. The slashes of its name are escaped, too: `../x` is a name, and must not lead to another folder. */
export const attachmentPath = (db, id, name) => `${docPath(db, id)}/${part(name)}`;

/** A segment that a browser takes for "this folder" or "the folder above", escaped or not. */
const DOTS = /^(\.|%2e){1,2}$/i;

/**
 * Builds `path?name=value`; values that are undefined or null are left out. A name of one or two dots is refused: the
 * browser would ask for the folder above, and "delete this document" would delete something else.
 */
export function address(path, query) {
  if (path.split('/').some((segment) => DOTS.test(segment))) {
    throw new ApiError(0, 'bad_name', 'A browser cannot ask for something whose name is one or two dots. Use another client.');
  }
  const url = new URL(path.replace(/^\//, './'), root);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null) url.searchParams.set(name, value);
  }
  return url;
}

const JSON_ONLY = { Accept: 'application/json' };
/** `X-CouchDB-WWW-Authenticate`: without it, a 401 makes the browser open its own password window. */
const ALWAYS = { ...JSON_ONLY, 'X-CouchDB-WWW-Authenticate': 'Cookie' };

let signInAgain = null;
let asking = null;

/** Names the function that asks for the password when a session has ended. It resolves to whether it succeeded. */
export function onSignedOut(handler) {
  signInAgain = handler;
}

/** Whether the session has ended; if so, and the user signs in again, the request can be repeated. */
async function regained() {
  if (!signInAgain) return false;
  const answer = await fetch(address('_session'), { headers: ALWAYS }).catch(() => null);
  const now = answer?.ok ? await answer.json().catch(() => null) : null;
  if (now?.userCtx?.name) return false;
  asking ??= signInAgain().finally(() => { asking = null; });
  return asking;
}

/** The reason of a refusal in words: a validation function may throw any value. */
export const inWords = (reason) => (reason == null ? '' : typeof reason === 'string' ? reason : JSON.stringify(reason));

/** The error of an answer, in words. */
async function refusal(answer) {
  const text = await answer.text().catch(() => '');
  try {
    const { error, reason } = JSON.parse(text);
    if (error) return new ApiError(answer.status, String(error), inWords(reason));
  } catch {
    // Not from settee: a proxy in between.
  }
  const what = { 413: 'The request is too large for the server or the proxy in front of it.',
    429: 'Too many requests. Wait a moment, then try again.',
    502: 'The proxy in front of settee does not reach it.', 503: 'The server is busy or stopping. Try again in a moment.',
    504: 'The proxy in front of settee waited too long for it.' }[answer.status];
  return new ApiError(answer.status, 'http', what ?? `The server answered with the status ${answer.status}.`);
}

/**
 * Sends a request and resolves to the `Response`, once it says yes. `body` is sent as JSON, `text` as JSON text that is
 * already written, `data` (a Blob) unchanged. `browserSignsIn`: the browser may send a name and password that it knows.
 */
export async function raw(method, path, { query, body, text, data, headers, signal, again = true, browserSignsIn = false } = {}) {
  const sent = { ...(browserSignsIn ? JSON_ONLY : ALWAYS), ...headers };
  if (body !== undefined || text !== undefined) sent['Content-Type'] ??= 'application/json';
  const content = data ?? text ?? (body === undefined ? undefined : JSON.stringify(body));
  const to = address(path, query);
  let answer;
  try {
    answer = await fetch(to, { method, headers: sent, body: content, signal, credentials: 'same-origin' });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, 'no_answer', 'The server does not answer. It may have stopped, or the network is gone.');
  }
  if (answer.ok) return answer;
  if (answer.status === 401 && again && (await regained())) {
    return raw(method, path, { query, body, text, data, headers, signal, again: false });
  }
  throw await refusal(answer);
}

/** Sends a request; resolves to `{status, headers, text, json}`, where `json` is read when it is asked for. */
export async function send(method, path, options) {
  const answer = await raw(method, path, options);
  const text = await readText(answer, options?.signal);
  return { status: answer.status, headers: answer.headers, text, get json() { return read(text, answer.status); } };
}

/** The value of an answer. Something that is no JSON comes from a proxy, or was cut off by one. */
function read(text, status) {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(status, 'broken_answer', 'The answer is not JSON. It may have broken off, or come from a proxy in between.');
  }
}

async function readText(answer, signal) {
  try {
    return await answer.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, 'broken_off', 'The answer broke off before its end. Try again.');
  }
}

/** The body as text, unchanged: for documents, whose numbers `JSON.parse` would round (see json.js). */
export async function text(path, options) {
  return (await send('GET', path, options)).text;
}

/** The body as text, or null if it has more than `limit` characters; it is then not read further. */
export async function textUpTo(limit, path, options) {
  const answer = await raw(options?.method ?? 'GET', path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch (error) {
      if (options?.signal?.aborted) throw error;
      throw new ApiError(0, 'broken_off', 'The answer broke off before its end. Try again.');
    }
    if (step.done) return parts.join('');
    length += step.value.length;
    if (length > limit) {
      await reader.cancel().catch(() => {});
      return null;
    }
    parts.push(step.value);
  }
}

/** Characters of one answer that a page takes: a browser holds several times as much. */
export const MOST_CHARACTERS = 24_000_000;

/** As `text`, but an answer that is too large for a page is an `ApiError` with `advice`. */
export async function textForPage(path, options, advice, most = MOST_CHARACTERS) {
  const found = await textUpTo(most, path, options);
  if (found === null) throw new ApiError(0, 'too_large', `The answer has more than ${most / 1_000_000} MB, too much for this page. ${advice}`);
  return found;
}

export const get = async (path, options) => (await send('GET', path, options)).json;
export const post = async (path, body = {}, options) => (await send('POST', path, { body, ...options })).json;
export const putJson = async (path, body, options) => (await send('PUT', path, { body, ...options })).json;
export const del = async (path, options) => (await send('DELETE', path, options)).json;
export const blob = async (path, options) => (await raw('GET', path, options)).blob();

/** Like `get`, but null where there is nothing or the user may not see it. */
export async function getOrNull(path, options) {
  try {
    return await get(path, { again: false, ...options });
  } catch (error) {
    if ([401, 403, 404, 405].includes(error.status)) return null;
    throw error;
  }
}

/** Uploads a file with progress (0 to 1); `fetch` cannot report it. Resolves to the JSON answer. */
export function upload(path, file, { query, type, signal, onProgress } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open('PUT', address(path, query));
    request.setRequestHeader('Content-Type', type || file.type || 'application/octet-stream');
    for (const [name, value] of Object.entries(ALWAYS)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress?.(event.loaded / event.total);
    request.onerror = () => reject(new ApiError(0, 'no_answer', 'The upload broke off. Try again.'));
    request.onabort = () => reject(new DOMException('The upload was stopped.', 'AbortError'));
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* the status says enough */ }
      if (request.status < 300) resolve(answer);
      else reject(new ApiError(request.status, answer.error ?? 'http', inWords(answer.reason) || `The server answered with the status ${request.status}.`));
    };
    signal?.addEventListener('abort', () => request.abort(), { once: true });
    request.send(file);
  });
}
