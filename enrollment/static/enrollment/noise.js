// Clip, add Laplace noise, emit integer codes: drawn exactly, from uniform integers. The twin of recognition/noise.py.
//
// One uniform 32-bit integer u decides: code = #{j : u < 2^32 * P(value + noise > threshold j)}. Its upper 16 bits are
// drawn first, its lower 16 only where the code is not the same for all u that begin so. Only integers leave.

const RANGE = 2 ** 32;
const INTERVAL = 2 ** 16; // integers u with the same upper half
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
 * The code that every u from `first` to `last` has, or null where a threshold lies between. Thresholds fall in j, so the
 * count of those above u is found by halving.
 */
function codeOf(first, last, { value, centre, step, scale, bits }) {
  let atLeast = 0;
  let below = 1 << bits;
  while (below - atLeast > 1) {
    const middle = (atLeast + below) >> 1;
    const threshold = codeThreshold(value, middle, centre, step, scale, bits);
    if (last < threshold) atLeast = middle;
    else if (first >= threshold) below = middle;
    else return null;
  }
  return atLeast;
}

/** `count` uniform 16-bit integers, as a DataView to be read little-endian. */
function draw(randomness, count) {
  const stream = randomness(2 * count);
  if (stream.length !== 2 * count) throw new Error("the source of randomness ran short");
  return new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
}

function forget(drawn) {
  new Uint8Array(drawn.buffer, drawn.byteOffset, drawn.byteLength).fill(0);
}

/**
 * Draw the codes of one capture with fresh randomness: 2 bytes per sent element, little-endian, in channel order; then 2
 * more for each element that these leave undecided, in the same order.
 *
 * values: Float32Array (C * H * W) of `toFrequency`; profile: PrivacyProfile; randomness: n -> Uint8Array(n).
 * Returns Uint8Array (C * H * W), 0 where nothing is sent. Throws when the randomness runs short.
 */
export function perturb(values, profile, randomness = systemRandomness) {
  const [channels, height, width] = profile.shape;
  const positions = height * width;
  if (values.length !== channels * positions) throw new Error("these features are of another transform");
  const elementAt = (channel, position) => ({
    value: Math.min(Math.max(values[channel * positions + position], profile.low[channel]), profile.high[channel]),
    centre: profile.centre[channel],
    step: profile.step[channel],
    scale: profile.scale(channel, position),
    bits: profile.bits[channel],
  });
  const codes = new Uint8Array(channels * positions);
  const sent = profile.sent;
  const upper = draw(randomness, sent.length * positions);
  const undecided = []; // [channel, position, the least u of its interval]
  let at = 0;
  for (const channel of sent) {
    for (let position = 0; position < positions; position += 1, at += 2) {
      const first = upper.getUint16(at, true) * INTERVAL;
      const code = codeOf(first, first + INTERVAL - 1, elementAt(channel, position));
      if (code === null) undecided.push([channel, position, first]);
      else codes[channel * positions + position] = code;
    }
  }
  const lower = draw(randomness, undecided.length);
  for (const [number, [channel, position, first]] of undecided.entries()) {
    const u = first + lower.getUint16(2 * number, true);
    codes[channel * positions + position] = codeOf(u, u, elementAt(channel, position));
  }
  forget(upper);
  forget(lower);
  return codes;
}
