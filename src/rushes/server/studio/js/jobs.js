// Keeps takes and service together: sends requests, follows what runs, finds again what ran before.

import { api, partUrl } from "./api.js";
import { say, toast } from "./dom.js";
import { span } from "./format.js";
import { storage } from "./key.js";
import { follow, pause } from "./sse.js";
import { presetOf } from "./models.js";
import { store } from "./store.js";
import { firstFrameAfter, isEnded, isRunning, newTake, serviceNow } from "./take.js";

// A browser opens six connections to a host for all of its tabs, and a stream of events holds one. So only a few
// takes are followed; the others are looked at now and then, in one call.
const MOST_FEEDS = 2;
const LOOK_MS = 2500;
const LOOK_HIDDEN_MS = 12_000;
const UNDO_S = 6;
const REFUSED_MS = 4000;

const feeds = new Map();
const ended = new Set();
const deletions = new Map();
let looks = null;

// Read the newest page, and go on with what is not finished.
export async function resume() {
  const list = await api.list();
  store.link(true);
  store.page(kept(list), { isFirst: true });
  const wanted = storage.get("rushes.screen");
  if (!store.screened) store.show(store.takes.has(wanted) ? wanted : store.active.at(-1)?.id ?? store.order[0] ?? null);
  attend();
}

export async function readMore() {
  store.page(kept(await api.list({ after: store.pageEnd })));
}

const kept = list => ({ ...list, data: list.data.filter(video => !deletions.has(video.id)) });

// Send one request. The take stands on the page at once; a refusal takes it away again and is thrown.
export async function submit(request, { isShown = true, send = api.create } = {}) {
  const key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  const take = newTake({ ...request, id: `new-${key}`, status: "queued", progress: 0, created_at: serviceNow() });
  take.isPending = true;
  take.sentAt = serviceNow();
  take.clickedAt = performance.now();
  const before = store.onScreen;
  store.add(take);
  if (isShown) store.show(take.id);
  try {
    store.rename(take, await sent(request, key, send));
  } catch (error) {
    store.remove(take.id);
    if (isShown) store.show(before);
    throw error;
  }
  attend();
  return take;
}

// The same key again is the same job, so a lost answer can be asked for once more.
async function sent(request, key, send) {
  try {
    return await send(request, key);
  } catch (error) {
    if (error.status !== 0) throw error;
    return send(request, key);
  }
}

export async function cancel(take) {
  try {
    store.renew(await api.cancel(take.id));
    say("Cancelling");
  } catch (error) {
    toast(error.message);
  }
}

// Gone from the page at once, from the service when nobody took it back for a while.
export function remove(take) {
  store.remove(take.id);
  const timer = setTimeout(() => finish(take), UNDO_S * 1000);
  const close = toast("Take deleted", { undo: () => takeBack(take), seconds: UNDO_S });
  deletions.set(take.id, { timer, close });
  stop(take.id);
}

function takeBack(take) {
  clearTimeout(deletions.get(take.id)?.timer);
  deletions.delete(take.id);
  store.add(take);
  store.show(take.id);
  attend();
}

async function finish(take) {
  deletions.delete(take.id);
  try {
    await api.remove(take.id);
  } catch (error) {
    if (error.status !== 404) toast(`Not deleted: ${error.message}`);
  }
}

// The fields that make a take: what it was asked for, by the names that its model takes.
export function requestOf(take, model) {
  const { video } = take;
  const names = ["prompt", "model", "negative_prompt", "mode", ...Object.keys(model.fields)];
  const given = names.filter(name => video[name] !== undefined && video[name] !== null);
  return { ...Object.fromEntries(given.map(name => [name, video[name]])), preset: presetOf(model, video) };
}

// Follow the take on screen, then what runs, then what runs next.
export function attend() {
  const wanted = document.hidden ? [] : order().slice(0, MOST_FEEDS);
  for (const id of feeds.keys()) if (!wanted.includes(id)) stop(id);
  for (const id of wanted) if (!feeds.has(id)) start(store.takes.get(id));
  look();
}

// An ended take on screen is followed too, once: its events tell where its time went.
function order() {
  const weight = take => (take.id === store.onScreen ? 2 : 0) + (isRunning(take) ? 1 : 0);
  const takes = store.active.reverse().sort((a, b) => weight(b) - weight(a));
  const { screened } = store;
  if (screened && isEnded(screened) && !screened.isPending && screened.endedAt === null) takes.unshift(screened);
  return takes.map(take => take.id);
}

function stop(id) {
  feeds.get(id)?.abort();
  feeds.delete(id);
}

async function start(take) {
  const stops = new AbortController();
  feeds.set(take.id, stops);
  try {
    await follow(partUrl(take.video, "events"), {
      after: take.lastEvent,
      signal: stops.signal,
      onEvent: event => store.apply(take.id, event),
      onLink: isUp => store.link(isUp),
    });
  } catch (error) {
    if (error.status === 404) store.remove(take.id);
    else await pause(REFUSED_MS, stops.signal); // the key is no good now: another one may come
  }
  if (feeds.get(take.id) === stops) {
    feeds.delete(take.id);
    if (isEnded(take)) take.endedAt ??= take.video.completed_at ?? serviceNow(); // events that are gone are not asked for again
    attend();
  }
}

// Look at everything that is not followed.
function look() {
  if (looks !== null || store.active.every(take => feeds.has(take.id)) && store.isLinked) return;
  looks = setTimeout(async () => {
    try {
      const list = await api.list({ limit: 50 });
      for (const video of list.data) store.renew(video);
      store.link(true);
    } catch (error) {
      if (error.status === 0) store.link(false);
    }
    looks = null;
    attend();
  }, document.hidden ? LOOK_HIDDEN_MS : LOOK_MS);
}

function announce({ take, event }) {
  if (isEnded(take)) return;
  if (event.kind === "frames" && event.data.start === 0) say(`First frame after ${span(firstFrameAfter(take))}`);
  if (event.kind === "started") say("Your take has started");
}

export function watch() {
  store.on("event", announce);
  store.on("take", id => {
    const take = store.takes.get(id);
    if (!take || !isEnded(take) || ended.has(id)) return;
    ended.add(id);
    if (take.lastEvent) say(take.video.status === "completed" ? "A take is done" : "A take has ended");
  });
  store.on("screen", () => {
    if (store.onScreen && !store.screened?.isPending) storage.set("rushes.screen", store.onScreen);
    attend();
  });
  store.on("renamed", ({ id }) => { if (id === store.onScreen) storage.set("rushes.screen", id); });
  document.addEventListener("visibilitychange", () => {
    attend();
    if (!document.hidden) resume().catch(() => {});
  });
  addEventListener("online", () => resume().catch(() => {}));
  addEventListener("pagehide", () => {
    for (const [id, { timer }] of deletions) {
      clearTimeout(timer);
      api.remove(id).catch(() => {});
    }
  });
}
