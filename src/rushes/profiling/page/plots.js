// The roofline, the growth of a sweep, and two runs side by side.

const PLOT = { width: 700, height: 430, left: 62, right: 16, top: 14, bottom: 42 };

function logScale(low, high, from, to) {
  const [a, b] = [Math.log10(low), Math.log10(high)];
  return (value) => from + ((Math.log10(value) - a) / (b - a)) * (to - from);
}

function decades(low, high) {
  const found = [];
  for (let power = Math.ceil(Math.log10(low) - 1e-9); power <= Math.log10(high) + 1e-9; power += 1) found.push(10 ** power);
  return found;
}

function axes(x, y, right, xs, ys, xLabel, yLabel, xText, yText) {
  const { width, height, left, top, bottom } = PLOT;
  return [
    ...xs.flatMap((value) => [svg("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: height - bottom }),
      svg("text", { class: "dim", x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, xText(value))]),
    ...ys.flatMap((value) => [svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { class: "dim", x: left - 7, y: y(value) + 4, "text-anchor": "end" }, yText(value))]),
    svg("text", { class: "dim", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
    svg("text", { class: "dim", x: 4, y: top - 3 }, yLabel),
  ];
}

function roofline(run) {
  const points = run.operators.filter((op) => op.flops > 0 && op.num_bytes > 0 && op.seconds > 0.0005 * run.total_s)
    .map((op) => ({ op, x: op.flops / op.num_bytes, y: op.flops / op.seconds }));
  const copy = run.ceilings.find((each) => each.resource === "copy");
  const tops = run.ceilings.filter((each) => each.resource !== "copy");
  if (!points.length || !copy || !tops.length) return null;
  const peak = Math.max(...tops.map((each) => each.rate));
  const knee = peak / copy.rate;
  const low = Math.min(...points.map((p) => p.x), knee) / 2.5;
  const high = Math.max(...points.map((p) => p.x), knee * 4) * 1.6;
  const floor = Math.min(...points.map((p) => p.y), peak / 8) / 1.6;
  const { width, height, left, right, top, bottom } = { ...PLOT, right: 150 };
  const x = logScale(low, high, left, width - right);
  const y = logScale(floor, peak * 1.6, height - bottom, top);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "roofline plot" },
    axes(x, y, right, decades(low, high), decades(floor, peak * 1.6), "operations for each byte moved", "FLOP/s",
      (value) => (value < 1 ? `1/${Math.round(1 / value)}` : amount(value, "")), (value) => amount(value, "")),
    roofs(x, y, low, high, floor, copy, tops), spots(points, x, y, run));
  return section("roofline", "Roofline",
    "How hard each kind of work drives the device. Lines: ceilings measured in this run; a spot's area is its time.",
    el("div", { class: "two" }, root, memoryBound(run, copy)));
}

function roofs(x, y, low, high, floor, copy, tops) {
  const start = Math.max(low, floor / copy.rate);
  const slanted = Math.min(high, Math.max(...tops.map((each) => each.rate)) / copy.rate);
  const lines = [svg("line", { x1: x(start), y1: y(start * copy.rate), x2: x(slanted), y2: y(slanted * copy.rate), stroke: "var(--copy)", "stroke-width": 2 }),
    svg("text", { x: x(start) + 8, y: y(start * copy.rate) - 10, style: "fill:var(--copy)" }, `memory ${rate(copy.rate, "copy")}`)];
  let last = -99;
  for (const each of [...tops].sort((a, b) => b.rate - a.rate)) {
    const from = Math.min(high, Math.max(low, each.rate / copy.rate));
    const label = Math.max(y(each.rate) + 4, last + 14);
    last = label;
    lines.push(svg("line", { x1: x(from), x2: x(high), y1: y(each.rate), y2: y(each.rate), stroke: `var(--${each.resource})`, "stroke-width": 2 }),
      svg("text", { x: x(high) + 7, y: label, style: `fill:var(--${each.resource})` }, `${each.resource} ${amount(each.rate, "")}${each.dtype === "float32" ? "" : ` ${each.dtype}`}`));
  }
  return lines;
}

function spots(points, x, y, run) {
  const most = Math.max(...points.map((p) => p.op.seconds));
  const placed = [...points].sort((a, b) => b.op.seconds - a.op.seconds)
    .map(({ op, x: intensity, y: speed }) => ({ op, intensity, speed, cx: x(intensity), cy: y(speed), r: 4 + 13 * Math.sqrt(op.seconds / most) }));
  const circles = placed.map((p) => hint(svg("circle", { class: "hit", cx: p.cx, cy: p.cy, r: p.r, fill: color(p.op.stage), "fill-opacity": 0.75, stroke: "var(--card)", "stroke-width": 1.5 }),
    `${p.op.stage}: ${p.op.kind}: ${seconds(p.op.seconds)}, ${rate(p.speed, p.op.resource)}, ${percent(p.op.ideal_s / p.op.seconds)} of its ceiling, ${digits(p.intensity)} FLOP/B`));
  return [...circles, ...labels(placed.filter((p, index) => index < 9 && p.op.seconds > 0.004 * run.total_s), placed)];
}

/** Names beside the largest spots, moved aside with a line where something else stands. */
function labels(named, placed) {
  const boxes = placed.map((p) => [p.cx - p.r, p.cy - p.r, p.cx + p.r, p.cy + p.r]);
  const free = ([left, top, right, bottom]) => left > PLOT.left && top > PLOT.top && bottom < PLOT.height - PLOT.bottom
    && boxes.every(([a, b, c, d]) => right < a || left > c || bottom < b || top > d);
  return named.flatMap((p) => {
    const width = 6.3 * p.op.kind.length;
    for (const shift of [0, 22, -22, 40, -40, 58, -58, 78, 98, 118, -78, 140, 160]) {
      for (const side of [1, -1]) {
        const start = p.cx + side * (p.r + 6 + Math.abs(shift) / 5);
        const box = [side > 0 ? start : start - width, p.cy + shift - 7, side > 0 ? start + width : start, p.cy + shift + 7];
        if (!free(box) || box[2] > PLOT.width) continue;
        boxes.push(box);
        return [shift ? svg("line", { x1: p.cx, y1: p.cy, x2: start, y2: p.cy + shift, stroke: "var(--soft)", "stroke-width": 0.8 }) : null,
          svg("text", { class: "label", x: start, y: p.cy + shift + 4, "text-anchor": side > 0 ? "start" : "end" }, p.op.kind)];
      }
    }
    return [];
  });
}

function memoryBound(run, copy) {
  const rows = run.operators.filter((op) => op.resource === "copy" && op.seconds > 0.001 * run.total_s).slice(0, 9);
  return el("div", {}, el("h2", {}, "Moving data"), el("p", { class: "sub" }, `Share of the copy ceiling, ${rate(copy.rate, "copy")}.`),
    el("table", {}, el("tbody", {}, rows.map((op) => el("tr", {}, el("td", { class: "left name" }, dot(color(op.stage)), op.kind),
      el("td", {}, seconds(op.seconds)), el("td", { class: "left" }, el("span", { class: "bar", style: "width:90px" },
        el("i", { style: `width:${Math.min(100, (100 * op.ideal_s) / op.seconds)}%;background:var(--copy)` }))), el("td", {}, percent(op.ideal_s / op.seconds)))))));
}

function growth() {
  const found = profile.sweep;
  if (!found) return null;
  const shown = found.growths.slice(0, 10);
  const { width, height, left, right, top, bottom } = PLOT;
  const all = shown.flatMap((each) => each.seconds);
  const x = logScale(found.sizes[0] / 1.1, found.sizes.at(-1) * 1.1, left, width - right);
  const [low, high] = [Math.min(...all) / 1.5, Math.max(...all) * 1.5];
  const y = logScale(low, high, height - bottom, top);
  const hue = (index) => `hsl(${(index * 47 + 215) % 360} 68% 54%)`;
  const lines = shown.flatMap((each, index) => [
    svg("polyline", { fill: "none", stroke: hue(index), "stroke-width": each.name === "total" ? 3 : 1.8, points: each.seconds.map((value, place) => `${x(found.sizes[place])},${y(value)}`).join(" ") }),
    ...each.seconds.map((value, place) => hint(svg("circle", { class: "hit", cx: x(found.sizes[place]), cy: y(value), r: 4, fill: hue(index) }),
      `${each.stage ? `${each.stage}: ` : ""}${each.name} at ${found.field} ${found.values[place]}: ${seconds(value)}`)),
  ]);
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "growth of time" },
    axes(x, y, right, found.sizes, decades(low, high), found.size_name, "seconds", (value) => amount(value, ""), (value) => seconds(value)), lines);
  const table = el("table", {}, el("thead", {}, el("tr", {}, el("th", { class: "left" }, ""), el("th", {}, "power"), el("th", {}, "largest"))),
    el("tbody", {}, shown.map((each, index) => el("tr", {}, el("td", { class: "left name" }, dot(hue(index)), each.stage ? `${each.stage}: ${each.name}` : each.name),
      el("td", {}, `${each.exponent.toFixed(2)}${each.error ? ` ± ${each.error.toFixed(2)}` : ""}`), el("td", {}, seconds(each.seconds.at(-1)))))));
  return section("growth", `Growth with ${found.field}`, `Time against ${found.size_name}, both logarithmic: a straight line of slope p is size to the power p.`,
    el("div", { class: "two" }, plot, el("div", {}, table, memoryGrowth(found))));
}

