// A short name for what sent a `User-Agent`: "Firefox 132 on Linux" instead of a line of history.

const APPS = [
  [/obsidian\/([\d.]+)/i, 'Obsidian'],
  [/\bPouchDB\/([\d.]+)/i, 'PouchDB'],
  [/\bSignal-Desktop\/([\d.]+)/, 'Signal'],
  [/\bEdgA?\/(\d+)/, 'Edge'],
  [/\bOPR\/(\d+)/, 'Opera'],
  [/\bSamsungBrowser\/(\d+)/, 'Samsung Internet'],
  [/\b(?:Firefox|FxiOS)\/(\d+)/, 'Firefox'],
  [/\bElectron\/(\d+)/, 'Electron app'],
  [/\b(?:HeadlessChrome|Chrome|CriOS)\/(\d+)/, 'Chrome'],
  [/\bVersion\/(\d+)[\d.]* (?:Mobile\/\S+ )?Safari\//, 'Safari'],
];
const SYSTEMS = [
  [/Android/, 'Android'], [/iPhone/, 'iPhone'], [/iPad/, 'iPad'], [/Windows/, 'Windows'], [/Mac OS X|Macintosh/, 'macOS'], [/CrOS/, 'ChromeOS'], [/Linux/, 'Linux'],
];

/** The short name, or the text itself where it is none of a browser. */
export function clientName(agent) {
  if (!agent) return 'Unknown app';
  const app = APPS.find(([pattern]) => pattern.test(agent));
  if (!app || !agent.startsWith('Mozilla/')) return agent;
  const [pattern, name] = app;
  const system = SYSTEMS.find(([sign]) => sign.test(agent))?.[1];
  return `${name} ${pattern.exec(agent)[1]}${system ? ` on ${system}` : ''}`;
}
