// Two finished takes side by side, on one clock.

import { mediaUrl, partUrl } from "./api.js";
import { $, h, icon, setText, toast } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { fieldName, place, span } from "./format.js";
import { store } from "./store.js";

const DRIFT_S = 0.05; // one frame at 20 a second
const FACTS = ["prompt", "model", "preset", "width", "height", "num_frames", "fps", "num_inference_steps", "solver", "flow_shift", "guidance_high", "guidance_low", "seed", "actual_s"];

export function buildCompare() {
  const draw = () => {
    setText($("compare-count"), String(store.compared.length));
    $("open-compare").disabled = store.compared.length < 2;
  };
  store.on("compare", draw);
  $("open-compare").addEventListener("click", openCompare);
  draw();
}

export const openCompare = () => openPair(store.compared.map(id => store.takes.get(id)).filter(Boolean));

export function openPair(takes) {
  if (takes.length < 2) {
    toast("Mark two finished takes first: C, or the pair on their cards");
    return;
  }
  const sides = takes.map((take, i) => side(take, "AB"[i]));
  const pair = new Pair(sides.map(({ video }) => video));
  openDialog("Side by side", h("div.column", {},
    h("div.pair", {}, sides.map(({ element }) => element)),
    pair.transport,
    differences(takes.map(take => take.video))), { kind: "wide", closed: () => pair.stop() });
  pair.start();
}

function side(take, letter) {
  const video = h("video", { playsinline: true, muted: true, "aria-label": `${letter}: ${take.video.prompt}` });
  video.muted = true;
  mediaUrl(partUrl(take.video, "content")).then(address => { video.src = address; }, error => toast(error.message));
  const frame = h("div.pair-frame", {}, video, h("b.letter", {}, letter));
  return { video, element: h("figure.side", {}, frame, h("figcaption", {}, take.video.prompt)) };
}

// The longer clip leads; the other follows at the same second.
class Pair {
  #frame = 0;

  constructor(videos) {
    this.videos = videos;
    this.button = h("button.quiet.icon", { type: "button", onclick: () => this.toggle() });
    this.seek = h("input", { type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "Position in both clips", oninput: () => this.#jump() });
    this.time = h("output.time", {}, "0:00.0");
    this.transport = h("div.transport", { role: "group", "aria-label": "Playback of both" }, this.button, h("div.track", {}, this.seek), this.time);
    this.isPlaying = false;
    this.#draw();
  }

  get length() {
    return Math.max(...this.videos.map(video => video.duration || 0));
  }

  get leader() {
    return this.videos.find(video => (video.duration || 0) === this.length) ?? this.videos[0];
  }

  async start() {
    await Promise.all(this.videos.map(video => new Promise(resolve => video.addEventListener("canplay", resolve, { once: true }))));
    this.toggle(true);
    const tick = () => { this.#tick(); this.#frame = requestAnimationFrame(tick); };
    this.#frame = requestAnimationFrame(tick);
  }

  stop() {
    cancelAnimationFrame(this.#frame);
    for (const video of this.videos) video.pause();
  }

  toggle(isPlaying = !this.isPlaying) {
    this.isPlaying = isPlaying;
    for (const video of this.videos) {
      if (!isPlaying) video.pause();
      else if (!video.ended) video.play().catch(() => {});
    }
    this.#draw();
  }

  #jump() {
    for (const video of this.videos) video.currentTime = Math.min(Number(this.seek.value), video.duration || 0);
  }

  #tick() {
    const { leader, length } = this;
    if (leader.ended && this.isPlaying) {
      for (const video of this.videos) { video.currentTime = 0; video.play().catch(() => {}); }
    }
    for (const video of this.videos) {
      const wanted = Math.min(leader.currentTime, video.duration || 0);
      if (video !== leader && !video.seeking && Math.abs(video.currentTime - wanted) > DRIFT_S) video.currentTime = wanted;
    }
    this.seek.max = length || 1;
    this.seek.value = leader.currentTime;
    this.seek.style.setProperty("--at", length ? (leader.currentTime / length).toFixed(4) : "0");
    setText(this.time, `${place(leader.currentTime)} / ${place(length)}`);
  }

  #draw() {
    const name = this.isPlaying ? "Pause" : "Play";
    this.button.setAttribute("aria-label", `${name} both`);
    this.button.replaceChildren(icon(name.toLowerCase()));
  }
}

// What the two were asked for and differ in.
function differences([a, b]) {
  const shown = (video, name) => (name === "actual_s" ? span(video[name]) : String(video[name] ?? "–"));
  const names = FACTS.filter(name => (a[name] !== undefined || b[name] !== undefined) && shown(a, name) !== shown(b, name));
  if (!names.length) return h("p.muted", {}, "Made with the same settings.");
  const title = name => (name === "actual_s" ? "Device time" : fieldName(name));
  return h("table.differences", {},
    h("caption.hidden", {}, "What differs"),
    h("thead", {}, h("tr", {}, h("td"), h("th", { scope: "col" }, "A"), h("th", { scope: "col" }, "B"))),
    h("tbody", {}, names.map(name => h("tr", {}, h("th", { scope: "row" }, title(name)), h("td", {}, shown(a, name)), h("td", {}, shown(b, name))))));
}
