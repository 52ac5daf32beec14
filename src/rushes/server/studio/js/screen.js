// The screen: leader while a take waits, previews while it is denoised, the clip as soon as there is a frame.

import { mediaUrl, partUrl } from "./api.js";
import { $, icon, setAttribute, setText } from "./dom.js";
import { clock, count, fieldName, place, span } from "./format.js";
import { Player } from "./player.js";
import { store } from "./store.js";
import { doing, elapsed, firstFrameAfter, isDone, isEnded, isQueued, isRunning, seconds, secondsLeft, share } from "./take.js";
import { buildWaterfall, drawWaterfall } from "./waterfall.js";

const SPILL_MS = 500;
const isStill = matchMedia("(prefers-reduced-motion: reduce)");

let player = null;
let shown = { id: null, source: null, preview: null };
let isLoading = false;

export const togglePlay = () => {
  const video = $("video");
  if (video.hidden) return;
  if (video.paused) video.play().catch(() => {});
  else video.pause();
};

export const goFull = () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("screen").requestFullscreen?.().catch(() => {});
};

export function buildScreen() {
  buildWaterfall();
  const video = $("video");
  player = new Player(video, pictured);
  $("play").addEventListener("click", togglePlay);
  $("sheet").addEventListener("click", togglePlay);
  for (const idea of document.querySelectorAll(".ideas button")) idea.addEventListener("click", () => {
    $("prompt").value = idea.textContent;
    $("prompt").focus();
  });
  $("full").addEventListener("click", goFull);
  for (const name of ["play", "pause"]) video.addEventListener(name, drawPlay);
  $("seek").addEventListener("input", () => { video.currentTime = Number($("seek").value); });
  store.on("screen", () => { change(); draw(); });
  store.on("renamed", ({ old, id }) => { if (shown.id === old) shown.id = id; });
  store.on("take", id => { if (id === store.onScreen) { change(); draw(); } });
  store.on("event", ({ take, event }) => { if (event.kind === "preview" && take.id === store.onScreen && !isEnded(take)) showPreview(take); });
  store.on("traced link", draw);
  draw();
  requestAnimationFrame(tick);
  setInterval(spill, SPILL_MS);
}

// What the screen shows has to follow the take: another one, its first frame, its end.
function change() {
  const take = store.screened;
  if (take?.id !== shown.id) clear(take);
  if (!take || take.isPending) return;
  const source = isDone(take) ? "content" : take.firstFrameAt !== null && isRunning(take) ? "stream" : null;
  if (source === null && take.preview && !isEnded(take)) showPreview(take);
  if (source === null || shown.source === source) return;
  const wasStreamed = shown.source === "stream";
  shown.source = source;
  if (source === "stream") player.grow(partUrl(take.video, "stream"));
  // What has been streamed to its end is the finished clip: nothing to load again.
  else if (!wasStreamed) player.finished(partUrl(take.video, "content")).catch(() => { shown.source = null; });
}

function clear(take) {
  player.stop();
  shown = { id: take?.id ?? null, source: null, preview: null };
  $("video").hidden = true;
  $("preview").hidden = true;
  $("preview").removeAttribute("src");
  drawTransport();
}

// One at a time: where steps are quicker than pictures come, the latest follows the one that is on its way.
async function showPreview(take) {
  if (isLoading) return;
  isLoading = true;
  while (take === store.screened && take.preview && take.preview !== shown.preview && $("video").hidden) {
    shown.preview = take.preview;
    await loadPreview(take, take.preview).catch(() => {}); // one less; the next step brings another
  }
  isLoading = false;
}

async function loadPreview(take, preview) {
  // The step makes it an address of its own, so that no cache answers with an older one.
  const path = preview.url ?? `${partUrl(take.video, "preview")}?step=${preview.step}`;
  const image = new Image();
  const askedAt = performance.now();
  image.src = await mediaUrl(path, { isShared: true });
  const fetched = performance.now() - askedAt;
  await image.decode();
  if (shown.id !== take.id || !$("video").hidden) return;
  Object.assign($("preview"), { src: image.src, alt: `Preview of step ${preview.step}`, hidden: false });
  performance.measure("rushes.preview", { start: preview.heardAt, detail: { step: preview.step, fetched } });
  store.tell("previewed", { id: take.id, src: image.src });
  draw();
}

function pictured() {
  const take = store.screened;
  if (!take || take.id !== shown.id) return;
  $("video").hidden = false;
  $("preview").hidden = true;
  take.shownAt ??= performance.now();
  draw();
}

function draw() {
  const take = store.screened;
  const video = $("video");
  const hasPicture = !video.hidden || !$("preview").hidden;
  $("blank").hidden = Boolean(take);
  $("leader").hidden = take ? hasPicture || isEnded(take) : false;
  $("sheet").dataset.phase = !take ? "empty" : isEnded(take) ? take.video.status : isQueued(take) ? "queued" : "running";
  $("sheet").style.setProperty("--share", take ? share(take).toFixed(3) : "0");
  setText($("numeral"), !take ? "" : isQueued(take) ? String(take.position ?? "") : `${Math.round(100 * share(take))}`);
  setText($("state"), stateOf(take));
  setText($("shot"), take ? take.video.prompt : "No take on the screen");
  setAttribute($("shot"), "title", take?.video.prompt ?? null);
  setText($("facts"), take ? factsOf(take.video) : "Takes that you make, or choose below, are shown here.");
  setText($("first"), take ? span(firstFrameAfter(take)) : "–");
  setAttribute($("first"), "title", onScreenAfter(take));
  drawPlay();
  drawClock();
  drawWaterfall(take);
}

