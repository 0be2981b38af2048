// Runs tests of HTTP/1.1 over HTTP/2. `SETTEE_HTTP2=true` in the environment runs any test file that way.

process.env.SETTEE_HTTP2 = 'true';

for (const name of ['attachments', 'bulk', 'changes', 'cors', 'documents', 'sessions']) {
  await import(`./${name}.test.js`);
}
