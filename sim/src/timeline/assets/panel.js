// The head, the panel and the frame of a simulated run's page.

const operationRow = (at) => H.el("tr", { onclick: () => sim.selectOperation(at, true) },
  H.el("td", {}, `#${at}`), H.el("td.mono", {}, sim.operation(at)),
  H.el("td", {}, H.el("span.tag." + ENDINGS[sim.ops.ending[at]], {}, ENDINGS[sim.ops.ending[at]])),
  H.el("td", {}, `p ${sim.ops.process[at]}`), H.el("td", {}, H.moment(sim.ops.start[at], 1e6)));

// Others on the violating block that wrote or saw the values of the witness.
const relatedOperations = () => {
  const tags = new Set([...sim.witness].map((at) => sim.tag(at, sim.guilty)).filter((tag) => tag && tag !== "0"));
  const rows = sim.blocks.find(({ block }) => block === sim.guilty);
  return rows ? rows.list.filter((at) => tags.has(sim.tag(at, sim.guilty)) && !sim.witness.has(at)).slice(0, 30) : [];
};

// Names in the failure's text (blobs, stores, nodes) that messages speak of: a button each, which
// leaves only these messages in the diagram.
const namedInFailure = () => {
  const names = new Set((sim.meta.text || "").match(/[\w][\w/:.-]{5,}\w/g) || []);
  const buttons = [];
  for (const name of names) {
    if (!/\d/.test(name) || buttons.length >= 12) continue;
    const lower = name.toLowerCase();
    const inText = sim.texts.map((text) => text.toLowerCase().includes(lower));
    let count = 0;
    for (let at = 0; at < sim.messages.count; at++) count += inText[sim.text[at]] ? 1 : 0;
    if (!count || count > sim.messages.count / 3) continue;
    buttons.push(H.el("button", { onclick: () => {
      const input = document.getElementById("filter");
      input.value = input.value === name ? "" : name;
      input.dispatchEvent(new Event("input"));
      if (input.value) view.all();
    } }, `${name} `, H.el("span.dim", {}, H.number(count))), " ");
  }
  return buttons;
};

const verdictPane = () => {
  const { meta } = sim;
  const children = meta.remarks.map((remark) => H.el("div.problem", {}, remark));
  if (meta.kept.messages_left_out) {
    children.push(H.el("div.problem", {}, `${H.number(meta.kept.messages_left_out)} of ` +
      `${H.number(meta.kept.messages + meta.kept.messages_left_out)} messages are left out, those furthest from the failure (grey in the strip of the whole run)`));
  }
  const [headline, ...rest] = (meta.text || "").split("\n");
  children.push(H.el("div.explanation." + meta.verdict, {}, meta.verdict === "pass"
    ? "Every oracle was content." : [H.el("b", {}, `${meta.oracle}: `), headline]));
  if (sim.witness.size) {
    children.push(H.el("h2", {}, `${meta.part}: ${sim.witness.size} operations that no order explains`),
      H.el("p", {}, meta.explanation),
      H.el("table.facts.operations", {}, [...sim.witness].sort((a, b) => a - b).map(operationRow)),
      H.el("p", {}, H.el("button", { onclick: showFailure }, "show in the timeline"), " ", H.el("kbd", {}, "w")));
    const related = relatedOperations();
    if (related.length) children.push(H.el("h2", {}, "Others that wrote or saw these values"),
      H.el("table.facts.operations", {}, related.map(operationRow)));
  } else if (rest.length) {
    children.push(H.el("pre", { style: "white-space:pre-wrap;overflow-wrap:anywhere" }, rest.join("\n")));
  }
  const named = namedInFailure();
  if (named.length) children.push(H.el("h2", {}, "Messages that name what failed"), H.el("p", {}, named));
  children.push(H.el("h2", {}, "Repeat it"), H.command(meta.command));
  children.push(H.el("h2", {}, "Run"), H.facts({
    seed: meta.seed, commit: meta.commit, "planted bug": meta.mutant, trace: meta.trace,
    "virtual time": H.length(meta.end_ns), events: H.number(meta.events),
    messages: H.number(meta.kept.messages + meta.kept.messages_left_out),
    "timers and random draws (not shown)": H.number(meta.kept.timers),
    "log lines left out": meta.kept.lines_left_out || undefined,
    "disk calls left out": meta.kept.disk_left_out || undefined,
  }), H.el("h2", {}, "Plan of the seed"), H.facts(meta.plan));
  return H.el("div.scroll", {}, children);
};

