// A TCP proxy that cuts connections, to simulate an unreliable mobile network.

import net from 'node:net';

export class Proxy {
  constructor(port) {
    this.target = port;
    this.pairs = new Set();
    this.cuts = 0;
    this.down = false;
  }

  async start() {
    this.listener = net.createServer((client) => {
      if (this.down) return client.destroy();
      const server = net.connect(this.target, '127.0.0.1');
      const pair = { client, server };
      this.pairs.add(pair);
      const end = () => {
        client.destroy();
        server.destroy();
        this.pairs.delete(pair);
      };
      client.on('error', end).on('close', end);
      server.on('error', end).on('close', end);
      client.pipe(server);
      server.pipe(client);
      return undefined;
    });
    await new Promise((resolve) => this.listener.listen(0, '127.0.0.1', resolve));
    this.port = this.listener.address().port;
    return this;
  }

  /** Cuts each open connection for which `choose` returns true, even in the middle of a message. */
  cut(choose = () => true) {
    for (const pair of [...this.pairs]) {
      if (!choose()) continue;
      this.cuts += 1;
      pair.client.destroy();
      pair.server.destroy();
    }
  }

  async stop() {
    this.down = true;
    this.cut();
    await new Promise((resolve) => this.listener.close(resolve));
  }
}

/** A seeded pseudo-random generator (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return { next, below: (n) => Math.floor(next() * n), pick: (list) => list[Math.floor(next() * list.length)], chance: (p) => next() < p };
}
