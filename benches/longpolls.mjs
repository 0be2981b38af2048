// Measures longpolls over HTTP/1.1 (a connection each) or over HTTP/2 (100 on each connection):
// node benches/longpolls.mjs URL PID 1.1|2 COUNT
// prints the server's memory for one of them, and the time from a change until the last of them is told.

import http from 'node:http';
import http2 from 'node:http2';
import { readFileSync } from 'node:fs';

const [, , url, pid, version, count] = process.argv;
const total = Number(count);
const authorization = `Basic ${Buffer.from('admin:secret').toString('base64')}`;
const path = '/waiting/_changes?feed=longpoll&since=now&timeout=600000&heartbeat=600000';
const resident = () => Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const call = (method, where, body) =>
  new Promise((resolve, reject) => {
    const headers = { authorization, 'content-type': 'application/json' };
    const sent = http.request(url + where, { method, headers, agent: false }, (answer) => {
      let text = '';
      answer.on('data', (part) => (text += part)).on('end', () => resolve(text));
    });
    sent.on('error', reject).end(body);
  });

const waiting = async () =>
  JSON.parse(await call('GET', '/_node/_local/_stats/couchdb/httpd/clients_requesting_changes')).value;

const overHttp1 = () => {
  const agent = new http.Agent({ maxSockets: Infinity });
  return Array.from({ length: total }, () =>
    new Promise((resolve, reject) => {
      http.get(url + path, { agent, headers: { authorization } }, (answer) => answer.on('end', resolve).resume()).on('error', reject);
    }),
  );
};

const overHttp2 = () => {
  const sessions = [];
  return Array.from({ length: total }, (_, number) => {
    if (number % 100 === 0) sessions.push(http2.connect(url));
    const session = sessions.at(-1);
    return new Promise((resolve, reject) => {
      session.request({ ':path': path, authorization }).on('end', resolve).on('error', reject).resume();
    });
  });
};

await call('PUT', '/waiting');
await pause(1000);
const before = resident();
const all = version === '2' ? overHttp2() : overHttp1();
while ((await waiting()) < total) await pause(50);
await pause(1000);
const after = resident();
const changed = Date.now();
await call('POST', '/waiting', '{}');
await Promise.all(all);
console.log(`| HTTP/${version} | ${((after - before) / total).toFixed(1)} | ${Date.now() - changed} |`);
process.exit(0);
