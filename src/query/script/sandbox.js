// The script environment: what the functions of a design document see, and the entries that the engine calls.
//
// Evaluated once per environment, before any code of a design document. Local constants hold everything that
// the entries need later, so that a script which overwrites `JSON.stringify` or `Array.prototype.push` breaks
// only its own design document. The engine holds the returned table; scripts cannot reach it.
//
// An entry returns a text: JSON, or `!` and JSON `[word, reason, fatal]` if it fails. `fatal` means that this
// environment must not be used again (out of memory, or the script requested it, which CouchDB permits).
(function (host) {
  'use strict';

  const stringify = JSON.stringify;
  const parse = JSON.parse;
  const isList = Array.isArray;
  const keysOf = Object.keys;
  const freezeOne = Object.freeze;
  const define = Object.defineProperty;
  const text = String;
  const run = Reflect.apply;
  const evaluate = eval; // under another name, it is an indirect eval: global scope, sloppy mode
  const hasOwn = Object.prototype.hasOwnProperty;
  const toStringOf = Object.prototype.toString;
  const slice = String.prototype.slice;
  const split = String.prototype.split;
  const exec = RegExp.prototype.exec;
  const place = /:(\d+):(\d+)/; // line and column in an error's stack
  const join = Array.prototype.join;

  // ---- errors ---------------------------------------------------------------------------------------------

  function describe(error) {
    try {
      return text(error);
    } catch (again) {
      return 'unprintable error';
    }
  }

  // Converts an Error to a plain object, because the members of an Error are not enumerable.
  function plain(value) {
    if (typeof value === 'object' && value !== null && 'stack' in value && 'name' in value && 'message' in value) {
      return { error: value.name, message: value.message };
    }
    return value;
  }

  function outOfMemory(error) {
    return typeof error === 'object' && error !== null && error.name === 'InternalError';
  }

  // Converts a thrown value to [word, reason, fatal].
  function failure(error) {
    if (error === null) return ['InternalError', 'script threw null, or ran out of memory', true];
    if (error === undefined) return ['internal_error', 'script threw undefined', true];
    const kind = error[0];
    if (kind === 'fatal' || kind === 'error') return [text(error[1]), error[2] === undefined ? null : error[2], kind === 'fatal'];
    if (outOfMemory(error)) return ['InternalError', text(error.message), true];
    if (error.error && error.reason) return [text(error.error), error.reason, false];
    if (typeof error === 'object' && error.name) return [text(error.name), text(error.message), false];
    return ['unnamed_error', typeof error === 'object' ? (stringify(error) || describe(error)) : describe(error), false];
  }

  function guarded(entry) {
    return function (a, b, c, d) {
      try {
        return entry(a, b, c, d);
      } catch (error) {
        let told;
        try {
          told = stringify(failure(error));
        } catch (again) {
          told = '["internal_error","error cannot be shown",true]';
        }
        return '!' + told;
      }
    };
  }

  // ---- what scripts see -----------------------------------------------------------------------------------

  let rows = null; // keys and values, alternating, that the running map function has emitted
  let filled = 0;
  let emitted = false; // whether a map function that is used as a filter has emitted a row

  function emit(key, value) {
    emitted = true;
    if (rows === null) return;
    rows[filled++] = key;
    rows[filled++] = plain(value);
  }

  function sum(values) {
    let total = 0;
    for (const index in values) total += values[index];
    return total;
  }

  let told = null; // messages passed to `log` by the function that `tryFunction` runs; otherwise null

  function log(message) {
    if (typeof message !== 'string') message = stringify(plain(message));
    if (told === null) host.log(stringify(text(message)));
    else if (told.length < 100) told[told.length] = run(slice, text(message), [0, 1000]);
  }

  function isArray(value) {
    return run(toStringOf, value, []) === '[object Array]';
  }

  function publish(name, value) {
    define(globalThis, name, { value: value, writable: true, configurable: true, enumerable: false });
  }

  publish('emit', emit);
  publish('sum', sum);
  publish('log', log);
  publish('isArray', isArray);
  publish('toJSON', stringify);

  // ---- native loops that neither allocate memory nor check for interrupts ---------------------------------
  // `Array.prototype.reverse.call({length: 2 ** 53 - 1})` loops in native code and cannot be interrupted. The
  // memory limit bounds real arrays, so no regular script reaches this length.
  const longest = 1 << 24;
  for (const name of ['reverse', 'join', 'fill', 'splice', 'shift', 'unshift', 'concat', 'sort', 'copyWithin', 'slice',
    'toReversed', 'toSorted', 'toSpliced', 'with', 'toLocaleString', 'flat']) {
    const native = Array.prototype[name];
    if (typeof native !== 'function') continue;
    const checked = {
      [name](...args) {
        if (this !== null && this !== undefined && this.length > longest) throw new RangeError('Invalid array length');
        if (name === 'concat') {
          for (let index = 0; index < args.length; index++) {
            const arg = args[index];
            if (typeof arg === 'object' && arg !== null && arg.length > longest) throw new RangeError('Invalid array length');
          }
        }
        return run(native, this, args);
      },
    }[name];
    define(checked, 'length', { value: native.length, configurable: true });
    define(Array.prototype, name, { value: checked, writable: true, configurable: true, enumerable: false });
  }

  // ---- compiling ------------------------------------------------------------------------------------------

  const { functionOf, columnOf } = host.source;
  const prototypeOf = Object.getPrototypeOf;
  const asyncFunction = prototypeOf(async function () {});
  const generators = [prototypeOf(function* () {}), prototypeOf(async function* () {})];

  // Refuses a function whose result comes later: nobody waits for it, so that a validation or a filter would let
  // everything pass. Of an `async` map function, rows that it emits before its first `await` count.
  function refuseLater(made, kind) {
    const from = prototypeOf(made);
    if (from === generators[0] || from === generators[1] || (from === asyncFunction && kind !== 'map')) {
      throw new TypeError('an async function or a generator cannot be used here');
    }
  }

  // Refuses a promise or a generator as the result of a validation or filter.
  function settled(value) {
    if (typeof value === 'object' && value !== null) {
      const tag = run(toStringOf, value, []);
      if (tag === '[object Promise]' || tag === '[object Generator]' || tag === '[object AsyncGenerator]') {
        throw ['error', 'invalid_result', 'The function returned ' + tag + ', whose result is not waited for.'];
      }
    }
    return value;
  }

  // `kind`: `map`, or another word for other functions.
  function compile(source, owner, kind) {
    if (!source) throw ['error', 'not_found', 'missing function'];
    if (owner) publish('require', requireFrom(owner));
    let compiled;
    try {
      compiled = functionOf(source);
      if (typeof compiled === 'function') refuseLater(compiled, kind);
    } catch (error) {
      if (outOfMemory(error)) throw error;
      if (told !== null) throw { error: 'compilation_error', message: describe(error), at: error };
      throw ['error', 'compilation_error', describe(error) + ' (' + text(source) + ')'];
    }
    if (typeof compiled !== 'function') {
      throw ['error', 'compilation_error', 'Expression does not eval to a function. (' + text(source) + ')'];
    }
    return compiled;
  }

  // ---- CommonJS modules -----------------------------------------------------------------------------------

  const modules = { __proto__: null };

  // `folder`: the path in the design document where a relative name starts, as a list of names; null at the
  // top level.
  function locate(root, name, folder) {
    const steps = [];
    const values = [root];
    let relative = folder !== null;
    const parts = run(split, text(name), ['/']);
    for (let index = 0; index < parts.length; index++) {
      const part = parts[index];
      if (part === '.' || part === '..') {
        if (!relative && index === 0) {
          throw ['error', 'invalid_require_path', 'Object has no parent ' + stringify(root)];
        }
        if (index === 0) {
          for (let at = 0; at < folder.length; at++) {
            values[at + 1] = values[at][folder[at]];
            steps[at] = folder[at];
          }
        }
        if (part === '..') {
          if (steps.length === 0) {
            throw ['error', 'invalid_require_path', 'Object has no parent ' + stringify(root)];
          }
          steps.length--;
          values.length--;
        }
        continue;
      }
      const from = values[values.length - 1];
      const value = from === null || from === undefined ? undefined : from[part];
      if (value === undefined) {
        throw ['error', 'invalid_require_path', 'Object has no property "' + part + '". ' + stringify(from)];
      }
      steps[steps.length] = part;
      values[values.length] = value;
    }
    const found = values[values.length - 1];
    if (typeof found !== 'string') {
      throw ['error', 'invalid_require_path', 'Must require a JavaScript string, not: ' + typeof found];
    }
    return { current: found, parent: { current: values[values.length - 2] }, id: run(join, steps, ['/']), exports: {}, steps: steps };
  }

  function requireFrom(root) {
    function load(name, folder) {
      const found = locate(root, name, folder);
      const steps = found.steps;
      delete found.steps;
      if (!(found.id in modules)) {
        // Registered before it runs, so that modules which require each other see incomplete exports instead
        // of recursing endlessly.
        modules[found.id] = found;
        const inside = [];
        for (let index = 0; index + 1 < steps.length; index++) inside[index] = steps[index];
        try {
          const body = evaluate('(function (module, exports, require) { ' + found.current + '\n });');
          run(body, globalThis, [found, found.exports, function (inner) { return load(inner, inside); }]);
        } catch (error) {
          delete modules[found.id];
          if (outOfMemory(error)) throw error;
          throw ['error', 'compilation_error', "Module require('" + name + "') raised error " + describe(error)];
        }
      }
      return modules[found.id].exports;
    }
    return function require(name) { return load(name, null); };
  }

  // ---- views ----------------------------------------------------------------------------------------------

  let maps = [];
  let reduces = [];

  // Freezes a document deeply, so that a map function cannot change what the next one sees.
  function freeze(value) {
    if (isList(value)) {
      for (let index = 0; index < value.length; index++) {
        const item = value[index];
        if (typeof item === 'object' && item !== null) freeze(item);
      }
    } else {
      const names = keysOf(value);
      for (let index = 0; index < names.length; index++) {
        const item = value[names[index]];
        if (typeof item === 'object' && item !== null) freeze(item);
      }
    }
    freezeOne(value);
  }

  // Handles an exception of a map or reduce function: most are logged, and only this result of the function
  // is lost; some end the call.
  function viewError(error, doc) {
    if (error === 'fatal_error') throw ['error', 'map_runtime_error', "function raised 'fatal_error'"];
    // The engine throws null if there is no memory left for an error.
    if (error === null) throw ['fatal', 'InternalError', 'function raised null, or ran out of memory'];
    if (error === undefined) throw ['error', 'map_runtime_error', 'function raised undefined'];
    if (error[0] === 'fatal' || outOfMemory(error)) throw error;
    log('function raised exception ' + describe(error) + (doc ? ' with doc._id ' + doc._id : ''));
  }

  function addMaps(definition) {
    const owner = { views: { lib: definition.lib } };
    for (let index = 0; index < definition.functions.length; index++) {
      maps[index] = compile(definition.functions[index], owner, 'map');
    }
    return '1';
  }

  // Calls all map functions for a document. Returns `[[key, value, key, value, ...], null, ...]`: null for a
  // function that threw. `frozen`: whether the document is frozen already.
  function mapDocument(doc, frozen) {
    if (!frozen) freeze(doc);
    const all = [];
    for (let index = 0; index < maps.length; index++) {
      rows = [];
      filled = 0;
      const map = maps[index];
      try {
        map(doc);
        all[index] = rows;
      } catch (error) {
        rows = null;
        viewError(error, doc);
        all[index] = null;
      }
    }
    rows = null;
    try {
      return stringify(all);
    } catch (error) {
      return salvage(all, error, doc);
    }
  }

  // Some emitted value has no JSON form (a cycle, a BigInt): only the function that emitted it loses its
  // rows.
  function salvage(all, error, doc) {
    const texts = [];
    for (let index = 0; index < all.length; index++) {
      try {
        texts[index] = stringify(all[index]);
      } catch (again) {
        viewError(again, doc);
        texts[index] = 'null';
      }
    }
    return '[' + run(join, texts, [',']) + ']';
  }

  function addReduces(sources) {
    for (let index = 0; index < sources.length; index++) reduces[index] = compile(sources[index], null, 'reduce');
    return '1';
  }

  // Compiles a function of a view that is about to be stored: [kind, source].
  function check(input) {
    compile(input[1], null, input[0]);
    return '1';
  }

  // `input`: [[[key, id], value], ...], or only values if `again` is not empty.
  function reduce(input, again) {
    let keys = null;
    let values = input;
    if (!again) {
      keys = [];
      values = [];
      for (let index = 0; index < input.length; index++) {
        keys[index] = input[index][0];
        values[index] = input[index][1];
      }
    }
    const results = [];
    again = again !== '';
    for (let index = 0; index < reduces.length; index++) {
      const call = reduces[index];
      try {
        results[index] = call(keys, values, again);
      } catch (error) {
        viewError(error);
        results[index] = null;
      }
    }
    return stringify(results);
  }

  // ---- functions of a design document ---------------------------------------------------------------------

  let design = null;
  const compiled = { __proto__: null };

  function addDesign(value) {
    design = value;
    return '1';
  }

  function find(path) {
    const name = run(join, path, ['.']);
    if (name in compiled) return compiled[name];
    let point = design;
    for (let index = 0; index < path.length; index++) {
      const step = path[index];
      const next = point !== null && point !== undefined && run(hasOwn, point, [step]) ? point[step] : undefined;
      if (!next) {
        throw ['error', 'not_found', 'missing ' + path[0] + ' function ' + path[path.length - 1] + ' on design doc ' + design._id];
      }
      if (index + 1 === path.length) {
        const made = compile(next, design, path[0] === 'views' ? 'map' : path[0]);
        compiled[name] = made;
        point[step] = made;
        return made;
      }
      point = next;
    }
  }

  function validate(args) {
    const fun = find(['validate_doc_update']);
    try {
      settled(run(fun, design, args));
    } catch (error) {
      if (error.name && error.stack) throw error;
      if (error[0] === 'error' || error[0] === 'fatal') throw error;
      return stringify({ thrown: error });
    }
    return '1';
  }

  let asked = null; // the filter function that was called last, and its name
  let askedName = null;

  // Calls a filter for one document. Returns `1` if it passes.
  function filter(doc, name, request) {
    if (asked === null || askedName !== name) {
      asked = find(['filters', name]);
      askedName = name;
    }
    return settled(run(asked, design, [doc, request])) ? '1' : '0';
  }

  function filterView(doc, name) {
    const fun = find(['views', name, 'map']);
    emitted = false;
    fun(doc);
    return emitted ? '1' : '0';
  }

  // ---- trying a function ----------------------------------------------------------------------------------

  // Compiles a function and calls it once. `input` is {kind, source, compile, design, doc, old_doc, user, security,
  // req, keys, values, rereduce}. Returns `ok`, `logs`, and the function's result or the error with its position in
  // the source. An environment tries one function and is then closed.
  function tryFunction(input) {
    told = [];
    let done;
    try {
      done = outcome(input, compile(input.source, input.design || {}, input.kind));
      done.ok = true;
    } catch (error) {
      if (error === null || outOfMemory(error)) throw error;
      done = fault(error);
    }
    done.logs = told;
    return stringify(done);
  }

  function outcome(input, made) {
    if (input.compile) return {};
    const design = input.design || {};
    if (input.kind === 'map') {
      freeze(input.doc);
      rows = [];
      filled = 0;
      made(input.doc);
      const emitted = [];
      for (let index = 0; index < filled && index < 2000; index += 2) {
        const key = rows[index];
        const value = rows[index + 1];
        emitted[index / 2] = { key: key === undefined ? null : key, value: value === undefined ? null : value };
      }
      rows = null;
      return { rows: emitted, total: filled / 2 };
    }
    if (input.kind === 'reduce') {
      const value = made(input.keys, input.values, input.rereduce === true);
      return { value: value === undefined ? null : value };
    }
    if (input.kind === 'filter') return { passes: settled(run(made, design, [input.doc, input.req])) ? true : false };
    try {
      settled(run(made, design, [input.doc, input.old_doc === undefined ? null : input.old_doc, input.user, input.security]));
    } catch (error) {
      if (error === null || error === undefined || (error.name && error.stack)) throw error;
      for (const word of ['forbidden', 'unauthorized']) {
        if (typeof error === 'object' && word in error) return { allowed: false, error: word, reason: error[word] };
      }
      throw error;
    }
    return { allowed: true };
  }

  // Converts an error to {ok, error, message, line, column}. The position is that of the first stack frame with a
  // line number; frames of this script have none.
  function fault(error) {
    if (error === undefined) return { ok: false, error: 'thrown', message: 'the function has thrown undefined' };
    const own = error.error === 'compilation_error' && error.at !== undefined;
    const thrown = own ? error.at : error;
    const listed = isList(error) && (error[0] === 'error' || error[0] === 'fatal');
    const done = {
      ok: false,
      error: own ? error.error : listed ? text(error[1]) : text((typeof error === 'object' && error.name) || 'thrown'),
      message: own ? error.message : listed ? text(error[2]) : typeof error === 'object' && !error.stack ? stringify(error) : describe(error),
    };
    const found = thrown && thrown.stack ? run(exec, place, [text(thrown.stack)]) : null;
    if (found !== null) {
      done.line = +found[1];
      done.column = columnOf(done.line, +found[2]);
    }
    return done;
  }

  return {
    tryFunction: guarded(tryFunction),
    addMaps: guarded(addMaps),
    mapDocument: guarded(mapDocument),
    addReduces: guarded(addReduces),
    check: guarded(check),
    reduce: guarded(reduce),
    addDesign: guarded(addDesign),
    validate: guarded(validate),
    filter: guarded(filter),
    filterView: guarded(filterView),
    inner: {
      find: find,
      guarded: guarded,
      publish: publish,
      describe: describe,
      log: log,
      exchange: host.exchange,
      design: function () { return design; },
    },
  };
})
