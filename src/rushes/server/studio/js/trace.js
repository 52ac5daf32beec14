// What the service says of an ended take: a verdict in a line, and every phase of it.

import { api } from "./api.js";
import { $, h, setText } from "./dom.js";
import { span } from "./format.js";
import { pause } from "./sse.js";
import { store } from "./store.js";
import { isEnded } from "./take.js";

const RETRY_MS = 1200; // a worker writes the trace behind the job's last event

const words = name => `${name[0].toUpperCase()}${name.slice(1)}`.replaceAll("_", " ");

export function buildTrace() {
  const look = () => { read(store.screened); draw(store.screened); };
  store.on("screen", look);
  store.on("take", id => { if (id === store.onScreen) look(); });
  draw(null);
}

async function read(take) {
  if (!take || take.isPending || !isEnded(take) || take.trace) return;
  take.trace = {};
  take.trace = (await got(take)) ?? (await pause(RETRY_MS), await got(take)) ?? {};
  if (take === store.screened) draw(take);
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
