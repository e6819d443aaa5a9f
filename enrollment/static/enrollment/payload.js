// Wire format of one capture, version 1 (docs/protocol.md, section 5). The twin of recognition/payload.py, which reads
// what this writes.

export const CONTENT_TYPE = "application/vnd.lintel.capture";
export const MAX_PAYLOAD_BYTES = 300_000;
const HEADER_BYTES = 52;
const VERSION = 1;

/**
 * Encode one capture. codes: Uint8Array (C * H * W) of `perturb`; profile: the PrivacyProfile they were drawn under.
 * Returns the Uint8Array that is sent. Throws when codes and profile do not belong together.
 */
export function pack(codes, profile) {
  const [channels, height, width] = profile.shape;
  const positions = height * width;
  if (codes.length !== channels * positions) throw new Error("these features were not drawn under this profile");
  const widths = [1, 2, 3, 4].map((bits) => packWidth(codes, profile, bits, positions));
  const bodyBytes = widths.reduce((sum, part) => sum + part.length, 0);
  const data = new Uint8Array(HEADER_BYTES + bodyBytes + 4);
  if (data.length > MAX_PAYLOAD_BYTES) throw new Error(`${data.length} bytes are more than a capture has`);
  const view = new DataView(data.buffer);
  data.set([0x4c, 0x4e, 0x54, 0x4c, VERSION]); // "LNTL"
  for (let at = 0; at < 32; at += 1) data[8 + at] = Number.parseInt(profile.hash.slice(2 * at, 2 * at + 2), 16);
  for (const [at, count] of profile.channelsPerWidth.entries()) view.setUint16(40 + 2 * at, count, true);
  view.setUint32(48, bodyBytes, true);
  let start = HEADER_BYTES;
  for (const part of widths) {
    data.set(part, start);
    start += part.length;
  }
  view.setUint32(start, crc32(data.subarray(0, start)), true);
  return data;
}

/** The codes of all channels of one width, most significant bit first, padded with zeros to a whole byte. */
function packWidth(codes, profile, bits, positions) {
  const channels = profile.sent.filter((channel) => profile.bits[channel] === bits);
  const packed = new Uint8Array(Math.ceil((channels.length * positions * bits) / 8));
  let at = 0; // bits so far
  for (const channel of channels) {
    for (let position = 0; position < positions; position += 1) {
      const code = codes[channel * positions + position];
      if (code >= 1 << bits) throw new Error("a code is wider than its channel allows");
      for (let place = bits - 1; place >= 0; place -= 1, at += 1) {
        packed[at >> 3] |= ((code >> place) & 1) << (7 - (at & 7));
      }
    }
  }
  return packed;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** CRC-32 as in zlib. */
export function crc32(data) {
  let crc = 0xffffffff;
  for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
