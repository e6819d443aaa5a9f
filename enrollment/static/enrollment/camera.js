// Opening a camera, and saying in plain codes why it did not open.

/** `code`: "insecure", "unsupported", "denied", "missing", "busy" or "lost"; words.js has the sentences. */
export class CameraProblem extends Error {
  constructor(code, detail = "") {
    super(detail || code);
    this.name = "CameraProblem";
    this.code = code;
  }
}

const CODES = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "missing",
  DevicesNotFoundError: "missing",
  OverconstrainedError: "missing",
  NotReadableError: "busy",
  TrackStartError: "busy",
  AbortError: "busy",
};

/**
 * The camera's stream, without sound. width and height are wishes; deviceId picks one camera, facingMode "user" prefers
 * the one that looks at the person. Throws CameraProblem.
 */
export async function openCamera({ width = 1280, height = 720, deviceId = null, facingMode = "user" } = {}) {
  if (!globalThis.isSecureContext) throw new CameraProblem("insecure");
  if (!navigator.mediaDevices?.getUserMedia || typeof OffscreenCanvas === "undefined") {
    throw new CameraProblem("unsupported");
  }
  const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode };
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { ...which, width: { ideal: width }, height: { ideal: height }, frameRate: { ideal: 30 } },
    });
  } catch (error) {
    throw new CameraProblem(CODES[error.name] ?? "busy", error.message);
  }
}

/** The cameras of this device: [{ id, label }]; labels are empty until one was allowed. */
export async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices
    .filter((device) => device.kind === "videoinput")
    .map((device, at) => ({ id: device.deviceId, label: device.label || `Camera ${at + 1}` }));
}