function stateOf(take) {
  if (!take) return "";
  if (isDone(take)) return "";
  if (take.video.status === "failed") return take.video.error?.code === "cancelled" ? "Cancelled" : take.video.error?.message ?? "Failed";
  return isQueued(take) && !take.isPending && !store.hasWorker ? "Waiting for a worker" : doing(take);
}

function onScreenAfter(take) {
  if (!take?.shownAt || !take.clickedAt) return null;
  return `On this screen ${span((take.shownAt - take.clickedAt) / 1000)} after the click`;
}

export function factsOf(video) {
  const parts = [
    video.width ? `${video.width} × ${video.height}` : video.size,
    video.num_frames && video.fps ? `${seconds(video).toFixed(1)} s` : null,
    video.num_inference_steps ? count(video.num_inference_steps, "step") : null,
    video.seed === undefined || video.seed === null ? null : `seed ${video.seed}`,
    video.model,
    edited(video),
    ...(video.changes ?? []).map(changed),
    ...(video.notes ?? []),
  ];
  return parts.filter(Boolean).join(" · ");
}

// What it took from the take that it is an edit of, where it could take anything. The steps are that take's.
function edited({ remixed_from_video_id: before, cache = {} }) {
  if (!before) return null;
  if (typeof cache?.sigma !== "number") return "an edit, made anew";
  return `an edit from noise level ${cache.sigma.toFixed(2)}, ${count(cache.steps_saved, "step")} saved`;
}

// As a video object tells it, or a `degraded` event.
function changed(change) {
  const [field, asked, given] = Array.isArray(change) ? change : [change.field, change.asked, change.given];
  return `${fieldName(field).toLowerCase()} ${given} instead of ${asked}`;
}

function drawPlay() {
  const video = $("video");
  const name = video.paused ? "Play" : "Pause";
  for (const id of ["play", "full", "seek"]) $(id).disabled = video.hidden;
  if ($("play").getAttribute("aria-label") === name) return;
  $("play").setAttribute("aria-label", name);
  $("play").replaceChildren(icon(name.toLowerCase()));
}

// Why nobody can say when: also before the first take.
const unknown = () => (!store.isLinked ? "no answer" : store.hasWorker ? null : "no worker");

function drawClock() {
  const take = store.screened;
  setText($("clock"), clock(take ? elapsed(take) : 0));
  const isOver = take && isEnded(take);
  setText($("eta-name"), isOver ? "Took" : "Ready in");
  const left = take && !isOver ? secondsLeft(take) : null;
  setText($("eta"), isOver ? span(elapsed(take)) : unknown() ?? (left === null ? "–" : `≈ ${span(Math.max(left, 0.1))}`));
}

function drawTransport() {
  const video = $("video");
  const take = store.screened;
  const length = take && !video.hidden ? (Number.isFinite(video.duration) && video.duration) || seconds(take.video) || 0 : 0;
  const at = length ? video.currentTime : 0;
  setText($("time"), `${place(at)} / ${place(length)}`);
  const made = length ? Math.min(1, (player.isGrowing ? player.madeUntil : length) / length) : 0;
  $("made").style.transform = `scaleX(${made.toFixed(4)})`;
  setAttribute($("seek"), "max", length || 1);
  if (document.activeElement !== $("seek") || !video.paused) $("seek").value = at;
  $("seek").style.setProperty("--at", length ? (at / length).toFixed(4) : "0");
  setAttribute($("seek"), "aria-valuetext", `${at.toFixed(1)} of ${length.toFixed(1)} seconds`);
}

let lastSlow = 0;
function tick(now) {
  const take = store.screened;
  if (take && !$("video").hidden) drawTransport();
  if (take && !isEnded(take) && now - lastSlow > 90) {
    lastSlow = now;
    setText($("state"), stateOf(take));
    drawClock();
    drawWaterfall(take);
  }
  requestAnimationFrame(tick);
}

// The light that falls from the screen into the room: the picture on 16 x 9 pixels, blown up.
function spill() {
  const canvas = document.querySelector(".spill");
  const picture = !$("video").hidden ? $("video") : !$("preview").hidden ? $("preview") : null;
  if (document.hidden || isStill.matches && picture) return;
  const context = canvas.getContext("2d");
  context.globalAlpha = 0.35;
  try {
    if (picture) context.drawImage(picture, 0, 0, 16, 9);
    else context.clearRect(0, 0, 16, 9);
  } catch { /* the picture is being replaced */ }
  canvas.classList.toggle("is-lit", Boolean(picture));
}
