// Creates X.509 certificates by hand-written DER, because node can parse but not create them. Contains an
// authority with an intermediate certificate, a parser that verifies certificate requests (PKCS #10), and a
// lookup of extensions.

import { createHash, createPublicKey, generateKeyPairSync, randomBytes, sign, verify } from 'node:crypto';

const P256 = { namedCurve: 'P-256' };
const ECDSA_SHA256 = '1.2.840.10045.4.3.2';
const EXTENSION_REQUEST = '1.2.840.113549.1.9.14';
export const ALTERNATIVE_NAMES = '2.5.29.17';
/** RFC 8737, section 6.1. */
export const ACME_IDENTIFIER = '1.3.6.1.5.5.7.1.31';

function tlv(tag, ...parts) {
  const body = Buffer.concat(parts);
  if (body.length < 0x80) return Buffer.concat([Buffer.from([tag, body.length]), body]);
  // DER requires the shortest form of the length.
  const long = body.length > 0xff ? [0x82, body.length >> 8, body.length & 0xff] : [0x81, body.length];
  return Buffer.concat([Buffer.from([tag, ...long]), body]);
}

const sequence = (...parts) => tlv(0x30, ...parts);
const octets = (...parts) => tlv(0x04, ...parts);
const bits = (...parts) => tlv(0x03, Buffer.from([0]), ...parts);
const yes = tlv(0x01, Buffer.from([0xff]));

function oid(text) {
  const [first, second, ...rest] = text.split('.').map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const groups = [arc & 0x7f];
    for (let left = arc >> 7; left > 0; left >>= 7) groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return tlv(0x06, Buffer.from(bytes));
}

const name = (text) => sequence(tlv(0x31, sequence(oid('2.5.4.3'), tlv(0x0c, Buffer.from(text)))));
/** UTCTime, as RFC 5280 requires for years before 2050. */
const time = (date) => tlv(0x17, Buffer.from(date.toISOString().slice(2).replace(/[-:T]|\.\d+/g, '')));
const extension = (id, critical, value) => sequence(oid(id), ...(critical ? [yes] : []), octets(value));
const names = (domains) =>
  sequence(...domains.map((domain) => (/^[\d.]+$/.test(domain) ? tlv(0x87, Buffer.from(domain.split('.').map(Number))) : tlv(0x82, Buffer.from(domain)))));

/** Parses a sequence of DER elements: {tag, body (content), whole (with the header)}. */
function elements(der) {
  const found = [];
  for (let at = 0; at < der.length; ) {
    let length = der[at + 1];
    let head = 2;
    if (length & 0x80) {
      head += length & 0x7f;
      length = der.readUIntBE(at + 2, length & 0x7f);
    }
    if (at + head + length > der.length) throw new Error('DER is cut off');
    found.push({ tag: der[at], body: der.subarray(at + head, at + head + length), whole: der.subarray(at, at + head + length) });
    at += head + length;
  }
  return found;
}

const inside = (element) => elements(element.body);

function findExtension(list, id) {
  for (const entry of inside(list)) {
    const parts = inside(entry);
    if (parts[0].whole.equals(oid(id))) return { critical: parts.length === 3, value: parts.at(-1).body };
  }
  return null;
}

/** Returns an extension of a certificate as {critical, value}, or null if there is none. */
export function extensionOf(certificate, id) {
  const [body] = inside(elements(certificate)[0]);
  const list = inside(body).find((part) => part.tag === 0xa3);
  return list ? findExtension(inside(list)[0], id) : null;
}

/** Returns the names in the value of a subjectAltName extension. */
export function namesIn(value) {
  return inside(elements(value)[0]).map((entry) => entry.body.toString());
}

/** Parses a certificate request and verifies its signature. Returns its key and names. */
export function readRequest(der) {
  const [info, , signature] = inside(elements(der)[0]);
  const [, , key, attributes] = inside(info);
  const publicKey = createPublicKey({ key: key.whole, format: 'der', type: 'spki' });
  if (!verify('sha256', info.whole, publicKey, signature.body.subarray(1))) throw new Error('the request is not signed by its key');
  const wanted = inside(attributes).find((attribute) => inside(attribute)[0].whole.equals(oid(EXTENSION_REQUEST)));
  const list = inside(inside(wanted)[1])[0];
  return { spki: key.whole, names: namesIn(findExtension(list, ALTERNATIVE_NAMES).value) };
}

/** Creates a certificate for the key `spki`, signed by `issuer`. */
function issue(issuer, { subject, spki, from, until, extensions }) {
  const algorithm = sequence(oid(ECDSA_SHA256));
  const serial = randomBytes(12);
  serial[0] = (serial[0] & 0x3f) | 0x40;
  const body = sequence(
    tlv(0xa0, tlv(0x02, Buffer.from([2]))),
    tlv(0x02, serial),
    algorithm,
    name(issuer.subject),
    sequence(time(from), time(until)),
    subject ? name(subject) : sequence(),
    spki,
    tlv(0xa3, sequence(...extensions)),
  );
  return sequence(body, algorithm, bits(sign('sha256', body, issuer.key)));
}

export const pem = (der) => `-----BEGIN CERTIFICATE-----\n${der.toString('base64').match(/.{1,64}/g).join('\n')}\n-----END CERTIFICATE-----\n`;

const day = 86_400_000;

/** A certificate authority: clients trust `root`; an intermediate certificate signs. */
export class Ca {
  constructor() {
    this.rootHolder = this.#holder('a root of tests');
    this.rootDer = this.#authority(this.rootHolder, this.rootHolder);
    this.holder = this.#holder('an authority of tests');
    this.intermediate = this.#authority(this.rootHolder, this.holder);
    this.root = pem(this.rootDer);
  }

  #holder(subject) {
    const { publicKey, privateKey } = generateKeyPairSync('ec', P256);
    return { subject, key: privateKey, spki: publicKey.export({ type: 'spki', format: 'der' }) };
  }

  #authority(issuer, { subject, spki }) {
    const extensions = [
      extension('2.5.29.19', true, sequence(yes)),
      extension('2.5.29.15', true, tlv(0x03, Buffer.from([1, 0x06]))),
      extension('2.5.29.14', false, octets(createHash('sha1').update(spki).digest())),
    ];
    return issue(issuer, { subject, spki, from: new Date(Date.now() - day), until: new Date(Date.now() + 3650 * day), extensions });
  }

  /** Creates a server certificate, followed by the intermediate certificate (PEM). */
  certificate({ spki, names: domains, from = new Date(Date.now() - 60_000), until = new Date(Date.now() + 90 * day) }) {
    const extensions = [
      extension(ALTERNATIVE_NAMES, true, names(domains)),
      extension('2.5.29.37', false, sequence(oid('1.3.6.1.5.5.7.3.1'))),
    ];
    return pem(issue(this.holder, { spki, from, until, extensions })) + pem(this.intermediate);
  }

  /** Creates the certificate and key of a server that runs in the tests. */
  server(...domains) {
    const { spki, key } = this.#holder('');
    return { cert: this.certificate({ spki, names: domains }), key: key.export({ type: 'pkcs8', format: 'pem' }) };
  }
}
