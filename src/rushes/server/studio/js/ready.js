// Whether the service could begin a take: asked now and then, more often while it could not.

import { api } from "./api.js";
import { pause } from "./sse.js";
import { store } from "./store.js";

export async function watchReady() {
  for (;;) {
    if (!document.hidden) await look();
    await pause(store.isLinked && store.hasWorker ? 10_000 : 2500);
  }
}

async function look() {
  try {
    const { missing = [] } = await api.ready();
    store.worker(!missing.includes("a worker"));
    if (!store.active.length) store.link(true); // else those who follow takes know better
  } catch (error) {
    if (error.status === 0) store.link(false);
  }
}
