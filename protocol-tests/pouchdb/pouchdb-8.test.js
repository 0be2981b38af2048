import { clientTests } from './client.js';

clientTests(8, '8.0.1');
