// Elements, and small things said on the page.

const SVG = "http://www.w3.org/2000/svg";

export const $ = id => document.getElementById(id);

// `h("button.quiet", { type: "button", onclick }, "Text", child)`; a null child or attribute is left out.
export function h(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  return fill(element, attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

export const icon = name => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

// Writes only what changed: assigning the same text again would still cost a layout.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// For screen readers; the page shows it elsewhere.
export function say(text) {
  setText($("news"), text);
}

// A note at the foot of the page; `undo` adds a button. Returns a function that takes it away.
export function toast(text, { undo = null, seconds = 6 } = {}) {
  const note = h("div.toast", { role: "status" }, h("span", {}, text));
  const close = () => { clearTimeout(timer); note.remove(); };
  const timer = setTimeout(close, seconds * 1000);
  if (undo) note.append(h("button.quiet", { type: "button", onclick: () => { close(); undo(); } }, "Undo"));
  $("toasts").append(note);
  return close;
}
