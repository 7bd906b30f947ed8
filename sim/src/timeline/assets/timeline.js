// A simulated run: its data, the strips around the diagram, and every block's history.
// Columns come from `timeline/columns.rs` and the operations from `report/operations.rs`.

const ENDINGS = ["ok", "fail", "info", "open"];
const LEVELS = ["debug", "info", "warn", "error", "fault", "life", "link"];
const SERVICES = ["raft", "hblock", "group", "node", "admin", "rpc", "stream"];
const serviceColor = (service) => H.series(Math.max(0, SERVICES.indexOf(service)));

// Spans of time sorted by their ends, with the earliest beginning of each block of them, so that
// those that reach into a window are found quickly.
class Spans {
  constructor(start, end) {
    Object.assign(this, { start, end, count: end.length });
    this.earliest = new Float64Array(Math.ceil(this.count / 1024)).fill(Infinity);
    for (let at = 0; at < this.count; at++) {
      const block = at >> 10;
      if (start[at] < this.earliest[block]) this.earliest[block] = start[at];
    }
  }
  each(t0, t1, act) {
    const first = H.lower(this.end, t0);
    for (let block = first >> 10; block << 10 < this.count; block++) {
      if (this.earliest[block] > t1) continue;
      const stop = Math.min(this.count, (block + 1) << 10);
      for (let at = Math.max(first, block << 10); at < stop; at++) {
        if (this.start[at] <= t1) act(at);
      }
    }
  }
}

