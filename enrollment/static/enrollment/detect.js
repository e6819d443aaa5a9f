// Find faces and their five points with MediaPipe's networks (Apache-2.0). The twin of recognition/detect.py: the same
// files, the same steps, the same correction towards the points that the recogniser learned on.

import { Network } from "./litert.js";
import { cut, squareInput, warp } from "./pixels.js";

const DETECTION_THRESHOLD = 0.5;
const SUPPRESSION_IOU = 0.3;
const MESH_SIDE = 192; // pixels
const MESH_MARGIN = 1.5; // of the detected box
const MESH_THRESHOLD = 0.5;
const SMALL = 0.15; // of the frame's longer side
const SECOND_LOOK = 4; // sides of a small face's box: the square looked at again
const TILE = 720; // pixels

/**
 * Finds faces, largest first. One call at a time.
 *
 *   const detector = await Detector.load("https://lintel.example/static/enrollment/networks/");
 *   const faces = await detector.find({ width, height, data });   // RGBA, as a canvas gives it
 *
 * A face is { box: [x, y, width, height], points: five [x, y] (image-left eye, image-right eye, nose tip, image-left and
 * image-right mouth corner), score } in pixels of the frame.
 */
export class Detector {
  #fullRange;
  #shortRange;
  #mesh;

  static async load(folder) {
    const [fullRange, shortRange, mesh] = await Promise.all(
      ["face_detection_full_range", "face_detection_short_range", "face_landmark"].map((name) =>
        fetchNetwork(folder, `${name}.tflite`),
      ),
    );
    return new Detector(
      new BoxNetwork(fullRange, 192, anchorGrid(48, 1)),
      new BoxNetwork(shortRange, 128, [...anchorGrid(16, 2), ...anchorGrid(8, 6)]),
      mesh,
    );
  }

  constructor(fullRange, shortRange, mesh) {
    this.#fullRange = fullRange;
    this.#shortRange = shortRange;
    this.#mesh = mesh;
  }

  async find(frame) {
    const faces = [];
    for (const candidate of await this.#candidates(frame)) {
      const face = await this.#withPoints(frame, candidate);
      if (face) faces.push(face);
    }
    return faces.sort((first, second) => second.box[2] * second.box[3] - first.box[2] * first.box[3]);
  }

  /** The whole frame first; only when that shows nobody, a face that fills it, then distant ones. */
  async #candidates(frame) {
    let found = await this.#fullRange.find(frame);
    if (found.length === 0) found = await this.#shortRange.find(frame);
    if (found.length > 0 || Math.max(frame.width, frame.height) <= TILE) return found;
    for (const top of tileStarts(frame.height)) {
      for (const left of tileStarts(frame.width)) {
        const tile = cut(frame, left, top, left + TILE, top + TILE);
        found.push(...(await this.#fullRange.find(tile)).map((candidate) => moved(candidate, left, top)));
        tile.data.fill(0);
      }
    }
    return suppress(found);
  }

  /** A small face again from nearby, for a box and a slant that the mesh can start from. */
  async #secondLook(frame, candidate) {
    const [x, y, width, height] = candidate.box;
    const side = Math.max(width, height);
    if (side >= SMALL * Math.max(frame.width, frame.height)) return candidate;
    const [centreX, centreY] = [x + width / 2, y + height / 2];
    const reach = (SECOND_LOOK / 2) * side;
    const [left, top] = [Math.floor(Math.max(centreX - reach, 0)), Math.floor(Math.max(centreY - reach, 0))];
    const near = cut(frame, left, top, Math.ceil(centreX + reach), Math.ceil(centreY + reach));
    const others = (await this.#fullRange.find(near)).map((other) => moved(other, left, top));
    near.data.fill(0);
    const same = others.find((other) => iou(other.box, candidate.box) > SUPPRESSION_IOU);
    return same ? { ...same, score: candidate.score } : candidate;
  }

  async #withPoints(frame, first) {
    const candidate = await this.#secondLook(frame, first);
    const [x, y, width, height] = candidate.box;
    const [left, right] = candidate.keypoints;
    const side = Math.max(width, height) * MESH_MARGIN;
    const angle = Math.atan2(right[1] - left[1], right[0] - left[0]);
    const mesh = await this.#readMesh(frame, [x + width / 2, y + height / 2], side, angle);
    return mesh && { box: candidate.box, points: agreeWithYunet(meshPoints(mesh)), score: candidate.score };
  }

