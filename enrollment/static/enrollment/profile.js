// Privacy profile: the public description of how a capture is perturbed. The twin of recognition/budget.py.

import { SHAPES } from "./frequency.js";

export const CODE_BITS_MAX = 4;
const PER_CHANNEL = ["low", "high", "channel_epsilon", "bits", "step"];

/**
 * Clip ranges, budgets, noise scales and bit allocation of one named profile.
 *
 *   const profile = await PrivacyProfile.fromText(text);              // what `profiles/{hash}` serves, unchanged
 *   const profile = await PrivacyProfile.fromText(text, { hash });    // refused unless its SHA-256 is `hash`
 *
 * Fields: hash (64 hexadecimal digits), name, transform, shape [C, H, W], low, high, step, centre (Float64Array, C),
 * bits (Int32Array, C), scale (c, position) -> Laplace scale of an element in coefficient units.
 * Throws an Error for anything but a complete, consistent profile: no capture is better than one with the wrong noise.
 */
export class PrivacyProfile {
  static async fromText(text, { hash = null } = {}) {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
    const found = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hash !== null && hash !== found) throw new Error("this is not the privacy profile that was asked for");
    return new PrivacyProfile(JSON.parse(text), found);
  }

  constructor(document, hash) {
    if (document?.format !== 1) throw new Error("not a privacy profile of format 1");
    const shape = SHAPES[document.transform];
    if (!shape) throw new Error(`unknown transform ${document.transform}`);
    const [channels, height, width] = shape;
    for (const field of PER_CHANNEL) requireNumbers(document[field], channels, field);
    if (!Array.isArray(document.position_weight) || document.position_weight.length !== height) {
      throw new Error("position_weight has another shape");
    }
    for (const row of document.position_weight) requireNumbers(row, width, "position_weight");

    this.hash = hash;
    this.name = String(document.name);
    this.transform = document.transform;
    this.shape = shape;
    this.low = Float64Array.from(document.low);
    this.high = Float64Array.from(document.high);
    this.step = Float64Array.from(document.step);
    this.bits = Int32Array.from(document.bits);
    this.centre = this.low.map((low, channel) => (low + this.high[channel]) / 2);
    this.channelEpsilon = Float64Array.from(document.channel_epsilon);
    this.positionWeight = Float64Array.from(document.position_weight.flat());
    this.#refuseContradictions(document);
  }

  /** Laplace scale of element `position` (row * width + column) of a sent channel: sensitivity / epsilon. */
  scale(channel, position) {
    return (this.high[channel] - this.low[channel]) / (this.channelEpsilon[channel] * this.positionWeight[position]);
  }

  /** Channels that leave, in order. */
  get sent() {
    return [...this.bits.keys()].filter((channel) => this.bits[channel] > 0);
  }

  /** How many channels have 1, 2, 3 and 4 bits. */
  get channelsPerWidth() {
    return [1, 2, 3, 4].map((width) => this.bits.filter((bits) => bits === width).length);
  }

  #refuseContradictions(document) {
    if (this.sent.length === 0) throw new Error("a profile sends at least one channel");
    for (const [channel, bits] of this.bits.entries()) {
      if (bits !== document.bits[channel] || bits < 0 || bits > CODE_BITS_MAX) throw new Error("bits are 0 to 4");
      const sent = bits > 0;
      if (sent && !(this.low[channel] < this.high[channel] && this.step[channel] > 0)) {
        throw new Error("a channel that is sent needs low < high and a positive step");
      }
      if (sent ? !(this.channelEpsilon[channel] > 0) : this.channelEpsilon[channel] !== 0) {
        throw new Error("a channel has a budget exactly when it is sent");
      }
    }
    if (this.positionWeight.some((weight) => !(weight > 0))) throw new Error("position weights are positive");
  }
}

function requireNumbers(values, length, field) {
  if (!Array.isArray(values) || values.length !== length || !values.every(Number.isFinite)) {
    throw new Error(`${field} must be ${length} finite numbers`);
  }
}
