// A reverse proxy as nginx is with its defaults: it collects the parts of an answer until it has some kilobytes or
// the answer ends, unless the server says `X-Accel-Buffering: no`; it adds `X-Forwarded-*`; and it may serve the
// server below a path of its own.

import http from 'node:http';

/** Bytes that are collected before they are passed on. */
const BUFFER = 32 << 10;

export class ReverseProxy {
  /** `prefix`: the path below which the server is, as `/sync`; empty for the root. */
  constructor(port, prefix = '') {
    this.target = port;
    this.prefix = prefix;
  }

  async start() {
    this.listener = http.createServer((from, to) => this.pass(from, to));
    await new Promise((resolve) => this.listener.listen(0, '127.0.0.1', resolve));
    this.port = this.listener.address().port;
    return this;
  }

  get base() {
    return `http://127.0.0.1:${this.port}${this.prefix}`;
  }

  pass(from, to) {
    if (!from.url.startsWith(`${this.prefix}/`)) {
      to.writeHead(404).end();
      return;
    }
    const headers = { ...from.headers, 'x-forwarded-for': from.socket.remoteAddress, 'x-forwarded-proto': 'http' };
    const options = { host: '127.0.0.1', port: this.target, method: from.method, path: from.url.slice(this.prefix.length), headers };
    const call = http.request(options, (answer) => {
      to.writeHead(answer.statusCode, answer.headers);
      const buffers = answer.headers['x-accel-buffering'] !== 'no';
      if (!buffers) to.flushHeaders();
      let parts = [];
      let bytes = 0;
      const flush = () => {
        if (bytes) to.write(Buffer.concat(parts));
        [parts, bytes] = [[], 0];
      };
      answer.on('data', (part) => {
        parts.push(part);
        bytes += part.length;
        if (!buffers || bytes >= BUFFER) flush();
      });
      answer.on('end', () => {
        flush();
        to.end();
      });
      answer.on('error', () => to.destroy());
    });
    call.on('error', () => to.destroy());
    to.on('close', () => call.destroy());
    from.pipe(call);
  }

  async stop() {
    this.listener.closeAllConnections();
    await new Promise((resolve) => this.listener.close(resolve));
  }
}
