// How a terminal and the server prove to each other who wrote a message: terminal/protocol.py in the browser.
// Pure: no I/O, no clock, no randomness. tests/browser/test_kiosk.py holds both to the same vectors.
//
// HTTP message signatures (RFC 9421) with Ed25519 over a body digest (RFC 9530), in the one narrow profile of
// docs/protocol.md. Whatever is outside it is refused. Keys are CryptoKeys, bodies Uint8Arrays, times Unix seconds.

export const ALGORITHM = "ed25519";
export const REQUEST_TAG = "lintel-request";
export const REPLY_TAG = "lintel-reply";
export const CLOCK_WINDOW_S = 60;
export const MAX_REPLY_LIFETIME_S = 120;

const LABEL = "lintel";
const MAX_HEADER_CHARACTERS = 2048;
const REQUEST_COMPONENTS = ["@method", "@authority", "@path", "@query", "content-digest"];
const REPLY_COMPONENTS = ["@status", "content-digest"];
const PARAMETERS = new Set(["created", "expires", "nonce", "keyid", "alg", "tag"]);

const NONCE = /^[A-Za-z0-9_-]{16,128}$/;
const KEY_ID = /^[A-Za-z0-9_.:-]{1,128}$/;
const PRINTABLE = /^[\x20-\x7e]*$/;
// RFC 8941 dictionaries of one member, in the canonical spelling that a serializer produces.
const SIGNATURE_INPUT = /^([a-z][a-z0-9_.*-]*)=(\(("[a-z@-]+"(?: "[a-z@-]+")*)\)((?:;[^;,]+)*))$/;
const PARAMETER = /;([a-z]+)=(?:"([A-Za-z0-9_.:+/=-]*)"|([0-9]{1,15}))/y;
const BINARY_MEMBER = /^([a-z][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):$/;

/** A message that must not be believed. `code` is stable, `message` is for whoever has to mend it. */
export class ProtocolError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "ProtocolError";
    this.code = code;
  }
}

// Bytes -----------------------------------------------------------------------------------------------------------

const utf8 = new TextEncoder();

