// The head of the page, the findings, and the tables.

function title(run) {
  const { video = {}, sampling = {} } = run.request;
  const clip = `${video.num_frames} frames of ${video.width}×${video.height}, ${sampling.num_inference_steps} steps`;
  const device = profile.about.device && profile.about.device !== "cpu" ? profile.about.device : profile.about.cpu;
  const short = run.is_short ? " · extrapolated from a few units of each kind" : "";
  return el("section", { class: "bare", id: "top" },
    el("h1", {}, `${seconds(run.total_s)} for one clip of ${run.model}`),
    el("p", { class: "sub" }, `${clip} · ${device || "unknown device"}${short}`),
    tiles(run), split(run));
}

function tiles(run) {
  const device = sum(run.rows, (row) => row.device_s);
  const peak = Math.max(0, ...run.peaks.map((each) => each.num_bytes));
  const tile = (value, text) => el("div", { class: "tile" }, el("b", {}, value), el("span", {}, text));
  const measured = run.operators.length > 0;
  return el("div", { class: "tiles" },
    tile(seconds(run.total_s), "wall time, request to finished file"),
    measured ? tile(percent(device / run.total_s), `of it on the device (${seconds(device)})`) : null,
    measured && run.ideal_s ? tile(seconds(run.ideal_s),
      `if every operator ran at its ceiling: ${digits(run.total_s / run.ideal_s)}× less`) : null,
    peak ? tile(amount(peak, "B"), "peak memory") : null,
    measured ? tile(percent(run.explained), "of the device's time has a name") : null);
}

function split(run) {
  const totals = stages.map((stage) => [stage, sum(run.rows.filter((row) => row.stage === stage), (row) => row.seconds)])
    .filter(([, value]) => value > 0);
  return el("div", {},
    el("div", { class: "split" }, totals.map(([stage, value]) => hint(
      el("div", { style: `flex:${(100 * value) / run.total_s} 0 0;background:${color(stage)}` }),
      `${stage}: ${seconds(value)}, ${percent(value / run.total_s)}`))),
    el("div", { class: "legend" }, totals.map(([stage, value]) => el("span", {},
      dot(color(stage)), `${stage} `, el("b", {}, seconds(value)), ` ${percent(value / run.total_s)}`))));
}

function findings(run) {
  if (!run.operators.length) return null;
  const most = Math.max(...run.findings.map((each) => each.saving_s), 1e-12);
  const list = run.findings.map((each) => el("div", { class: "finding" },
    el("div", { class: "save" }, seconds(each.saving_s), el("small", {}, percent(each.saving_s / run.total_s))),
    el("div", {}, el("span", { class: "tag" }, each.category), each.text,
      el("div", { class: "meter" }, el("i", { style: `width:${(100 * each.saving_s) / most}%` })))));
  return section("findings", "What would save time",
    "Largest saving first. Each is an estimate as if it alone were mended; savings may overlap.",
    ...(list.length ? list : [el("p", { class: "empty" }, "Nothing stands out.")]));
}

function stageTable(run) {
  const most = Math.max(...run.rows.map((row) => row.seconds));
  const rows = run.rows.map((row) => {
    const device = row.device_s ?? 0;
    const units = row.measured < row.units ? `${row.units} (${row.measured} run)` : row.units;
    return el("tr", {}, el("td", { class: "left" }, dot(color(row.stage)), `${row.stage}: ${row.part}`),
      el("td", {}, units), el("td", {}, seconds(row.seconds)), el("td", {}, percent(row.seconds / run.total_s)),
      el("td", { class: "left" }, hint(bar([[device / most, color(row.stage)], [(row.seconds - device) / most, "var(--around)"]]),
        `device ${seconds(row.device_s)}, around it ${seconds(row.device_s == null ? null : row.seconds - device)}`)),
      el("td", {}, seconds(row.device_s)), el("td", {}, row.device_s == null ? "–" : seconds(row.seconds - device)),
      el("td", {}, row.ideal_s ? seconds(row.ideal_s) : ""));
  });
  const device = sum(run.rows, (row) => row.device_s);
  const total = el("tr", { class: "total" }, el("td", { class: "left" }, "total"), el("td"), el("td", {}, seconds(run.total_s)),
    el("td", {}, "100 %"), el("td"), el("td", {}, run.operators.length ? seconds(device) : ""),
    el("td", {}, run.operators.length ? seconds(run.total_s - device) : ""), el("td", {}, run.ideal_s ? seconds(run.ideal_s) : ""));
  const heads = ["stage", "units", "time", "share", "", "device", "around it", "ideal device"];
  return section("stages", "Stages",
    "Rows add up to the total. Colour: the device at work; grey: everything around it, measured.",
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {},
      heads.map((head, index) => el("th", { class: index === 0 || index === 4 ? "left" : null }, head)))), el("tbody", {}, rows, total))));
}