const showFailure = () => {
  if (!sim.witness.size) {
    const end = sim.meta.end_ns;
    view.set(end - 2e9, end);
    sim.select({ kind: "moment", from: end, to: end });
    return;
  }
  const list = [...sim.witness].sort((a, b) => sim.ops.start[a] - sim.ops.start[b]);
  const from = Math.min(...list.map((at) => sim.ops.start[at])), to = Math.max(...list.map((at) => sim.ops.end[at]));
  const margin = Math.max((to - from) * 0.12, 2e6);
  view.set(from - margin, to + margin);
  sim.selectOperation(list[list.length - 1]);
  blocks.reveal(sim.guilty);
};

const nodeSelect = (refresh) => H.el("select", { onchange: refresh }, H.el("option", { value: "" }, "all nodes"),
  sim.nodes.map(({ name }, at) => H.el("option", { value: String(at + 1) }, name)));

const logPane = () => {
  const input = H.el("input.filter", { type: "search", placeholder: "filter the log", id: "log-filter" });
  const shown = H.el("span.count");
  const within = H.el("input", { type: "checkbox" });
  const levels = H.el("select", {}, [["0", "debug and up"], ["1", "info and up"], ["2", "warnings and up"], ["4", "faults and lives"]]
    .map(([value, text]) => H.el("option", { value, selected: value === "1" }, text)));
  let places = new Uint32Array(0), times = new Float64Array(0), marked = -1;
  const list = new H.List((index) => {
    const at = places[index], level = LEVELS[sim.lineLevel[at]];
    return H.el("div.row" + (index === marked ? ".on" : ""), { onclick: () => {
      sim.select({ kind: "line", at, from: sim.lineAt[at], to: sim.lineAt[at] }, true);
    } }, H.el("span.t", {}, H.moment(sim.lineAt[at], 1000)),
    H.el("span", { style: "min-width:44px;color:var(--dim)" }, sim.lineNode[at] ? `n${sim.lineNode[at] - 1}` : "world"),
    H.el("span.tag." + level, {}, level), H.el("span", {}, sim.lineTexts[sim.lineText[at]]));
  });
  const refresh = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = Uint8Array.from(sim.lineTexts, (text) => (words.every((word) => text.toLowerCase().includes(word)) ? 1 : 0));
    const least = +levels.value, node = +select.value;
    const chosen = [];
    for (let at = 0; at < sim.lineAt.length; at++) {
      if (!text[sim.lineText[at]] || sim.lineLevel[at] < least || (least < 4 && sim.lineLevel[at] === 6 && least > 0)) continue;
      if (node && sim.lineNode[at] !== node && sim.lineNode[at]) continue;
      if (within.checked && (sim.lineAt[at] < view.t0 || sim.lineAt[at] > view.t1)) continue;
      chosen.push(at);
    }
    places = Uint32Array.from(chosen);
    times = Float64Array.from(places, (at) => sim.lineAt[at]);
    shown.textContent = H.number(places.length);
    list.setCount(places.length);
    if (sim.selected) go(sim.selected.from);
  };
  const go = (time) => {
    marked = Math.max(0, H.lower(times, time + 1) - 1);
    list.scrollTo(marked);
  };
  const select = nodeSelect(refresh);
  let timer;
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(refresh, 100); });
  levels.addEventListener("change", refresh);
  within.addEventListener("change", refresh);
  view.watchers.push(() => { if (within.checked) { clearTimeout(timer); timer = setTimeout(refresh, 150); } });
  document.addEventListener("selected", ({ detail }) => go(detail.from));
  setTimeout(refresh);
  return [H.el("div.bar", {}, input, shown), H.el("div.bar", { style: "padding-top:0" }, levels, select,
    H.el("label", {}, within, " only in the window")), list.root];
};