class Sim {
  constructor(meta, sections) {
    this.meta = meta;
    const { kept } = meta;
    this.nodes = meta.nodes;
    const read = (name, count, delta, Kind) => H.column(sections.get(name), count, delta, Kind);
    const n = kept.messages;
    const at = read("m_at", n, true), took = read("m_took", n);
    const sent = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      sent[i] = (at[i] - took[i]) * kept.message_unit_ns;
      at[i] *= kept.message_unit_ns;
    }
    this.messages = new Spans(sent, at);
    this.from = read("m_from", n, false, Uint16Array);
    this.to = read("m_to", n, false, Uint16Array);
    this.size = read("m_size", n);
    this.kind = read("m_kind", n, false, Uint16Array);
    this.text = read("m_text", n, false, Uint32Array);
    this.lost = read("m_lost", n, false, Uint8Array);
    this.texts = H.texts(sections.get("m_texts"));
    this.words = kept.words;
    this.lineAt = read("l_at", kept.lines, true);
    this.lineNode = read("l_node", kept.lines, false, Uint16Array);
    this.lineLevel = read("l_level", kept.lines, false, Uint8Array);
    this.lineText = read("l_text", kept.lines, false, Uint32Array);
    this.lineTexts = H.texts(sections.get("l_texts")).map((text) =>
      (text.includes("NodeIndex(") ? text.replace(/NodeIndex\((\d+)\)/g, "n$1") : text));
    this.diskAt = read("d_at", kept.disk, true);
    this.diskNode = read("d_node", kept.disk, false, Uint16Array);
    this.diskKind = read("d_kind", kept.disk, false, Uint8Array);
    this.diskSize = read("d_size", kept.disk);
    this.density = read("density", kept.density_pieces);
    this.faults = meta.spans.map(([from, to, kind, nodes, text]) =>
      ({ from, to, kind, nodes, text, marked: this.mark(kind, nodes, text) }));
    this.kinds = [...new Set(this.faults.map((fault) => fault.kind))];
    this.lives = meta.kept.lives.map(([node, from, to]) => ({ node, from, to: to ?? meta.end_ns, ended: to !== null }));
    this.readOperations(sections, read);
    this.hidden = new Set();
    this.filter = "";
    this.choose();
  }
  // Whose lanes a fault shades: of a fault of links, the nodes that most of the links touch; a
  // partition is drawn beside the lanes.
  mark(kind, nodes, text) {
    if (kind === "partition") return [];
    const links = [...text.matchAll(/#(\d+) to #(\d+)/g)];
    if (links.length < 2) return nodes;
    const touches = (node) => links.filter(([, a, b]) => +a === node || +b === node).length;
    const most = Math.max(...nodes.map(touches));
    return nodes.filter((node) => touches(node) === most);
  }
  readOperations(sections, read) {
    const { count, unit_ns } = this.meta.operations;
    const ops = (this.ops = { count, fn: read("function", count, false, Uint8Array),
      ending: read("ending", count, false, Uint8Array), process: read("process", count) });
    ops.start = read("start", count, true).map((time) => time * unit_ns);
    const lengths = read("length", count);
    ops.ended = Uint8Array.from(lengths, (length) => (length ? 1 : 0));
    ops.end = ops.start.map((start, at) => (lengths[at] ? start + (lengths[at] - 1) * unit_ns : start));
    const texts = H.texts(sections.get("texts"));
    const numbers = read("text", count, false, Uint32Array);
    ops.block = new Float64Array(count).fill(-1);
    ops.blocks = new Uint32Array(count).fill(1);
    ops.tags = new Array(count);
    for (let at = 0; at < count; at++) {
      const [first, blocks, ...tags] = texts[numbers[at]].match(/\d+/g) || [];
      if (first !== undefined) ops.block[at] = +first;
      if (blocks !== undefined) ops.blocks[at] = +blocks;
      ops.tags[at] = tags;
    }
    this.witness = new Set(this.meta.witness);
    this.guilty = this.meta.part ? +(/\d+/.exec(this.meta.part) || [-1])[0] : -1;
    const touched = new Map();
    for (let at = 0; at < count; at++) {
      for (let block = ops.block[at]; block >= 0 && block < ops.block[at] + ops.blocks[at]; block++) {
        if (!touched.has(block)) touched.set(block, []);
        touched.get(block).push(at);
      }
    }
    this.blocks = [...touched.keys()].sort((a, b) => a - b).map((block) => this.blockRows(block, touched.get(block)));
    const first = this.blocks.findIndex((rows) => rows.block === this.guilty);
    if (first > 0) this.blocks.unshift(...this.blocks.splice(first, 1));
  }
  // A block's operations in as few rows as keep them apart.
  blockRows(block, list) {
    const { ops } = this;
    const row = [], ends = [];
    for (const at of list) {
      let free = ends.findIndex((end) => end < ops.start[at]);
      if (free < 0) free = ends.push(0) - 1;
      ends[free] = ops.end[at];
      row.push(free);
    }
    return { block, list, row, rows: Math.max(1, ends.length), starts: Float64Array.from(list, (at) => ops.start[at]) };
  }
  // Which messages are drawn: those of services that are not hidden, with all words of the filter.
  choose() {
    const words = this.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const hiddenKind = Uint8Array.from(this.words, ([service]) => (this.hidden.has(service) ? 1 : 0));
    const n = this.messages.count;
    this.shown = new Uint8Array(n).fill(1);
    for (const word of words) {
      const inKind = Uint8Array.from(this.words, (pair) => (pair.join(" ").toLowerCase().includes(word) ? 1 : 0));
      const inText = Uint8Array.from(this.texts, (text) => (text.toLowerCase().includes(word) ? 1 : 0));
      const inNode = Uint8Array.from(this.nodes, ({ name }, at) => (name === word || "n" + at === word ? 1 : 0));
      const lost = word === "lost";
      for (let at = 0; at < n; at++) {
        if (this.shown[at] && !(inKind[this.kind[at]] || inText[this.text[at]] || inNode[this.from[at]] ||
          inNode[this.to[at]] || (lost && this.lost[at]))) this.shown[at] = 0;
      }
    }
    this.count = 0;
    for (let at = 0; at < n; at++) {
      if (this.shown[at] && hiddenKind[this.kind[at]]) this.shown[at] = 0;
      this.count += this.shown[at];
    }
    document.dispatchEvent(new Event("chosen"));
    if (H.stage) H.stage.invalidate();
  }
  node(at) { return this.nodes[at] ? this.nodes[at].name : `#${at}`; }
  service(at) { return this.words[this.kind[at]][0]; }
  word(at) { return this.words[this.kind[at]][1]; }
  messageTip(at) {
    const { start, end } = this.messages;
    return [H.el("b", {}, `${this.service(at)} ${this.word(at)}`), this.lost[at] ? H.el("span.tag.bad", {}, "lost") : "",
      `\n${this.node(this.from[at])} \u2192 ${this.node(this.to[at])}, ${H.number(this.size[at])} bytes\n`,
      this.texts[this.text[at]] ? this.texts[this.text[at]] + "\n" : "",
      H.el("span.dim", {}, `sent ${H.moment(start[at])}, ${this.lost[at] ? "lost after" : "took"} ${H.length(end[at] - start[at])}`)];
  }
  // Tags name the client and its operation: `(node + 1) << 48 | client << 40 | number + 1`.
  tagName(tag) {
    if (tag === "" || tag === "0") return tag === "0" ? "zeros" : "";
    const bits = BigInt(tag);
    if (bits === 0xffffffffffffffffn) return "garbage";
    if (bits < 1n << 48n) return tag;
    const node = (bits >> 48n) - 1n, client = (bits >> 40n) & 255n, number = (bits & 0xffffffffffn) - 1n;
    return client < 128n ? `n${node}.c${client}#${number}` : `n${node}.i${client - 128n}#${number}`;
  }
  // What an operation wrote to, or saw of, one of its blocks.
  tag(at, block) {
    const tags = this.ops.tags[at];
    return tags[tags.length > 1 ? block - this.ops.block[at] : 0] || "";
  }
  // The block of an operation that is spoken of: the violating one if it is among them.
  spoken(at) {
    const { block, blocks } = this.ops;
    return this.guilty >= block[at] && this.guilty < block[at] + blocks[at] ? this.guilty : block[at];
  }
  operation(at, block = this.spoken(at)) {
    const { ops } = this;
    const name = this.meta.operations.functions[ops.fn[at]];
    const tag = this.tagName(this.tag(at, block));
    return name === "read" ? (tag ? `read \u2192 ${tag}` : "read") : `${name} ${tag}`.trim();
  }
  operationTip(at) {
    const { ops } = this;
    const took = ops.ended[at] ? H.length(ops.end[at] - ops.start[at]) : "never ended";
    const last = ops.block[at] + ops.blocks[at] - 1;
    return [H.el("b", {}, `block ${this.spoken(at)}: ${this.operation(at)}`),
      last > ops.block[at] ? ` (of blocks ${ops.block[at]} to ${last})` : "",
      `\n${ENDINGS[ops.ending[at]]} \u00b7 process ${ops.process[at]} \u00b7 operation ${at}\n`,
      this.witness.has(at) ? H.el("span.tag.bad", {}, "no order explains this one") : "",
      H.el("span.dim", {}, `\n${H.moment(ops.start[at])}, ${took}`)];
  }
  // What is looked at: a message, an operation, a line, or a moment.
  select(what, show) {
    this.selected = what;
    if (show) view.show(what.from, what.to);
    document.dispatchEvent(new CustomEvent("selected", { detail: what }));
    H.stage.invalidate();
  }
  selectMessage(at, show) {
    const { start, end } = this.messages;
    this.select({ kind: "message", at, from: start[at], to: end[at] }, show);
  }
  selectOperation(at, show) {
    this.select({ kind: "operation", at, from: this.ops.start[at], to: this.ops.end[at] }, show);
    if (show) blocks.reveal(this.spoken(at));
  }
}

let sim, view, blocks;

const drawMinimap = (context, strip, x) => {
  context.globalAlpha = +H.color("shade");
  for (const fault of sim.faults) {
    context.fillStyle = H.faultColor(fault.kind);
    context.fillRect(x(fault.from), 0, Math.max(1, x(fault.to) - x(fault.from)), strip.high);
  }
  context.globalAlpha = 1;
  let most = 1;
  for (const count of sim.density) most = Math.max(most, count);
  const piece = sim.meta.end_ns / sim.density.length;
  const [first, last] = sim.meta.kept.messages_span;
  for (let at = 0; at < sim.density.length; at++) {
    const high = Math.sqrt(sim.density[at] / most) * (strip.high - 6);
    const left = sim.meta.kept.messages_left_out && ((at + 1) * piece < first || at * piece > last);
    context.fillStyle = H.color(left ? "fail" : "c0");
    context.fillRect(x(at * piece), strip.high - high, Math.max(1, x((at + 1) * piece) - x(at * piece)), high);
  }
  context.fillStyle = H.color("bad");
  for (const at of sim.witness) context.fillRect(x(sim.ops.start[at]) - 1, 0, 2, strip.high);
  if (sim.meta.verdict === "fail" && !sim.witness.size) context.fillRect(x(sim.meta.end_ns) - 1, 0, 2, strip.high);
};

const drawPhases = (context, strip, named) => {
  context.save();
  context.setLineDash([3, 3]);
  context.strokeStyle = H.color("faint");
  context.fillStyle = H.color("dim");
  strip.phaseEnd = 0;
  for (const [time, name] of sim.meta.phases) {
    const x = strip.x(time);
    if (x < H.GUTTER || x > strip.width) continue;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, strip.high);
    context.stroke();
    if (named && x > strip.phaseEnd) {
      context.fillText(name, x + 4, 8);
      strip.phaseEnd = x + 8 + context.measureText(name).width;
    }
  }
  context.restore();
};

