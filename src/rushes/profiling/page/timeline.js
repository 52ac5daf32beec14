// The waterfall and the flame graph: both zoom to what is clicked.

const WIDTH = 1180;
const LANE = 22;

function waterfall(run) {
  if (!run.bars.length) return null;
  const root = svg("svg", { role: "img", "aria-label": "waterfall of spans" });
  const end = Math.max(...run.bars.map((each) => each.start_s + each.seconds));
  const depth = Math.max(...run.bars.map((each) => each.depth));
  const reset = el("button", { type: "button", onclick: () => draw(0, end) }, "whole clip");
  function draw(from, to) {
    const height = (depth + 1) * LANE + 26;
    root.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    const at = (value) => ((value - from) / (to - from)) * WIDTH;
    const shown = run.bars.filter((each) => each.start_s < to && each.start_s + each.seconds > from);
    root.replaceChildren(...ticks(from, to, at, height), ...shown.map((each) => piece(each, at, from, to)));
    reset.disabled = from === 0 && to === end;
  }
  function piece(each, at, from, to) {
    const left = Math.max(0, at(each.start_s));
    const width = Math.max(0.6, Math.min(WIDTH, at(each.start_s + each.seconds)) - left);
    const label = width > 26 ? cut(each.name, width - 10) : "";
    const group = svg("g", { class: "hit", onclick: () => draw(Math.max(0, each.start_s), each.start_s + each.seconds) },
      svg("rect", { x: left, y: each.depth * LANE, width, height: LANE - 3, rx: Math.min(4, width / 2), fill: color(each.stage), "fill-opacity": each.depth ? 0.9 : 0.35 }),
      label ? svg("text", { x: left + 6, y: each.depth * LANE + 13.5, style: each.depth ? "fill:var(--on);font-weight:550" : "" }, label) : null);
    return hint(group, `${each.name}: ${seconds(each.seconds)}, begins at ${seconds(each.start_s)}`);
  }
  draw(0, end);
  return section("waterfall", "Waterfall", "Spans of the median run, outer ones above. Click one to zoom in.",
    root, el("p", { class: "note" }, reset));
}

function ticks(from, to, at, height) {
  const step = niceStep((to - from) / 9);
  const marks = [];
  for (let value = Math.ceil(from / step) * step; value <= to; value += step) {
    marks.push(svg("line", { class: "grid", x1: at(value), x2: at(value), y1: 0, y2: height - 18 }),
      svg("text", { class: "dim", x: Math.min(at(value) + 3, WIDTH - 44), y: height - 5 }, seconds(value)));
  }
  return marks;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
}

function flame(run) {
  if (!run.flame || !run.flame.seconds) return null;
  const root = svg("svg", { role: "img", "aria-label": "flame graph of device time" });
  const reset = el("button", { type: "button", onclick: () => draw(run.flame, null) }, "everything");
  function draw(top, stage) {
    const rects = [];
    let deepest = 0;
    function place(node, left, width, level, name) {
      if (width < 0.7) return;
      deepest = Math.max(deepest, level);
      const own = level === 0 && !name ? "request" : name || node.name;
      rects.push(frame(node, left, width, level, own, top));
      let x = left;
      for (const child of node.children) {
        const childWidth = (width * child.seconds) / node.seconds;
        place(child, x, childWidth, level + 1, name || (stages.includes(child.name) ? child.name : null));
        x += childWidth;
      }
    }
    place(top, 0, WIDTH, 0, stage);
    root.setAttribute("viewBox", `0 0 ${WIDTH} ${(deepest + 1) * LANE}`);
    root.replaceChildren(...rects);
    reset.disabled = top === run.flame;
  }
  function frame(node, left, width, level, stage, top) {
    const shade = 0.95 - 0.08 * (level % 4);
    const label = width > 30 ? cut(node.name, width - 10, 6.7) : "";
    const group = svg("g", { class: "hit", onclick: () => draw(node, stages.includes(stage) && stage !== "request" ? stage : null) },
      svg("rect", { x: left + 0.5, y: level * LANE, width: Math.max(0.5, width - 1), height: LANE - 2, rx: Math.min(4, width / 2), fill: color(stage), "fill-opacity": shade }),
      label ? svg("text", { x: left + 6, y: level * LANE + 14, style: "fill:var(--on);font-weight:550" }, label) : null);
    return hint(group, `${node.name}: ${seconds(node.seconds)}, ${percent(node.seconds / run.flame.seconds)} of the device's time` +
      (top === run.flame ? "" : `, ${percent(node.seconds / top.seconds)} of what is shown`));
  }
  draw(run.flame, null);
  return section("flame", "Flame graph of device time",
    "By stage, part, module and operator; numbered blocks of one kind are one. Click to zoom in.", root, el("p", { class: "note" }, reset));
}