const messagesPane = () => {
  const shown = H.el("span.count");
  let places = new Uint32Array(0);
  const list = new H.List((index) => {
    const at = places[index];
    const on = sim.selected && sim.selected.kind === "message" && sim.selected.at === at;
    return H.el("div.row" + (on ? ".on" : ""), { onclick: () => sim.selectMessage(at, true) },
      H.el("span.t", {}, H.moment(sim.messages.start[at], 1000)),
      H.el("span.dim", {}, `n${sim.from[at]}\u2192n${sim.to[at]}`), sim.lost[at] ? H.el("span.tag.bad", {}, "lost") : null,
      H.el("span", { style: `color:${serviceColor(sim.service(at))}` }, `${sim.service(at)} ${sim.word(at)}`),
      H.el("span", {}, sim.texts[sim.text[at]]));
  });
  const MOST = 200000;
  const refresh = () => {
    const chosen = [];
    sim.messages.each(view.t0, view.t1, (at) => { if (sim.shown[at] && chosen.length < MOST) chosen.push(at); });
    chosen.sort((a, b) => sim.messages.start[a] - sim.messages.start[b]);
    places = Uint32Array.from(chosen);
    shown.textContent = `${H.number(places.length)} in the window, by their sending`;
    list.setCount(places.length);
  };
  let timer;
  const later = () => { clearTimeout(timer); timer = setTimeout(() => { if (list.root.offsetParent) refresh(); }, 160); };
  view.watchers.push(later);
  document.addEventListener("chosen", later);
  document.addEventListener("selected", ({ detail }) => {
    list.paint();
    if (detail.kind === "message") {
      const place = places.indexOf(detail.at);
      if (place >= 0) list.scrollTo(place);
    }
  });
  return { elements: [H.el("div.bar", {}, shown), list.root], refresh };
};

const toolsBar = () => {
  const input = H.el("input.filter", { type: "search", placeholder: "messages with: append n2 lost", id: "filter" });
  const count = H.el("span.count");
  const tally = new Map();
  for (let at = 0; at < sim.messages.count; at++) tally.set(sim.service(at), (tally.get(sim.service(at)) || 0) + 1);
  const chips = SERVICES.filter((service) => tally.has(service)).map((service) => {
    const chip = H.el("button", { title: `${H.number(tally.get(service))} messages`, onclick: () => {
      if (!sim.hidden.delete(service)) sim.hidden.add(service);
      chip.classList.toggle("off", sim.hidden.has(service));
      sim.choose();
    } }, H.el("i", { style: `background:var(--c${SERVICES.indexOf(service)})` }), service);
    return chip;
  });
  let timer;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { sim.filter = input.value; sim.choose(); }, 120);
  });
  const tell = () => { count.textContent = `${H.number(sim.count)} of ${H.number(sim.messages.count)} messages`; };
  document.addEventListener("chosen", tell);
  tell();
  return H.el("div.tools-bar", {}, chips, input, count);
};

const detailBar = () => {
  const hint = "Click a message, an operation, a mark or an empty moment: the log follows. ? shows keys and mouse.";
  const what = H.el("div.what.mono", {}, hint);
  document.addEventListener("selected", ({ detail }) => {
    const { kind, at } = detail;
    const nodes = kind === "message" ? sim.messageTip(at) : kind === "operation" ? sim.operationTip(at)
      : kind === "line" ? lineTip(at) : kind === "fault" ? faultTip(at) : [`moment ${H.moment(detail.from)}`];
    what.replaceChildren(...nodes.map((node) => (typeof node === "string" ? node.replaceAll("\n", "  ") : node)));
  });
  return H.el("div.detail", {}, what);
};

