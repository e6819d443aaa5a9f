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
  const taps = square > side ? areaTaps(square, side) : linearTaps(square, side);
  const sums = new Float32Array(side * side * 3);
  const line = new Float32Array(side * 3);
  const columns = taps.map((tap) => inside(tap, left, frame.width));
  let row = -1;
  for (const [y, tap] of taps.entries()) {
    for (const [source, weight] of tap) {
      const from = source - top;
      if (from < 0 || from >= frame.height) continue;
      if (row !== from) {
        shrinkLine(frame, from, columns, line);
        row = from;
      }
      const start = y * side * 3;
      for (let at = 0; at < line.length; at += 1) sums[start + at] += weight * line[at];
    }
  }
  for (let at = 0; at < sums.length; at += 1) sums[at] = (Math.round(sums[at]) - mean) / spread;
  line.fill(0);
  return sums;
}

function shrinkLine(frame, y, columns, line) {
  const base = y * frame.width * 4;
  for (let x = 0; x < columns.length; x += 1) {
    let [red, green, blue] = [0, 0, 0];
    const { first, weights } = columns[x];
    for (let at = 0, from = base + first * 4; at < weights.length; at += 1, from += 4) {
      const weight = weights[at];
      red += weight * frame.data[from];
      green += weight * frame.data[from + 1];
      blue += weight * frame.data[from + 2];
    }
    line[3 * x] = red;
    line[3 * x + 1] = green;
    line[3 * x + 2] = blue;
  }
}

function inside(tap, offset, length) {
  const kept = tap.filter(([source]) => source >= offset && source < offset + length);
  return { first: kept.length ? kept[0][0] - offset : 0, weights: Float32Array.from(kept, ([, weight]) => weight) };
}

/** For each of `to` cells the sources it covers and the share of each: [[source, weight], ...]. */
function areaTaps(from, to) {
  const ratio = from / to;
  return Array.from({ length: to }, (_, cell) => {
    const [begin, end] = [cell * ratio, (cell + 1) * ratio];
    const taps = [];
    for (let source = Math.floor(begin); source < Math.min(Math.ceil(end), from); source += 1) {
      const share = Math.min(end, source + 1) - Math.max(begin, source);
      if (share > 1e-9) taps.push([source, share / ratio]);
    }
    return taps;
  });
}

function linearTaps(from, to) {
  const ratio = from / to;
  return Array.from({ length: to }, (_, cell) => {
    const at = Math.min(Math.max((cell + 0.5) * ratio - 0.5, 0), from - 1);
    const source = Math.min(Math.floor(at), Math.max(from - 2, 0));
    const weight = at - source;
    return weight > 0 ? [[source, 1 - weight], [source + 1, weight]] : [[source, 1]];
  });
}

/** The frame at half its size, by area, as RGBA. */
export function halved(frame) {
  const [width, height] = [Math.floor(frame.width / 2), Math.floor(frame.height / 2)];
  const data = new Uint8ClampedArray(width * height * 4);
  const columns = areaTaps(frame.width, width).map((tap) => inside(tap, 0, frame.width));
  const line = new Float32Array(width * 3);
  const sums = new Float32Array(width * 3);
  for (const [y, tap] of areaTaps(frame.height, height).entries()) {
    sums.fill(0);
    for (const [source, weight] of tap) {
      shrinkLine(frame, source, columns, line);
      for (let at = 0; at < sums.length; at += 1) sums[at] += weight * line[at];
    }
    for (let x = 0; x < width; x += 1) {
      const to = (y * width + x) * 4;
      for (let colour = 0; colour < 3; colour += 1) data[to + colour] = Math.round(sums[3 * x + colour]);
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
  const clamp = (at, length) => Math.min(Math.max(at, 0), length - 1);
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      const sourceX = inverse[0] * (x - tx) + inverse[1] * (y - ty);
      const sourceY = inverse[2] * (x - tx) + inverse[3] * (y - ty);
      const [left, top] = [Math.floor(sourceX), Math.floor(sourceY)];
      const [fx, fy] = [sourceX - left, sourceY - top];
      let [red, green, blue] = [0, 0, 0];
      for (let corner = 0; corner < 4; corner += 1) {
        const right = corner & 1;
        const lower = corner >> 1;
        const weight = (right ? fx : 1 - fx) * (lower ? fy : 1 - fy);
        if (weight === 0) continue;
        let [atX, atY] = [left + right, top + lower];
        if (replicate) [atX, atY] = [clamp(atX, width), clamp(atY, height)];
        else if (atX < 0 || atY < 0 || atX >= width || atY >= height) continue;
        const from = (atY * width + atX) * 4;
        red += weight * data[from];
        green += weight * data[from + 1];
        blue += weight * data[from + 2];
      }
      const to = (y * side + x) * 3;
      result[to] = Math.round(red);
      result[to + 1] = Math.round(green);
      result[to + 2] = Math.round(blue);
    }
  }
  return result;
}
