// Numbers as people read them.

// 75.43 -> "01:15.4"
export function clock(seconds) {
  const tenths = Math.max(0, Math.floor(seconds * 10 + 1e-6));
  const [minutes, rest] = [Math.floor(tenths / 600), tenths % 600];
  return `${String(minutes).padStart(2, "0")}:${String(Math.floor(rest / 10)).padStart(2, "0")}.${rest % 10}`;
}

// 2.06 -> "0:02.0": a place in a clip
export function place(seconds) {
  return clock(seconds).replace(/^0(\d)/, "$1");
}

// 0.0291 -> "29 ms", 1.24 -> "1.2 s", 75 -> "1 min 15 s"
export function span(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0.0995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const total = Math.round(seconds);
  if (total < 3600) return total % 60 ? `${Math.floor(total / 60)} min ${total % 60} s` : `${total / 60} min`;
  return `${(total / 3600).toFixed(1)} h`;
}

// How long ago, in words: "just now", "4 min ago", "2 days ago"
export function ago(at, now = Date.now() / 1000) {
  const seconds = now - at;
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  const days = Math.round(seconds / 86400);
  return days === 1 ? "yesterday" : `${days} days ago`;
}

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// "num_inference_steps" -> "Steps"; a field without a name of its own is its name in words.
const NAMES = {
  width: "Width", height: "Height", num_frames: "Frames", fps: "Frames a second", num_inference_steps: "Steps",
  flow_shift: "Flow shift", guidance_high: "Guidance", guidance_low: "Guidance, low noise",
  guidance_gate: "Guidance gate", step_cache: "Step cache", negative_prompt: "What to avoid",
};

export function fieldName(name) {
  const words = name.replaceAll("_", " ");
  return NAMES[name] ?? words[0].toUpperCase() + words.slice(1);
}
