import { clientTests } from './client.js';

clientTests(7, '7.3.1');
