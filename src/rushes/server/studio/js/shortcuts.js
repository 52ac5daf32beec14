// Keys. Single letters can be turned off, for those who dictate.

import { $, h, setText } from "./dom.js";
import { DEEDS, doDeed } from "./deeds.js";
import { isDialogOpen, openDialog } from "./dialogs.js";
import { storage } from "./key.js";
import { goFull, togglePlay } from "./screen.js";
import { store } from "./store.js";

const OFF = "rushes.letters-off";

const isTyping = target => target.matches("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable]");

const step = by => {
  const at = store.order.indexOf(store.onScreen);
  const next = store.order[Math.max(0, Math.min(store.order.length - 1, at + by))];
  if (next) store.show(next);
};

export function bindKeys({ starters, compare, theme }) {
  const letters = {
    "/": () => $("prompt").focus(), n: () => $("prompt").focus(),
    j: () => step(1), k: () => step(-1), f: goFull, s: starters, v: compare, t: theme, "?": help,
  };
  addEventListener("keydown", event => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !isDialogOpen()) {
      event.preventDefault();
      $("slate").requestSubmit();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || isDialogOpen()) return;
    if (event.key === "Escape" && isTyping(event.target)) return event.target.blur();
    if (isTyping(event.target) || storage.get(OFF)) return;
    if (event.key === " " && !event.target.closest("button, summary, a, label, input")) {
      event.preventDefault();
      togglePlay();
    } else if (letters[event.key]) {
      event.preventDefault();
      letters[event.key]();
    } else if (doDeed(event.key)) event.preventDefault();
  });
  $("open-help").addEventListener("click", help);
}

function help() {
  const rows = [
    ["Ctrl ↵", "Roll"], ["N or /", "To the prompt"], ["Esc", "Out of the prompt"], ["Space", "Play, pause"], ["J, K", "Older, newer take"],
    ["← →", "Along the wall"], ...DEEDS.map(({ key, label }) => [key === "Delete" ? "Del" : key.toUpperCase(), label]),
    ["V", "Compare the two that are marked"], ["S", "Starters"], ["F", "Full screen"], ["T", "Light, dark, as the system"], ["?", "This list"],
  ];
  const isOff = h("input", { type: "checkbox", checked: !storage.get(OFF), onchange: event => storage.set(OFF, event.target.checked ? null : "1") });
  openDialog("Keys", h("div.column", {},
    h("dl.keys", {}, rows.map(([keys, what]) => h("div", {}, h("dt", {}, h("kbd", {}, keys)), h("dd", {}, what)))),
    h("label.tick", {}, isOff, h("span", {}, "Single letters are shortcuts"))), { kind: "narrow" });
}

const THEMES = [null, "light", "dark"];
const NAMES = { null: ["auto", "as the system"], light: ["sun", "light"], dark: ["moon", "dark"] };

export function bindTheme(icon) {
  const draw = () => {
    const [glyph, name] = NAMES[document.documentElement.dataset.theme ?? "null"];
    $("theme").replaceChildren(icon(glyph));
    $("theme").setAttribute("aria-label", `Theme: ${name}`);
    $("theme").title = `Theme: ${name} (T)`;
  };
  const next = () => {
    const { dataset } = document.documentElement;
    const theme = THEMES[(THEMES.indexOf(dataset.theme ?? null) + 1) % THEMES.length];
    if (theme) dataset.theme = theme;
    else delete dataset.theme;
    storage.set("rushes.theme", theme);
    draw();
    setText($("news"), $("theme").title);
  };
  $("theme").addEventListener("click", next);
  draw();
  return next;
}
