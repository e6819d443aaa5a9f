// Clip, add Laplace noise, emit integer codes: drawn exactly, from uniform integers. The twin of recognition/noise.py.
//
// One uniform 32-bit integer u decides: code = #{j : u < 2^32 * P(value + noise > threshold j)}. Only integers leave.

const RANGE = 2 ** 32;
const INTEGERS = 2 ** 52; // adding and subtracting it rounds a double below 2^51 to the nearest integer, ties to even
const MOST_AT_ONCE = 65536; // bytes: what getRandomValues gives in one call

/** n -> Uint8Array(n) from the operating system's generator. */
export function systemRandomness(count) {
  const bytes = new Uint8Array(count);
  for (let start = 0; start < count; start += MOST_AT_ONCE) {
    crypto.getRandomValues(bytes.subarray(start, Math.min(start + MOST_AT_ONCE, count)));
  }
  return bytes;
}

/** 2^32 * P(code >= j | value), an integer in 1..2^32 - 1: no code is ever impossible, whatever the face. */
export function codeThreshold(value, j, centre, step, scale, bits) {
  const distance = (centre + (j - (1 << bits) / 2) * step - value) / scale;
  const tail = 0.5 * Math.exp(-Math.abs(distance)); // Laplace survival function
  const probability = distance > 0 ? tail : 1 - tail;
  return Math.min(Math.max(probability * RANGE + INTEGERS - INTEGERS, 1), RANGE - 1);
}

/**
 * Draw the codes of one capture; fresh randomness each time, 4 bytes per sent element, little-endian, in channel order.
 *
 * values: Float32Array (C * H * W) of `toFrequency`; profile: PrivacyProfile; randomness: n -> Uint8Array(n).
 * Returns Uint8Array (C * H * W), 0 where nothing is sent. Throws when the randomness runs short.
 */
export function perturb(values, profile, randomness = systemRandomness) {
  const [channels, height, width] = profile.shape;
  const positions = height * width;
  if (values.length !== channels * positions) throw new Error("these features are of another transform");
  const sent = profile.sent;
  const stream = randomness(sent.length * positions * 4);
  if (stream.length !== sent.length * positions * 4) throw new Error("the source of randomness ran short");
  const uniform = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  const codes = new Uint8Array(channels * positions);
  let at = 0;
  for (const channel of sent) {
    const low = profile.low[channel];
    const high = profile.high[channel];
    const centre = profile.centre[channel];
    const step = profile.step[channel];
    const bits = profile.bits[channel];
    for (let position = 0; position < positions; position += 1, at += 4) {
      const value = Math.min(Math.max(values[channel * positions + position], low), high);
      const u = uniform.getUint32(at, true);
      const scale = profile.scale(channel, position);
      // Thresholds fall in j, so the count of those above u is found by halving.
      let atLeast = 0;
      let below = 1 << bits;
      while (below - atLeast > 1) {
        const middle = (atLeast + below) >> 1;
        if (u < codeThreshold(value, middle, centre, step, scale, bits)) atLeast = middle;
        else below = middle;
      }
      codes[channel * positions + position] = atLeast;
    }
  }
  stream.fill(0);
  return codes;
}
