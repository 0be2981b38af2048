export { tabs } from './heading.js';
