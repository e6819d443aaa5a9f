// The edge path of one camera, off the page's own thread: frame -> face -> quality -> align -> frequencies -> noise ->
// bytes. A frame and everything made from it is overwritten before the next one; only noise leaves.
//
//   in:  { type: "begin", folder, profile: { text, hash }, limits, liveness }
//        { type: "frame", bitmap, wanted }         wanted: whether a capture is asked for
//   out: { type: "ready" }, { type: "failed", message }
//        { type: "seen", ok, live, reason, score, measures, face, milliseconds, bytes }
//
// face: { box, points } as shares of the frame's width and height, or null. bytes: a capture (docs/protocol.md, section
// 5) when one was wanted and the frame is good, else null.

import { align } from "./align.js";
import { Detector } from "./detect.js";
import { toFrequency } from "./frequency.js";
import { makeLiveness } from "./liveness.js";
import { perturb, systemRandomness } from "./noise.js";
import { pack } from "./payload.js";
import { PrivacyProfile } from "./profile.js";
import { LIMITS, assess } from "./quality.js";

let station = null;

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "begin") {
      station = await Station.begin(data);
      self.postMessage({ type: "ready" });
    } else {
      const seen = await station.look(data.bitmap, data.wanted);
      self.postMessage({ type: "seen", ...seen }, seen.bytes ? [seen.bytes.buffer] : []);
    }
  } catch (error) {
    self.postMessage({ type: "failed", message: String(error?.message ?? error) });
  }
};

class Station {
  static async begin({ folder, profile, limits, liveness }) {
    const [detector, known] = await Promise.all([
      Detector.load(folder),
      PrivacyProfile.fromText(profile.text, { hash: profile.hash ?? null }),
    ]);
    return new Station(detector, known, { ...LIMITS, ...limits }, makeLiveness(liveness ?? "none"));
  }

  constructor(detector, profile, limits, liveness) {
    this.detector = detector;
    this.profile = profile;
    this.limits = limits;
    this.liveness = liveness;
    this.canvas = new OffscreenCanvas(1, 1);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  }

  async look(bitmap, wanted) {
    const began = performance.now();
    const frame = this.#read(bitmap);
    let crop = null;
    try {
      const faces = await this.detector.find(frame);
      this.liveness.observe(faces[0]?.points ?? null);
      if (faces.length > 0) crop = align(frame, faces[0].points);
      const quality = assess(frame, faces, crop, this.limits);
      const live = this.liveness.isLive;
      const bytes = wanted && quality.ok && live ? this.#perturbed(crop) : null;
      return {
        ...quality,
        live,
        bytes,
        face: faces.length > 0 ? shares(faces[0], frame) : null,
        milliseconds: performance.now() - began,
      };
    } finally {
      crop?.fill(0);
      frame.data.fill(0);
    }
  }

  #read(bitmap) {
    const { width, height } = bitmap;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      [this.canvas.width, this.canvas.height] = [width, height];
    }
    this.context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const { data } = this.context.getImageData(0, 0, width, height);
    this.context.clearRect(0, 0, width, height);
    return { width, height, data };
  }

  #perturbed(crop) {
    const values = toFrequency(crop, this.profile.transform);
    try {
      const codes = perturb(values, this.profile, systemRandomness);
      return pack(codes, this.profile);
    } finally {
      values.fill(0);
    }
  }
}

function shares(face, { width, height }) {
  const [x, y, across, down] = face.box;
  return {
    box: [x / width, y / height, across / width, down / height],
    points: face.points.map(([u, v]) => [u / width, v / height]),
  };
}
