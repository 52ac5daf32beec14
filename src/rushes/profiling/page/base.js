// Numbers, elements and the tooltip: what every part of the page is made of.

const profile = JSON.parse(document.getElementById("data").textContent);
const stages = ["text_encode", "denoise", "vae_decode", "video_encode", "request"];

function digits(value) {
  const size = Math.abs(value);
  return size >= 99.95 || value === 0 ? value.toFixed(0) : size >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

function seconds(value) {
  if (value == null) return "–";
  for (const [unit, name] of [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]) {
    if (Math.abs(value) >= unit) return `${digits(value / unit)} ${name}`;
  }
  return Math.abs(value) < 1e-9 ? "0 s" : `${(value * 1e6).toFixed(2)} µs`;
}

function percent(share) {
  const value = 100 * share;
  return Math.abs(value) < 9.95 ? `${value.toFixed(1)} %` : `${value.toFixed(0)} %`;
}

function amount(value, unit) {
  for (const [scale, prefix] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= scale) return `${digits(value / scale)} ${prefix}${unit}`;
  }
  return `${digits(value)} ${unit}`;
}

const rate = (value, resource) => amount(value, resource === "copy" ? "B/s" : "FLOP/s");
const color = (name) => `var(--${stages.includes(name) ? name : "none"})`;
const sum = (items, of) => items.reduce((total, item) => total + (of(item) || 0), 0);

/** An HTML element: attributes by name, `on...` as listeners, children as text or elements. */
function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

const tip = document.getElementById("tip");

/** Shows `text` while the pointer is over the element; also its accessible name. */
function hint(element, text) {
  element.setAttribute("aria-label", text);
  element.addEventListener("pointermove", (event) => {
    tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - height - 8)}px`;
  });
  element.addEventListener("pointerleave", () => { tip.hidden = true; });
  return element;
}

function section(id, title, subtitle, ...content) {
  return el("section", { id, "data-nav": title.split(" ").length < 3 ? title : id[0].toUpperCase() + id.slice(1) }, el("h2", {}, title), subtitle ? el("p", { class: "sub" }, subtitle) : null, ...content);
}

/** A table whose columns sort when their heads are clicked. Columns: {head, left, value, cell, name}. */
function sortable(columns, items, by) {
  const body = el("tbody");
  const heads = columns.map((column, index) => el("th", {
    class: column.left ? "left" : null, "data-sort": index, tabindex: 0,
    onclick: () => sortBy(index), onkeydown: (event) => { if (event.key === "Enter") sortBy(index); },
  }, column.head));
  function sortBy(index) {
    heads.forEach((head, place) => head.classList.toggle("by", place === index));
    const { value } = columns[index];
    const order = (a, b) => (typeof value(a) === "string" ? value(a).localeCompare(value(b)) : value(b) - value(a));
    body.replaceChildren(...[...items].sort(order).map((item) => el("tr", {}, columns.map((column) => el(
      "td", { class: `${column.left ? "left " : ""}${column.name ? "name" : ""}` }, column.cell(item))))));
  }
  sortBy(by);
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, heads)), body));
}

function bar(parts) {
  return el("span", { class: "bar" }, parts.map(([share, fillColor]) => el("i", {
    style: `width:${Math.max(0, Math.min(100, 100 * share)).toFixed(2)}%;background:${fillColor}` })));
}

function cut(text, width, perCharacter = 6.4) {
  const room = Math.floor(width / perCharacter);
  return text.length <= room ? text : room < 3 ? "" : `${text.slice(0, room - 1)}…`;
}

function dot(fillColor) {
  return el("span", { class: "dot", style: `background:${fillColor}` });
}