const faultStrip = () => {
  const strip = new H.Strip({
    height: 6 + 16 * Math.max(1, Math.min(sim.kinds.length, 8)),
    contentHeight: () => 6 + 16 * sim.kinds.length,
    y: (fault) => 3 + 16 * sim.kinds.indexOf(fault.kind) - strip.scrollTop,
    draw(context) {
      context.fillStyle = H.color("dim");
      if (!sim.kinds.length) context.fillText("no faults", 8, strip.high / 2);
      sim.kinds.forEach((kind, row) => context.fillText(kind.slice(0, 15), 8, 10 + 16 * row - strip.scrollTop));
      strip.clipped(context, () => {
        drawPhases(context, strip, false);
        for (const fault of sim.faults) {
          const from = strip.x(fault.from), width = Math.max(3, strip.x(fault.to) - from);
          if (from + width < H.GUTTER || from > strip.width) continue;
          context.fillStyle = H.faultColor(fault.kind);
          context.fillRect(from, strip.y(fault), width, 13);
          if (width < 40) continue;
          context.save();
          context.beginPath();
          context.rect(from, strip.y(fault), width - 3, 13);
          context.clip();
          context.fillStyle = H.color("panel");
          context.fillText(strip.words(fault), Math.max(from, H.GUTTER) + 4, strip.y(fault) + 7);
          context.restore();
        }
      });
    },
    words: (fault) => (fault.nodes.length > 2 && fault.text ? fault.text : `${fault.nodes.map((node) => "n" + node).join(" ")} ${fault.text}`),
    find: (x, y) => sim.faults.find((fault) => y >= strip.y(fault) && y < strip.y(fault) + 14 &&
      x >= strip.x(fault.from) - 2 && x <= Math.max(strip.x(fault.to), strip.x(fault.from) + 3) + 2),
    hover(x, y) {
      const fault = strip.find(x, y);
      return fault ? faultTip(fault) : null;
    },
    click(x, y) {
      const fault = strip.find(x, y);
      if (fault) sim.select({ kind: "fault", at: fault, from: fault.from, to: fault.to }, true);
    },
  });
  return strip;
};

