// Asking the server: signed requests, verified replies, nothing believed that is not signed by a pinned key.
// terminal/client.py in the browser.

import { readDecision, readReply } from "./decision.js";
import { ProtocolError, fromBase64, importPublicKey, keyIdOf, signRequest, toBase64, toBase64Url } from "./sign.js";

export const API = "/api/v1";
export const CAPTURE_TYPE = "application/vnd.lintel.capture";
const SLACK_MS = 3000; // on top of the server's own deadline, for the network
const MAX_REPLY_BYTES = 4 * 1024 * 1024; // a privacy profile is the largest honest reply
const FIRST_POLL_MS = 100;
const LONGEST_POLL_MS = 1000;
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** No believable answer. `code`: `unreachable`, nothing answered; `unverified`, something answered that the server's
 *  key did not sign, and `hint` is the code it gave, which may be a lie; `refused`, the server, proven, said no. */
export class ClientError extends Error {
  constructor(code, message, hint = "") {
    super(message);
    this.name = "ClientError";
    this.code = code;
    this.hint = hint;
  }
}

/** The server as one terminal sees it. `terminal` is what the store keeps; it changes only by `refresh`. */
export class TerminalClient {
  constructor(terminal, { origin = location.origin, clock = () => Date.now() / 1000 } = {}) {
    this.terminal = terminal;
    this.origin = origin;
    this.clock = clock;
    this.keysOf = null;
  }

  /** May this person come in? Sent once: a capture that got no answer is gone. Throws ClientError whenever there is
   *  no verified decision. */
  async attempt(payload) {
    const giveUpAt = this.clock() * 1000 + this.terminal.attemptDeadlineMs + SLACK_MS;
    let outcome = await this.decide(await this.send("POST", `${API}/attempts`, payload, CAPTURE_TYPE));
    const { attemptId } = outcome;
    for (let pause = FIRST_POLL_MS; outcome.pending; pause = Math.min(LONGEST_POLL_MS, pause * 2)) {
      if (this.clock() * 1000 >= giveUpAt) {
        throw new ClientError("unanswered", "the server did not decide in time; the door stays shut");
      }
      await sleep(pause * (0.5 + Math.random()));
      outcome = await this.decide(await this.send("GET", `${API}/attempts/${asId(attemptId)}`));
      if (outcome.attemptId !== attemptId) {
        throw new ClientError("unverified", "the server answered about another attempt");
      }
    }
    return outcome;
  }

  /** A PIN or a card after the face of `attemptId`, or a card and its PIN without one. Sent once. */
  async prove({ attemptId, pin, card }) {
    const given = { attempt_id: attemptId && asId(attemptId), pin, card }; // JSON leaves out what is undefined
    const body = new TextEncoder().encode(JSON.stringify(given));
    const outcome = await this.decide(await this.send("POST", `${API}/attempts/proof`, body, "application/json"));
    body.fill(0);
    if (outcome.pending) throw new ClientError("unanswered", "the server did not decide in time; the door stays shut");
    return outcome;
  }

  /** The enrollment that an administrator began at this terminal, or null. */
  async enrollment() {
    const { status, document } = await this.ask("GET", `${API}/terminals/me/enrollment`);
    return status === 204 ? null : document;
  }

  async enrollmentProgress(id) {
    return (await this.ask("GET", `${API}/enrollments/${asId(id)}/captures`)).document;
  }

  async submitEnrollmentCapture(id, payload, quality) {
    const extra = { "Lintel-Capture-Quality": `score=${quality.toFixed(3)}` };
    return (await this.ask("POST", `${API}/enrollments/${asId(id)}/captures`, payload, CAPTURE_TYPE, extra)).document;
  }

  /** Door, profile and server keys as they are now. A new server key is believed because a pinned one signed the reply
   *  that names it. */
  async refresh() {
    const { document } = await this.ask("GET", `${API}/terminals/me`);
    this.terminal = { ...this.terminal, ...describe(document) };
    this.keysOf = null;
    return this.terminal;
  }

  /** The privacy profile of that hash, as text. Verified twice: the reply's signature, and the hash that names it. */
  async profile(hash) {
    if (!/^[0-9a-f]{64}$/.test(hash)) throw new ClientError("refused", "a profile is named by 64 hexadecimal digits");
    const reply = await this.send("GET", `${API}/profiles/${hash}`);
    await this.verify(reply);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", reply.body));
    const actual = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (actual !== hash) throw new ClientError("unverified", "the server sent another profile than was asked for");
    return new TextDecoder().decode(reply.body);
  }

  async ask(method, path, body, contentType, extra) {
    const reply = await this.send(method, path, body, contentType, extra);
    return { status: reply.status, document: await this.verify(reply) };
  }

  async send(method, path, body = new Uint8Array(), contentType = null, extra = {}) {
    const url = this.origin + path;
    const nonce = toBase64Url(crypto.getRandomValues(new Uint8Array(18)));
    const headers = await signRequest({
      method, url, body, contentType, nonce,
      keyId: this.terminal.keyId,
      privateKey: this.terminal.privateKey,
      created: Math.floor(this.clock()),
    });
    const timeoutMs = this.terminal.attemptDeadlineMs + SLACK_MS;
    return { ...(await exchange(method, url, { ...headers, ...extra }, body, timeoutMs)), nonce };
  }

  async verify(reply) {
    let document;
    try {
      document = await readReply(await this.evidence(reply));
    } catch (error) {
      throw await this.disbelieve(reply, error);
    }
    if (reply.status < 200 || reply.status >= 300) throw refusal(document, reply.status);
    return document;
  }

