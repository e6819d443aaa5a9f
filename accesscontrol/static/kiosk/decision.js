// A decision that the server is known to have made, about this request, at this door: terminal/decision.py in the
// browser. Pure. Everything that is not a plain answer throws ProtocolError, and a door without a decision stays shut.

import { MAX_REPLY_LIFETIME_S, ProtocolError, verifyReply } from "./sign.js";

const WITH_ZONE = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/;

/** The JSON object of a verified reply; {} for a verified reply without a body. */
export async function readReply({ status, headers, body, requestNonce, publicKeys, now }) {
  await verifyReply({ status, headers, body, requestNonce, publicKeys, now });
  if (!body.length) return {};
  let document;
  try {
    document = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw new ProtocolError("reply_malformed", "the reply is not JSON");
  }
  if (typeof document !== "object" || document === null || Array.isArray(document)) {
    throw new ProtocolError("reply_malformed", "the reply is not a JSON object");
  }
  return document;
}

/** `{pending: true, attemptId}` or a frozen decision. `doorId` is this terminal's own door. */
export async function readDecision({ status, headers, body, requestNonce, publicKeys, doorId, now }) {
  const document = await readReply({ status, headers, body, requestNonce, publicKeys, now });
  if (status !== 200 && status !== 202) {
    const code = typeof document.code === "string" ? document.code : "refused";
    throw new ProtocolError(code, String(document.detail ?? `the server answered ${status}`));
  }
  if (document.nonce !== requestNonce) {
    throw new ProtocolError("nonce_mismatch", "the decision is about another request");
  }
  if (!doorId || document.door_id !== doorId) {
    throw new ProtocolError("wrong_door", "the decision is about another door");
  }
  const attemptId = document.attempt_id;
  if (typeof attemptId !== "string" || !attemptId) {
    throw new ProtocolError("reply_malformed", "the decision names no attempt");
  }
  if (status === 202) return Object.freeze({ pending: true, attemptId });
  if (typeof document.granted !== "boolean" || typeof document.reason !== "string") {
    throw new ProtocolError("reply_malformed", "the decision says neither yes nor no");
  }
  const expiresAt = readTime(document.expires_at);
  if (expiresAt <= now) throw new ProtocolError("decision_expired", "the decision has expired");
  if (expiresAt - now > 2 * MAX_REPLY_LIFETIME_S) {
    throw new ProtocolError("decision_too_long_lived", "a decision lives for seconds");
  }
  return Object.freeze({
    pending: false,
    attemptId,
    granted: document.granted,
    reason: document.reason,
    message: textOf(document.message),
    nextStep: textOf(document.next_step),
    proofUntil: document.granted ? null : readEnd(document.proof_until), // a PIN or a card may follow until then
    name: document.granted ? textOf(document.name) : "", // only where the server's policy sends one
    doorId,
    expiresAt,
  });
}

function textOf(value) {
  return typeof value === "string" ? value.slice(0, 300) : "";
}

function readEnd(value) {
  return value === undefined || value === null ? null : readTime(value);
}

/** Unix seconds of an ISO 8601 moment with its zone. */
function readTime(value) {
  const milliseconds = typeof value === "string" && WITH_ZONE.test(value) ? Date.parse(value) : NaN;
  if (Number.isNaN(milliseconds)) {
    throw new ProtocolError("reply_malformed", "the decision does not say when it expires, with its zone");
  }
  return milliseconds / 1000;
}
