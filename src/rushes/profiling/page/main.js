// Puts the page together and lets the reader choose between light and dark.

function build() {
  const run = profile.runs[0];
  const parts = [title(run), comparison(), growth(), findings(run), stageTable(run), waterfall(run), operatorTable(run), roofline(run), flame(run), memory(run), rawTable(run)];
  const shown = parts.filter((part) => part != null);
  document.getElementById("main").replaceChildren(...shown);
  document.getElementById("nav").replaceChildren(...shown.slice(1).map((part) => el("a", { href: `#${part.id}` }, part.dataset.nav)));
  const about = profile.about;
  const known = [["commit", about.commit], ["rushes", about.rushes], ["torch", about.versions && about.versions.torch], ["driver", about.driver], ["made", about.made_at], ["threads", about.torch_threads]];
  document.getElementById("footer").replaceChildren(
    ...run.notes.map((note) => el("p", { class: "note" }, note)),
    el("p", {}, known.filter(([, value]) => value != null).map(([name, value]) => `${name} ${value}`).join(" · ")));
}

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
root.dataset.theme = dark.matches ? "dark" : "light";
dark.addEventListener("change", () => { root.dataset.theme = dark.matches ? "dark" : "light"; });
document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; });
build();