// A bar between two strips that share the height.
const divider = (above, below) => {
  const bar = H.el("div.divider", { onpointerdown: (event) => {
    bar.setPointerCapture(event.pointerId);
    const move = (next) => {
      const top = above.root.getBoundingClientRect().top, bottom = below.root.getBoundingClientRect().bottom;
      const share = H.clamp((next.clientY - top) / (bottom - top), 0.15, 0.9);
      above.root.style.flexGrow = share * 10;
      below.root.style.flexGrow = (1 - share) * 10;
      H.stage.invalidate();
    };
    bar.addEventListener("pointermove", move);
    bar.addEventListener("pointerup", () => bar.removeEventListener("pointermove", move), { once: true });
  } });
  return bar;
};

const start = async () => {
  H.initTheme();
  const app = document.getElementById("app");
  const meta = H.meta();
  let sections;
  try { sections = await H.unpack(); } catch (error) {
    app.append(H.el("main.notice", {}, `This browser cannot inflate the page's data (${error}); any of 2023 or later can.`));
    return;
  }
  sim = new Sim(meta, sections);
  view = new H.View(Math.max(meta.end_ns, 1000));
  view.smallest = 200;
  const stage = new H.Stage(view);
  stage.add(H.minimap(drawMinimap));
  stage.add(H.axis());
  stage.add(faultStrip());
  stage.root.append(toolsBar());
  const space = stage.add(diagram());
  blocks = blockStrip();
  stage.root.append(divider(space, blocks));
  stage.add(blocks);
  stage.root.append(detailBar());
  const messages = messagesPane();
  const panel = H.panel([[meta.verdict === "fail" ? "Failure" : "Run", verdictPane()], ["Log", logPane()], ["Messages", messages.elements]]);
  panel.root.addEventListener("shown", ({ detail }) => { if (detail === "Messages") messages.refresh(); });
  const fact = (name, value) => H.el("span.fact", {}, name + " ", H.el("b", {}, String(value)));
  const [ok, fail, info] = meta.operations.endings;
  app.append(H.el("header", {},
    H.el("span.pill." + meta.verdict, {}, meta.verdict === "fail" ? meta.kind : "pass"), H.el("h1", {}, meta.name),
    H.el("div.facts", {}, meta.oracle ? fact("oracle", meta.oracle) : null, meta.mutant ? fact("planted bug", meta.mutant) : null,
      fact("commit", meta.commit.slice(0, 12)), fact("virtual", H.length(meta.end_ns)),
      H.el("span.fact", {}, H.el("b", {}, H.number(ok)), " ok ", H.el("b", {}, H.number(fail)), " failed ",
        H.el("b", {}, H.number(info)), " unknown")),
    H.command(meta.command),
    H.el("div.tools", {}, H.themeButton(), H.keys(view, {
      w: ["what failed", showFailure], l: ["the log", () => panel.show("Log")], m: ["the messages", () => panel.show("Messages")],
      "/": ["filter messages", () => document.getElementById("filter").focus()],
    }))),
    H.el("div.columns", {}, stage.root, panel.splitter, panel.root));
  panel.show(meta.verdict === "fail" ? "Failure" : "Run");
  requestAnimationFrame(() => {
    const window = /^#t=(\d+),(\d+)$/.exec(location.hash);
    if (window) view.set(+window[1], +window[2]);
    else if (meta.verdict === "fail") showFailure();
  });
  let timer;
  view.watchers.push(() => {
    clearTimeout(timer);
    timer = setTimeout(() => history.replaceState(null, "", `#t=${Math.max(0, Math.round(view.t0))},${Math.round(view.t1)}`), 400);
  });
};
start();