export function toBase64(bytes) {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

/** Strict: the right alphabet and the right padding, or a TypeError. */
export function fromBase64(text) {
  if (text.length % 4 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw new TypeError("not base64");
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function toBase64Url(bytes) {
  return toBase64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

// Keys ------------------------------------------------------------------------------------------------------------

/** A name both sides can compute: the first 16 bytes of SHA-256 of the raw public key, base64url without padding. */
export async function keyIdOf(publicKey) {
  if (publicKey.length !== 32) throw new ProtocolError("key_malformed", "an Ed25519 public key has 32 bytes");
  return toBase64Url((await sha256(publicKey)).slice(0, 16));
}

/** A server's public key, 32 raw bytes, as a CryptoKey that can verify and nothing else. */
export async function importPublicKey(raw) {
  if (raw.length !== 32) throw new ProtocolError("key_malformed", "an Ed25519 public key has 32 bytes");
  return crypto.subtle.importKey("raw", raw, { name: "Ed25519" }, true, ["verify"]);
}

// Requests --------------------------------------------------------------------------------------------------------

/** The headers that make this request a signed one. `url` is absolute, as the server will see it. */
export async function signRequest({ method, url, body, contentType, keyId, privateKey, created, nonce }) {
  const headers = { "Content-Digest": await contentDigest(body) };
  if (body.length) {
    if (!contentType) {
      throw new ProtocolError("content_type_missing", "a request with a body names its content type");
    }
    headers["Content-Type"] = contentType;
  }
  const target = targetComponents(method, url);
  const names = body.length ? [...REQUEST_COMPONENTS, "content-type"] : REQUEST_COMPONENTS;
  const values = { ...target, "content-digest": headers["Content-Digest"], "content-type": contentType };
  const components = names.map((name) => [name, clean(name, values[name])]);
  const params = serializeParams({ names, created, nonce, keyId, tag: REQUEST_TAG });
  const base = signatureBase(components, params);
  const signature = new Uint8Array(await crypto.subtle.sign({ name: "Ed25519" }, privateKey, base));
  headers["Signature-Input"] = `${LABEL}=${params}`;
  headers["Signature"] = `${LABEL}=:${toBase64(signature)}:`;
  return headers;
}

// Replies ---------------------------------------------------------------------------------------------------------

/** Believe the reply or throw ProtocolError. `publicKeys` maps the pinned keys' ids to CryptoKeys; others are refused.
 *  `headers` is a Headers object or anything with `get`. */
export async function verifyReply({ status, headers, body, requestNonce, publicKeys, now }) {
  const signature = readSignature(headers, REPLY_TAG);
  const digest = clean("content-digest", headerOf(headers, "content-digest"));
  const values = { "@status": String(status), "content-digest": digest };
  requireCoverage(signature, REPLY_COMPONENTS);
  if (signature.expires === undefined) {
    throw new ProtocolError("signature_malformed", "a reply says when it expires");
  }
  const publicKey = publicKeys.get(signature.keyId);
  if (publicKey === undefined) {
    throw new ProtocolError("key_unknown", `the reply is signed by ${signature.keyId}, which is not a pinned key`);
  }
  await verifyDigest(digest, body);
  const base = signatureBase(signature.components.map((name) => [name, values[name]]), signature.params);
  if (!(await crypto.subtle.verify({ name: "Ed25519" }, publicKey, signature.value, base))) {
    throw new ProtocolError("signature_invalid", "the signature does not fit the message and the key");
  }
  if (signature.nonce !== requestNonce) {
    throw new ProtocolError("nonce_mismatch", "the reply answers another request");
  }
  if (signature.created > now + CLOCK_WINDOW_S) {
    throw new ProtocolError("clock_skew", `the reply was signed ${signature.created - now} s ahead of this clock`);
  }
  if (signature.expires - signature.created > MAX_REPLY_LIFETIME_S) {
    throw new ProtocolError("reply_too_long_lived", `a reply may live ${MAX_REPLY_LIFETIME_S} s at most`);
  }
  if (now >= signature.expires) {
    throw new ProtocolError("reply_expired", `the reply expired ${now - signature.expires} s ago`);
  }
  const { keyId, nonce, created, expires } = signature;
  return { keyId, nonce, created, expires };
}

// The standards ---------------------------------------------------------------------------------------------------

/** RFC 9530 section 2, with SHA-256. */
export async function contentDigest(body) {
  return `sha-256=:${toBase64(await sha256(body))}:`;
}

/** RFC 9421 section 2.5: one line per covered component, then the parameters; the bytes that are signed. */
export function signatureBase(components, params) {
  const lines = components.map(([name, value]) => `"${name}": ${value}`);
  return utf8.encode([...lines, `"@signature-params": ${params}`].join("\n"));
}

/** RFC 9421 sections 2.2.1, 2.2.3, 2.2.6 and 2.2.7 for an absolute http(s) address. */
export function targetComponents(method, url) {
  let parts;
  try {
    parts = new URL(url);
  } catch {
    throw new ProtocolError("url_malformed", "not an address");
  }
  if (!["http:", "https:"].includes(parts.protocol)) {
    throw new ProtocolError("url_malformed", "the address must be an absolute http or https one");
  }
  return { "@method": method, "@authority": parts.host, "@path": parts.pathname, "@query": parts.search || "?" };
}

function serializeParams({ names, created, nonce, keyId, tag }) {
  if (!NONCE.test(nonce)) {
    throw new ProtocolError("nonce_malformed", "a nonce is 16 to 128 characters of base64url");
  }
  if (!KEY_ID.test(keyId)) {
    throw new ProtocolError("key_malformed", "a key id is 1 to 128 characters of A-Z a-z 0-9 _ . : -");
  }
  if (!Number.isInteger(created) || created < 0) {
    throw new ProtocolError("time_malformed", "created is a Unix time");
  }
  const covered = names.map((name) => `"${name}"`).join(" ");
  return `(${covered});created=${created};nonce="${nonce}";keyid="${keyId}";alg="${ALGORITHM}";tag="${tag}"`;
}

function readSignature(headers, tag) {
  const givenInput = headerOf(headers, "signature-input");
  const givenValue = headerOf(headers, "signature");
  if (!givenInput || !givenValue) {
    throw new ProtocolError("signature_missing", "the message carries no signature");
  }
  if (givenInput.length > MAX_HEADER_CHARACTERS || givenValue.length > MAX_HEADER_CHARACTERS) {
    throw malformed("the signature headers are longer than any honest one");
  }
  const matched = SIGNATURE_INPUT.exec(givenInput);
  if (!matched) throw malformed("Signature-Input is not one plain inner list with parameters");
  const [, inputLabel, params, components, rest] = matched;
  const [label, value] = readBinaryMember(givenValue, "signature_malformed");
  if (label !== inputLabel) throw malformed("Signature and Signature-Input name different signatures");
  const parameters = readParameters(rest);
  if (parameters.get("alg") !== ALGORITHM) {
    throw new ProtocolError("algorithm_refused", `the only algorithm is ${ALGORITHM}`);
  }
  if (parameters.get("tag") !== tag) {
    throw new ProtocolError("tag_refused", `a signature for this use carries the tag ${tag}`);
  }
  return {
    components: components.split(" ").map((name) => name.replaceAll('"', "")),
    params,
    keyId: textOf(parameters, "keyid", KEY_ID),
    nonce: textOf(parameters, "nonce", NONCE),
    created: numberOf(parameters, "created"),
    expires: parameters.has("expires") ? numberOf(parameters, "expires") : undefined,
    value,
  };
}

function readParameters(rest) {
  const parameters = new Map();
  PARAMETER.lastIndex = 0;
  for (let position = 0; position < rest.length; position = PARAMETER.lastIndex) {
    PARAMETER.lastIndex = position;
    const matched = PARAMETER.exec(rest);
    if (!matched || parameters.has(matched[1])) {
      throw malformed("a signature parameter is malformed or given twice");
    }
    parameters.set(matched[1], matched[3] === undefined ? matched[2] : Number(matched[3]));
  }
  const unknown = [...parameters.keys()].filter((name) => !PARAMETERS.has(name));
  if (unknown.length) throw malformed(`unknown signature parameters: ${unknown.sort().join(", ")}`);
  return parameters;
}

function textOf(parameters, name, pattern) {
  const value = parameters.get(name);
  if (typeof value !== "string" || !pattern.test(value)) {
    throw malformed(`the signature parameter ${name} is missing or malformed`);
  }
  return value;
}

function numberOf(parameters, name) {
  const value = parameters.get(name);
  if (typeof value !== "number") throw malformed(`the signature parameter ${name} is missing or malformed`);
  return value;
}

function readBinaryMember(text, code) {
  const matched = BINARY_MEMBER.exec(text);
  if (!matched) throw new ProtocolError(code, "expected exactly one name with one byte sequence");
  try {
    return [matched[1], fromBase64(matched[2])];
  } catch {
    throw new ProtocolError(code, "not base64");
  }
}

function requireCoverage(signature, names) {
  const covered = new Set(signature.components);
  const exact = signature.components.length === names.length && names.every((name) => covered.has(name));
  if (!exact) {
    throw new ProtocolError("components_missing", `the signature must cover exactly: ${names.join(", ")}`);
  }
}

async function verifyDigest(header, body) {
  const [name, digest] = readBinaryMember(header, "digest_malformed");
  if (name !== "sha-256") throw new ProtocolError("digest_malformed", "the digest must be SHA-256");
  const actual = await sha256(body);
  if (digest.length !== actual.length || digest.some((byte, index) => byte !== actual[index])) {
    throw new ProtocolError("digest_mismatch", "the body is not the one that was signed");
  }
}

function clean(name, value) {
  if (value === undefined || value === null) {
    const code = name === "content-digest" ? "digest_missing" : `${name.replace("@", "").replaceAll("-", "_")}_missing`;
    throw new ProtocolError(code, `the message has no ${name}`);
  }
  if (!PRINTABLE.test(value)) {
    throw new ProtocolError("component_malformed", `${name} holds characters that cannot be signed`);
  }
  return value;
}

function headerOf(headers, name) {
  return headers.get(name)?.trim();
}

function malformed(message) {
  return new ProtocolError("signature_malformed", message);
}
