// Resizing and warping of frames, as OpenCV does it for Python. A frame is { width, height, data }: `data` holds RGBA,
// row by row, as a canvas gives it. Nothing here keeps a reference to what it was given.

/**
 * A square of `side` pixels from the frame, padded evenly to a square first, shrunk by exact area weights or enlarged
 * bilinearly; Float32Array of side * side * 3, each value (pixel - mean) / spread. Padding is black.
 */
export function squareInput(frame, side, mean, spread) {
  const square = Math.max(frame.width, frame.height);
  const left = Math.floor((square - frame.width) / 2);
  const top = Math.floor((square - frame.height) / 2);
  const columns = tapsFor(square, side, left, frame.width);
  const rows = tapsFor(square, side, top, frame.height);
  const sums = new Float32Array(side * side * 3);
  const line = new Float32Array(side * 3);
  let shrunk = -1; // the row of the frame that `line` holds
  for (let y = 0; y < side; y += 1) {
    const to = y * side * 3;
    for (let at = rows.start[y], from = rows.first[y]; at < rows.start[y + 1]; at += 1, from += 1) {
      if (shrunk !== from) shrinkLine(frame, from, columns, line);
      shrunk = from;
      const weight = rows.weights[at];
      for (let x = 0; x < line.length; x += 1) sums[to + x] += weight * line[x];
    }
  }
  for (let at = 0; at < sums.length; at += 1) sums[at] = (Math.round(sums[at]) - mean) / spread;
  line.fill(0);
  return sums;
}

/** One row of the frame, shrunk to `line`. */
function shrinkLine(frame, y, { first, start, weights }, line) {
  const data = frame.data;
  const base = y * frame.width * 4;
  for (let cell = 0, to = 0; cell < first.length; cell += 1, to += 3) {
    let red = 0;
    let green = 0;
    let blue = 0;
    for (let at = start[cell], from = base + first[cell] * 4; at < start[cell + 1]; at += 1, from += 4) {
      const weight = weights[at];
      red += weight * data[from];
      green += weight * data[from + 1];
      blue += weight * data[from + 2];
    }
    line[to] = red;
    line[to + 1] = green;
    line[to + 2] = blue;
  }
}

const known = new Map(); // frames of one camera have one size

/**
 * How `to` cells are made of `from` sources, of which only `length` from `offset` on exist: cell c takes the sources
 * first[c], first[c] + 1, ... with weights[start[c]] up to weights[start[c + 1]].
 */
function tapsFor(from, to, offset, length) {
  const key = `${from} ${to} ${offset} ${length}`;
  if (known.has(key)) return known.get(key);
  if (known.size > 64) known.clear(); // faces that come and go are looked at in many sizes
  const cells = Array.from({ length: to }, (_, cell) => (from > to ? areaTaps : linearTaps)(from, to, cell));
  const kept = cells.map((taps) => taps.filter(([source]) => source >= offset && source < offset + length));
  const start = new Int32Array(to + 1);
  for (const [cell, taps] of kept.entries()) start[cell + 1] = start[cell] + taps.length;
  const found = {
    first: Int32Array.from(kept, (taps) => (taps.length ? taps[0][0] - offset : 0)),
    start,
    weights: Float32Array.from(kept.flat(), ([, weight]) => weight),
  };
  known.set(key, found);
  return found;
}

/** The sources that a cell covers and the share of each: [[source, weight], ...]. */
function areaTaps(from, to, cell) {
  const ratio = from / to;
  const [begin, end] = [cell * ratio, (cell + 1) * ratio];
  const taps = [];
  for (let source = Math.floor(begin); source < Math.min(Math.ceil(end), from); source += 1) {
    const share = Math.min(end, source + 1) - Math.max(begin, source);
    if (share > 1e-9) taps.push([source, share / ratio]);
  }
  return taps;
}

