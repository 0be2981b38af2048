// Shows, lists, updates and rewrites: builds responses from documents and rows.
//
// Adds entries to the table of sandbox.js. A running list calls `inner.exchange(part)`, which sends a part of the
// response to the client and returns the text of the next row, or nothing after the last one.
(function (table, inner) {
  'use strict';

  const stringify = JSON.stringify;
  const parse = JSON.parse;
  const text = String;
  const run = Reflect.apply;
  const isList = Array.isArray;
  const join = Array.prototype.join;
  const split = String.prototype.split;
  const trim = String.prototype.trim;
  const { find, guarded, publish, describe, log, exchange, design } = inner;

  function added(list, item) {
    list[list.length] = item;
  }

  // ---- content types: provides and registerType -----------------------------------------------------------

  const typesOf = { __proto__: null };
  const nameOf = { __proto__: null };

  function registerType(name, ...types) {
    typesOf[name] = types;
    for (let index = 0; index < types.length; index++) nameOf[types[index]] = name;
  }

  registerType('all', '*/*');
  registerType('text', 'text/plain; charset=utf-8', 'txt');
  registerType('html', 'text/html; charset=utf-8');
  registerType('xhtml', 'application/xhtml+xml', 'xhtml');
  registerType('xml', 'application/xml', 'text/xml', 'application/x-xml');
  registerType('js', 'text/javascript', 'application/javascript', 'application/x-javascript');
  registerType('css', 'text/css');
  registerType('ics', 'text/calendar');
  registerType('csv', 'text/csv');
  registerType('rss', 'application/rss+xml');
  registerType('atom', 'application/atom+xml');
  registerType('yaml', 'application/x-yaml', 'text/yaml');
  registerType('multipart_form', 'multipart/form-data');
  registerType('url_encoded_form', 'application/x-www-form-urlencoded');
  registerType('json', 'application/json', 'text/x-json');

  let offers = []; // [name, function] in the order of `provides`
  let chosenType = null;

  function provides(name, make) {
    added(offers, [name, make]);
  }

  // Parses `type/subtype; a=b` to { type, subtype, params }.
  function mediaRange(range) {
    const parts = run(split, range, [';']);
    const params = { __proto__: null };
    for (let index = 1; index < parts.length; index++) {
      const pair = run(split, parts[index], ['=']);
      if (pair.length === 2) params[run(trim, pair[0], [])] = run(trim, pair[1], []);
    }
    let full = run(trim, parts[0], []);
    if (full === '*') full = '*/*';
    const halves = run(split, full, ['/']);
    const quality = parseFloat(params.q);
    return { type: halves[0], subtype: halves[1], params: params, quality: quality >= 0 && quality <= 1 ? quality : 1 };
  }

  // Returns the entry of `supported` that the Accept header prefers: by the most specific match, then by
  // quality, then the later one.
  function bestMatch(supported, accept) {
    const ranges = [];
    const wanted = run(split, accept, [',']);
    for (let index = 0; index < wanted.length; index++) ranges[index] = mediaRange(wanted[index]);
    let best = '';
    let bestFitness = -1;
    let bestQuality = 0;
    for (let index = 0; index < supported.length; index++) {
      const target = mediaRange(supported[index]);
      let fitness = -1;
      let quality = 0;
      for (let at = 0; at < ranges.length; at++) {
        const range = ranges[at];
        if (range.type !== target.type && range.type !== '*' && target.type !== '*') continue;
        if (range.subtype !== target.subtype && range.subtype !== '*' && target.subtype !== '*') continue;
        let fits = (range.type === target.type ? 100 : 0) + (range.subtype === target.subtype ? 10 : 0);
        for (const name in target.params) {
          if (name !== 'q' && range.params[name] && range.params[name] === target.params[name]) fits++;
        }
        if (fits > fitness) {
          fitness = fits;
          quality = range.quality;
        }
      }
      if (fitness > bestFitness || (fitness === bestFitness && quality >= bestQuality)) {
        best = supported[index];
        bestFitness = fitness;
        bestQuality = quality;
      }
    }
    return bestQuality ? best : '';
  }

  function runOffer(request) {
    const accept = request.headers && request.headers.Accept;
    let name;
    if (request.query && request.query.format) {
      name = request.query.format;
      chosenType = typesOf[name] ? typesOf[name][0] : null;
    } else if (accept) {
      const supported = [];
      for (let index = offers.length - 1; index >= 0; index--) {
        const types = typesOf[offers[index][0]] || [];
        for (let at = 0; at < types.length; at++) added(supported, types[at]);
      }
      chosenType = bestMatch(supported, text(accept));
      name = nameOf[chosenType];
    } else {
      name = offers[0][0];
      chosenType = typesOf[name] ? typesOf[name][0] : null;
    }
    for (let index = offers.length - 1; name && index >= 0; index--) {
      if (offers[index][0] === name) return run(offers[index][1], design(), []);
    }
    const known = [];
    for (let index = 0; index < offers.length; index++) {
      const types = typesOf[offers[index][0]];
      added(known, types && types.length ? run(join, types, [', ']) : text(offers[index][0]));
    }
    throw ['error', 'not_acceptable',
      'Content-Type ' + (accept || name) + ' not supported, try one of: ' + run(join, known, [', '])];
  }

  // ---- start, send, getRow --------------------------------------------------------------------------------

  let chunks = [];
  let response = {};
  let fresh = false; // whether `start` was called since the last part was sent
  let listing = false;
  let gotRow = false;
  let lastRow = false;

  function reset(isListing) {
    chunks = [];
    response = {};
    fresh = false;
    listing = isListing;
    gotRow = false;
    lastRow = false;
    offers = [];
    chosenType = null;
  }

  function start(head) {
    response = head || {};
    fresh = true;
  }

  function send(chunk) {
    added(chunks, text(chunk.toString()));
  }

  function withType(head) {
    head.headers = head.headers || {};
    if (chosenType) head.headers['Content-Type'] = head.headers['Content-Type'] || chosenType;
    return head;
  }

  function part(first) {
    const out = { chunk: run(join, chunks, ['']) };
    if (first) out.response = withType(response);
    else if (fresh) out.response = response;
    if (first) response = {};
    chunks = [];
    fresh = false;
    return stringify(out);
  }

  function getRow() {
    if (!listing) throw new Error('getRow() is for list functions');
    if (lastRow) return null;
    const first = !gotRow;
    gotRow = true;
    const row = exchange(part(first));
    if (row === undefined || row === null) {
      lastRow = true;
      return null;
    }
    return parse(row);
  }

  publish('provides', provides);
  publish('registerType', registerType);
  publish('start', start);
  publish('send', send);
  publish('getRow', getRow);

  // ---- the four kinds -------------------------------------------------------------------------------------

  function asResponse(value) {
    return typeof value === 'string' ? { body: value } : value;
  }

  function isResponse(value) {
    return typeof value === 'string' || (typeof value === 'object' && value !== null && !isList(value));
  }

  // Converts an exception: CouchDB's own errors stay as they are, others become `word` with their stack.
  function renderError(error, word) {
    if (error !== null && error !== undefined) {
      if ((error.error && error.reason) || error[0] === 'error' || error[0] === 'fatal') throw error;
      if (typeof error === 'object' && error.name === 'InternalError') throw error;
    }
    const stack = error === null || error === undefined ? undefined : error.stack;
    const message = 'function raised error: ' + describe(error) + ' \nstacktrace: ' + stack;
    log(message);
    throw ['error', word, message];
  }

  function show(args, name) {
    const fun = find(['shows', name]);
    reset(false);
    try {
      let made = asResponse(run(fun, design(), args) || {});
      if (chunks.length > 0) {
        made.headers = made.headers || {};
        for (const header in response) made.headers[header] = response[header];
        made.body = run(join, chunks, ['']) + (made.body || '');
        chunks = [];
      }
      if (offers.length > 0) {
        const offered = asResponse(runOffer(args[1]) || {});
        made.body = (made.body || '') + run(join, chunks, ['']) + (offered.body || '');
        made = withType(made);
      }
      if (!isResponse(made)) throw ['error', 'render_error', 'undefined response from show function'];
      return stringify(made);
    } catch (error) {
      if (args[0] === null && args[1].path && args[1].path.length > 5) {
        if (typeof error === 'object' && error !== null && error.name === 'InternalError') throw error;
        throw ['error', 'not_found', 'document not found'];
      }
      renderError(error, 'render_error');
    } finally {
      reset(false);
    }
  }

  function update(args, name) {
    const fun = find(['updates', name]);
    reset(false);
    try {
      if (args[1].method === 'GET') throw ['error', 'method_not_allowed', 'Update functions do not allow GET'];
      const made = run(fun, design(), args);
      const doc = made[0];
      if (!isResponse(made[1])) throw ['error', 'render_error', 'undefined response from update function'];
      return stringify({ doc: doc === undefined ? null : doc, response: asResponse(made[1]) });
    } catch (error) {
      renderError(error, 'render_error');
    }
  }

  function list(args, name) {
    const fun = find(['lists', name]);
    reset(true);
    try {
      let tail = run(fun, design(), args);
      if (offers.length > 0) tail = runOffer(args[1]);
      if (!gotRow) getRow();
      if (tail !== undefined && tail !== null) added(chunks, text(tail));
      return part(false);
    } catch (error) {
      renderError(error, 'render_error');
    } finally {
      reset(false);
    }
  }

  function rewrite(request) {
    const fun = find(['rewrites']);
    let made;
    try {
      made = run(fun, design(), [request]);
    } catch (error) {
      renderError(error, 'rewrite_error');
    }
    if (!made) return 'null';
    if (typeof made === 'string') made = { path: made, method: request.method };
    return stringify(made) || '0';
  }

  table.show = guarded(show);
  table.update = guarded(update);
  table.list = guarded(list);
  table.rewrite = guarded(rewrite);
})
