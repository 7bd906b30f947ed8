// The page of one run. Columns come from `report/operations.rs`, the rest from `report/run.rs`.

const ENDINGS = ["ok", "fail", "info", "open"];
const LOOKS = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "fail", "info", "bad"];
const LANE_TITLES = 14;

class Run {
  constructor(meta, sections) {
    this.meta = meta;
    const shape = meta.shape;
    this.shape = shape;
    const n = (this.count = shape.count);
    const read = (name, delta, Kind) => H.column(sections.get(name), n, delta, Kind);
    this.start = read("start", true);
    this.lengths = read("length");
    this.process = read("process");
    this.lane = read("lane", false, Uint32Array);
    this.fn = read("function", false, Uint8Array);
    this.ending = read("ending", false, Uint8Array);
    this.text = read("text", false, Uint32Array);
    this.texts = H.texts(sections.get("texts"));
    this.witness = new Set(meta.witness.map((entry) =>
      typeof entry === "number" ? entry : entry.operation).filter((at) => at >= 0 && at < n));
    this.matches = null;
    this.index();
    this.readLogs(sections);
    this.faults = meta.faults.map(([from, to, kind, nodes, text, struck]) =>
      ({ from, to: to === null ? shape.end : to, open: to === null, kind, nodes, text, struck }))
      .concat(this.nemesis());
    this.kinds = [...new Set(this.faults.map((fault) => fault.kind))];
  }
  // Long operations begin far before the window that they reach into: the latest end of each block
  // of operations says which blocks can be skipped.
  index() {
    this.latest = new Float64Array(Math.ceil(this.count / 1024));
    this.lanesOf = Array.from({ length: this.shape.lanes }, () => []);
    for (let at = 0; at < this.count; at++) {
      const block = at >> 10;
      this.latest[block] = Math.max(this.latest[block], this.end(at));
      this.lanesOf[this.lane[at]].push(at);
    }
    this.lanesOf = this.lanesOf.map((list) => Uint32Array.from(list));
    // What an operation is drawn as: a function's colour, failed (8), unknown (9), witness (10).
    this.look = new Uint8Array(this.count);
    for (let at = 0; at < this.count; at++) {
      this.look[at] = this.witness.has(at) ? 10 : [this.fn[at] % 8, 8, 9, 9][this.ending[at]];
    }
    this.longest = 1;
    for (let at = 0; at < this.count; at++) this.longest = Math.max(this.longest, this.lengths[at]);
  }
  end(at) { return this.lengths[at] ? this.start[at] + this.lengths[at] - 1 : this.start[at]; }
  each(t0, t1, act) {
    const last = H.lower(this.start, t1);
    for (let block = 0; block << 10 < last; block++) {
      if (this.latest[block] < t0) continue;
      const stop = Math.min(last, (block + 1) << 10);
      for (let at = block << 10; at < stop; at++) {
        if (this.end(at) >= t0) act(at);
      }
    }
  }
  // Jepsen's nemesis speaks in the history: a pair of words such as :start-x and :stop-x is a span.
  nemesis() {
    const spans = [];
    const open = new Map();
    const enders = { start: ["stop", "heal"], kill: ["start", "restart"], pause: ["resume"], partition: ["heal"] };
    for (const [time, word, text] of this.shape.remarks) {
      const split = word.match(/^(start|stop|heal|kill|restart|pause|resume|partition)(?:-(.*))?$/);
      const [verb, what] = split ? [split[1], split[2] || ""] : [word, ""];
      const ended = [...open.keys()].find((key) => {
        const [began, about] = key.split("|");
        return (enders[began] || []).includes(verb) && (about === what || began !== "start");
      });
      if (ended) {
        open.get(ended).to = time;
        open.get(ended).open = false;
        open.delete(ended);
      } else if (enders[verb] && !open.has(verb + "|" + what)) {
        const kind = verb === "start" ? what || "nemesis" : verb + (what ? "-" + what : "");
        const span = { from: time, to: this.shape.end, open: true, kind, nodes: [], text, struck: true };
        spans.push(span);
        open.set(verb + "|" + what, span);
      }
    }
    return spans;
  }
  readLogs(sections) {
    const count = this.meta.logs.count;
    this.logTime = H.column(sections.get("log_time"), count, true);
    this.logNode = H.column(sections.get("log_node"), count, false, Uint16Array);
    this.logText = H.column(sections.get("log_text"), count, false, Uint32Array);
    this.logTexts = H.texts(sections.get("log_texts"));
    if (this.meta.logs.timed) {
      for (let at = 0; at < count; at++) this.logTime[at] *= 1e6 / this.shape.unit_ns;
    }
  }
  value(at) { return this.texts[this.text[at]]; }
  name(at) { return this.shape.functions[this.fn[at]]; }
  label(at) { return `${this.name(at)} ${this.value(at)}`; }
  color(at) { return H.color(LOOKS[this.look[at]]); }
  faint(at) { return this.matches && !this.matches[at]; }
  tip(at) {
    const took = this.lengths[at] ? H.length(this.lengths[at] - 1) : "never ended";
    return [H.el("b", {}, this.label(at)), `\n${ENDINGS[this.ending[at]]} \u00b7 process ${this.process[at]} \u00b7 `,
      `operation ${at}\n`, H.el("span.dim", {}, `${H.moment(this.start[at])}, ${took}`)];
  }
  select(at, show) {
    this.selected = at;
    if (show && at !== null) view.show(this.start[at], this.end(at));
    if (show && at !== null) lanes.reveal(this.lane[at]);
    document.dispatchEvent(new CustomEvent("selected", { detail: at }));
    H.stage.invalidate();
  }
}

