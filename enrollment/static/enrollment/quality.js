// Is this capture worth sending, and if not, what should the person do? The twin of recognition/quality.py.

import { CROP_SIZE } from "./frequency.js";

export const LIMITS = Object.freeze({
  bystander: 0.4, // second face's eye distance, of the first's
  eyeDistance: 24, // pixels
  darkest: 45, // mean luma of the face, 0..255
  brightest: 225,
  contrast: 12, // standard deviation of luma within the face
  sharpness: 15, // variance of the Laplacian of the crop's luma
  yaw: 0.45, // nose tip from the middle between the eyes, along the eyes, in eye distances
  pitchLow: 0.3, // nose tip's place on the way from the eyes (0) to the mouth (1)
  pitchHigh: 0.85,
  roll: 35, // degrees
  margin: 0.02, // of the frame's sides
  // A page that shows people where to stand may ask for more than Python does; these two pass everybody by default.
  tallest: Infinity, // height of the face's box, of the frame's
  centre: Infinity, // middle of the box from the middle of the frame, as a share of each side
});

// Eyebrows to chin, without background at the sides.
const [TOP, BOTTOM, LEFT, RIGHT] = [30, 104, 22, 90];

/**
 * Judge one capture. frame: { width, height }; faces: what `Detector.find` returned, largest first; crop: Uint8Array of
 * the largest one, or null. Returns { ok, reason, score, measures }: `reason` is one of "good", "no_face",
 * "several_faces", "too_small", "too_close", "not_centred", "too_dark", "too_bright", "turned_away", "blurred"; `score` is
 * 0..1.
 */
export function assess(frame, faces, crop, limits = LIMITS) {
  if (faces.length === 0 || crop === null) return { ok: false, reason: "no_face", score: 0, measures: {} };
  const measures = measure(faces, crop);
  const checks = [
    ["several_faces", measures.bystander < limits.bystander],
    ["too_small", measures.eyeDistance >= limits.eyeDistance],
    ["too_close", faces[0].box[3] <= limits.tallest * frame.height],
    ["not_centred", isInside(faces[0], frame, limits.margin) && isCentred(faces[0], frame, limits.centre)],
    ["too_dark", measures.brightness >= limits.darkest],
    ["too_bright", measures.brightness <= limits.brightest],
    ["turned_away", measures.yaw <= limits.yaw],
    ["turned_away", limits.pitchLow <= measures.pitch && measures.pitch <= limits.pitchHigh],
    ["turned_away", measures.roll <= limits.roll],
    ["blurred", measures.sharpness >= limits.sharpness && measures.contrast >= limits.contrast],
  ];
  const failed = checks.find(([, passed]) => !passed);
  if (failed) return { ok: false, reason: failed[0], score: 0, measures };
  return { ok: true, reason: "good", score: score(measures, limits), measures };
}

function measure(faces, crop) {
  const [left, right, nose, mouthLeft, mouthRight] = faces[0].points;
  const eyes = middle(left, right);
  const mouth = middle(mouthLeft, mouthRight);
  const along = [right[0] - left[0], right[1] - left[1]];
  const down = [mouth[0] - eyes[0], mouth[1] - eyes[1]];
  const eyeDistance = Math.hypot(...along);
  const length = Math.max(eyeDistance, 1e-6);
  const scale = Math.max(eyeDistance, Math.hypot(...down), 1e-6);
  const centre = middle(eyes, mouth);
  const fromCentre = (nose[0] - centre[0]) * along[0] + (nose[1] - centre[1]) * along[1];
  const fromEyes = (nose[0] - eyes[0]) * down[0] + (nose[1] - eyes[1]) * down[1];
  return {
    bystander: Math.max(0, ...faces.slice(1).map(eyeDistanceOf)) / length,
    eyeDistance,
    ...light(crop),
    yaw: Math.abs(fromCentre / length) / scale,
    pitch: fromEyes / Math.max(down[0] ** 2 + down[1] ** 2, 1e-6),
    roll: Math.abs((Math.atan2(along[1], along[0]) * 180) / Math.PI),
  };
}

/** Brightness, contrast and sharpness of the face within its crop. */
function light(crop) {
  const luma = new Float64Array(CROP_SIZE * CROP_SIZE);
  for (let at = 0; at < luma.length; at += 1) {
    luma[at] = (crop[3 * at] * 4899 + crop[3 * at + 1] * 9617 + crop[3 * at + 2] * 1868 + 8192) >> 14;
  }
  const [values, edges] = [[], []];
  for (let y = TOP; y < BOTTOM; y += 1) {
    for (let x = LEFT; x < RIGHT; x += 1) {
      const at = y * CROP_SIZE + x;
      values.push(luma[at]);
      edges.push(luma[at - 1] + luma[at + 1] + luma[at - CROP_SIZE] + luma[at + CROP_SIZE] - 4 * luma[at]);
    }
  }
  const brightness = mean(values);
  luma.fill(0);
  return { brightness, contrast: Math.sqrt(variance(values)), sharpness: variance(edges) };
}

function isInside(face, frame, margin) {
  return face.points.every(
    ([x, y]) =>
      x >= frame.width * margin &&
      y >= frame.height * margin &&
      x <= frame.width * (1 - margin) &&
      y <= frame.height * (1 - margin),
  );
}

function isCentred(face, frame, limit) {
  const [x, y, width, height] = face.box;
  const [across, down] = [(x + width / 2) / frame.width - 0.5, (y + height / 2) / frame.height - 0.5];
  return Math.abs(across) <= limit && Math.abs(down) <= limit;
}

/** The weakest of the graded measures, each 0 at its limit and 1 where more would not help recognition. */
function score(measures, limits) {
  const weakest = Math.min(
    (measures.eyeDistance - limits.eyeDistance) / (48 - limits.eyeDistance),
    (measures.brightness - limits.darkest) / (90 - limits.darkest),
    (limits.brightest - measures.brightness) / (limits.brightest - 190),
    (measures.sharpness - limits.sharpness) / (120 - limits.sharpness),
    (limits.yaw - measures.yaw) / (limits.yaw - 0.1),
  );
  return Math.round(Math.min(Math.max(weakest, 0), 1) * 1000) / 1000;
}

function eyeDistanceOf(face) {
  const [left, right] = face.points;
  return Math.hypot(right[0] - left[0], right[1] - left[1]);
}

function middle(first, second) {
  return [(first[0] + second[0]) / 2, (first[1] + second[1]) / 2];
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function variance(values) {
  const centre = mean(values);
  return values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / values.length;
}
