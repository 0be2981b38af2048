// Pictures of numbers over time, as SVG of our own. The lines are drawn in a box of 1000 by 100 that stretches with its
// place; all text is HTML beside it, so that it does not stretch. A picture is an image with a sentence for screen
// readers, and its numbers are there as a table too.

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 1000;
const HEIGHT = 100;
/** Rows of the table below a picture. */
const TABLE_ROWS = 12;

function svg(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function html(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** A round number that is at least `value`: 1, 2 or 5 times a power of ten, in units of `unit` (1024 for bytes). */
export function roundUp(value, unit = 1) {
  if (!(value > 0)) return 1;
  if (unit > 1 && value >= unit) {
    const size = unit ** Math.floor(Math.log(value) / Math.log(unit));
    return roundUp(value / size) * size;
  }
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999999);
}

const clock = (at) => new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

/** The points of one line as the path of an SVG; a gap of more than two and a half steps breaks the line. */
export function linePath(points, { from, to, top, step }) {
  const span = Math.max(to - from, 1);
  let path = '';
  let last = null;
  for (const { at, value } of points) {
    if (value === null || value === undefined) {
      last = null;
      continue;
    }
    const x = ((at - from) / span) * WIDTH;
    const y = HEIGHT - (Math.min(value, top) / top) * HEIGHT;
    path += `${last !== null && at - last <= step * 2.5 ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(2)}`;
    last = at;
  }
  return path;
}

/** The bars of one kind, each from `base` upwards, as the path of an SVG. */
export function barPath(points, { from, to, top, step }) {
  const span = Math.max(to - from, 1);
  const width = Math.max((step / span) * WIDTH * 0.8, 1);
  return points
    .filter(({ value }) => value > 0)
    .map(({ at, value, base = 0 }) => {
      const x = ((at - from) / span) * WIDTH;
      const y = HEIGHT - ((base + value) / top) * HEIGHT;
      return `M${x.toFixed(1)} ${y.toFixed(2)}h${width.toFixed(1)}v${((value / top) * HEIGHT).toFixed(2)}h-${width.toFixed(1)}z`;
    })
    .join('');
}

/**
 * A picture of `series`, each `{name, tone, points: [{at, value}]}` in the order of time. `tone` names a colour of the
 * style sheet (`one`, `two`, `good`, `bad`); `format` turns a number to text; `step` is the time between points;
 * `kind` is `line` or `bars` (bars stand on each other). `now` is what stands beside the title.
 */
export function chart({ title, series, from, to, step, format = String, kind = 'line', unit, now }) {
  const drawn = kind === 'bars' ? stacked(series) : series;
  const values = drawn.flatMap(({ points }) => points.map(({ value, base = 0 }) => base + (value ?? 0)));
  const top = roundUp(values.reduce((highest, value) => Math.max(highest, value), 0), unit);
  const frame = { from, to, top, step };
  const figure = html('figure', 'chart');
  const caption = html('figcaption', '', html('span', 'chart-title', title));
  if (now !== undefined) caption.append(html('output', 'chart-now', now));
  const plot = html('div', 'chart-plot');
  const picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img' });
  picture.setAttribute('aria-label', summary({ title, series, format }));
  for (const y of [0, HEIGHT / 2, HEIGHT]) picture.append(svg('line', { class: 'chart-grid', x1: 0, x2: WIDTH, y1: y, y2: y }));
  for (const { tone, points } of drawn) {
    // A point without a neighbour would draw nothing: it is a dot.
    const d = kind === 'bars' ? barPath(points, frame) : linePath(points, frame).replace(/M[^ML]+(?=M|$)/g, '$&h0.01');
    if (d) picture.append(svg('path', { class: `chart-${kind} tone-${tone}`, d }));
  }
  const cursor = svg('line', { class: 'chart-cursor', y1: 0, y2: HEIGHT, visibility: 'hidden' });
  picture.append(cursor);
  plot.append(picture, html('span', 'chart-top', format(top)));
  const times = html('div', 'chart-times', ...[from, (from + to) / 2, to].map((at) => html('span', '', clock(at))));
  figure.append(caption, plot, times);
  if (series.length > 1) figure.append(legend(series));
  figure.append(table({ title, series, format }));
  follow(plot, cursor, { ...frame, series, format });
  return figure;
}

/** Puts each series on top of those before it. */
function stacked(series) {
  const height = new Map();
  return series.map(({ points, ...rest }) => ({
    ...rest,
    points: points.map(({ at, value }) => {
      const base = height.get(at) ?? 0;
      height.set(at, base + (value ?? 0));
      return { at, value, base };
    }),
  }));
}

function legend(series) {
  const list = html('ul', 'chart-legend');
  for (const { name, tone } of series) {
    list.append(html('li', '', html('i', `chart-key tone-${tone}`), name));
  }
  return list;
}

/** One sentence: what the picture shows. */
export function summary({ title, series, format }) {
  const parts = series.map(({ name, points }) => {
    const known = points.filter(({ value }) => value !== null && value !== undefined);
    if (known.length === 0) return `${name}: nothing recorded yet`;
    const highest = known.reduce((best, point) => (point.value > best.value ? point : best));
    return `${name}: last ${format(known.at(-1).value)}, highest ${format(highest.value)} at ${clock(highest.at)}`;
  });
  return `${title}. ${parts.join('. ')}.`;
}

function table({ title, series, format }) {
  const details = html('details', 'chart-table', html('summary', '', 'Numbers'));
  details.addEventListener('toggle', () => {
    if (!details.open || details.querySelector('table')) return;
    const times = [...new Set(series.flatMap(({ points }) => points.map(({ at }) => at)))].sort((a, b) => b - a);
    const every = Math.max(1, Math.ceil(times.length / TABLE_ROWS));
    const head = html('tr', '', ...['Time', ...series.map(({ name }) => name)].map((text) => {
      const cell = html('th', '', text);
      cell.scope = 'col';
      return cell;
    }));
    const body = html('tbody', '');
    for (const at of times.filter((_, index) => index % every === 0)) {
      const cells = series.map(({ points }) => points.find((point) => point.at === at)?.value);
      body.append(html('tr', '', html('td', '', clock(at)), ...cells.map((value) => html('td', '', value === null || value === undefined ? '' : format(value)))));
    }
    const element = html('table', '', html('thead', '', head), body);
    element.setAttribute('aria-label', title);
    const frame = html('div', 'table-frame', element);
    frame.tabIndex = 0;
    details.append(frame);
  });
  return details;
}

/** Shows the numbers at the pointer. */
function follow(plot, cursor, { from, to, series, format }) {
  const tip = html('div', 'chart-tip');
  tip.hidden = true;
  tip.setAttribute('aria-hidden', 'true');
  plot.append(tip);
  const leave = () => {
    tip.hidden = true;
    cursor.setAttribute('visibility', 'hidden');
  };
  plot.addEventListener('pointerleave', leave);
  plot.addEventListener('pointermove', (event) => {
    const box = plot.getBoundingClientRect();
    const wanted = from + ((event.clientX - box.left) / Math.max(box.width, 1)) * (to - from);
    const nearest = series.map(({ name, points }) => ({ name, point: closest(points, wanted) })).filter(({ point }) => point);
    if (nearest.length === 0) return leave();
    const { at } = nearest[0].point;
    const share = (at - from) / Math.max(to - from, 1);
    cursor.setAttribute('x1', share * WIDTH);
    cursor.setAttribute('x2', share * WIDTH);
    cursor.setAttribute('visibility', 'visible');
    tip.replaceChildren(html('b', '', clock(at)), ...nearest.map(({ name, point }) => html('span', '', `${name} ${format(point.value ?? 0)}`)));
    tip.hidden = false;
    tip.style.insetInlineStart = share > 0.5 ? 'auto' : `${share * 100}%`;
    tip.style.insetInlineEnd = share > 0.5 ? `${(1 - share) * 100}%` : 'auto';
    return undefined;
  });
}

function closest(points, wanted) {
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].at < wanted) low = middle + 1;
    else high = middle;
  }
  const after = points[low];
  const before = points[low - 1];
  if (!before) return after;
  return after.at - wanted < wanted - before.at ? after : before;
}