let run, view, lanes;

// Faults behind a plot.
const shade = (context, strip, x = (time) => strip.x(time)) => {
  context.globalAlpha = +H.color("shade");
  for (const fault of run.faults) {
    const [from, to] = [x(fault.from), x(fault.to)];
    if (to < H.GUTTER || from > strip.width) continue;
    context.fillStyle = H.faultColor(fault.kind);
    context.fillRect(from, 0, Math.max(1, to - from), strip.high);
  }
  context.globalAlpha = 1;
};

const drawMinimap = (context, strip, x) => {
  shade(context, strip, x);
  const width = Math.max(1, Math.ceil(strip.width));
  if (!strip.bins || strip.bins.width !== width) {
    const bins = { width, ok: new Float64Array(width), bad: new Float64Array(width), most: 1 };
    for (let at = 0; at < run.count; at++) {
      const column = H.clamp(Math.round(x(run.end(at))), 0, width - 1);
      bins[run.ending[at] ? "bad" : "ok"][column]++;
    }
    for (let at = 0; at < width; at++) bins.most = Math.max(bins.most, bins.ok[at] + bins.bad[at]);
    strip.bins = bins;
  }
  const { ok, bad, most } = strip.bins;
  for (let column = H.GUTTER; column < width; column++) {
    const scale = (strip.high - 6) / most;
    const high = ok[column] * scale, low = bad[column] * scale;
    context.fillStyle = H.color("c0");
    if (ok[column]) context.fillRect(column, strip.high - high, 1, high);
    context.fillStyle = H.color("info");
    if (bad[column]) context.fillRect(column, strip.high - high - Math.max(1, low), 1, Math.max(1, low));
  }
  context.fillStyle = H.color("bad");
  for (const at of run.witness) context.fillRect(x(run.start[at]) - 1, 0, 2, strip.high);
};

const faultStrip = () => new H.Strip({
  height: 6 + 17 * Math.max(1, Math.min(run.kinds.length, 7)), title: null,
  contentHeight: () => 6 + 17 * run.kinds.length,
  draw(context, strip) {
    context.fillStyle = H.color("dim");
    if (!run.kinds.length) context.fillText("no faults", 8, strip.high / 2);
    const y = (fault) => 3 + 17 * run.kinds.indexOf(fault.kind) - strip.scrollTop;
    run.kinds.forEach((kind, row) => {
      context.fillText(kind.slice(0, 15), 8, 11 + 17 * row - strip.scrollTop);
    });
    strip.clipped(context, () => {
      for (const fault of run.faults) {
        const from = strip.x(fault.from);
        const width = Math.max(3, strip.x(fault.to) - from);
        if (from + width < H.GUTTER || from > strip.width) continue;
        context.fillStyle = context.strokeStyle = H.faultColor(fault.kind);
        context.globalAlpha = fault.struck ? 0.85 : 0.25;
        context.fillRect(from, y(fault), width, 14);
        context.globalAlpha = 1;
        if (!fault.struck) context.strokeRect(from + 0.5, y(fault) + 0.5, width - 1, 13);
        if (width > 40) {
          context.save();
          context.beginPath();
          context.rect(from, y(fault), width - 3, 14);
          context.clip();
          context.fillStyle = fault.struck ? H.color("panel") : H.color("text");
          context.fillText(`${fault.nodes.join(" ")} ${fault.text}`, Math.max(from, H.GUTTER) + 4, y(fault) + 8);
          context.restore();
        }
      }
    });
    strip.y = y;
  },
  hover(x, y) {
    const fault = this.find(x, y);
    if (!fault) return null;
    const until = fault.open ? "not ended" : `for ${H.length(fault.to - fault.from)}`;
    return [H.el("b", {}, `${fault.kind} ${fault.nodes.join(", ")}`), `\n${fault.text}\n`,
      H.el("span.dim", {}, `${H.moment(fault.from)}, ${until}${fault.struck ? "" : "; it had no effect"}`)];
  },
  find(x, y) {
    return run.faults.find((fault) => this.y && y >= this.y(fault) && y < this.y(fault) + 15 &&
      x >= this.x(fault.from) - 2 && x <= Math.max(this.x(fault.to), this.x(fault.from) + 3) + 2);
  },
  click(x, y) {
    const fault = this.find(x, y);
    if (fault) view.show(fault.from, fault.to);
  },
});

