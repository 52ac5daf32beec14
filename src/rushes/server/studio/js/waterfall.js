// Where a take's time went: a row a stage, a bar a unit, a line at the first frame. Drawn as SVG, whose parts can
// move without moving the page.

import { $, h, setText, svg } from "./dom.js";
import { clock, span } from "./format.js";
import { askedAt, isEnded, isQueued, isUntouched, serviceNow, STAGES } from "./take.js";
import { secondsWaited, waitsOf } from "./waits.js";

const WIDTH = 1000;
const HEIGHT = 12;
const TICKS = 4;
const ROOM = 1.12; // what is left free at the right when the estimate has been passed

let rows = [];
let scale = { id: null, seconds: 0 };

export function buildWaterfall() {
  rows = STAGES.map(stage => {
    const bars = svg("g");
    const now = svg("rect", { class: "now", width: 0, height: HEIGHT });
    const mark = svg("rect", { class: "mark-first", width: 2, height: HEIGHT + 8, y: -4, visibility: "hidden" });
    const line = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, bars, now, mark);
    const took = h("span.took");
    const lost = h("span.lost", { hidden: true }, h("span", {}, "worker "), "lost");
    $("rows").append(h("div.row", { "data-stage": stage.name }, h("span.stage", {}, stage.title), h("div.lane", {}, line, lost), took));
    return { stage, bars, now, mark, took, lost, drawn: "" };
  });
  $("axis").append(...Array.from({ length: TICKS + 1 }, () => h("span")));
}

export function drawWaterfall(take) {
  const seconds = take ? axisSpan(take) : 1;
  for (const row of rows) draw(row, take, seconds);
  [...$("axis").children].forEach((tick, i) => setText(tick, take ? axisLabel(seconds * i / TICKS, seconds) : ""));
}

// Seconds that the axis shows: as promised at first; more, in strides, when it takes longer.
function axisSpan(take) {
  const passed = Math.max((take.endedAt ?? lastUnit(take) ?? serviceNow()) - askedAt(take), 0.05);
  if (isEnded(take)) return passed;
  if (scale.id !== take.id) scale = { id: take.id, seconds: 0 };
  const now = Math.max(serviceNow() - askedAt(take), 0.05);
  const promised = take.eta ? take.eta - askedAt(take) : 0;
  scale.seconds = Math.max(scale.seconds, promised, 4);
  while (scale.seconds < now * 1.02) scale.seconds *= ROOM;
  return scale.seconds;
}

const lastUnit = take => take.units.at(-1)?.end ?? take.video.completed_at;

function draw(row, take, seconds) {
  const x = at => Math.max(0, Math.min(WIDTH, (at - askedAt(take)) / seconds * WIDTH));
  const units = take ? unitsOf(take, row.stage.name) : [];
  const key = `${take?.id}:${units.length}:${units.at(-1)?.end}:${seconds}:${take?.trace?.spans?.length}`;
  if (row.drawn !== key) {
    row.drawn = key;
    row.bars.replaceChildren(...units.map(({ start, end, title, isLost }) => {
      const width = Math.max(x(end) - x(start) - (units.length > 1 ? 1.2 : 0), 1.6);
      return svg("rect", { x: x(start), width, height: HEIGHT, class: isLost ? "is-lost" : null }, title ? svg("title", {}, title) : null);
    }));
    label(row.lost, units.findLast(unit => unit.isLost), x);
  }
  const first = take?.firstFrameAt;
  row.mark.setAttribute("visibility", first ? "visible" : "hidden");
  if (first) row.mark.setAttribute("x", Math.min(x(first), WIDTH - 2));
  drawNow(row, take, units, x);
  setText(row.took, units.length ? tenths(secondsIn(take, row.stage.name, units)) : "");
}

// As exact as the verdict.
const tenths = seconds => (seconds >= 9.95 && seconds < 59.95 ? `${seconds.toFixed(1)} s` : span(seconds));

const secondsIn = (take, stage, units) =>
  (stage === "queue" ? secondsWaited(take, units) : units.reduce((sum, { start, end }) => sum + end - start, 0));

function label(element, loss, x) {
  element.hidden = !loss;
  if (!loss) return;
  const [left, right] = [x(loss.start) / WIDTH, 1 - x(loss.end) / WIDTH];
  element.style.left = left > right ? "" : `${100 * (1 - right)}%`;
  element.style.right = left > right ? `${100 * (1 - left)}%` : "";
}

// What is being done at the moment grows until its unit is reported.
function drawNow(row, take, units, x) {
  const isOn = take && !isEnded(take) && stageNow(take) === row.stage.name;
  const since = !isOn ? 0 : row.stage.name === "queue" ? askedAt(take) : Math.max(take.units.at(-1)?.end ?? 0, take.losses.at(-1)?.end ?? 0);
  const from = isOn ? x(since) : 0;
  row.now.setAttribute("x", from);
  row.now.setAttribute("width", isOn ? Math.max(0, x(serviceNow()) - from) : 0);
}

function stageNow(take) {
  if (isQueued(take) || isUntouched(take)) return "queue";
  const { text_encode: text, denoise } = take.stages;
  if (denoise && denoise.units >= denoise.total) return "vae_decode";
  return text || denoise ? "denoise" : "text_encode";
}

function unitsOf(take, stage) {
  if (stage !== "queue") return take.units.filter(unit => unit.stage === stage);
  return waitsOf(take).map(wait => ({ ...wait, title: `${wait.isLost ? "lost" : "waited"} ${span(wait.end - wait.start)}` }));
}

function axisLabel(seconds, whole) {
  if (seconds === 0) return "0";
  if (whole < 20) return `${seconds.toFixed(1)} s`;
  return whole < 60 ? span(seconds) : clock(seconds).replace(/^0|\..$/g, ""); // "1:13"
}
