// Calls of the service. Every failure is an `ApiError`; status 0 means that nobody answered.

import { authorization, hasKey } from "./key.js";

export class ApiError extends Error {
  constructor(status, error = {}) {
    super(error.message ?? (status ? `The service answered ${status}.` : "The service does not answer."));
    this.status = status;
    this.code = error.code ?? null;
    this.field = error.field ?? error.param ?? null;
    this.rule = error.rule ?? null;
    this.retryAfter = null;
  }
}

let onUnauthenticated = () => {};
export const askForKeyWith = callback => { onUnauthenticated = callback; };

// Fetch with the key; the answer is good, or an `ApiError` is thrown.
export async function call(path, { headers = {}, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...authorization(), ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0);
  }
  if (response.ok) return response;
  const error = await errorOf(response);
  if (response.status === 401) onUnauthenticated(error);
  throw error;
}

async function errorOf(response) {
  let content = {};
  try {
    content = (await response.json()).error ?? {};
  } catch { /* a proxy's page, or none at all: the status must do */ }
  const error = new ApiError(response.status, content);
  error.retryAfter = Number(response.headers.get("Retry-After")) || null;
  return error;
}

const json = async (path, options) => (await call(path, options)).json();

const send = (method, path, body) => json(path, {
  method, headers: { "Content-Type": "application/json" }, body: body === undefined ? undefined : JSON.stringify(body),
});

const videoPath = id => `/v1/videos/${encodeURIComponent(id)}`;

export const api = {
  // 503 is an answer too: it names what is missing.
  ready: () => fetch("/ready").then(answer => answer.json(), () => { throw new ApiError(0); }),
  models: () => json("/v1/models"),
  create: (request, key) => json("/v1/videos", {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": key },
    body: JSON.stringify(request),
  }),
  remix: (id, ask, key) => json(`${videoPath(id)}/remix`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": key },
    body: JSON.stringify(ask),
  }),
  list: ({ after = null, limit = 24 } = {}) =>
    json(`/v1/videos?order=desc&limit=${limit}${after ? `&after=${encodeURIComponent(after)}` : ""}`),
  get: id => json(videoPath(id)),
  cancel: id => send("POST", `${videoPath(id)}/cancel`),
  // `keepalive`: it is sent even while the page goes away.
  remove: id => json(videoPath(id), { method: "DELETE", keepalive: true }),
  trace: id => json(`${videoPath(id)}/trace`),
};

// Addresses of a video's parts: as its object gives them, else as they are by rule.
export const partUrl = (video, part) => video.urls?.[part] ?? {
  events: `${videoPath(video.id)}/events`,
  stream: `${videoPath(video.id)}/stream`,
  content: `${videoPath(video.id)}/content`,
  thumbnail: `${videoPath(video.id)}/content?variant=thumbnail`,
  preview: `${videoPath(video.id)}/preview`,
}[part];

// Elements cannot send a key, so with one their media are fetched and given as an address in memory. Without
// one the address itself will do, and ranges are the browser's business.
const kept = new Map();
const MOST_KEPT = 48;

// `isShared`: several elements show it, and it must not be asked for more than once (a preview, which no cache keeps).
export async function mediaUrl(path, { signal, isShared = false } = {}) {
  if (!hasKey() && !isShared) return path;
  if (kept.has(path)) return kept.get(path);
  const response = await call(path, { signal });
  const url = URL.createObjectURL(await response.blob());
  remember(path, url);
  return url;
}

function remember(path, url) {
  kept.set(path, url);
  if (kept.size <= MOST_KEPT) return;
  const [oldest, address] = kept.entries().next().value;
  kept.delete(oldest);
  URL.revokeObjectURL(address);
}

export async function download(video) {
  const response = await call(partUrl(video, "content"));
  const url = URL.createObjectURL(await response.blob());
  const link = Object.assign(document.createElement("a"), { href: url, download: `${video.id}.mp4` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