  async decide(reply) {
    try {
      return await readDecision({ ...(await this.evidence(reply)), doorId: this.terminal.doorId });
    } catch (error) {
      throw await this.disbelieve(reply, error);
    }
  }

  async evidence(reply) {
    const { status, headers, body, nonce } = reply;
    return { status, headers, body, requestNonce: nonce, publicKeys: await this.publicKeys(), now: this.clock() };
  }

  async publicKeys() {
    if (this.keysOf === null) {
      const entries = Object.entries(this.terminal.serverKeys);
      this.keysOf = new Map(
        await Promise.all(entries.map(async ([id, key]) => [id, await importPublicKey(fromBase64(key))])),
      );
    }
    return this.keysOf;
  }

  /** A refusal that the server proved is `refused`; everything else is `unverified`, with its code as a hint. */
  async disbelieve(reply, error) {
    if (!(error instanceof ProtocolError)) throw error;
    let document;
    try {
      document = await readReply(await this.evidence(reply));
    } catch {
      return new ClientError("unverified", `the reply cannot be believed: ${error.message}`, unprovenCode(reply.body));
    }
    if (reply.status >= 400) return refusal(document, reply.status, error.code);
    return new ClientError("unverified", `the reply cannot be believed: ${error.message}`, error.code);
  }
}

/** Spends a one-time code: makes a key that never leaves this browser, gives the server its public half, and pins the
 *  server's keys. The one exchange that no signature protects: HTTPS does, and comparing the fingerprints. */
export async function pairTerminal(code, { origin = location.origin } = {}) {
  const pair = await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
  const publicKey = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  const body = new TextEncoder().encode(
    JSON.stringify({ code, public_key: toBase64(publicKey), software: "lintel-kiosk" }),
  );
  const headers = { "Content-Type": "application/json" };
  const reply = await exchange("POST", `${origin}${API}/terminals/pair`, headers, body, 15000);
  let document = {};
  try {
    document = JSON.parse(new TextDecoder().decode(reply.body)) ?? {};
  } catch {
    // not JSON: some proxy's page, handled below like any other refusal
  }
  if (reply.status !== 201) throw refusal(document, reply.status);
  return { ...describe(document), keyId: await keyIdOf(publicKey), privateKey: pair.privateKey };
}

/** What the server says about this terminal. Half of a description is never believed. */
function describe(document) {
  const door = document.door ?? null;
  const keys = Array.isArray(document.server_keys) ? document.server_keys : [];
  const serverKeys = Object.fromEntries(keys.map((key) => [key?.key_id, key?.public_key]));
  const complete =
    typeof document.terminal_id === "string" &&
    typeof document.name === "string" &&
    typeof document.profile_hash === "string" &&
    Number.isFinite(document.attempt_deadline_ms) &&
    (door === null || (typeof door.id === "string" && typeof door.name === "string")) &&
    keys.length > 0 &&
    Object.entries(serverKeys).every(([id, key]) => id !== "undefined" && isKey(key));
  if (!complete) throw new ClientError("refused", "the server's description of this terminal lacks something");
  return {
    terminalId: document.terminal_id,
    name: document.name,
    role: String(document.role ?? ""),
    doorId: door?.id ?? null,
    doorName: door?.name ?? "",
    asksFor: String(door?.asks_for ?? "face"),
    siteName: String(document.site?.name ?? ""),
    timeZone: String(document.site?.timezone ?? ""),
    serverKeys,
    profileHash: document.profile_hash,
    attemptDeadlineMs: document.attempt_deadline_ms,
  };
}

function isKey(text) {
  try {
    return fromBase64(text).length === 32;
  } catch {
    return false;
  }
}

async function exchange(method, url, headers, body, timeoutMs) {
  try {
    const response = await fetch(url, {
      method,
      headers: { Accept: "application/json", ...headers },
      body: body.length ? body : undefined,
      credentials: "omit", // a signature proves who asks; no cookie of a person who signed in here joins it
      cache: "no-store",
      redirect: "error",
      referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(timeoutMs),
    });
    return { status: response.status, headers: response.headers, body: await readAll(response) };
  } catch (error) {
    if (error instanceof ClientError) throw error;
    throw new ClientError("unreachable", `the server did not answer: ${error?.name ?? error}`);
  }
}

async function readAll(response) {
  if (!response.body) return new Uint8Array();
  const chunks = [];
  let length = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > MAX_REPLY_BYTES) {
      await reader.cancel();
      throw new ClientError("unverified", "the reply is larger than any honest one");
    }
    chunks.push(value);
  }
  const whole = new Uint8Array(length);
  let position = 0;
  for (const chunk of chunks) {
    whole.set(chunk, position);
    position += chunk.length;
  }
  return whole;
}

function refusal(document, status, code = "") {
  const detail = typeof document?.detail === "string" && document.detail;
  const hint = typeof document?.code === "string" ? document.code : code;
  return new ClientError("refused", detail || `the server answered ${status}`, hint);
}

/** The `code` of a reply nobody signed: a hint for whoever mends the kiosk, never for a decision. */
function unprovenCode(body) {
  try {
    const { code } = JSON.parse(new TextDecoder().decode(body));
    return typeof code === "string" && /^[a-z_]{1,64}$/.test(code) ? code : "";
  } catch {
    return "";
  }
}

/** An identifier that may stand in a path. */
function asId(value) {
  const id = String(value).toLowerCase();
  if (!UUID.test(id)) throw new ClientError("unverified", "the server named no valid identifier");
  return id;
}

function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
