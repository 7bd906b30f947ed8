// The panel and the frame of a run's page.

// The witness: its operations over the order of their beginnings and endings, not over time, so
// that a microsecond and a minute are both legible.
const drawWitness = () => {
  const list = [...run.witness].sort((a, b) => run.start[a] - run.start[b]);
  if (!list.length || list.length > 200) return null;
  const moments = [...new Set(list.flatMap((at) => [run.start[at], run.lengths[at] ? run.end(at) : null])
    .filter((time) => time !== null))].sort((a, b) => a - b);
  const left = 64, row = 26, space = H.clamp(320 / moments.length, 58, 130);
  const width = Math.max(380, left + moments.length * space + 40);
  const svg = (name, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const x = (time) => left + moments.indexOf(time) * space + 6;
  const rows = list.map((at, place) => {
    const y = 8 + place * row;
    const from = x(run.start[at]);
    const open = !run.lengths[at] || run.ending[at] >= 2;
    const to = open ? width - 8 : x(run.end(at)) + space * 0.55;
    const color = run.ending[at] === 0 ? `var(--c${run.fn[at] % 8})` : "var(--info)";
    const bar = svg("rect", { x: from, y, width: Math.max(8, to - from), height: 20, rx: 4, fill: color,
      "fill-opacity": 0.22, stroke: color, ...(open ? { "stroke-dasharray": "4 3" } : {}) });
    bar.addEventListener("click", () => run.select(at, true));
    const text = svg("text", { x: from + 6, y: y + 14 }, run.label(at));
    text.style.pointerEvents = "none";
    const who = svg("text", { x: 6, y: y + 14, class: "who" }, `p ${run.process[at]}`);
    return [bar, text, who];
  });
  const lines = moments.map((time) => svg("line", { x1: x(time), x2: x(time), y1: 4, y2: 4 + list.length * row }));
  const longest = Math.max(...list.map((at) => x(run.start[at]) + 20 + run.label(at).length * 7.4));
  return H.el("div.witness", {}, svg("svg", { width: Math.max(width, longest), height: list.length * row + 12 },
    ...lines, ...rows.flat()));
};

const operationRow = (at, entry) => {
  const answer = entry.answer && entry.answer !== "nil" && entry.answer !== entry.argument ? ` \u2192 ${entry.answer}` : "";
  const text = entry.function ? `${entry.function} ${entry.argument}${answer}` : run.label(at);
  return H.el("tr", { onclick: () => run.select(at, true) },
    H.el("td", {}, `#${at}`), H.el("td.mono", {}, text),
    H.el("td", {}, H.el("span.tag." + ENDINGS[run.ending[at]], {}, ENDINGS[run.ending[at]])),
    H.el("td", {}, `p ${run.process[at]}`), H.el("td", {}, H.moment(run.start[at], run.shape.unit_ns ? 1e6 / run.shape.unit_ns : 1)));
};

const witnessTable = () => {
  const rows = [], others = [];
  for (const entry of run.meta.witness) {
    const at = typeof entry === "number" ? entry : entry.operation;
    if (run.witness.has(at)) rows.push(operationRow(at, entry));
    else others.push(H.el("div.mono", {}, typeof entry === "string" ? entry : JSON.stringify(entry)));
  }
  return [rows.length ? H.el("table.facts.operations", {}, rows) : null, ...others];
};

// Who else named the values of the witness: a stale read is understood by the write that it saw.
// Only rare values say anything; common ones are keys, counts and the like.
const relatedOperations = () => {
  const MOST = 6, rare = new Set();
  const words = new Set([...run.witness].flatMap((at) => run.value(at).match(/[\w.-]+/g) || []));
  if (!words.size || words.size > 60) return [];
  const found = new Map([...words].map((word) => [word, []]));
  for (let at = 0; at < run.count; at++) {
    if (run.witness.has(at) || !run.text[at]) continue;
    for (const word of new Set(run.value(at).match(/[\w.-]+/g) || [])) {
      const list = found.get(word);
      if (list && list.length <= MOST) list.push(at);
    }
  }
  for (const list of found.values()) if (list.length <= MOST) list.forEach((at) => rare.add(at));
  return [...rare].sort((a, b) => a - b).slice(0, 24);
};

const verdictPane = () => {
  const { meta } = run;
  const results = meta.results || {};
  const word = meta.verdict || "none";
  const sentence = meta.explanation || {
    valid: "Some order of the operations, within their times, explains every answer.",
    none: "This run has no verdict: it did not come to its end.",
  }[word] || "";
  const children = [];
  for (const problem of meta.problems) children.push(H.el("div.problem", {}, problem));
  if (run.shape.dropped_bytes) {
    children.push(H.el("div.problem", {}, `${run.shape.dropped_bytes} bytes of a torn last record were dropped`));
  }
  children.push(H.el("div.explanation." + word, {}, (meta.part ? meta.part + ": " : "") + sentence));
  if (meta.witness.length) {
    children.push(H.el("h2", {}, `Witness: ${meta.witness.length} operations that no order explains`));
    children.push(drawWitness(), ...witnessTable());
    children.push(H.el("p", {}, H.el("button", { onclick: showWitness }, "show in the timeline"), " ", H.el("kbd", {}, "w")));
    const related = H.el("div");
    children.push(related);
    setTimeout(() => {
      const list = relatedOperations();
      if (list.length) related.append(H.el("h2", {}, "Others that name these values"),
        H.el("table.facts.operations", {}, list.map((at) => operationRow(at, {}))));
    }, 200);
  }
  const { coverage, witness, reason, verdict, operations, ...rest } = results;
  if (coverage && Object.keys(coverage).length) {
    children.push(H.el("h2", {}, "Coverage"), H.facts(coverage));
  }
  const [ok, fail, info] = run.shape.endings;
  children.push(H.el("h2", {}, "Run"), H.facts({ ...rest, started: H.date(rest.started), model: meta.model, operations: run.count,
    succeeded: ok, failed: fail, "unknown or unfinished": info, "clients at once": run.shape.lanes,
    "values left out": run.shape.without_text || undefined }));
  if (meta.plan) children.push(H.el("h2", {}, "Plan"), H.facts(meta.plan));
  return H.el("div.scroll", {}, children);
};

const showWitness = () => {
  const list = [...run.witness];
  if (!list.length) return;
  const from = Math.min(...list.map((at) => run.start[at])), to = Math.max(...list.map((at) => run.end(at)));
  const margin = Math.max((to - from) * 0.15, 4);
  view.set(from - margin, to + margin);
  run.select(list[list.length - 1]);
  lanes.reveal(run.lane[list[0]]);
};

// Which operations a filter means: all its words must occur; `ok`, `fail`, `info`, `p7`, `#12` and
// names of functions are understood, anything else is looked for in the values.
const matcher = (filter) => {
  const words = filter.trim().toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const found = new Uint8Array(run.count).fill(1);
  for (const word of words) {
    const ending = ENDINGS.indexOf(word);
    const process = /^p(\d+)$/.exec(word), number = /^#(\d+)$/.exec(word);
    const fn = run.shape.functions.findIndex((name) => name.toLowerCase() === word);
    // A number means the whole number: 62 is not in 1620.
    const whole = /^\d+$/.test(word) ? new RegExp(`\\b${word}\\b`) : null;
    const texts = ending < 0 && !process && !number && fn < 0
      ? Uint8Array.from(run.texts, (text) => ((whole ? whole.test(text) : text.toLowerCase().includes(word)) ? 1 : 0)) : null;
    for (let at = 0; at < run.count; at++) {
      if (!found[at]) continue;
      found[at] = ending >= 0 ? +(run.ending[at] === ending)
        : process ? +(run.process[at] === +process[1])
        : number ? +(at === +number[1])
        : fn >= 0 ? +(run.fn[at] === fn) : texts[run.text[at]];
    }
  }
  return found;
};

const operationsPane = () => {
  const input = H.el("input.filter", { type: "search", placeholder: "filter: write fail p3 17", id: "filter" });
  const count = H.el("span.count");
  const within = H.el("input", { type: "checkbox" });
  let places = new Uint32Array(0);
  const list = new H.List((index) => {
    const at = places[index];
    const row = H.el("div.row" + (run.witness.has(at) ? ".bad" : "") + (at === run.selected ? ".on" : ""),
      { onclick: () => run.select(at, true) },
      H.el("span.t", {}, H.moment(run.start[at])), H.el("span.dim", {}, `p${run.process[at]}`.padEnd(4)),
      H.el("span.tag." + ENDINGS[run.ending[at]], {}, ENDINGS[run.ending[at]]),
      H.el("span", { style: `color:var(--c${run.fn[at] % 8})` }, run.name(at)), H.el("span", {}, run.value(at)));
    return row;
  });
  const refresh = () => {
    const chosen = [];
    const [t0, t1] = within.checked ? [view.t0, view.t1] : [-Infinity, Infinity];
    for (let at = 0; at < run.count; at++) {
      if (run.faint(at) || run.start[at] > t1 || run.end(at) < t0) continue;
      chosen.push(at);
    }
    places = Uint32Array.from(chosen);
    count.textContent = H.number(places.length);
    list.setCount(places.length);
  };
  let timer;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { run.matches = matcher(input.value); refresh(); H.stage.invalidate(); }, 120);
  });
  within.addEventListener("change", refresh);
  view.watchers.push(() => { if (within.checked) { clearTimeout(timer); timer = setTimeout(refresh, 150); } });
  document.addEventListener("selected", ({ detail }) => {
    if (detail === null) return;
    const place = H.lower(places, detail);
    if (places[place] === detail) list.scrollTo(place);
    list.paint();
  });
  const word = (text) => H.el("button", { onclick: () => {
    const words = input.value.split(/\s+/).filter(Boolean);
    input.value = (words.includes(text) ? words.filter((one) => one !== text) : [...words, text]).join(" ");
    input.dispatchEvent(new Event("input"));
  } }, text);
  setTimeout(refresh);
  return [H.el("div.bar", {}, input, count), H.el("div.bar", { style: "padding-top:0" },
    ["ok", "fail", "info"].map(word), H.el("label", {}, within, " only in the window")), list.root];
};

