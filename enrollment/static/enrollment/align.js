// Bring a face to the one pose that the recogniser knows: 112 x 112, five points on the ArcFace template. The twin of
// recognition/align.py.

import { CROP_SIZE } from "./frequency.js";
import { halved, warp } from "./pixels.js";

// (x, y) in pixels of the crop: image-left eye, image-right eye, nose tip, image-left and image-right mouth corner.
export const TEMPLATE = Object.freeze([
  [38.2946, 51.6963],
  [73.5318, 51.5014],
  [56.0252, 71.7366],
  [41.5493, 92.3655],
  [70.7299, 92.2041],
]);
// Bilinear sampling looks at 2 x 2 pixels, so a face much larger than the crop is halved first, by area.
const LARGEST_REDUCTION = 4;

/**
 * The similarity (rotation, one scale, shift; never a mirror) that brings `source` nearest to `target`: lists of (x, y).
 * Returns [[a, -b, tx], [b, a, ty]]. Throws when the points coincide. In the plane Umeyama's solution is this quotient.
 */
export function umeyama(source, target) {
  const mean = (points, axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  const [sourceX, sourceY] = [mean(source, 0), mean(source, 1)];
  const [targetX, targetY] = [mean(target, 0), mean(target, 1)];
  let [along, across, spread] = [0, 0, 0];
  for (const [at, point] of source.entries()) {
    const [x, y] = [point[0] - sourceX, point[1] - sourceY];
    const [u, v] = [target[at][0] - targetX, target[at][1] - targetY];
    along += x * u + y * v;
    across += x * v - y * u;
    spread += x * x + y * y;
  }
  if (!(spread / source.length > 1e-12)) throw new Error("the points coincide");
  const [a, b] = [along / spread, across / spread];
  return [
    [a, -b, targetX - (a * sourceX - b * sourceY)],
    [b, a, targetY - (b * sourceX + a * sourceY)],
  ];
}

/**
 * Cut the face out of a frame. frame: { width, height, data } (see pixels.js); points: five (x, y) in TEMPLATE's order.
 * Returns Uint8Array of 112 * 112 * 3, RGB: a picture still, to be overwritten by whoever asked for it.
 */
export function align(frame, points) {
  let [[a, b, tx], [c, d, ty]] = umeyama(points, TEMPLATE);
  let scale = Math.hypot(a, c);
  if (!(scale > 0)) throw new Error("the points span no face");
  let source = frame;
  while (scale * LARGEST_REDUCTION < 1 && Math.min(source.width, source.height) >= 2) {
    const smaller = halved(source);
    const [ratioX, ratioY] = [source.width / smaller.width, source.height / smaller.height];
    // Pixel centres: x_old + 0.5 = (x_new + 0.5) * ratio
    const [shiftX, shiftY] = [0.5 * ratioX - 0.5, 0.5 * ratioY - 0.5];
    [tx, ty] = [tx + a * shiftX + b * shiftY, ty + c * shiftX + d * shiftY];
    [a, b, c, d] = [a * ratioX, b * ratioY, c * ratioX, d * ratioY];
    scale *= 2;
    if (source !== frame) source.data.fill(0);
    source = smaller;
  }
  const pixels = warp(source, [[a, b, tx], [c, d, ty]], CROP_SIZE);
  if (source !== frame) source.data.fill(0);
  return pixels;
}
