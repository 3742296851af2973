(function () {
  "use strict";
  // SHA-256 (FIPS 180-4) of one block: the challenge and the number are shorter.
  var H = [], K = [], p, i;
  function fraction(x) { return ((x - Math.floor(x)) * 4294967296) | 0; }
  for (p = 2; K.length < 64; p++) {
    for (i = 2; i * i <= p && p % i; i++);
    if (i * i > p) {
      if (H.length < 8) H.push(fraction(Math.sqrt(p)));
      K.push(fraction(Math.cbrt(p)));
    }
  }
  function turn(x, n) { return (x >>> n) | (x << (32 - n)); }
  var w = new Int32Array(64);
  function firstWord(text) {
    var i, t1, t2, n = text.length;
    w.fill(0);
    for (i = 0; i < n; i++) w[i >> 2] |= text.charCodeAt(i) << (24 - (i & 3) * 8);
    w[n >> 2] |= 128 << (24 - (n & 3) * 8);
    w[15] = n * 8;
    for (i = 16; i < 64; i++) {
      var x = w[i - 15], y = w[i - 2];
      w[i] = (w[i - 16] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + w[i - 7] + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10))) | 0;
    }
    var a = H[0], b = H[1], c = H[2], d = H[3], e = H[4], f = H[5], g = H[6], h = H[7];
    for (i = 0; i < 64; i++) {
      t1 = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      t2 = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0; d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    return (H[0] + a) | 0;
  }
  var form = document.getElementById("proof"), text = form.elements.challenge.value;
  form.hidden = false; // now that somebody works, it shows
  var mask = -1 << (32 - form.getAttribute("data-bits")), n = 0;
  (function some() {
    // A few at a time, so that the page stays alive.
    for (var end = n + 2000; n < end; n++) {
      if ((firstWord(text + n) & mask) === 0) {
        form.elements.nonce.value = n;
        form.submit();
        return;
      }
    }
    setTimeout(some, 0);
  })();
})();