// How long operations took: a point each, with the median and the 99th percentile.
const latencyStrip = () => {
  const names = run.shape.functions.slice(0, 5).map((name, at) =>
    H.el("span.sw", {}, H.el("i", { style: `background:var(--c${at % 8})` }), name));
  const strip = new H.Strip({
    height: 168, title: ["latency", ...names],
    draw(context) {
      shade(context, strip);
      const lowest = run.shape.unit_ns ? 1e4 / run.shape.unit_ns : 1;
      const [low, high] = [Math.log(lowest), Math.log(Math.max(lowest * 10, run.longest * 1.3))];
      strip.y = (length) => strip.high - 4 - ((Math.log(Math.max(length, lowest)) - low) / (high - low)) * (strip.high - 12);
      strip.grid(context, lowest);
      const cell = 2;
      const across = Math.ceil(strip.width / cell), down = Math.ceil(strip.high / cell);
      const seen = new Uint8Array(across * down);
      const bucket = 12, buckets = Math.ceil(strip.width / bucket);
      const rows = Math.ceil(strip.high);
      const counts = new Uint32Array(buckets * rows), sums = new Uint32Array(buckets);
      strip.clipped(context, () => {
        // One mark a cell and look; a million operations leave some ten thousand.
        const marks = LOOKS.map(() => []);
        const { t0 } = view, { start, lengths, look } = run;
        const scale = 1 / strip.pixel, factor = (strip.high - 12) / (high - low), bottom = strip.high - 4;
        run.each(t0, view.t1, (at) => {
          const length = lengths[at];
          if (!length) return;
          const x = H.GUTTER + (start[at] + length - 1 - t0) * scale;
          if (x < H.GUTTER || x >= strip.width) return;
          const y = bottom - (length - 1 > lowest ? (Math.log(length - 1) - low) * factor : 0);
          if (look[at] < 8) {
            const place = Math.floor(x / bucket);
            counts[place * rows + Math.max(0, Math.floor(y))]++;
            sums[place]++;
          }
          const bad = look[at] >= 8;
          const mark = Math.floor(y / cell) * across + Math.floor(x / cell);
          const bit = run.matches && !run.matches[at] ? 4 : bad ? 2 : 1;
          if (seen[mark] & bit) return;
          seen[mark] |= bit;
          if (bit === 4) {
            context.globalAlpha = 0.1;
            context.fillStyle = run.color(at);
            context.fillRect(x - 1, y - 1, 2, 2);
          } else marks[look[at]].push(x, y);
        });
        marks.forEach((list, kind) => {
          const size = kind < 8 ? 2 : list.length > 3000 ? 2 : 4;
          context.globalAlpha = kind < 8 ? 0.55 : 0.95;
          context.fillStyle = H.color(LOOKS[kind]);
          for (let at = 0; at < list.length; at += 2) context.fillRect(list[at] - size / 2, list[at + 1] - size / 2, size, size);
        });
        context.globalAlpha = 1;
        for (const [share, width] of [[0.5, 2], [0.99, 1]]) strip.quantile(context, counts, sums, rows, bucket, share, width);
        if (run.selected !== undefined && run.selected !== null) {
          context.strokeStyle = H.color("text");
          context.strokeRect(strip.x(run.end(run.selected)) - 4, strip.y(run.lengths[run.selected] - 1) - 4, 8, 8);
        }
      });
      strip.drawRange(context);
    },
    grid(context, lowest) {
      context.strokeStyle = H.color("soft");
      context.fillStyle = H.color("faint");
      context.textAlign = "right";
      for (let length = lowest; length <= run.longest * 1.3; length *= 10) {
        const y = strip.y(length);
        context.beginPath();
        context.moveTo(H.GUTTER, y);
        context.lineTo(strip.width, y);
        context.stroke();
        if (y > 8) context.fillText(H.length(length), H.GUTTER - 6, y);
      }
      context.textAlign = "left";
    },
    quantile(context, counts, sums, rows, bucket, share, width) {
      context.strokeStyle = H.color("text");
      context.lineWidth = width;
      context.globalAlpha = 0.75;
      context.beginPath();
      let pen = false;
      sums.forEach((sum, place) => {
        if (sum < 4) { pen = false; return; }
        let row = rows - 1;
        for (let below = counts[place * rows + row]; below < sum * share && row > 0; ) below += counts[place * rows + --row];
        const x = place * bucket + bucket / 2;
        if (pen) context.lineTo(x, row); else context.moveTo(x, row);
        pen = true;
      });
      context.stroke();
      context.globalAlpha = 1;
      context.lineWidth = 1;
    },
    nearest(x, y) {
      let best = null, distance = 49;
      const reach = strip.pixel * 8;
      run.each(strip.at(x) - reach, strip.at(x) + reach + run.longest, (at) => {
        if (!run.lengths[at]) return;
        const d = (strip.x(run.end(at)) - x) ** 2 + (strip.y(run.lengths[at] - 1) - y) ** 2;
        if (d < distance) { best = at; distance = d; }
      });
      return best;
    },
    hover(x, y) {
      if (x < H.GUTTER) return null;
      const at = strip.nearest(x, y);
      return at === null ? null : run.tip(at);
    },
    click(x, y) { run.select(strip.nearest(x, y)); },
  });
  return strip;
};

