// When a take stood still: told by its trace where there is one, else by what lies between its units.

const LEAST_SHOWN_S = 0.05;
const LEAST_S = 0.3; // a shorter gap between two units is a preview or a checkpoint being written

// [{ start, end, isLost }], in order. Lost: a worker went away, and the time until another one took over.
export function waitsOf(take) {
  const told = take.trace?.verdict?.cause ? ofTrace(take.trace) : [];
  // A worker that died early has left no spans: then events alone tell of its time.
  const from = told[0]?.start ?? Infinity;
  const heard = [...ofUnits(take), ...take.losses].filter(wait => wait.start < from - LEAST_S);
  const untold = heard.filter(wait => told.every(other => common(wait, other) < (wait.end - wait.start) / 2));
  return [...told, ...untold].sort((a, b) => a.start - b.start);
}

// Seconds in the queue: as the verdict has them, and what only events tell of.
export function secondsWaited(take, waits) {
  const told = take.trace?.verdict;
  const found = waits.filter(wait => !wait.isLost && !(told?.cause && wait.isTold));
  return found.reduce((sum, { start, end }) => sum + end - start, told?.cause ? told.seconds.queue : 0);
}

const common = (a, b) => Math.min(a.end, b.end) - Math.max(a.start, b.start);

function ofTrace({ created_at: zero, spans, phases }) {
  const wait = (start_s, seconds, isLost = false) => ({ start: zero + start_s, end: zero + start_s + seconds, isLost, isTold: true });
  return [
    ...spans.filter(span => span.name === "queue" && span.parent === null)
      .filter((span, i) => !i || span.seconds > LEAST_SHOWN_S).map(span => wait(span.start_s, span.seconds)),
    ...phases.filter(({ name }) => name === "death" || name === "unleased")
      .map(phase => wait(phase.start_s, phase.seconds, phase.name === "death")),
  ].sort((a, b) => a.start - b.start);
}

function ofUnits(take) {
  const waits = [];
  let at = take.queuedAt;
  if (at === null) return waits;
  const busy = [...take.units, ...take.losses].sort((a, b) => a.start - b.start);
  for (const { start, end } of busy) {
    if (start - at > LEAST_S || !waits.length) waits.push({ start: at, end: Math.max(start, at), isLost: false });
    at = Math.max(at, end);
  }
  if (!busy.length && take.endedAt !== null) waits.push({ start: at, end: take.endedAt, isLost: false });
  return waits;
}
