// The space-time diagram: a lane a node, time to the right, a line a message.

// So many messages in the window can be told apart; of more, one a pixel and pair is drawn.
const APART = 5000;

const diagram = () => {
  const order = sim.nodes.map((_, at) => at).sort((a, b) =>
    sim.nodes[a].dc.localeCompare(sim.nodes[b].dc) || sim.nodes[a].rack.localeCompare(sim.nodes[b].rack) || a - b);
  const position = [];
  order.forEach((node, place) => { position[node] = place; });
  const strip = new H.Strip({
    grow: 2,
    space: () => Math.max(34, (strip.high - 26) / sim.nodes.length),
    contentHeight: () => strip.space() * sim.nodes.length + 24,
    y: (node) => 20 + (position[node] + 0.5) * strip.space() - strip.scrollTop,
    draw(context) {
      strip.nameNodes(context);
      strip.clipped(context, () => {
        markFaults(context, strip);
        drawPhases(context, strip, true);
        strip.drawNodes(context);
        strip.drawMessages(context);
        strip.drawMarks(context);
        strip.drawSelected(context);
      });
      strip.drawRange(context);
    },
    nameNodes(context) {
      let dc = null;
      for (const node of order) {
        const y = strip.y(node), { name, rack, dc: own } = sim.nodes[node];
        context.fillStyle = H.color("text");
        context.font = "600 12px system-ui, sans-serif";
        context.fillText(name, 8, y - 6);
        context.font = "10px system-ui, sans-serif";
        context.fillStyle = H.color("dim");
        context.fillText(`${rack} ${own}`, 8, y + 7);
        if (dc !== null && dc !== own) {
          context.fillStyle = H.color("line");
          context.fillRect(0, y - strip.space() / 2, strip.width, 1);
        }
        dc = own;
      }
      context.font = "11px system-ui, sans-serif";
    },
    // A line while the node runs, a gap while it does not, and its faults as shades.
    drawNodes(context) {
      const high = strip.space() * 0.62;
      for (const fault of sim.faults) {
        const from = strip.x(fault.from), width = Math.max(2, strip.x(fault.to) - from);
        if (from > strip.width || from + width < H.GUTTER) continue;
        context.fillStyle = H.faultColor(fault.kind);
        context.globalAlpha = +H.color("shade") * 1.5;
        for (const node of fault.marked) {
          context.fillRect(from, strip.y(node) - high / 2, width, high);
        }
        context.globalAlpha = 1;
      }
      context.setLineDash([2, 4]);
      context.strokeStyle = H.color("faint");
      for (const node of order) {
        context.beginPath();
        context.moveTo(H.GUTTER, strip.y(node));
        context.lineTo(strip.width, strip.y(node));
        context.stroke();
      }
      context.setLineDash([]);
      for (const { node, from, to, ended } of sim.lives) {
        if (to < view.t0 || from > view.t1) continue;
        const y = strip.y(node), x0 = Math.max(strip.x(from), H.GUTTER - 4), x1 = Math.min(strip.x(to), strip.width + 4);
        context.fillStyle = H.color("dim");
        context.fillRect(x0, y - 1.5, Math.max(1, x1 - x0), 3);
        context.fillStyle = H.color("ok");
        context.beginPath();
        context.arc(strip.x(from), y, 4, 0, 7);
        context.fill();
        if (ended) {
          context.fillStyle = H.color("bad");
          context.fillRect(strip.x(to) - 1.5, y - 7, 3, 14);
        }
      }
      strip.drawPartitions(context);
    },
    // Which side of a partition a node is on: a bar of one colour a side beside its lane.
    drawPartitions(context) {
      for (const fault of sim.faults) {
        if (fault.kind !== "partition" || fault.to < view.t0 || fault.from > view.t1) continue;
        const x = strip.x(fault.from), width = Math.max(2, strip.x(fault.to) - x);
        fault.text.split("|").forEach((side, number) => {
          for (const [, node] of side.matchAll(/#(\d+)/g)) {
            context.fillStyle = H.series(number + 2);
            context.globalAlpha = 0.75;
            context.fillRect(x, strip.y(+node) + 8 + number * 3, width, 3);
          }
        });
        context.globalAlpha = 1;
      }
    },
    drawMessages(context) {
      const { start, end } = sim.messages, { from, to, kind, lost, shown } = sim;
      const scale = 1 / strip.pixel, t0 = view.t0;
      const ys = sim.nodes.map((_, node) => strip.y(node));
      let visible = 0;
      sim.messages.each(view.t0, view.t1, (at) => { visible += shown[at]; });
      strip.visible = visible;
      const thin = visible > APART;
      const width = Math.ceil(strip.width), n = sim.nodes.length;
      const seen = thin ? new Uint8Array(n * n * width) : null;
      const services = new Map();
      const gone = [];
      const arrows = visible < 500, labels = [];
      sim.messages.each(view.t0, view.t1, (at) => {
        if (!shown[at]) return;
        const x0 = H.GUTTER + (start[at] - t0) * scale, x1 = H.GUTTER + (end[at] - t0) * scale;
        if (thin) {
          const cell = (from[at] * n + to[at]) * width + H.clamp(Math.floor(x1), 0, width - 1);
          if (seen[cell] && !lost[at]) return;
          seen[cell] = 1;
        }
        const a = ys[from[at]], b = ys[to[at]];
        if (a === undefined || b === undefined) return;
        if (lost[at]) { gone.push(x0, a, x1, b); return; }
        const service = sim.words[kind[at]][0];
        if (!services.has(service)) services.set(service, { path: new Path2D(), heads: new Path2D() });
        const { path, heads } = services.get(service);
        if (from[at] === to[at]) {
          path.moveTo(x0, a);
          path.quadraticCurveTo((x0 + x1) / 2, a - 16, x1, a);
        } else {
          path.moveTo(x0, a);
          path.lineTo(x1, b);
        }
        if (arrows && from[at] !== to[at]) strip.arrow(heads, x0, a, x1, b);
        if (visible < 90 && from[at] !== to[at]) labels.push([at, x0, a, x1, b]);
      });
      context.lineWidth = thin ? 0.6 : 1;
      for (const [service, { path, heads }] of services) {
        context.globalAlpha = thin ? 0.32 : visible > 1500 ? 0.5 : 0.85;
        context.strokeStyle = context.fillStyle = serviceColor(service);
        context.stroke(path);
        context.fill(heads);
      }
      context.lineWidth = 1;
      context.globalAlpha = thin ? 0.6 : 1;
      strip.drawLost(context, gone);
      context.globalAlpha = 1;
      strip.labelled = new Set();
      for (const label of labels) strip.label(context, ...label);
    },
    arrow(path, x0, y0, x1, y1) {
      const length = Math.hypot(x1 - x0, y1 - y0) || 1;
      const ux = (x1 - x0) / length, uy = (y1 - y0) / length;
      const x = x1 - ux * 3, y = y1 - uy * 3;
      path.moveTo(x, y);
      path.lineTo(x - ux * 7 - uy * 3, y - uy * 7 + ux * 3);
      path.lineTo(x - ux * 7 + uy * 3, y - uy * 7 - ux * 3);
      path.closePath();
    },
    // A message that was lost ends on its way, at a cross.
    drawLost(context, gone) {
      context.strokeStyle = H.color("bad");
      context.setLineDash([4, 3]);
      context.beginPath();
      const crosses = new Path2D();
      for (let at = 0; at < gone.length; at += 4) {
        const [x0, y0, x1, y1] = gone.slice(at, at + 4);
        const x = Math.max(x0 + 5, x0 + (x1 - x0) * 0.55), y = y0 + (y1 - y0) * 0.55;
        context.moveTo(x0, y0);
        context.lineTo(x, y);
        crosses.moveTo(x - 4, y - 4);
        crosses.lineTo(x + 4, y + 4);
        crosses.moveTo(x + 4, y - 4);
        crosses.lineTo(x - 4, y + 4);
      }
      context.stroke();
      context.setLineDash([]);
      context.stroke(crosses);
    },
    label(context, at, x0, y0, x1, y1) {
      const text = sim.word(at);
      const x = (x0 + x1) / 2, y = (y0 + y1) / 2;
      const width = context.measureText(text).width;
      // Labels keep off one another: the first takes the place.
      const cells = [];
      for (let cell = Math.floor((x - width / 2) / 8); cell <= (x + width / 2) / 8; cell++) cells.push(cell * 1000 + Math.round(y / 12));
      if (cells.some((cell) => strip.labelled.has(cell))) return;
      cells.forEach((cell) => strip.labelled.add(cell));
      context.globalAlpha = 0.86;
      context.fillStyle = H.color("panel");
      context.fillRect(x - width / 2 - 3, y - 7, width + 6, 14);
      context.globalAlpha = 1;
      context.fillStyle = serviceColor(sim.service(at));
      context.fillText(text, x - width / 2, y);
    },
    // The log on the lanes: what went wrong always, the rest when there is room; disk calls below.
    drawMarks(context) {
      const first = H.lower(sim.lineAt, view.t0), last = H.lower(sim.lineAt, view.t1);
      const dense = last - first > 2500;
      const colors = ["faint", "accent", "info", "bad", "bad", "ok", "faint"].map((name) => H.color(name));
      for (let at = first; at < last; at++) {
        const level = sim.lineLevel[at], node = sim.lineNode[at] - 1;
        if (node < 0 || level > 3 || (dense && level < 2)) continue;
        const x = strip.x(sim.lineAt[at]), y = strip.y(node);
        context.fillStyle = colors[level];
        context.beginPath();
        if (level === 3) context.rect(x - 3.5, y - 13, 7, 7);
        else context.arc(x, y - 9, level === 2 ? 3 : 1.7, 0, 7);
        context.fill();
      }
      const from = H.lower(sim.diskAt, view.t0), to = H.lower(sim.diskAt, view.t1);
      if (to - from > 4000) return;
      const kinds = ["c0", "c1", "c2", "faint"].map((name) => H.color(name));
      for (let at = from; at < to; at++) {
        context.fillStyle = kinds[sim.diskKind[at]];
        const high = sim.diskKind[at] === 2 ? 8 : 5;
        context.fillRect(strip.x(sim.diskAt[at]) - 0.5, strip.y(sim.diskNode[at]) + 4, 1.5, high);
      }
    },
    drawSelected(context) {
      const what = sim.selected;
      if (!what) return;
      context.strokeStyle = H.color("text");
      if (what.kind === "message") {
        const at = what.at;
        context.lineWidth = 2.5;
        context.beginPath();
        context.moveTo(strip.x(what.from), strip.y(sim.from[at]));
        context.lineTo(strip.x(what.to), strip.y(sim.to[at]));
        context.stroke();
        context.lineWidth = 1;
        return;
      }
      context.globalAlpha = 0.6;
      for (const time of new Set([what.from, what.to])) {
        context.beginPath();
        context.moveTo(strip.x(time), 0);
        context.lineTo(strip.x(time), strip.high);
        context.stroke();
      }
      context.globalAlpha = 1;
    },
    nearest(x, y) {
      if (strip.visible > 60000) return null;
      let best = null, distance = 6;
      const time = strip.at(x), reach = strip.pixel * 7;
      sim.messages.each(time - reach, time + reach, (at) => {
        if (!sim.shown[at]) return;
        const x0 = strip.x(sim.messages.start[at]), x1 = strip.x(sim.messages.end[at]);
        const y0 = strip.y(sim.from[at]), y1 = strip.y(sim.to[at]);
        const length = (x1 - x0) ** 2 + (y1 - y0) ** 2 || 1;
        const share = H.clamp(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1);
        const away = Math.hypot(x0 + share * (x1 - x0) - x, y0 + share * (y1 - y0) - y);
        if (away < distance) { best = at; distance = away; }
      });
      return best;
    },
    line(x, y) {
      const time = strip.at(x), reach = strip.pixel * 4;
      for (let at = H.lower(sim.lineAt, time - reach); at < sim.lineAt.length && sim.lineAt[at] < time + reach; at++) {
        const node = sim.lineNode[at] - 1;
        if (node >= 0 && sim.lineLevel[at] < 4 && Math.abs(strip.y(node) - 10 - y) < 5) return at;
      }
      return null;
    },
    hover(x, y) {
      if (x < H.GUTTER) return null;
      const line = strip.line(x, y);
      if (line !== null) return lineTip(line);
      const at = strip.nearest(x, y);
      if (at !== null) return sim.messageTip(at);
      const time = strip.at(x), high = strip.space() * 0.31;
      const fault = sim.faults.find((fault) => fault.from <= time && time <= fault.to &&
        fault.marked.some((node) => Math.abs(strip.y(node) - y) < high));
      return fault ? faultTip(fault) : null;
    },
    click(x, y) {
      if (x < H.GUTTER) return;
      const line = strip.line(x, y), at = strip.nearest(x, y);
      if (line !== null) sim.select({ kind: "line", at: line, from: sim.lineAt[line], to: sim.lineAt[line] });
      else if (at !== null) sim.selectMessage(at);
      else sim.select({ kind: "moment", from: strip.at(x), to: strip.at(x) });
    },
  });
  return strip;
};

const lineTip = (at) => [H.el("span.tag." + LEVELS[sim.lineLevel[at]], {}, LEVELS[sim.lineLevel[at]]), " ",
  H.el("b", {}, sim.lineNode[at] ? sim.node(sim.lineNode[at] - 1) : "world"),
  `\n${sim.lineTexts[sim.lineText[at]]}\n`, H.el("span.dim", {}, H.moment(sim.lineAt[at]))];
