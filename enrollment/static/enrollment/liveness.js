// Policies "none" and "motion" for a browser's camera. The twin of terminal/liveness.py, with the same honest limits: a
// face that does not move at all is refused; a photograph held by a hand, a mask or a film on a screen is not.

const FRAMES = 4;
const LEAST_MOTION = 0.01; // eye distances

export class MotionLiveness {
  #seen = [];

  /** points: five (x, y) of this frame's face, or null; losing the face starts again. */
  observe(points) {
    if (points === null) this.#seen = [];
    else this.#seen = [...this.#seen, points].slice(-FRAMES);
  }

  get isLive() {
    if (this.#seen.length < FRAMES) return false;
    const [left, right] = this.#seen[0];
    const eyeDistance = Math.hypot(right[0] - left[0], right[1] - left[1]);
    const travelled = this.#seen[0].map((_, point) => Math.hypot(this.#span(point, 0), this.#span(point, 1)));
    return eyeDistance > 0 && Math.max(...travelled) / eyeDistance >= LEAST_MOTION;
  }

  #span(point, axis) {
    const values = this.#seen.map((points) => points[point][axis]);
    return Math.max(...values) - Math.min(...values);
  }
}

class NoLiveness {
  observe() {}

  get isLive() {
    return true;
  }
}

/** Throws for a policy that does not exist: a misspelt policy must not mean none. */
export function makeLiveness(policy) {
  if (policy === "none") return new NoLiveness();
  if (policy === "motion") return new MotionLiveness();
  throw new Error(`liveness is none or motion, not ${policy}`);
}
