// A take: a video object of the service, and what its events have told. Plain functions over plain data.

export const STAGES = [
  { name: "queue", title: "Queue" },
  { name: "text_encode", title: "Text" },
  { name: "denoise", title: "Denoise" },
  { name: "vae_decode", title: "Decode" },
];

const PROMPT_S = 1; // a prompt is read in less
const ENDED = ["completed", "failed"];

// Times are seconds since the epoch by the service's clock; `skew` is ours minus its.
let skew = Infinity;
let halted = null;
export const serviceNow = () => halted ?? Date.now() / 1000 - (Number.isFinite(skew) ? skew : 0);

// While the service is away nobody knows what it does: time stands still on the page.
export function halt(isHalted) {
  halted = null;
  if (isHalted) halted = serviceNow();
}

export function newTake(video) {
  return {
    id: video.id, video, lastEvent: 0, queuedAt: null, startedAt: null, firstFrameAt: null, endedAt: null,
    units: [], losses: [], stages: {}, numFrames: 0, preview: null, position: video.position ?? null,
    eta: etaOf(video), shownAt: null, sentAt: null, isPending: false, isGone: false, trace: null,
  };
}

const etaOf = video => (typeof video.eta_s === "number" ? serviceNow() + video.eta_s : null);

export const isEnded = take => ENDED.includes(take.video.status);
export const isDone = take => take.video.status === "completed";
export const isCancelled = take => take.video.error?.code === "cancelled";
export const isRunning = take => take.video.status === "in_progress";
// Nothing has been done for it: a worker that has taken it up may be busy with others, or with its weights.
export const isUntouched = take => !take.units.length && !take.losses.length;
export const isQueued = take => take.video.status === "queued";

// A newer video object; an older state never replaces an end.
export function renew(take, video) {
  if (isEnded(take) && !ENDED.includes(video.status)) return;
  take.video = video;
  if (typeof video.position === "number") take.position = video.position;
  if (typeof video.eta_s === "number") take.eta = etaOf(video);
}

export function apply(take, { kind, id, data }) {
  if (id !== null) take.lastEvent = id;
  if (typeof data.at === "number") skew = Math.min(skew, Date.now() / 1000 - data.at);
  const at = data.at ?? serviceNow();
  HANDLERS[kind]?.(take, data, at);
}

const HANDLERS = {
  queued(take, data, at) {
    take.queuedAt = at;
    if (typeof data.eta_s === "number") take.eta = at + data.eta_s;
  },
  position(take, data) {
    take.position = data.position;
    if (typeof data.eta_s === "number") take.eta = serviceNow() + data.eta_s;
  },
  started(take, data, at) {
    lose(take, take.startedAt, at); // it went back to the queue without a checkpoint
    if (take.startedAt !== null) restart(take);
    begin(take, at);
  },
  resumed(take, data, at) {
    lose(take, take.units.at(-1)?.end ?? take.startedAt, at);
    begin(take, at);
  },
  degraded(take, data) {
    take.video = { ...take.video, changes: data.changes };
    restart(take);
  },
  progress(take, data, at) {
    // By number: some may have been made anew.
    const before = take.units.findLast(unit => unit.stage === data.stage && unit.units < data.units);
    const took = before && data.seconds >= before.seconds ? data.seconds - before.seconds : data.seconds;
    take.units.push({ ...data, start: at - took, end: at });
    take.stages[data.stage] = { units: data.units, total: data.total, seconds: data.seconds };
    begin(take, take.startedAt ?? at - took);
  },
  preview(take, data) {
    take.preview = { url: data.url, step: data.step, steps: data.num_steps, heardAt: performance.now() };
  },
  frames(take, data, at) {
    take.firstFrameAt ??= at;
    take.numFrames = Math.max(take.numFrames, data.start + data.num_frames);
  },
  completed(take, data, at) {
    end(take, at, data.video ?? { ...take.video, status: "completed", progress: 100 });
  },
  failed(take, data, at) {
    end(take, at, { ...take.video, status: "failed", error: { code: data.error_kind, message: data.error } });
  },
  cancelled(take, data, at) {
    end(take, at, { ...take.video, status: "failed", error: { code: "cancelled", message: "Cancelled." } });
  },
};

function begin(take, at) {
  take.startedAt ??= at;
  if (isQueued(take)) take.video = { ...take.video, status: "in_progress", position: 0 };
  take.position = 0;
}

function lose(take, start, end) {
  if (start !== null && end > start) take.losses.push({ start, end, isLost: true });
}

function restart(take) {
  Object.assign(take, { units: [], stages: {}, numFrames: 0, firstFrameAt: null });
}

function end(take, at, video) {
  take.endedAt = at;
  renew(take, video);
}

// When it was asked for: by its first event, by the object's whole seconds until that is known.
export const askedAt = take => take.queuedAt ?? take.sentAt ?? take.video.created_at;

export const elapsed = take => (take.endedAt ?? take.video.completed_at ?? serviceNow()) - askedAt(take);

export const firstFrameAfter = take =>
  (take.firstFrameAt !== null && take.queuedAt !== null ? take.firstFrameAt - take.queuedAt : null);

// 0..1 of all units that are known of, denoising weighing most; for a bar that only grows.
export function share(take) {
  if (isDone(take)) return 1;
  const part = name => (take.stages[name] ? take.stages[name].units / take.stages[name].total : 0);
  const ours = 0.04 * part("text_encode") + 0.7 * part("denoise") + 0.26 * part("vae_decode");
  return Math.max(ours, (take.video.progress ?? 0) / 100);
}

// Until it is done: as promised, but no less than its stage still takes at its pace so far; null unknown.
export function secondsLeft(take) {
  const stage = take.stages.vae_decode ?? take.stages.denoise;
  const ends = [take.eta];
  if (isRunning(take) && stage?.units && take.units.length) {
    ends.push(take.units.at(-1).end + stage.seconds * (stage.total - stage.units) / stage.units);
  }
  const known = ends.filter(Number.isFinite);
  return known.length ? Math.max(0, Math.max(...known) - serviceNow()) : null;
}

// What it is doing, in a few words.
export function doing(take) {
  if (take.isPending) return "Sending";
  if (isCancelled(take)) return "Cancelled";
  if (take.video.status === "failed") return "Failed";
  if (isDone(take)) return "Done";
  if (isQueued(take)) return take.position ? `${take.position} ahead` : "Next in the queue";
  const { denoise, vae_decode: decode } = take.stages;
  if (decode) return `Frame ${take.numFrames} of ${take.video.num_frames}`;
  if (denoise) return `Step ${denoise.units} of ${denoise.total}`;
  if (isUntouched(take) && take.video.progress) return `${take.video.progress} %`; // not followed, only looked at
  return isUntouched(take) && serviceNow() - take.startedAt > PROMPT_S ? "Waiting to begin" : "Reading the prompt";
}

export const seconds = video => video.num_frames / video.fps;
