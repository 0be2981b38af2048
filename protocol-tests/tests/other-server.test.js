// Commands that are given an address at which no settee or CouchDB answers: they say what answers there, and what to check.

import http from 'node:http';
import net from 'node:net';
import { once } from 'node:events';
import { describe, it, assert } from '../harness/rows.js';
import { external, freePort } from '../harness/server.js';
import { settee } from '../harness/command.js';

/** Runs `work` with the port of a server. */
async function at(server, work) {
  await once(server.listen(0, '127.0.0.1'), 'listening');
  try {
    await work(server.address().port);
  } finally {
    server.closeAllConnections?.();
    server.close();
  }
}

/** A server that answers every request so. */
const answering = (status, headers, body) => http.createServer((_, response) => response.writeHead(status, headers).end(body));

/** The commands that ask a server at an address. */
const COMMANDS = {
  'livesync --doctor': (port) => ['livesync', '--doctor', `http://admin:secret@127.0.0.1:${port}`],
  'livesync --server': (port) => ['livesync', '--user', 'ann', '--server', `http://admin:secret@127.0.0.1:${port}`],
  replicate: (port) => ['replicate', `http://admin:secret@127.0.0.1:${port}/notes`, `http://admin:secret@127.0.0.1:${port}/copy`],
  health: (port) => ['health', '--at', `127.0.0.1:${port}`],
};

const HTML = { 'Content-Type': 'text/html', Server: 'SimpleHTTP/0.6 \t Python/3.11' };
const JSON_TYPE = { 'Content-Type': 'application/json', Server: 'other' };
const ANOTHER = /neither settee nor CouchDB/;

describe('an address at which no settee answers', { skip: !!external }, () => {
  for (const [command, args] of Object.entries(COMMANDS)) {
    const refused = async (port, ...patterns) => {
      const { code, out, err } = await settee(args(port));
      assert.deepEqual([code, out.replace(/^LiveSync's check of .*\n\n$/, '')], [1, ''], out + err);
      for (const pattern of [new RegExp(`127.0.0.1:${port}`), ...patterns]) assert.match(err, pattern);
      assert.ok(!err.includes('secret'), err);
      assert.ok(!/[^\n\P{Cc}]/u.test(err), 'no control characters');
    };

    for (const [name, status, headers, body, ...patterns] of [
      ['a file server', 404, HTML, '<!DOCTYPE HTML>\n<html>Not here', ANOTHER, /404 Not Found, Server: SimpleHTTP\/0.6 Python\/3.11, and the body `<!DOCTYPE HTML> <html>Not here`/, /Check the address/],
      ['a page', 200, HTML, '<html>Hello', ANOTHER, /200 OK/],
      ['JSON of another server', 200, JSON_TYPE, '{"name":"other"}', ANOTHER, /200 OK, Server: other, and the body `{"name":"other"}`/],
      ['a health check of another server', 200, JSON_TYPE, '{"status":"UP"}', ANOTHER],
      ['a list', 200, JSON_TYPE, '[]', ANOTHER],
      ['an error of another server', 404, JSON_TYPE, '{"error":"Not Found","status":404}', ANOTHER, /404 Not Found/],
      ['a redirect', 301, { Location: 'https://elsewhere.example/' }, '', ANOTHER, /no header Server, and an empty body/, /redirects to https:\/\/elsewhere.example\//],
      ['a sign-in before it', 401, HTML, '<html>Sign in', ANOTHER, /401 Unauthorized/],
      ['a proxy without its server', 502, HTML, '<html>Bad Gateway', ANOTHER, /a proxy .*does not reach its server/],
      ['a server that writes to the terminal', 404, { Server: 'a\u009b2Jb' }, '\u001b[2J\u009b2J cleared', ANOTHER, /body `\[2J 2J cleared`/],
    ]) {
      it(`${command}: ${name}`, () => at(answering(status, headers, body), (port) => refused(port, ...patterns)));
    }

    it(`${command}: nothing`, async () => refused(await freePort(), /nothing listens (there|at) .*Check that the server runs/));

    it(`${command}: a server that does not speak HTTP`, () =>
      at(net.createServer((socket) => socket.on('error', () => {}).end('SSH-2.0-OpenSSH_9.2\r\n')), (port) => refused(port, /HTTP/)));
  }
});
