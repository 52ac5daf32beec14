// Puts the studio together.

import { api, askForKeyWith } from "./api.js";
import { buildCompare, openCompare } from "./compare.js";
import { buildDeeds } from "./deeds.js";
import { askForKey } from "./dialogs.js";
import { $, icon, setText } from "./dom.js";
import { attend, resume, watch } from "./jobs.js";
import { hasKey, setKey, takeKey } from "./key.js";
import { readModels } from "./models.js";
import { watchReady } from "./ready.js";
import { buildScreen } from "./screen.js";
import { bindKeys, bindTheme } from "./shortcuts.js";
import { buildSlate } from "./slate.js";
import { pause } from "./sse.js";
import { openStarters } from "./starters.js";
import { store } from "./store.js";
import { buildTrace } from "./trace.js";
import { buildWall, drawHouse } from "./wall.js";

const RETRY_MS = 1500;

takeKey();
const nextTheme = bindTheme(icon);
buildScreen();
buildWall();
buildDeeds();
buildTrace();
buildCompare();
watch();
bindKeys({ starters: openStarters, compare: openCompare, theme: nextTheme });
$("open-starters").addEventListener("click", openStarters);
// On a phone the form is far away from the takes below it: a button brings it back.
new IntersectionObserver(([{ boundingClientRect: form }]) => { $("new-take").hidden = form.bottom > 0; }).observe($("slate"));
for (const link of document.querySelectorAll(".new-take")) link.addEventListener("click", event => { event.preventDefault(); $("prompt").focus(); });
store.on("take order link", drawHouse);

// A key that stops being good while the page is open is asked for once more.
let asking = null;
function renewKey() {
  asking ??= askForKey(hasKey() ? "That key is not known here." : "").then(key => {
    setKey(key);
    asking = null;
  });
  return asking;
}

async function open() {
  for (;;) {
    try {
      const models = readModels(await api.models());
      await resume();
      return models;
    } catch (error) {
      if (error.status === 401) await renewKey();
      else if (error.status === 0 || error.status >= 500) {
        store.link(false);
        await pause(RETRY_MS);
      } else throw error;
    }
  }
}

try {
  buildSlate(await open());
  askForKeyWith(() => renewKey().then(() => { resume(); attend(); }));
  drawHouse();
  watchReady();
  document.documentElement.dataset.ready = "";
} catch (error) {
  setText($("slate-error"), error.message);
}