// Endings a second: succeeded above failed above unknown.
const rateStrip = () => {
  const strip = new H.Strip({
    height: 92, title: ["rate", ...[["ok", "c0"], ["fail", "fail"], ["info", "info"]].map(([name, color]) =>
      H.el("span.sw", {}, H.el("i", { style: `background:var(--${color})` }), name))],
    draw(context) {
      shade(context, strip);
      const width = 5;
      strip.barTime = strip.pixel * width;
      const first = Math.floor(view.t0 / strip.barTime);
      const bars = Math.ceil((view.t1 - view.t0) / strip.barTime) + 2;
      const counts = [0, 1, 2].map(() => new Float64Array(bars));
      run.each(view.t0 - strip.barTime, view.t1 + strip.barTime, (at) => {
        if (!run.lengths[at]) return;
        const bar = Math.floor(run.end(at) / strip.barTime) - first;
        if (bar >= 0 && bar < bars) counts[run.ending[at]][bar]++;
      });
      let most = 1;
      for (let bar = 0; bar < bars; bar++) most = Math.max(most, counts[0][bar] + counts[1][bar] + counts[2][bar]);
      Object.assign(strip, { counts, firstBar: first });
      const unit = run.shape.unit_ns ? 1e9 / run.shape.unit_ns / strip.barTime : 1;
      strip.unit = unit;
      context.fillStyle = H.color("faint");
      context.textAlign = "right";
      context.fillText(H.number(most * unit) + (run.shape.unit_ns ? "/s" : ""), H.GUTTER - 6, strip.high - 10);
      context.textAlign = "left";
      const colors = [H.color("c0"), H.color("fail"), H.color("info")];
      strip.clipped(context, () => {
        for (let bar = 0; bar < bars; bar++) {
          let y = strip.high;
          const x = strip.x((bar + first) * strip.barTime);
          for (const kind of [2, 1, 0]) {
            const high = (counts[kind][bar] / most) * (strip.high - 8);
            context.fillStyle = colors[kind];
            if (high) context.fillRect(x, y - Math.max(1, high), width - 0.6, Math.max(1, high));
            y -= high;
          }
        }
      });
      strip.drawRange(context);
    },
    hover(x) {
      if (x < H.GUTTER || !strip.counts) return null;
      const bar = Math.floor(strip.at(x) / strip.barTime) - strip.firstBar;
      const [ok, fail, info] = strip.counts.map((count) => count[bar] || 0);
      return [H.el("b", {}, `${H.number(ok * strip.unit)} ok a second`.replace(" a second", run.shape.unit_ns ? " a second" : "")),
        `\n${ok} ok, ${fail} failed, ${info} unknown in ${H.length(strip.barTime)}`];
    },
  });
  return strip;
};

