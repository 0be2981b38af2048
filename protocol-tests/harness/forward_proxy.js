// Proxies that a client names: HTTP (it forwards requests, and opens tunnels for CONNECT) and SOCKS 5 (RFC 1928, 1929).
// Both want a user and a password, and record what they were asked.

import http from 'node:http';
import net from 'node:net';

export const USER = 'ann';
export const SECRET = 's@cret';
const AUTHORIZATION = `Basic ${Buffer.from(`${USER}:${SECRET}`).toString('base64')}`;

/** Listens on a free port of this machine. */
async function listen(server) {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server.address().port;
}

/** Joins two sockets until one of them ends. */
function join(one, other) {
  for (const [from, to] of [[one, other], [other, one]]) {
    from.pipe(to);
    from.on('error', () => to.destroy());
    from.on('close', () => to.destroy());
  }
}

export class HttpProxy {
  /** What it was asked: `forward METHOD URL` or `tunnel HOST:PORT`; `refused` without the password. */
  asked = [];

  async start() {
    this.server = http.createServer((from, to) => {
      if (!this.knows(from)) return to.writeHead(407, { 'Proxy-Authenticate': 'Basic' }).end();
      const url = new URL(from.url);
      this.asked.push(`forward ${from.method} ${url.host}`);
      const { 'proxy-authorization': _, ...headers } = from.headers;
      const options = { host: url.hostname, port: url.port, method: from.method, path: url.pathname + url.search, headers };
      const call = http.request(options, (answer) => {
        to.writeHead(answer.statusCode, answer.headers);
        answer.pipe(to);
      });
      call.on('error', () => to.destroy());
      from.pipe(call);
    });
    this.server.on('connect', (from, socket) => {
      socket.on('error', () => {});
      if (!this.knows(from)) return socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
      this.asked.push(`tunnel ${from.url}`);
      const [host, port] = from.url.split(':');
      const to = net.connect(port, host, () => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n');
        join(socket, to);
      });
      to.on('error', () => socket.destroy());
    });
    this.port = await listen(this.server);
  }

  knows(request) {
    const known = request.headers['proxy-authorization'] === AUTHORIZATION;
    if (!known) this.asked.push('refused');
    return known;
  }

  stop() {
    this.server.close();
    this.server.closeAllConnections();
  }
}

export class SocksProxy {
  /** `HOST:PORT` of each connection; `refused` without the password. */
  asked = [];
  sockets = new Set();

  async start() {
    this.server = net.createServer((socket) => {
      this.sockets.add(socket);
      socket.on('error', () => {});
      this.serve(socket).catch(() => socket.destroy());
    });
    this.port = await listen(this.server);
  }

  async serve(socket) {
    let held = Buffer.alloc(0);
    const read = async (count) => {
      while (held.length < count) {
        const part = socket.read();
        if (part) held = Buffer.concat([held, part]);
        else if (held.length < count) await new Promise((resolve, reject) => socket.once('readable', resolve).once('end', reject));
      }
      const taken = held.subarray(0, count);
      held = held.subarray(count);
      return taken;
    };
    const [, methods] = await read(2);
    await read(methods);
    socket.write(Buffer.from([5, 2]));
    const [, nameLength] = await read(2);
    const name = String(await read(nameLength));
    const password = String(await read((await read(1))[0]));
    const known = name === USER && password === SECRET;
    socket.write(Buffer.from([1, known ? 0 : 1]));
    if (!known) {
      this.asked.push('refused');
      return socket.end();
    }
    const [, , , kind] = await read(4);
    const host = kind === 1 ? [...(await read(4))].join('.') : String(await read((await read(1))[0]));
    const port = (await read(2)).readUInt16BE();
    this.asked.push(`${host}:${port}`);
    const to = net.connect(port, host, () => {
      socket.write(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
      if (held.length) to.write(held);
      join(socket, to);
    });
    to.on('error', () => socket.destroy());
    this.sockets.add(to);
  }

  stop() {
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
  }
}
