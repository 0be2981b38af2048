(function (table, inner) {
  'use strict';
})
