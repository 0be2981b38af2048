// The newest lines of the log, live.

import { debounce, h, pause, put } from '../dom.js';
import * as api from '../api.js';
import { failure } from '../elements/states.js';

const PATH = '_node/_local/_logs';
const EVERY = 2000;
/** Lines that the page keeps. */
const KEPT = 1000;
const PAGE = 200;
const LEVELS = ['error', 'warn', 'info', 'debug'];

export async function fill(body, { signal, query }) {
  const level = h('select', { 'aria-label': 'Level', name: 'level' }, LEVELS.map((name) => h('option', { value: name }, name === 'error' ? 'errors' : `${name} and above`)));
  level.value = LEVELS.includes(query.get('level')) ? query.get('level') : 'info';
  const text = h('input', { type: 'search', placeholder: 'Contains…', 'aria-label': 'Contains', value: query.get('q') ?? '' });
  const follow = h('button', { type: 'button', 'aria-pressed': 'true' }, 'Following');
  const list = h('div', { class: 'log', tabindex: '0', 'aria-label': 'Log', role: 'log', 'aria-live': 'off' });
  const note = h('p', { class: 'quiet', role: 'status' });
  const state = { after: undefined, following: true, round: 0 };
  const again = async () => {
    state.after = undefined;
    state.round += 1;
    put(list);
    await more({ list, note, level, text, state }, signal);
  };
  level.addEventListener('change', again);
  text.addEventListener('input', debounce(again));
  follow.addEventListener('click', () => {
    state.following = !state.following;
    follow.setAttribute('aria-pressed', String(state.following));
    follow.textContent = state.following ? 'Following' : 'Paused';
  });
  put(body, h('search', { class: 'row' }, level, h('span', { class: 'grow' }, text), follow), note, list);
  await again();
  watch();
  async function watch() {
    for (;;) {
      await pause(EVERY, signal);
      if (signal.aborted) return;
      if (state.following && !document.hidden) await more({ list, note, level, text, state }, signal);
    }
  }
}

/** Adds what is new at the end, newest last; scrolls along if the end was in sight. */
async function more({ list, note, level, text, state }, signal) {
  const { round } = state;
  try {
    const answer = await api.get(PATH, { query: { level: level.value, after: state.after, limit: PAGE, text: text.value || undefined }, signal });
    if (signal.aborted || round !== state.round) return;
    state.after = answer.next ?? state.after;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(...answer.lines.map(line));
    while (list.childElementCount > KEPT) list.firstElementChild.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
    note.textContent = list.childElementCount === 0 ? 'No line fits. The server keeps the newest lines in memory; older ones are where its log goes.' : '';
  } catch (error) {
    if (!signal.aborted) put(note, failure(error));
  }
}

const TONES = { error: 'error', warn: 'warning' };
const clock = (at) => new Date(at).toLocaleTimeString('en-GB');

function line({ at, level, target, text, fields = {} }) {
  const rest = Object.entries(fields).map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`).join(' ');
  return h('div', {},
    h('time', { title: new Date(at).toISOString() }, clock(at)), ' ',
    h('span', { class: `badge ${TONES[level] ?? ''}` }, level), ' ',
    h('span', { class: 'quiet' }, target), ' ', text, rest ? h('span', { class: 'quiet' }, ` ${rest}`) : null);
}