const faultTip = (fault) => [H.el("b", {}, `${fault.kind}: ${fault.nodes.map((node) => sim.node(node)).join(", ")}`),
  `\n${fault.text}\n`, H.el("span.dim", {}, `${H.moment(fault.from)}` +
    (fault.to > fault.from ? `, for ${H.length(fault.to - fault.from)}` : ""))];

// Every block's operations; the violating block stands first and is taller.
const blockStrip = () => {
  const strip = new H.Strip({
    grow: 1,
    rowHeight: (rows) => (rows.block === sim.guilty ? 19 : 13),
    layout() {
      let y = 4;
      strip.places = sim.blocks.map((rows) => {
        const place = { rows, y, high: rows.rows * strip.rowHeight(rows) + 5 };
        y += place.high;
        return place;
      });
      strip.content = y + 4;
    },
    contentHeight() { if (!strip.places) strip.layout(); return strip.content; },
    reveal(block) {
      if (!strip.places) strip.layout();
      const place = strip.places.find(({ rows }) => rows.block === block);
      if (place && (place.y < strip.scrollTop || place.y > strip.scrollTop + strip.high - 40)) strip.scrollTop = place.y - 20;
    },
    draw(context) {
      if (!sim.ops.count) {
        context.fillStyle = H.color("dim");
        context.fillText("no operations of clients are known (after a panic they are lost)", H.GUTTER + 8, 14);
        return;
      }
      if (!strip.places) strip.layout();
      strip.clipped(context, () => { markFaults(context, strip); drawPhases(context, strip, false); });
      for (const { rows, y, high } of strip.places) {
        const top = y - strip.scrollTop;
        if (top > strip.high || top + high < 0) continue;
        context.fillStyle = H.color(rows.block === sim.guilty ? "bad" : "dim");
        context.fillText(`block ${rows.block}`, 8, top + 8);
        context.fillStyle = H.color("soft");
        context.fillRect(0, top + high - 3, strip.width, 1);
        strip.clipped(context, () => strip.drawRow(context, rows, top));
      }
    },
    drawRow(context, rows, top) {
      const each = strip.rowHeight(rows), body = each - 3;
      const drawn = new Float64Array(rows.rows).fill(-1);
      for (let place = strip.first(rows, view.t0); place < rows.list.length; place++) {
        const at = rows.list[place];
        if (sim.ops.start[at] > view.t1) break;
        const x = strip.x(sim.ops.start[at]), width = strip.x(sim.ops.end[at]) - x;
        const guilty = sim.witness.has(at) && rows.block === sim.guilty;
        if (x + width < drawn[rows.row[place]] + 0.7 && !guilty && !sim.ops.ending[at]) continue;
        drawn[rows.row[place]] = x + width;
        strip.drawOperation(context, at, rows.block, x, top + rows.row[place] * each, Math.max(guilty ? 4 : 2, width), body);
      }
    },
    // An operation that began long before the window may reach into it.
    first(rows, t0) {
      let place = H.lower(rows.starts, t0);
      for (let back = 0; place > 0 && back < 40; back++) place--;
      return place;
    },
    drawOperation(context, at, block, x, y, width, body) {
      const { ops } = sim;
      const guilty = sim.witness.has(at) && block === sim.guilty;
      const color = guilty ? H.color("bad") : [H.series(ops.fn[at]), H.color("fail"), H.color("info"), H.color("info")][ops.ending[at]];
      // Who else wrote or saw the value of the chosen operation.
      const tag = sim.tag(at, block);
      const other = sim.selected && sim.selected.kind === "operation" && sim.selected.at !== at &&
        tag && tag !== "0" && ops.tags[sim.selected.at].includes(tag);
      context.fillStyle = color;
      context.globalAlpha = guilty ? 1 : 0.8;
      context.fillRect(x, y, width, body);
      if (ops.ending[at] >= 2) {
        const fade = context.createLinearGradient(x + width, 0, x + width + 26, 0);
        fade.addColorStop(0, color);
        fade.addColorStop(1, "transparent");
        context.fillStyle = fade;
        context.fillRect(x + width, y, 26, body);
      }
      context.globalAlpha = 1;
      if (other || (sim.selected && sim.selected.kind === "operation" && sim.selected.at === at)) {
        context.strokeStyle = H.color("text");
        context.lineWidth = other ? 1 : 2;
        context.strokeRect(x - 1, y - 1, width + 2, body + 2);
        context.lineWidth = 1;
      }
      if (width > 22) {
        context.save();
        context.beginPath();
        context.rect(x, y - 1, width - 2, body + 2);
        context.clip();
        context.fillStyle = H.color("panel");
        context.fillText(sim.operation(at, block), Math.max(x, H.GUTTER) + 3, y + body / 2 + 0.5);
        context.restore();
      }
    },
    find(x, y) {
      if (!strip.places || x < H.GUTTER) return null;
      const place = strip.places.find(({ y: top, high }) => y + strip.scrollTop >= top && y + strip.scrollTop < top + high);
      if (!place) return null;
      const row = Math.floor((y + strip.scrollTop - place.y) / strip.rowHeight(place.rows));
      const time = strip.at(x), near = strip.pixel * 3;
      let best = null, distance = near;
      for (let at = strip.first(place.rows, time - near); at < place.rows.list.length; at++) {
        const op = place.rows.list[at];
        if (sim.ops.start[op] > time + near) break;
        if (place.rows.row[at] !== row) continue;
        const away = Math.max(sim.ops.start[op] - time, time - sim.ops.end[op], 0);
        if (away <= distance) { best = op; distance = away; }
      }
      return best;
    },
    hover(x, y) { const at = strip.find(x, y); return at === null ? null : sim.operationTip(at); },
    click(x, y) {
      const at = strip.find(x, y);
      if (at !== null) sim.selectOperation(at);
      else sim.select({ kind: "moment", from: strip.at(x), to: strip.at(x) });
    },
  });
  return strip;
};

// The stretch that cannot be explained, behind everything.
const markFaults = (context, strip) => {
  if (!sim.witness.size) return;
  let from = Infinity, to = 0;
  for (const at of sim.witness) {
    from = Math.min(from, sim.ops.start[at]);
    to = Math.max(to, sim.ops.end[at]);
  }
  context.fillStyle = H.color("bad");
  context.globalAlpha = 0.07;
  context.fillRect(strip.x(from), 0, Math.max(2, strip.x(to) - strip.x(from)), strip.high);
  context.globalAlpha = 1;
};