const logsPane = () => {
  const { nodes, count, left_out, timed } = run.meta.logs;
  if (!count) return H.el("div.scroll", {}, "This run has no logs.");
  const input = H.el("input.filter", { type: "search", placeholder: "filter the logs" });
  const shown = H.el("span.count");
  let places = Uint32Array.from({ length: count }, (_, at) => at);
  const list = new H.List((index) => {
    const at = places[index];
    const text = run.logTexts[run.logText[at]];
    const level = /\b(error|warn)\b/.exec(text.slice(0, 40));
    return H.el("div.row", { onclick: () => { if (timed) view.show(run.logTime[at], run.logTime[at]); } },
      timed ? H.el("span.t", {}, H.moment(run.logTime[at], 1e6 / run.shape.unit_ns)) : null,
      H.el("span.tag." + (level ? level[1] : "plain"), { style: `color:var(--c${run.logNode[at] % 8})` }, nodes[run.logNode[at]]),
      H.el("span", {}, timed ? text.replace(/^\S+Z\s+/, "") : text));
  });
  const refresh = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [];
    for (let at = 0; at < count; at++) {
      const text = (nodes[run.logNode[at]] + " " + run.logTexts[run.logText[at]]).toLowerCase();
      if (words.every((word) => text.includes(word))) chosen.push(at);
    }
    places = Uint32Array.from(chosen);
    shown.textContent = H.number(places.length) + (left_out ? ` (${H.number(left_out)} earlier lines left out)` : "");
    list.setCount(places.length);
  };
  input.addEventListener("input", refresh);
  document.addEventListener("selected", ({ detail }) => {
    if (detail === null || !timed) return;
    const times = Float64Array.from(places, (at) => run.logTime[at]);
    list.scrollTo(H.lower(times, run.start[detail]));
  });
  setTimeout(refresh);
  return [H.el("div.bar", {}, input, shown), list.root];
};