// Every operation: a lane a client.
const laneStrip = () => {
  const strip = new H.Strip({
    grow: 1,
    laneHeight() { return H.clamp((strip.high - 4) / Math.max(1, run.shape.lanes), 7, 22); },
    contentHeight: () => run.shape.lanes * strip.laneHeight() + 4,
    reveal(lane) {
      const y = lane * strip.laneHeight();
      if (y < strip.scrollTop || y > strip.scrollTop + strip.high - 30) strip.scrollTop = y - strip.high / 2;
    },
    draw(context) {
      shade(context, strip);
      const high = strip.laneHeight();
      const body = Math.max(4, high - 3);
      for (let lane = 0; lane < run.shape.lanes; lane++) {
        const y = 2 + lane * high - strip.scrollTop;
        if (y > strip.high || y + high < 0) continue;
        strip.clipped(context, () => strip.drawLane(context, run.lanesOf[lane], y, body));
        strip.nameLane(context, lane, y + body / 2, high);
      }
      strip.drawRange(context);
    },
    nameLane(context, lane, y, high) {
      const every = Math.ceil(LANE_TITLES / high);
      if (lane % every) return;
      const list = run.lanesOf[lane];
      const at = list[Math.min(list.length - 1, H.lower(strip.startsOf(lane), view.t0))];
      context.fillStyle = H.color("dim");
      context.fillText(`process ${run.process[at]}`, 8, y);
    },
    startsOf(lane) {
      strip.starts ||= [];
      strip.starts[lane] ||= Float64Array.from(run.lanesOf[lane], (at) => run.start[at]);
      return strip.starts[lane];
    },
    drawLane(context, list, y, body) {
      const from = Math.max(0, H.lower(strip.startsOf(run.lane[list[0]]), view.t0) - 1);
      let drawn = -1, worst = -1;
      for (let place = from; place < list.length; place++) {
        const at = list[place];
        if (run.start[at] > view.t1) break;
        const x = strip.x(run.start[at]);
        const width = strip.x(run.end(at)) - x;
        const rank = run.look[at] === 10 ? 4 : run.faint(at) ? 0 : run.ending[at] ? 2 : 1;
        // Of operations in one pixel the one that matters most is drawn.
        if (x + width < drawn + 0.8 && rank <= worst) continue;
        worst = x + width < drawn + 0.8 ? Math.max(worst, rank) : rank;
        drawn = Math.max(drawn, x + width);
        strip.drawOperation(context, at, x, y, width, body, rank);
      }
    },
    drawOperation(context, at, x, y, width, body, rank) {
      const color = run.color(at);
      context.fillStyle = color;
      context.globalAlpha = rank === 0 ? 0.1 : run.ending[at] ? 0.75 : 0.85;
      context.fillRect(x, y, Math.max(1, width - 0.5), body);
      if (run.ending[at] >= 2) {
        // It may take effect later: the bar has no end.
        const fade = context.createLinearGradient(x + width, 0, x + width + 26, 0);
        fade.addColorStop(0, color);
        fade.addColorStop(1, "transparent");
        context.fillStyle = fade;
        context.fillRect(x + width, y, 26, body);
      }
      context.globalAlpha = 1;
      if (at === run.selected) {
        context.strokeStyle = H.color("text");
        context.lineWidth = 2;
        context.strokeRect(x - 1, y - 1, Math.max(3, width) + 2, body + 2);
        context.lineWidth = 1;
      }
      if (width > 26 && body > 9 && rank) {
        context.save();
        context.beginPath();
        context.rect(x, y, width - 2, body);
        context.clip();
        context.fillStyle = H.color("panel");
        context.fillText(run.label(at), Math.max(x, H.GUTTER) + 4, y + body / 2 + 0.5);
        context.restore();
      }
    },
    find(x, y) {
      const lane = Math.floor((y - 2 + strip.scrollTop) / strip.laneHeight());
      if (x < H.GUTTER || lane < 0 || lane >= run.shape.lanes) return null;
      const list = run.lanesOf[lane];
      const time = strip.at(x), near = strip.pixel * 3;
      let best = null, distance = Infinity;
      for (let place = Math.max(0, H.lower(strip.startsOf(lane), time + near) - 60); place < list.length; place++) {
        const at = list[place];
        if (run.start[at] > time + near) break;
        const tail = run.ending[at] >= 2 ? strip.pixel * 20 : 0;
        const away = Math.max(run.start[at] - time, time - run.end(at) - tail, 0) - (run.look[at] === 10 ? near : 0);
        if (away <= near && away <= distance) { best = at; distance = away; }
      }
      return best;
    },
    hover(x, y) { const at = strip.find(x, y); return at === null ? null : run.tip(at); },
    click(x, y) { run.select(strip.find(x, y)); },
  });
  return strip;
};
