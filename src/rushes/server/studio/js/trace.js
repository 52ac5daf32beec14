// What the service says of an ended take: a verdict in a line, and every phase of it.

import { api } from "./api.js";
import { $, h, setText } from "./dom.js";
import { span } from "./format.js";
import { pause } from "./sse.js";
import { store } from "./store.js";
import { isEnded } from "./take.js";

const LOOKS_MS = [0, 1500, 3000, 6000]; // a worker writes the trace behind the job's last event

const reading = new Set();

const words = name => `${name[0].toUpperCase()}${name.slice(1)}`.replaceAll("_", " ");

export function buildTrace() {
  const look = () => { read(store.screened); draw(store.screened); };
  store.on("screen", look);
  store.on("traced", () => draw(store.screened));
  store.on("take", id => { if (id === store.onScreen) look(); });
  draw(null);
}

async function read(take) {
  if (!take || take.isPending || !isEnded(take) || take.trace || reading.has(take)) return;
  reading.add(take);
  for (const wait of LOOKS_MS) {
    await pause(wait);
    take.trace = await got(take) ?? take.trace;
    if (take === store.screened) store.tell("traced");
    if (take.trace?.lives?.at(-1)?.is_over) break; // every span has been written
    if (take === store.screened) continue;
    take.trace = null; // until it is on the screen again
    break;
  }
  reading.delete(take);
}

async function got(take) {
  try {
    return await api.trace(take.id);
  } catch {
    return null; // none was kept
  }
}

function draw(take) {
  const { verdict, phases = [] } = take?.trace ?? {};
  setText($("verdict"), verdict?.text ?? "");
  $("phases").hidden = !phases.length;
  $("phase-list").replaceChildren(...phases.map(phase => h("div", {},
    h("dt", {}, words(phase.name)), h("dd", {}, span(phase.seconds)), h("dd.muted", {}, phase.detail))));
}