const detailBar = () => {
  const what = H.el("div.what.mono");
  const step = (by) => () => {
    if (run.selected === undefined || run.selected === null) return;
    const list = run.lanesOf[run.lane[run.selected]];
    const next = list[H.lower(list, run.selected) + by];
    if (next !== undefined) run.select(next, true);
  };
  const hint = "Click an operation, or a point of the latency plot. ? shows keys and mouse.";
  what.textContent = hint;
  document.addEventListener("selected", ({ detail: at }) => {
    if (at === null) { what.textContent = hint; return; }
    const took = run.lengths[at] ? H.length(run.lengths[at] - 1) : "never ended";
    what.replaceChildren(H.el("span.tag." + ENDINGS[run.ending[at]], {}, ENDINGS[run.ending[at]]), " ",
      H.el("b", {}, run.label(at)), H.el("span.dim", {},
        `   operation ${at}, process ${run.process[at]}, sent ${H.moment(run.start[at], 0.001)}, ${took}`));
  });
  Object.assign(detailBar, { back: step(-1), on: step(1) });
  return H.el("div.detail", {}, what,
    H.el("button", { title: "The client's operation before (p)", onclick: step(-1) }, "\u2190"),
    H.el("button", { title: "The client's next operation (n)", onclick: step(1) }, "\u2192"));
};