function memoryGrowth(found) {
  const most = Math.max(...found.peak_bytes, 1);
  return el("div", { style: "margin-top:18px" }, el("h2", {}, "Peak memory"), el("table", {}, el("tbody", {}, found.values.map((value, place) => el("tr", {},
    el("td", { class: "left" }, `${found.field} ${value}`), el("td", { class: "left", style: "width:50%" }, el("span", { class: "bar", style: "width:100%" },
      el("i", { style: `width:${(100 * found.peak_bytes[place]) / most}%;background:var(--accent)` }))), el("td", {}, amount(found.peak_bytes[place], "B")))))));
}

function comparison() {
  if (!profile.comparisons.length) return null;
  const body = el("div");
  const pick = el("select", { "aria-label": "what to compare with", onchange: () => draw(profile.comparisons[pick.selectedIndex]) },
    profile.comparisons.map((each) => el("option", {}, each.b)));
  function draw(pair) {
    const most = Math.max(...pair.rows.concat(pair.operators).flatMap((each) => [each.a_s || 0, each.b_s || 0]), 1e-12);
    body.replaceChildren(pairTable(pair, [pair.total, ...pair.rows], most), pair.operators.length ? el("h2", { style: "margin-top:20px" }, "Operators") : "",
      pair.operators.length ? pairTable(pair, pair.operators, most) : "");
  }
  draw(profile.comparisons[0]);
  return section("compare", `${profile.runs[0].label} beside …`, "Equal within noise: the ranges of the repeats, widened by what a quiet machine varies, overlap.",
    el("p", {}, pick), body);
}

function pairTable(pair, rows, most) {
  const least = 0.003 * Math.max(pair.total.a_s, pair.total.b_s);
  const shown = rows.filter((each) => each.verdict !== "same" || Math.max(each.a_s || 0, each.b_s || 0) > least);
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ["", pair.a, pair.b, "", "ratio", "verdict"].map((head, index) => el("th", { class: index % 3 === 0 ? "left" : null }, head)))),
    el("tbody", {}, shown.map((each) => el("tr", { class: each.name === "total" ? "head" : null }, el("td", { class: "left name" }, each.name),
      el("td", {}, seconds(each.a_s)), el("td", {}, seconds(each.b_s)),
      el("td", { class: "left" }, each.name === "total" ? "" : el("span", { style: "display:inline-grid;gap:2px" }, bar([[(each.a_s || 0) / most, "var(--accent)"]]), bar([[(each.b_s || 0) / most, "var(--attention)"]]))),
      el("td", {}, each.a_s && each.b_s != null ? `${(each.b_s / each.a_s).toFixed(2)}×` : ""),
      el("td", { class: `verdict ${each.verdict}` }, each.verdict === "same" ? "same within noise" : each.verdict))))));
}
