// When a take stood still: as its trace has it, else what lies between its units.

const SHOWN_S = 0.05;
const GAP_S = 0.3; // less between two units is a preview or a checkpoint being written

// [{ start, end, isLost, isTold }], in order; lost is what went by until another worker took over from one that was
// gone, told what the trace tells.
export function waitsOf({ trace, ...take }) {
  const told = trace?.verdict?.cause ? ofTrace(trace) : [];
  const from = told[0]?.start ?? Infinity; // a worker that died early has left no spans: events tell of its time
  const heard = [...ofUnits(take), ...take.losses].filter(({ start, end }) => start < from - GAP_S
    && told.every(other => Math.min(end, other.end) - Math.max(start, other.start) < (end - start) / 2));
  return [...told, ...heard].sort(byStart);
}

// Seconds in the queue: as the verdict has them, and what only events tell of.
export const secondsWaited = ({ trace }, waits) => waits.reduce(
  (sum, wait) => (wait.isLost || wait.isTold ? sum : sum + wait.end - wait.start), trace?.verdict?.seconds.queue ?? 0);

const byStart = (a, b) => a.start - b.start;

function ofTrace({ created_at: zero, spans, phases }) {
  const queue = spans.filter(({ name, parent }) => name === "queue" && parent === null);
  const gaps = phases.filter(({ name }) => name === "death" || name === "unleased");
  return [...queue.filter(({ seconds }, i) => !i || seconds > SHOWN_S), ...gaps].map(({ name, start_s, seconds }) =>
    ({ start: zero + start_s, end: zero + start_s + seconds, isLost: name === "death", isTold: true })).sort(byStart);
}

function ofUnits({ queuedAt: at, units, losses, endedAt }) {
  const waits = [];
  const busy = [...units, ...losses].sort(byStart);
  if (!busy.length && endedAt) busy.push({ start: endedAt });
  for (const { start, end } of at === null ? [] : busy) {
    if (start - at > GAP_S || !waits.length) waits.push({ start: at, end: Math.max(start, at) });
    at = Math.max(at, end);
  }
  return waits;
}
