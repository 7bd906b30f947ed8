// The list of runs. The data is `report/serve/site.rs`'s; it is asked for again while the page is
// looked at, so that a campaign can be watched.

const AGAIN_MS = 5000;
const meta = H.meta();
const state = { runs: meta.runs, sort: 0, down: true, filter: "", verdict: "" };
const field = (run, name) => (run.results ? run.results[name] : "") ?? "";
const counts = (run) => field(run, "operations") || { ok: 0, fail: 0, info: 0 };
const verdict = (run) => field(run, "verdict") || "none";
const total = (run) => counts(run).ok + counts(run).fail + counts(run).info;
const COLUMNS = [
  ["run", (run) => run.time, (run) => H.el("a", { href: run.path }, run.time)],
  ["verdict", verdict, (run) => H.el("span.pill." + verdict(run), {}, verdict(run) === "none" ? "no verdict" : verdict(run))],
  ["test", (run) => run.test],
  ["workload", (run) => field(run, "workload")],
  ["nemesis", (run) => [].concat(field(run, "nemesis")).join(",").split(",").join(", ")],
  ["target", (run) => field(run, "target")],
  ["seed", (run) => field(run, "seed")],
  ["operations", total, (run) => (run.results ? H.number(total(run)) : "")],
  ["unknown", (run) => counts(run).info, (run) => (run.results ? H.number(counts(run).info) : "")],
  ["took", (run) => +field(run, "duration_s") || 0, (run) => (run.results ? (+field(run, "duration_s")).toFixed(1) + " s" : "")],
  ["why", (run) => field(run, "reason")],
];
const NUMBERS = ["operations", "unknown", "took", "seed"];

const chosen = () => {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const [, key] = COLUMNS[state.sort];
  const runs = state.runs.filter((run) => {
    const text = COLUMNS.map(([, value]) => value(run)).join(" ").toLowerCase();
    return (!state.verdict || verdict(run) === state.verdict) && words.every((word) => text.includes(word));
  });
  runs.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (state.down ? -1 : 1));
  return runs;
};

const table = H.el("div.wrap");
const buttons = H.el("span");
const paint = () => {
  const runs = chosen();
  const tally = { valid: 0, invalid: 0, unknown: 0, none: 0 };
  for (const run of state.runs) tally[verdict(run)] = (tally[verdict(run)] || 0) + 1;
  buttons.replaceChildren(...Object.entries(tally).filter(([, count]) => count).flatMap(([word, count]) => [
    H.el("button" + (state.verdict === word ? ".on" : ""), { onclick: () => {
      state.verdict = state.verdict === word ? "" : word;
      paint();
    } }, `${word === "none" ? "no verdict" : word} ${count}`), " "]));
  const heads = COLUMNS.map(([name], at) => H.el("th", { onclick: () => {
    state.down = state.sort === at ? !state.down : true;
    state.sort = at;
    paint();
  } }, name + (state.sort === at ? (state.down ? " \u2193" : " \u2191") : "")));
  const rows = runs.map((run) => H.el("tr", {}, COLUMNS.map(([name, value, show]) =>
    H.el("td" + (NUMBERS.includes(name) ? ".n" : name === "why" ? ".wide" : ["test", "nemesis"].includes(name) ? ".list" : ""), {}, show ? show(run) : String(value(run))))));
  table.replaceChildren(runs.length ? H.el("table.runs", {}, H.el("thead", {}, H.el("tr", {}, heads)), H.el("tbody", {}, rows))
    : H.el("div.empty", {}, state.runs.length ? "No run is like that." : `There are no runs in ${meta.store} yet.`));
};

H.initTheme();
const input = H.el("input", { type: "search", placeholder: "filter runs: partition invalid", autofocus: true,
  oninput: () => { state.filter = input.value; paint(); } });
document.getElementById("app").append(
  H.el("header", {}, H.el("h1", {}, "Runs"), H.el("div.facts", {}, H.el("span.fact.mono", {}, meta.store)), H.themeButton()),
  H.el("div.controls", {}, input, buttons), table);
paint();
setInterval(async () => {
  if (document.hidden) return;
  try {
    const runs = await (await fetch("/runs.json")).json();
    if (JSON.stringify(runs) !== JSON.stringify(state.runs)) { state.runs = runs; paint(); }
  } catch { /* the server is gone; what was listed stays */ }
}, AGAIN_MS);