  /** 468 vertices [x, y] in frame pixels, or null where the network sees no face. */
  async #readMesh(frame, [centreX, centreY], side, angle) {
    if (!Number.isFinite(side) || side < 1) return null;
    const scale = MESH_SIDE / side;
    const [cosine, sine] = [scale * Math.cos(angle), scale * Math.sin(angle)];
    const tx = MESH_SIDE / 2 - (cosine * centreX + sine * centreY);
    const ty = MESH_SIDE / 2 - (-sine * centreX + cosine * centreY);
    const pixels = warp(frame, [[cosine, sine, tx], [-sine, cosine, ty]], MESH_SIDE, { replicate: true });
    const input = Float32Array.from(pixels, (value) => value / 255);
    const [flag, vertices] = await this.#mesh.run(input);
    pixels.fill(0);
    input.fill(0);
    if (sigmoid(flag[0]) < MESH_THRESHOLD) return null;
    const determinant = scale * scale;
    return Array.from({ length: 468 }, (_, at) => {
      const [u, v] = [vertices[3 * at] - tx, vertices[3 * at + 1] - ty];
      return [(cosine * u - sine * v) / determinant, (sine * u + cosine * v) / determinant];
    });
  }
}

async function fetchNetwork(folder, file) {
  const answer = await fetch(`${folder}${file}`, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`${file} is missing on the server`);
  return Network.load(folder, new Uint8Array(await answer.arrayBuffer()));
}

/** One of MediaPipe's single-shot detectors: a square input in -1..1, one box and six points per anchor. */
class BoxNetwork {
  constructor(network, side, anchors) {
    this.network = network;
    this.side = side;
    this.anchors = anchors; // centres in units of the input
  }

  async find(frame) {
    const square = Math.max(frame.width, frame.height);
    const [left, top] = [Math.floor((square - frame.width) / 2), Math.floor((square - frame.height) / 2)];
    const input = squareInput(frame, this.side, 127.5, 127.5);
    const [logits, regressed] = await this.network.run(input); // N, N * 16
    input.fill(0);
    const candidates = [];
    for (let at = 0; at < logits.length; at += 1) {
      const score = sigmoid(logits[at]);
      if (score < DETECTION_THRESHOLD) continue;
      const [anchorX, anchorY] = this.anchors[at];
      const pair = (which) => [regressed[16 * at + 2 * which] / this.side, regressed[16 * at + 2 * which + 1] / this.side];
      const place = ([x, y]) => [(x + anchorX) * square - left, (y + anchorY) * square - top];
      const [centreX, centreY] = place(pair(0));
      const [width, height] = pair(1).map((length) => length * square);
      const keypoints = [2, 3, 4, 5, 6, 7].map((which) => place(pair(which)));
      candidates.push({ box: [centreX - width / 2, centreY - height / 2, width, height], keypoints, score });
    }
    return suppress(candidates);
  }
}

/** Overlapping boxes become their average, weighted by score (BlazeFace, 2019). */
function suppress(candidates) {
  let remaining = [...candidates].sort((first, second) => second.score - first.score);
  const kept = [];
  while (remaining.length > 0) {
    const [best] = remaining;
    const group = remaining.filter((other) => other === best || iou(best.box, other.box) > SUPPRESSION_IOU);
    remaining = remaining.filter((other) => !group.includes(other));
    const total = group.reduce((sum, member) => sum + member.score, 0);
    const average = (of) => group.reduce((sum, member) => sum + member.score * of(member), 0) / total;
    kept.push({
      box: best.box.map((_, at) => average((member) => member.box[at])),
      keypoints: best.keypoints.map((point, at) => point.map((_, axis) => average((member) => member.keypoints[at][axis]))),
      score: best.score,
    });
  }
  return kept;
}

function moved(candidate, left, top) {
  const [x, y, width, height] = candidate.box;
  const keypoints = candidate.keypoints.map(([u, v]) => [u + left, v + top]);
  return { box: [x + left, y + top, width, height], keypoints, score: candidate.score };
}

