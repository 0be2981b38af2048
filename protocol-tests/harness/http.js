// An HTTP client for tests: sends any method and any bytes in path, headers and body; returns the unprocessed
// response.
//
// With `SETTEE_HTTP2=true`, requests go over HTTP/2 (`http2.js`), except those that only HTTP/1.1 can carry.

import http from 'node:http';
import net from 'node:net';
import * as http2 from './http2.js';

const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

/**
 * Sends one request. A string or Buffer `body` is sent unchanged, a stream is piped, anything else is sent as
 * JSON. Resolves to `{status, headers, body, text, json}`; `json` is undefined if the body is not JSON.
 */
export function request(base, { method = 'GET', path = '/', headers = {}, body, fresh = false, onStream } = {}) {
  const at = new URL(base);
  let data = body;
  const sent = { ...headers };
  const has = (name) => Object.keys(sent).some((key) => key.toLowerCase() === name);
  if (data !== undefined && typeof data !== 'string' && !Buffer.isBuffer(data) && typeof data?.pipe !== 'function') {
    data = JSON.stringify(data);
    if (!has('content-type')) sent['Content-Type'] = 'application/json';
  }
  if (typeof data === 'string') data = Buffer.from(data);
  if (Buffer.isBuffer(data) && !has('content-length') && !has('transfer-encoding')) {
    sent['Content-Length'] = data.length;
  }
  for (const key of Object.keys(sent)) if (sent[key] === undefined) delete sent[key];
  const send = process.env.SETTEE_HTTP2 === 'true' && http2.carries(path, sent) ? http2.request : http.request;
  return new Promise((resolve, reject) => {
    const call = send(
      { host: at.hostname, port: at.port, method, path, headers: sent, agent: fresh ? false : agent },
      (answer) => {
        if (onStream) return resolve(onStream(answer, call));
        const parts = [];
        answer.on('data', (part) => parts.push(part));
        answer.on('error', reject);
        answer.on('end', () => {
          const whole = Buffer.concat(parts);
          const text = whole.toString('utf8');
          let json;
          try {
            json = JSON.parse(text);
          } catch {
            json = undefined;
          }
          resolve({ status: answer.statusCode, headers: answer.headers, body: whole, text, json });
        });
      },
    );
    call.on('error', reject);
    if (data && typeof data.pipe === 'function') data.pipe(call);
    else call.end(data);
  });
}

/** Sends raw bytes on a new connection. Resolves to all bytes received until the server closes or `done(text)`. */
export function raw(port, bytes, { done = () => false, end = false, host = '127.0.0.1' } = {}) {
  return new Promise((resolve, reject) => {
    let got = Buffer.alloc(0);
    const socket = net.connect(port, host, () => {
      socket.write(bytes);
      if (end) socket.end();
    });
    const limit = setTimeout(() => socket.destroy(new Error(`no end of the answer; so far: ${got}`)), 30_000);
    socket.on('data', (part) => {
      got = Buffer.concat([got, part]);
      if (done(got.toString('latin1'))) socket.destroy();
    });
    socket.on('error', (error) => {
      clearTimeout(limit);
      if (error.code === 'ECONNRESET' || error.code === 'EPIPE') resolve(got.toString('latin1'));
      else reject(error);
    });
    socket.on('close', () => {
      clearTimeout(limit);
      resolve(got.toString('latin1'));
    });
  });
}

/** The lines of a live feed. `next()` resolves to the next line, or to null at the end. */
export class Lines {
  constructor(answer, call) {
    this.answer = answer;
    this.call = call;
    this.status = answer.statusCode;
    this.headers = answer.headers;
    this.waiting = [];
    this.lines = [];
    this.ended = false;
    let rest = '';
    answer.setEncoding('utf8');
    answer.on('data', (part) => {
      rest += part;
      const lines = rest.split('\n');
      rest = lines.pop();
      for (const line of lines) this.#push(line);
    });
    const finish = () => {
      if (this.ended) return;
      if (rest) this.#push(rest);
      this.ended = true;
      for (const wake of this.waiting.splice(0)) wake(null);
    };
    answer.on('end', finish);
    answer.on('error', finish);
    answer.on('close', finish);
  }

  #push(line) {
    const wake = this.waiting.shift();
    if (wake) wake(line);
    else this.lines.push(line);
  }

  next(seconds = 20) {
    if (this.lines.length > 0) return Promise.resolve(this.lines.shift());
    if (this.ended) return Promise.resolve(null);
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`no line within ${seconds} s`)), seconds * 1000);
      this.waiting.push((line) => {
        clearTimeout(limit);
        resolve(line);
      });
    });
  }

  /** Resolves to the next line that is not empty (heartbeats are empty lines). */
  async row(seconds = 20) {
    for (;;) {
      const line = await this.next(seconds);
      if (line === null || line.trim() !== '') return line;
    }
  }

  close() {
    this.call.destroy();
  }
}

/** Opens a feed. Resolves to its `Lines` once the response head has arrived. */
export function lines(base, options) {
  return request(base, { ...options, fresh: true, onStream: (answer, call) => new Lines(answer, call) });
}

/** Splits a multipart body: `[{headers, body: Buffer}]`. */
export function multipart(contentType, body) {
  const boundary = contentType.match(/boundary="?([^";]+)"?/)[1];
  const mark = Buffer.from(`--${boundary}`);
  const parts = [];
  let at = body.indexOf(mark);
  while (at >= 0) {
    const from = at + mark.length;
    if (body.subarray(from, from + 2).toString() === '--') break;
    const next = body.indexOf(mark, from);
    if (next < 0) throw new Error('a multipart body without its closing boundary');
    let part = body.subarray(from, next);
    if (part.subarray(0, 2).toString() === '\r\n') part = part.subarray(2);
    if (part.subarray(-2).toString() === '\r\n') part = part.subarray(0, -2);
    const split = part.indexOf('\r\n\r\n');
    const head = split >= 0 ? part.subarray(0, split).toString() : part.toString();
    const headers = {};
    for (const line of head.split('\r\n').filter(Boolean)) {
      const colon = line.indexOf(':');
      headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
    }
    parts.push({ headers, body: split >= 0 ? part.subarray(split + 4) : Buffer.alloc(0) });
    at = next;
  }
  return parts;
}
