// Aligned face -> block-DCT coefficients without DC, as exact linear operators. The twin of recognition/frequency.py.
//
// Channels are plane-major (Y, Cb, Cr), then row frequency u, then column frequency v, without (0, 0): 3 x 63 = 189.

export const CROP_SIZE = 112;
export const BLOCK = 8;
export const CHANNELS = 3 * (BLOCK * BLOCK - 1);
export const SHAPES = Object.freeze({
  paper: Object.freeze([CHANNELS, CROP_SIZE, CROP_SIZE]),
  critical: Object.freeze([CHANNELS, CROP_SIZE / BLOCK, CROP_SIZE / BLOCK]),
});

// ITU-R BT.601, full range (JPEG/JFIF), in the float32 that Python multiplies with.
const RGB_TO_YCBCR = [
  [0.299, 0.587, 0.114],
  [-0.168735892, -0.331264108, 0.5],
  [0.5, -0.418687589, -0.081312411],
].map((row) => row.map(Math.fround));
const LUMA_CENTRE = 128;

const operators = new Map();

/**
 * Transform one crop.
 *
 * pixels: Uint8Array of 112 * 112 * 3, RGB, row by row; transform: "critical" or "paper".
 * Returns Float32Array of C * H * W (see SHAPES), channel by channel, row by row. Sums are taken in double precision
 * and rounded once, so the result is within a few float32 steps of Python's.
 */
export function toFrequency(pixels, transform) {
  const shape = SHAPES[transform];
  if (!shape) throw new Error(`unknown transform ${transform}`);
  if (pixels.length !== CROP_SIZE * CROP_SIZE * 3) throw new Error("a face crop is 112 x 112 pixels of RGB");
  const blocks = shape[1];
  const { length, start, sources, weights } = axisOperator(transform);
  const values = new Float32Array(shape[0] * blocks * blocks);
  const plane = new Float64Array(CROP_SIZE * CROP_SIZE);
  const half = new Float64Array(length * CROP_SIZE); // the operator along the columns, not yet along the rows
  for (let p = 0; p < 3; p += 1) {
    toPlane(pixels, p, plane);
    half.fill(0);
    for (let row = 0; row < length; row += 1) {
      for (let at = start[row]; at < start[row + 1]; at += 1) {
        const weight = weights[at];
        const from = sources[at] * CROP_SIZE;
        for (let x = 0; x < CROP_SIZE; x += 1) half[row * CROP_SIZE + x] += weight * plane[from + x];
      }
    }
    for (let row = 0; row < length; row += 1) {
      const u = Math.floor(row / blocks);
      const i = row % blocks;
      const from = row * CROP_SIZE;
      for (let column = u === 0 ? blocks : 0; column < length; column += 1) { // u = v = 0 is DC: it never leaves here
        let sum = 0;
        for (let at = start[column]; at < start[column + 1]; at += 1) sum += weights[at] * half[from + sources[at]];
        const channel = p * 63 + u * BLOCK + Math.floor(column / blocks) - 1;
        values[(channel * blocks + i) * blocks + (column % blocks)] = sum;
      }
    }
  }
  plane.fill(0);
  half.fill(0);
  return values;
}

function toPlane(pixels, which, plane) {
  const [red, green, blue] = RGB_TO_YCBCR[which];
  const centre = which === 0 ? LUMA_CENTRE : 0;
  for (let at = 0, from = 0; at < plane.length; at += 1, from += 3) {
    plane[at] = red * pixels[from] + green * pixels[from + 1] + blue * pixels[from + 2] - centre;
  }
}

/**
 * The transform along one axis, sparse: row u * blocks + i is frequency u of block i and takes sources[at] with
 * weights[at] for `at` from start[row] up to start[row + 1].
 */
function axisOperator(transform) {
  if (operators.has(transform)) return operators.get(transform);
  const blocks = SHAPES[transform][1];
  const signal = transform === "paper" ? upsampling() : identity(); // rows: 8 * blocks, sparse over 112
  const rows = [];
  for (let u = 0; u < BLOCK; u += 1) {
    for (let i = 0; i < blocks; i += 1) {
      const taps = new Map();
      for (let b = 0; b < BLOCK; b += 1) {
        for (const [source, weight] of signal[i * BLOCK + b]) {
          taps.set(source, (taps.get(source) ?? 0) + dct(u, b) * weight);
        }
      }
      rows.push([...taps]);
    }
  }
  const start = new Int32Array(rows.length + 1);
  for (const [row, taps] of rows.entries()) start[row + 1] = start[row] + taps.length;
  const operator = {
    length: rows.length,
    start,
    sources: Int32Array.from(rows.flat(), ([source]) => source),
    weights: Float32Array.from(rows.flat(), ([, weight]) => weight),
  };
  operators.set(transform, operator);
  return operator;
}

/** Orthonormal type-II DCT of eight points. */
function dct(frequency, position) {
  const value = Math.sqrt(2 / BLOCK) * Math.cos((Math.PI * (2 * position + 1) * frequency) / (2 * BLOCK));
  return frequency === 0 ? value / Math.SQRT2 : value;
}

function identity() {
  return Array.from({ length: CROP_SIZE }, (_, at) => [[at, 1]]);
}

/** Bilinear, eightfold, with aligned corners. */
function upsampling() {
  const length = CROP_SIZE * BLOCK;
  return Array.from({ length }, (_, at) => {
    const source = (at * (CROP_SIZE - 1)) / (length - 1);
    const left = Math.min(Math.floor(source), CROP_SIZE - 2);
    const weight = source - left;
    return [[left, 1 - weight], [left + 1, weight]];
  });
}
