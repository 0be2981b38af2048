// Sources of functions: evaluates the source of a design document's function to the function that CouchDB takes.
//
// CouchDB runs a source as a program; the function is the value of its last expression statement. Declarations
// before it are its helpers. A function statement without a name, which JavaScript does not know, is an expression
// statement there, and needs no semicolon after it. (SpiderMonkey in CouchDB also takes a source that is only one
// function with a name.)
//
// Which part of a source is the function is never guessed from its text: the engine's own parser decides. Where it
// stops, its error says at which character, and a repaired text is parsed again. Nothing runs until a text parses,
// and then it runs once.
//
// As in sandbox.js, local constants hold everything that is needed later, because scripts can overwrite globals.
(function () {
  'use strict';

  const run = Reflect.apply;
  const evaluate = eval; // under another name, it is an indirect eval: global scope, sloppy mode
  const FunctionOf = Function;
  const SyntaxErrorOf = SyntaxError;
  const text = String;
  const exec = RegExp.prototype.exec;
  const slice = String.prototype.slice;
  const indexOf = String.prototype.indexOf;
  const lastIndexOf = String.prototype.lastIndexOf;
  const charCodeAt = String.prototype.charCodeAt;

  const place = /:(\d+):(\d+)/; // line and column in an error's stack
  const blank = /\s*/y;
  const restOfLine = /[^\n\r\u2028\u2029]*/y;
  const lineEnd = /\r\n|[\n\r\u2028\u2029]/g;
  const ending = /[\s;]/;
  const word = /[\w$]|(?!\s)[\u0080-\uffff]/;
  const functionName = /function(?![\w$]|(?!\s)[\u0080-\uffff])/y;
  const asyncBefore = /(?:^|[^\w$.])async[^\S\n\r\u2028\u2029]*$/;
  const declaration = /class(?![\w$]|(?!\s)[\u0080-\uffff])|\{/y;

  const most = 64; // attempts to repair one source

  // Runs a program and returns its last value. Its declarations are local to it, because two functions of a
  // design document may declare different helpers with the same name.
  const program = evaluate('(function () { return eval(arguments[0]); })');

  // What was inserted into the last source: [line, column, width] in the text that the insertion made.
  let inserted = [];

  function part(source, from, to) {
    return run(slice, source, [from, to]);
  }

  function match(pattern, source, at) {
    pattern.lastIndex = at;
    return run(exec, pattern, [source]);
  }

  // Returns where the space and comments end that begin at `at`.
  function skip(source, at) {
    for (;;) {
      at += match(blank, source, at)[0].length;
      if (source[at] !== '/') return at;
      if (source[at + 1] === '/') {
        at += match(restOfLine, source, at)[0].length;
      } else if (source[at + 1] === '*') {
        const end = run(indexOf, source, ['*/', at + 2]);
        if (end < 0) return at;
        at = end + 2;
      } else {
        return at;
      }
    }
  }

  // Parses the source of a program without running it. Returns null, or the parser's {message, line, column}.
  function parse(source) {
    try {
      run(FunctionOf, undefined, [source]);
    } catch (error) {
      if (!(error instanceof SyntaxErrorOf)) throw error;
      const found = run(exec, place, [text(error.stack)]);
      // The engine puts two lines before a function's body.
      return { message: error.message, line: found === null ? 0 : +found[1] - 2, column: found === null ? 0 : +found[2] };
    }
    return null;
  }

  // Returns the offsets that an error may mean. The parser counts columns in bytes of UTF-8, and counts some ends of
  // lines only outside comments and strings.
  function offsets(source, error) {
    const found = [];
    let start = 0;
    let least = 1;
    let greatest = 1;
    while (least <= error.line) {
      if (greatest >= error.line) {
        const at = forward(source, start, error.column - 1);
        if (at >= 0) found[found.length] = at;
      }
      const end = match(lineEnd, source, start);
      if (end === null) break;
      start = end.index + end[0].length;
      greatest++;
      if (end[0] === '\n' || end[0] === '\r\n') least++;
    }
    return found;
  }

  // Returns the offset that is `bytes` bytes of UTF-8 after `at`, or -1.
  function forward(source, at, bytes) {
    for (; bytes > 0; at++) {
      const unit = run(charCodeAt, source, [at]);
      if (unit !== unit) return -1;
      let size = unit < 0x80 ? 1 : unit < 0x800 ? 2 : 3;
      if (unit >= 0xd800 && unit < 0xdc00) {
        const next = run(charCodeAt, source, [at + 1]);
        if (next >= 0xdc00 && next < 0xe000) {
          size = 4;
          at++;
        }
      }
      bytes -= size;
    }
    return bytes === 0 ? at : -1;
  }

  // Returns the source without what may follow an expression if it is one expression as a whole, otherwise null.
  function expression(source) {
    let length = source.length;
    while (length > 0 && run(exec, ending, [source[length - 1]]) !== null) length--;
    const alone = part(source, 0, length);
    const error = parse('(' + alone + '\n)');
    if (error === null) return alone;
    if (error.message !== "Unexpected token ';'") return null;
    const all = offsets('(' + alone, error);
    for (let index = 0; index < all.length; index++) {
      const end = all[index] - 1;
      let at = end;
      while (alone[at] === ';') at = skip(alone, at + 1);
      if (at === alone.length && at > end && parse('(' + part(alone, 0, end) + '\n)') === null) return part(alone, 0, end);
    }
    return null;
  }

  // Whether a program that begins like this source begins with a declaration or a block, not with an expression.
  function declares(source) {
    let at = skip(source, 0);
    if (match(declaration, source, at) !== null) return true;
    if (part(source, at, at + 5) === 'async' && match(functionName, source, skip(source, at + 5)) !== null) {
      at = skip(source, at + 5);
    }
    return match(functionName, source, at) !== null && source[skip(source, at + 8)] !== '(';
  }

  // Makes an expression statement of the function without a name at which the parser stopped, or ends such a
  // statement there. `made` has the offsets of those that were made. Returns the new text, or null.
  function repair(source, error, made) {
    const missing = error.message === "expecting ';'";
    if (!missing && error.message !== 'function name expected') return null;
    const all = offsets(source, error);
    for (let index = 0; index < all.length; index++) {
      const at = all[index];
      if (missing) {
        let ends = false;
        for (let each = 0; each < made.length && !ends; each++) {
          ends = made[each] < at && parse('(' + part(source, made[each] + 2, at) + '\n)') === null;
        }
        if (!ends) continue;
        const ended = insert(source, at, ';', error, error.column, made);
        if (ended !== null) return ended;
        continue;
      }
      if (source[at] !== '(') continue;
      // A comment between `function` and `(` may have the word, too.
      let start = at;
      for (let tries = 0; tries < 4 && start > 0; tries++) {
        start = run(lastIndexOf, source, ['function', start - 1]);
        if (start < 0) break;
        if (skip(source, start + 8) !== at || (start > 0 && run(exec, word, [source[start - 1]]) !== null)) continue;
        if (run(exec, asyncBefore, [part(source, start > 40 ? start - 40 : 0, start)]) !== null) continue;
        const between = part(source, start, at);
        const column = match(lineEnd, between, 0) === null ? error.column - between.length : 0;
        const stated = insert(source, start, '0,', error, column, made);
        if (stated !== null) {
          made[made.length] = start;
          return stated;
        }
      }
    }
    return null;
  }

  // Inserts `what`, unless the parser gets no further then. `column`: that of `at`, in the line of the
  // error; 0 if it is in another line.
  function insert(source, at, what, error, column, made) {
    const changed = part(source, 0, at) + what + part(source, at);
    const again = parse(changed);
    const same = error.column + (column > 0 ? what.length : 0);
    if (again !== null && (again.line < error.line || (again.line === error.line && again.column <= same))) return null;
    for (let index = 0; index < made.length; index++) if (made[index] >= at) made[index] += what.length;
    if (column > 0) inserted[inserted.length] = [error.line, column, what.length];
    return changed;
  }

  return {
    // Returns the value of a source, which is its function if it has one.
    functionOf: function (source) {
      source = text(source);
      if (source[0] === '#' && source[1] === '!') source = '//' + part(source, 2);
      inserted = [];
      const alone = expression(source);
      if (alone !== null) {
        // A statement of `if` may be a declaration of a function, but not two statements.
        const declared = declares(source);
        if (!declared || parse('if (0) ' + alone + '\nelse;') === null) {
          inserted = [[1, 1, 2]];
          return evaluate('0,' + alone);
        }
      }
      const made = [];
      let repaired = source;
      for (let tries = 0; tries < most; tries++) {
        const error = parse(repaired);
        if (error === null) break;
        const next = repair(repaired, error, made);
        if (next === null) break;
        repaired = next;
      }
      return program(repaired);
    },
    // Converts a column in the text that the last `functionOf` has run to the column in its source.
    columnOf: function (line, column) {
      for (let index = inserted.length - 1; index >= 0; index--) {
        const at = inserted[index][1];
        const width = inserted[index][2];
        if (inserted[index][0] === line && column >= at) column = column < at + width ? at : column - width;
      }
      return column;
    },
  };
})
