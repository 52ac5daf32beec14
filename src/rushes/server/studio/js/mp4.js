// What MediaSource wants to know of an mp4 before it takes it (ISO/IEC 14496-12 and -15).

const CONTAINERS = ["moov", "trak", "mdia", "minf", "stbl"];
const STSD_HEADER = 8; // version, flags and the number of entries before the first one
const AVC1_HEADER = 78; // of a visual sample entry before its boxes

// The bytes up to the end of `moov` and their codec string, or null while they are not all there.
export function readInit(bytes) {
  for (const box of boxes(bytes)) {
    if (box.type === "moov") return { end: box.end, codec: codecOf(bytes.subarray(box.start, box.end)) };
  }
  return null;
}

function codecOf(moov) {
  const avcC = find(moov, [...CONTAINERS, "stsd", "avc1", "avcC"]);
  if (!avcC) throw new Error("the clip is not H.264");
  const hex = byte => byte.toString(16).padStart(2, "0").toUpperCase();
  return `avc1.${hex(avcC[1])}${hex(avcC[2])}${hex(avcC[3])}`; // profile, compatibility, level
}

function find(bytes, [type, ...inside]) {
  for (const box of boxes(bytes)) {
    if (box.type !== type) continue;
    const skip = type === "stsd" ? STSD_HEADER : type === "avc1" ? AVC1_HEADER : 0;
    const content = bytes.subarray(box.start + 8 + skip, box.end);
    if (!inside.length) return content;
    const found = find(content, inside);
    if (found) return found;
  }
  return null;
}

// Whole boxes only; one that is cut off ends the walk.
function* boxes(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let start = 0; start + 8 <= bytes.length;) {
    const size = view.getUint32(start);
    if (size < 8 || start + size > bytes.length) return;
    yield { type: String.fromCharCode(...bytes.subarray(start + 4, start + 8)), start, end: start + size };
    start += size;
  }
}