const start = async () => {
  H.initTheme();
  const app = document.getElementById("app");
  const meta = H.meta();
  H.time.unit_ns = meta.shape.unit_ns;
  let sections;
  try { sections = await H.unpack(); } catch (error) {
    app.append(H.el("main.notice", {}, `This browser cannot inflate the page's data (${error}); any of 2023 or later can.`));
    return;
  }
  run = new Run(meta, sections);
  view = new H.View(Math.max(run.shape.end, ...run.faults.map((fault) => (fault.open ? 0 : fault.to)), 10));
  view.smallest = run.shape.unit_ns ? 2e3 / run.shape.unit_ns : 4;
  const stage = new H.Stage(view);
  stage.add(H.minimap(drawMinimap));
  stage.add(H.axis());
  stage.add(faultStrip());
  if (run.shape.unit_ns) stage.add(latencyStrip());
  stage.add(rateStrip());
  lanes = stage.add(laneStrip());
  stage.root.append(detailBar());
  const panel = H.panel([["Verdict", verdictPane()], ["Operations", operationsPane()], ["Logs", logsPane()]]);
  const results = meta.results || {};
  const [ok, fail, info] = run.shape.endings;
  const fact = (name, value) => (value || value === 0 ? H.el("span.fact", {}, name + " ", H.el("b", {}, String(value))) : null);
  app.append(H.el("header", {},
    H.el("span.pill." + (meta.verdict || "none"), {}, meta.verdict || "no verdict"), H.el("h1", {}, meta.title),
    H.el("div.facts", {},
      fact("workload", results.workload), fact("nemesis", [].concat(results.nemesis || []).join(", ")), fact("target", results.target),
      fact("model", meta.model), fact("seed", results.seed),
      fact("started", H.date(results.started)),
      H.el("span.fact", {}, H.el("b", {}, H.number(ok)), " ok ", H.el("b", {}, H.number(fail)), " failed ",
        H.el("b", {}, H.number(info)), " unknown or unfinished"),
      fact("took", results.duration_s ? results.duration_s.toFixed(1) + " s" : "")),
    H.el("div.tools", {}, location.protocol.startsWith("http") ? H.el("a", { href: "/" }, "all runs") : null,
      H.themeButton(), H.keys(view, {
        w: ["the witness", showWitness], n: ["the client's next operation", () => detailBar.on()],
        p: ["the client's operation before", () => detailBar.back()],
        "/": ["filter operations", () => { panel.show("Operations"); document.getElementById("filter").focus(); }],
      }))),
    H.el("div.columns", {}, stage.root, panel.splitter, panel.root));
  panel.show("Verdict");
  document.addEventListener("selected", ({ detail }) => {
    if (detail !== null) history.replaceState(null, "", "#" + detail);
  });
  const asked = /^#(\d+)$/.exec(location.hash);
  requestAnimationFrame(() => {
    if (asked && +asked[1] < run.count) run.select(+asked[1], true);
    if (location.hash === "#witness") showWitness();
  });
};
start();
