import { clientTests } from './client.js';

clientTests(9, '9.0.0');