function linearTaps(from, to, cell) {
  const at = Math.min(Math.max(((cell + 0.5) * from) / to - 0.5, 0), from - 1);
  const source = Math.min(Math.floor(at), Math.max(from - 2, 0));
  const weight = at - source;
  return weight > 0 ? [[source, 1 - weight], [source + 1, weight]] : [[source, 1]];
}

/** The frame at half its size, by area, as RGBA. */
export function halved(frame) {
  const [width, height] = [Math.floor(frame.width / 2), Math.floor(frame.height / 2)];
  const data = new Uint8ClampedArray(width * height * 4);
  const columns = tapsFor(frame.width, width, 0, frame.width);
  const rows = tapsFor(frame.height, height, 0, frame.height);
  const line = new Float32Array(width * 3);
  const sums = new Float32Array(width * 3);
  for (let y = 0; y < height; y += 1) {
    sums.fill(0);
    for (let at = rows.start[y], from = rows.first[y]; at < rows.start[y + 1]; at += 1, from += 1) {
      shrinkLine(frame, from, columns, line);
      for (let x = 0; x < sums.length; x += 1) sums[x] += rows.weights[at] * line[x];
    }
    for (let x = 0, to = y * width * 4; x < width; x += 1, to += 4) {
      data[to] = Math.round(sums[3 * x]);
      data[to + 1] = Math.round(sums[3 * x + 1]);
      data[to + 2] = Math.round(sums[3 * x + 2]);
      data[to + 3] = 255;
    }
  }
  return { width, height, data };
}

/** Part of a frame, clipped to it. */
export function cut(frame, left, top, right, bottom) {
  const [x0, y0] = [Math.max(left, 0), Math.max(top, 0)];
  const [x1, y1] = [Math.min(right, frame.width), Math.min(bottom, frame.height)];
  const [width, height] = [Math.max(x1 - x0, 0), Math.max(y1 - y0, 0)];
  const data = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y += 1) {
    const from = ((y0 + y) * frame.width + x0) * 4;
    data.set(frame.data.subarray(from, from + width * 4), y * width * 4);
  }
  return { width, height, data };
}

/**
 * Bilinear similarity or affine warp. matrix: [[a, b, tx], [c, d, ty]] from frame to result. Returns Uint8Array of
 * side * side * 3. What lies outside the frame is black, or the nearest pixel of the edge when `replicate`.
 */
export function warp(frame, matrix, side, { replicate = false } = {}) {
  const [[a, b, tx], [c, d, ty]] = matrix;
  const determinant = a * d - b * c;
  const inverse = [d / determinant, -b / determinant, -c / determinant, a / determinant];
  const { width, height, data } = frame;
  const result = new Uint8Array(side * side * 3);
  for (let y = 0, to = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1, to += 3) {
      const sourceX = inverse[0] * (x - tx) + inverse[1] * (y - ty);
      const sourceY = inverse[2] * (x - tx) + inverse[3] * (y - ty);
      const left = Math.floor(sourceX);
      const top = Math.floor(sourceY);
      let red = 0;
      let green = 0;
      let blue = 0;
      for (let corner = 0; corner < 4; corner += 1) {
        const right = corner & 1;
        const lower = corner >> 1;
        const weight = (right ? sourceX - left : left + 1 - sourceX) * (lower ? sourceY - top : top + 1 - sourceY);
        let atX = left + right;
        let atY = top + lower;
        if (atX < 0 || atY < 0 || atX >= width || atY >= height) {
          if (!replicate) continue;
          atX = Math.min(Math.max(atX, 0), width - 1);
          atY = Math.min(Math.max(atY, 0), height - 1);
        }
        const from = (atY * width + atX) * 4;
        red += weight * data[from];
        green += weight * data[from + 1];
        blue += weight * data[from + 2];
      }
      result[to] = Math.round(red);
      result[to + 1] = Math.round(green);
      result[to + 2] = Math.round(blue);
    }
  }
  return result;
}
