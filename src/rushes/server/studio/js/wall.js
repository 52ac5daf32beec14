// The wall of takes: one card each, newest first, pages of them on demand.

import { mediaUrl, partUrl } from "./api.js";
import { $, h, icon, setAttribute, setText, toast } from "./dom.js";
import { ago, count } from "./format.js";
import { readMore } from "./jobs.js";
import { store } from "./store.js";
import { doing, isCancelled, isDone, isEnded, isQueued, seconds, share } from "./take.js";
import { factsOf } from "./screen.js";

const REDRAW_MS = 30_000; // "4 min ago" goes on

const cards = new Map();

export function buildWall() {
  store.on("order", arrange);
  store.on("take", id => cards.get(id)?.draw());
  store.on("compare", () => cards.forEach(card => card.draw()));
  store.on("screen", ({ before }) => { cards.get(before)?.draw(); cards.get(store.onScreen)?.draw(); });
  store.on("renamed", ({ old, id }) => {
    cards.get(id)?.element.remove(); // the list may have told of it before the answer came
    cards.set(id, cards.get(old));
    cards.delete(old);
  });
  setInterval(() => cards.forEach(card => card.draw()), REDRAW_MS);
  store.on("previewed", ({ id, src }) => cards.get(id)?.showPreview(src));
  store.on("event", preview);
  $("more").addEventListener("click", more);
  // Roving: one tab stop for the wall, arrows inside it.
  $("wall").addEventListener("keydown", move);
  arrange();
}

// The screen loads the previews of its own take; the other takes that are followed get theirs here.
async function preview({ take, event }) {
  if (event.kind !== "preview" || take.id === store.onScreen || isEnded(take) || !event.data.url) return;
  try {
    cards.get(take.id)?.showPreview(await mediaUrl(event.data.url, { isShared: true }));
  } catch { /* the next step brings another */ }
}

async function more() {
  $("more").disabled = true;
  const first = store.order.length;
  try {
    await readMore();
    cards.get(store.order[first])?.open.focus();
  } catch (error) {
    toast(error.message);
  }
  $("more").disabled = false;
}

function arrange() {
  for (const [id, card] of cards) if (!store.takes.has(id)) { card.element.remove(); cards.delete(id); }
  let before = null;
  for (const id of store.order) {
    if (!cards.has(id)) cards.set(id, new Card(store.takes.get(id)));
    const { element } = cards.get(id);
    const place = before ? before.nextSibling : $("wall").firstChild;
    if (place !== element) $("wall").insertBefore(element, place);
    before = element;
  }
  setText($("takes-note"), store.order.length ? "" : "Nothing has been shot yet.");
  $("wall").classList.toggle("is-empty", !store.order.length);
  $("more").hidden = !store.hasMore;
}

function move(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  const at = store.order.findIndex(id => cards.get(id)?.element.contains(event.target));
  if (step === undefined || at < 0 || !event.target.classList.contains("open")) return;
  event.preventDefault();
  event.stopPropagation();
  const next = Math.max(0, Math.min(store.order.length - 1, at + step));
  cards.get(store.order[next]).open.focus();
}

class Card {
  #image = null;

  constructor(take) {
    this.take = take;
    this.image = h("img", { alt: "", hidden: true, decoding: "async" });
    this.bar = h("i.progress");
    this.status = h("span.badge");
    this.open = h("button.open", { type: "button", onclick: () => this.#show() }, h("span.thumb", {}, this.image, this.bar, this.status));
    this.title = h("span.title");
    this.facts = h("span.small");
    this.open.append(this.title, this.facts);
    this.pair = h("button.quiet.icon.pick", { type: "button", onclick: () => store.compare(this.take.id) }, icon("pair"));
    this.element = h("li.card", {}, this.open, this.pair);
    this.draw();
  }

  #show() {
    store.show(this.take.id);
    const top = $("screen").getBoundingClientRect().top;
    if (top < 0) $("screen").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  draw() {
    const { take } = this;
    const { video } = take;
    setText(this.title, video.prompt ?? "");
    setAttribute(this.title, "title", video.prompt);
    setText(this.facts, [ago(video.created_at), factsOf({ ...video, model: null, changes: null, notes: null, seed: null, remixed_from_video_id: null })].join(" · "));
    setText(this.status, isDone(take) ? (video.num_frames > 1 ? `${seconds(video).toFixed(1)} s` : "still") : doing(take));
    setAttribute(this.open.firstChild, "data-ahead", isQueued(take) && !take.isPending ? String(take.position ?? "") : null);
    setAttribute(this.element, "data-status", isCancelled(take) ? "cancelled" : video.status);
    setAttribute(this.open, "aria-current", take.id === store.onScreen ? "true" : null);
    this.bar.style.transform = `scaleX(${isEnded(take) ? 0 : share(take).toFixed(3)})`;
    const side = store.compared.indexOf(take.id);
    setAttribute(this.pair, "aria-pressed", String(side >= 0));
    setAttribute(this.pair, "aria-label", `Compare: ${video.prompt}`);
    setAttribute(this.pair, "data-side", side < 0 ? null : "AB"[side]);
    this.pair.hidden = !isDone(take);
    if (isDone(take)) this.#poster();
  }

  async #poster() {
    if (this.#image === "poster") return;
    this.#image = "poster";
    try {
      const image = new Image();
      image.src = await mediaUrl(partUrl(this.take.video, "thumbnail"));
      await image.decode();
      this.showImage(image.src);
    } catch { /* no poster: the card stays plain */ }
  }

  showPreview(src) {
    if (!isEnded(this.take)) this.showImage(src);
  }

  showImage(src) {
    this.image.src = src;
    this.image.hidden = false;
  }
}

export function drawHouse() {
  const { active } = store;
  const queued = active.filter(isQueued).length;
  const parts = [];
  if (active.length - queued) parts.push(`${active.length - queued} in the works`);
  if (queued) parts.push(`${queued} waiting`);
  const isLost = !store.isLinked || !store.hasWorker;
  const lack = store.isLinked ? "No worker: takes wait until there is one" : "Connection lost. Trying again";
  setText($("house"), isLost ? lack : parts.join(", ") || "The house is quiet");
  $("house").classList.toggle("is-lost", isLost);
  $("house").classList.toggle("is-busy", !isLost && active.length > 0);
  document.title = active.length ? `${count(active.length, "take")} running – Rushes` : "Rushes";
}
