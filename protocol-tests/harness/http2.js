// Sends requests over HTTP/2 and gives them the shape of node:http, so that the tests of HTTP/1.1 run over both.

import http2 from 'node:http2';
import { EventEmitter } from 'node:events';

/** Headers that belong to a connection with HTTP/1.1 and are an error in HTTP/2. */
const OF_HTTP1 = new Set(['connection', 'keep-alive', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade', 'host']);

/** Open sessions, by `host:port`. */
const sessions = new Map();

/** Whether HTTP/2 can carry such a request: its target must be a URI, and nobody answers `Expect`. */
export function carries(path, headers) {
  return !/["<>]/.test(path) && !Object.keys(headers).some((name) => name.toLowerCase() === 'expect');
}

/** Opens a connection: over TLS with `options.ca`, by prior knowledge without. */
export function connect(port, { host = '127.0.0.1', ...options } = {}) {
  const session = http2.connect(`${options.ca ? 'https' : 'http'}://${host}:${port}`, options);
  session.on('error', () => {});
  return session;
}

function session({ host, port, agent }) {
  if (agent === false) return connect(port, { host });
  const name = `${host}:${port}`;
  const known = sessions.get(name);
  if (known && !known.closed && !known.destroyed) return known;
  const fresh = connect(port, { host });
  // Like the agent of node:http, an idle connection does not keep the process alive.
  fresh.unref();
  for (const event of ['goaway', 'close']) fresh.on(event, () => sessions.get(name) === fresh && sessions.delete(name));
  sessions.set(name, fresh);
  return fresh;
}

/** As `http.request`, with the options that `http.js` uses. */
export function request(options, onAnswer) {
  const { method, path, headers, agent } = options;
  const sent = { ':method': method, ':path': path };
  for (const [name, value] of Object.entries(headers)) {
    const lower = name.toLowerCase();
    if (lower === 'host') sent[':authority'] = String(value);
    if (!OF_HTTP1.has(lower)) sent[lower] = Array.isArray(value) ? value.map(String) : String(value);
  }
  const at = session(options);
  const call = new EventEmitter();
  const failed = (error) => call.emit('error', error);
  at.once('error', failed);
  // node sends the end of the stream with the headers of a GET unless it is told that a body follows.
  const stream = at.request(sent, { endStream: false });
  at.ref();
  let answered = false;
  stream.on('response', (fields) => {
    answered = true;
    stream.statusCode = fields[':status'];
    stream.headers = Object.fromEntries(Object.entries(fields).filter(([name]) => !name.startsWith(':')));
    onAnswer(stream);
  });
  stream.on('error', (error) => {
    // node:http has this code for a connection that ends.
    if (error.code === 'ERR_HTTP2_STREAM_CANCEL') error.code = 'ECONNRESET';
    if (!answered) failed(error);
  });
  stream.on('close', () => {
    at.off('error', failed);
    if (agent === false) at.close();
    else at.unref();
    const why = `the stream was closed before its answer (${stream.rstCode})`;
    if (!answered) failed(Object.assign(new Error(why), { code: 'ECONNRESET' }));
  });
  call.write = (part) => stream.write(part);
  call.end = (part) => stream.end(part);
  call.destroy = () => stream.close(http2.constants.NGHTTP2_CANCEL);
  stream.on('drain', () => call.emit('drain'));
  return call;
}
