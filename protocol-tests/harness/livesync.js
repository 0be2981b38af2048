// Opens setup links of Obsidian LiveSync, by the recipe of its library (`octagonal-wheels`, `encryption/hkdf.ts`).

import { webcrypto } from 'node:crypto';
import assert from 'node:assert/strict';

/** Decrypts the settings in a setup link. */
export async function open(link, passphrase) {
  const text = decodeURIComponent(link.slice('obsidian://setuplivesync?settings='.length));
  assert.ok(text.startsWith('%$'), text);
  const bytes = Buffer.from(text.slice(2), 'base64');
  const [salt, iv, keySalt, sealed] = [bytes.subarray(0, 32), bytes.subarray(32, 44), bytes.subarray(44, 76), bytes.subarray(76)];
  const { subtle } = webcrypto;
  const typed = await subtle.importKey('raw', new TextEncoder().encode(passphrase), 'PBKDF2', false, ['deriveBits']);
  const master = await subtle.deriveBits({ name: 'PBKDF2', salt, iterations: 310000, hash: 'SHA-256' }, typed, 256);
  const derived = await subtle.importKey('raw', master, 'HKDF', false, ['deriveKey']);
  const hkdf = { name: 'HKDF', salt: keySalt, info: new Uint8Array(), hash: 'SHA-256' };
  const key = await subtle.deriveKey(hkdf, derived, { name: 'AES-GCM', length: 256 }, false, ['decrypt']);
  return JSON.parse(new TextDecoder().decode(await subtle.decrypt({ name: 'AES-GCM', iv, tagLength: 128 }, key, sealed)));
}