function operatorTable(run) {
  if (!run.operators.length) return null;
  const share = (op) => (op.seconds ? op.ideal_s / op.seconds : 0);
  const work = (op) => (op.resource === "copy" ? op.num_bytes : op.flops) / op.seconds;
  const isGap = (op) => op.resource === "none";
  const columns = [
    { head: "stage", left: true, value: (op) => op.stage, cell: (op) => [dot(color(op.stage)), op.stage] },
    { head: "kind", left: true, value: (op) => op.kind, cell: (op) => op.kind },
    { head: "calls", value: (op) => op.calls, cell: (op) => (isGap(op) ? "" : op.calls) },
    { head: "time", value: (op) => op.seconds, cell: (op) => seconds(op.seconds) },
    { head: "share", value: (op) => op.seconds, cell: (op) => percent(op.seconds / run.total_s) },
    { head: "work", value: (op) => op.flops, cell: (op) => (op.flops ? amount(op.flops, "FLOP") : "") },
    { head: "data", value: (op) => op.num_bytes, cell: (op) => (isGap(op) ? "" : amount(op.num_bytes, "B")) },
    { head: "rate", value: (op) => (isGap(op) ? 0 : work(op)), cell: (op) => (isGap(op) ? "" : rate(work(op), op.resource)) },
    { head: "of ceiling", value: share, cell: (op) => (isGap(op) ? "" : [bar([[share(op), `var(--${op.resource})`]]), el("span", { class: "num" }, percent(share(op)))]) },
    { head: "ideal", value: (op) => op.ideal_s, cell: (op) => (isGap(op) ? "" : seconds(op.ideal_s)) },
  ];
  return section("operators", "Operators by kind",
    `Of the whole clip; kinds of a stage add up to its wall time. ${percent(run.explained)} of the device's time has a name. Click a head to sort.`,
    sortable(columns, run.operators, 3));
}

function rawTable(run) {
  if (!run.raw.length) return null;
  const device = sum(run.rows, (row) => row.device_s) || 1;
  const columns = [
    { head: "operator or kernel", left: true, name: true, value: (op) => op.name, cell: (op) => el("span", { class: "mono" }, op.name) },
    { head: "stage", left: true, value: (op) => op.stage, cell: (op) => op.stage },
    { head: "module", left: true, name: true, value: (op) => op.where, cell: (op) => el("span", { class: "mono" }, op.line ? `${op.where} · ${op.line}` : op.where) },
    { head: "calls", value: (op) => op.calls, cell: (op) => op.calls },
    { head: "device", value: (op) => op.device_s, cell: (op) => seconds(op.device_s) },
    { head: "of it", value: (op) => op.device_s, cell: (op) => percent(op.device_s / device) },
    { head: "host", value: (op) => op.host_s, cell: (op) => seconds(op.host_s) },
  ];
  return section("raw", "Costliest operators", "One row for each operator (on a GPU: kernel) in one module.", sortable(columns, run.raw, 4));
}

function memory(run) {
  const peaks = run.peaks.filter((each) => each.num_bytes);
  if (!peaks.length) return null;
  const most = Math.max(...peaks.map((each) => each.num_bytes));
  return section("memory", "Peak memory by stage", "Most bytes held during a stage, weights included.",
    el("table", {}, el("tbody", {}, peaks.map((each) => el("tr", {}, el("td", { class: "left" }, dot(color(each.stage)), each.stage),
      el("td", { class: "left", style: "width:70%" }, el("span", { class: "bar", style: "width:100%" },
        el("i", { style: `width:${(100 * each.num_bytes) / most}%;background:${color(each.stage)}` }))),
      el("td", {}, amount(each.num_bytes, "B")))))));
}