function iou(first, second) {
  const overlapOf = (axis) => {
    const begin = Math.max(first[axis], second[axis]);
    const end = Math.min(first[axis] + first[axis + 2], second[axis] + second[axis + 2]);
    return Math.max(end - begin, 0);
  };
  const overlap = overlapOf(0) * overlapOf(1);
  const union = first[2] * first[3] + second[2] * second[3] - overlap;
  return union > 0 ? overlap / union : 0;
}

function anchorGrid(cells, perCell) {
  const anchors = [];
  for (let y = 0; y < cells; y += 1) {
    for (let x = 0; x < cells; x += 1) {
      for (let n = 0; n < perCell; n += 1) anchors.push([(x + 0.5) / cells, (y + 0.5) / cells]);
    }
  }
  return anchors;
}

/** Where squares of TILE begin so that they cover `length` and overlap by a quarter at least. */
function tileStarts(length) {
  if (length <= TILE) return [0];
  const count = Math.ceil((length - TILE) / (0.75 * TILE)) + 1;
  return Array.from({ length: count }, (_, at) => Math.round((at * (length - TILE)) / (count - 1)));
}

function sigmoid(value) {
  return 1 / (1 + Math.exp(-Math.min(Math.max(value, -60), 60)));
}

// From 468 vertices to five points -----------------------------------------------------------------------------------

const POINT_VERTICES = [[33, 133], [362, 263], [1], [61], [291]];

// recognition/detect.py says where these come from.
const POINT_CORRECTION = [
  [0.377, -0.000, -0.022, 0.194, -0.115, -0.117, -0.083, 0.143],
  [0.022, -0.062, 0.155, 0.209, 0.126, 0.132, -0.025, -0.202],
  [-0.246, 0.034, -0.002, -0.027, 0.102, 0.097, -0.009, -0.017],
  [0.084, 0.022, 0.190, -0.026, 0.118, -0.257, -0.089, -0.123],
  [0.067, -0.098, -0.007, 0.113, -0.110, 0.120, 0.051, 0.035],
  [0.429, 0.027, -0.602, -0.050, 0.325, 0.016, -0.234, -0.007],
  [-0.635, -0.161, -0.080, -0.443, -0.250, 0.300, 0.196, 0.088],
  [-0.502, -0.026, 0.001, -0.130, -0.414, 0.246, 0.104, 0.351],
  [0.560, -0.139, -0.018, 0.214, -0.024, -0.317, 0.201, -0.203],
  [-0.447, 0.076, 0.021, -0.300, 0.265, -0.055, -0.634, 0.424],
];

function meshPoints(mesh) {
  return POINT_VERTICES.map((vertices) =>
    [0, 1].map((axis) => vertices.reduce((sum, at) => sum + mesh[at][axis], 0) / vertices.length),
  );
}

/** Five points of the mesh -> where YuNet, on average, puts them. Exported for the shared test vectors. */
export function agreeWithYunet(points) {
  const middle = (first, second) => [(first[0] + second[0]) / 2, (first[1] + second[1]) / 2];
  const eyes = middle(points[0], points[1]);
  const mouth = middle(points[3], points[4]);
  const along = [points[1][0] - points[0][0], points[1][1] - points[0][1]];
  const eyeDistance = Math.max(Math.hypot(...along), 1e-6);
  const [cosine, sine] = along.map((value) => value / eyeDistance);
  const scale = Math.max(eyeDistance, Math.hypot(mouth[0] - eyes[0], mouth[1] - eyes[1]));
  const measured = points.map(([x, y]) => {
    const [u, v] = [x - eyes[0], y - eyes[1]];
    return [(cosine * u + sine * v) / scale, (-sine * u + cosine * v) / scale];
  });
  const shape = [measured[1][0], ...measured.slice(2).flat(), 1];
  return measured.map(([x, y], at) => {
    const [byX, byY] = [0, 1].map((axis) =>
      POINT_CORRECTION[2 * at + axis].reduce((sum, factor, which) => sum + factor * shape[which], 0),
    );
    const [u, v] = [scale * (x + byX), scale * (y + byY)];
    return [cosine * u - sine * v + eyes[0], sine * u + cosine * v + eyes[1]];
  });
}
