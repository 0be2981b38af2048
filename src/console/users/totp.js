// One-time codes (RFC 6238) as authenticator apps make them: SHA-1, 6 digits, 30 seconds.

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

/** Bytes in base32 without padding; the length must be a multiple of five bytes. */
export function base32(bytes) {
  let bits = '';
  for (const byte of bytes) bits += byte.toString(2).padStart(8, '0');
  return bits.match(/.{5}/g).map((five) => ALPHABET[Number.parseInt(five, 2)]).join('');
}

function fromBase32(text) {
  const bits = [...text].map((letter) => ALPHABET.indexOf(letter).toString(2).padStart(5, '0')).join('');
  return Uint8Array.from(bits.match(/.{8}/g), (eight) => Number.parseInt(eight, 2));
}

/** A new secret: 20 random bytes, 32 characters. */
export const newKey = () => base32(crypto.getRandomValues(new Uint8Array(20)));

/** The address that an authenticator app reads. */
export function otpauth(name, key, issuer = 'settee') {
  return `otpauth://totp/${encodeURIComponent(issuer)}:${encodeURIComponent(name)}?secret=${key}&issuer=${encodeURIComponent(issuer)}`;
}

/** Whether this page can compute codes: browsers allow it over TLS and on this machine only. */
export const canCheck = () => Boolean(globalThis.crypto?.subtle);

/** The code of a time. */
export async function code(key, ms) {
  const counter = new DataView(new ArrayBuffer(8));
  counter.setBigUint64(0, BigInt(Math.floor(ms / 30_000)));
  const secret = await crypto.subtle.importKey('raw', fromBase32(key), { name: 'HMAC', hash: 'SHA-1' }, false, ['sign']);
  const digest = new DataView(await crypto.subtle.sign('HMAC', secret, counter.buffer));
  const number = digest.getUint32(digest.getUint8(19) & 15) & 0x7fffffff;
  return String(number % 1_000_000).padStart(6, '0');
}

/** Whether `entered` is the code of now, or of the step before or after, as on the server. */
export async function matches(key, entered, ms = Date.now()) {
  const codes = await Promise.all([-30_000, 0, 30_000].map((shift) => code(key, ms + shift)));
  return codes.includes(entered.replaceAll(/\s/g, ''));
}
