// A mocha reporter for pouchdb-suite.sh: prints each failing test immediately, and at the end the counts and
// the titles of all failures.
'use strict';

const { writeFileSync } = require('node:fs');

module.exports = function counts(runner) {
  const seen = { pass: 0, pending: 0, fail: 0 };
  const failed = [];
  const from = Date.now();
  const file = (test) => {
    for (let at = test; at; at = at.parent) if (at.file) return at.file.replace(/^.*\/tests\//, '');
    return '';
  };
  runner.on('pass', (test) => {
    seen.pass += 1;
    if (process.env.VERBOSE) console.log(`ok   ${file(test)} :: ${test.fullTitle()}`);
  });
  runner.on('pending', () => (seen.pending += 1));
  runner.on('fail', (test, error) => {
    seen.fail += 1;
    const reason = String((error && (error.message || error.reason)) || JSON.stringify(error)).split('\n')[0].slice(0, 200);
    failed.push(`  ${file(test)} :: ${test.fullTitle()}\n      ${reason}`);
    console.log(`FAIL ${file(test)} :: ${test.fullTitle()}\n     ${(error && error.stack) || reason}`);
  });
  runner.on('end', () => {
    const seconds = Math.round((Date.now() - from) / 1000);
    const lines = [`passing ${seen.pass}, pending ${seen.pending}, failing ${seen.fail} (${seconds} s)`, ...failed];
    console.log(`\n${lines.join('\n')}`);
    if (process.env.COUNTS) writeFileSync(process.env.COUNTS, `${lines.join('\n')}\n`);
  });
};
