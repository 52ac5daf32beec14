// Server-sent events over fetch, since EventSource cannot send a key. A lost connection is made again, after
// the last event that was seen.

import { call } from "./api.js";

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 10_000;
const SILENCE_MS = 30_000; // the service says something every 10 s

// Follow one job until its last event, the signal, or a 404. `onEvent({ kind, id, data })`; `onLink(isUp)`.
export async function follow(path, { after = 0, signal, onEvent, onLink = () => {} }) {
  let last = after;
  let wait = FIRST_WAIT_MS;
  while (!signal.aborted) {
    try {
      const isOver = await readOnce(path, last, signal, event => {
        wait = FIRST_WAIT_MS;
        if (event.id !== null) {
          if (event.id <= last) return;
          last = event.id;
        }
        onEvent(event);
      }, onLink);
      if (isOver) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404 || error.status === 401 || error.status === 403) throw error;
      if (!error.status) onLink(false);
    }
    await pause(wait * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }
}

async function readOnce(path, last, signal, onEvent, onLink) {
  const silence = new AbortController();
  const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": String(last) } : {}) };
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const response = await call(path, { headers, cache: "no-store", signal: AbortSignal.any([signal, silence.signal]) });
    onLink(true);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parse = parser();
    for (;;) {
      const { done, value } = await reader.read();
      clearTimeout(timer);
      if (done) return false;
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      for (const event of parse(value)) {
        onEvent(event);
        if (event.kind === "completed" || event.kind === "failed" || event.kind === "cancelled") {
          reader.cancel();
          return true;
        }
      }
    }
  } catch (error) {
    onLink(false);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

// The event-stream format of the HTML standard, as far as the service uses it: text in, whole events out.
export function parser() {
  let rest = "";
  let event = { kind: "message", id: null, lines: [] };
  return function* (text) {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.lines.length) yield { kind: event.kind, id: event.id, data: JSON.parse(event.lines.join("\n")) };
        event = { kind: "message", id: null, lines: [] };
        continue;
      }
      const colon = line.indexOf(":");
      const [name, value] = colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
      if (name === "event") event.kind = value;
      else if (name === "id") event.id = Number(value);
      else if (name === "data") event.lines.push(value);
    }
  };
}

// Until the time is over, the browser is online again, or the signal.
export function pause(milliseconds, signal) {
  return new Promise(resolve => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    addEventListener("online", end);
    signal?.addEventListener("abort", end);
  });
}
