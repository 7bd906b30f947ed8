// Strips of canvas over one time axis, the panel beside them, long lists, tips.

H.GUTTER = 96;
H.MARGIN = 10;

// The left side of a page: strips that share a window of time.
H.Stage = class {
  constructor(view) {
    this.view = view;
    this.strips = [];
    this.root = H.el("div.stage");
    this.overlay = H.el("div.overlay");
    this.cursor = H.el("div.cursor", { hidden: true });
    this.overlay.append(this.cursor);
    this.root.append(this.overlay);
    this.queued = false;
    view.watchers.push(() => this.invalidate());
    new ResizeObserver(() => this.invalidate()).observe(this.root);
    document.fonts?.ready.then(() => this.invalidate());
    H.stage = this;
  }
  add(strip) {
    this.strips.push(strip);
    strip.attach(this);
    this.root.append(strip.root);
    return strip;
  }
  invalidate() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      for (const strip of this.strips) strip.paint();
    });
  }
  moveCursor(event) {
    const box = this.root.getBoundingClientRect();
    const x = event ? event.clientX - box.left : -1;
    this.cursor.hidden = x < H.GUTTER;
    this.cursor.style.left = x + "px";
    this.cursorX = x;
    const axis = this.strips.find((strip) => strip.isAxis);
    if (axis) axis.paint();
  }
};

// One canvas. `options`: height or grow, title, draw(context, strip), hover(x, y) giving tip nodes,
// click(x, y), wheelScroll for content taller than the strip (contentHeight()).
H.Strip = class {
  constructor(options) {
    Object.assign(this, options);
    this.canvas = H.el("canvas");
    this.root = H.el("div.strip" + (options.grow ? ".grow" : ""), {}, this.canvas);
    if (options.height) this.setHeight(options.height);
    if (options.grow) this.root.style.flexGrow = options.grow;
    if (options.title) this.root.append(H.el("div.title", {}, options.title));
    this.scrollTop = 0;
    this.width = this.high = 0;
  }
  setHeight(height) { this.root.style.height = height + "px"; }
  attach(stage) {
    this.stage = stage;
    this.view = stage.view;
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerleave", () => { H.tip(); stage.moveCursor(); });
    this.canvas.addEventListener("dblclick", () => this.view.all());
  }
  x(time) {
    const { t0, t1 } = this.view;
    return H.GUTTER + ((time - t0) / (t1 - t0)) * (this.width - H.GUTTER - H.MARGIN);
  }
  at(x) {
    const { t0, t1 } = this.view;
    return t0 + ((x - H.GUTTER) / (this.width - H.GUTTER - H.MARGIN)) * (t1 - t0);
  }
  // Units of time in a pixel.
  get pixel() { return (this.view.t1 - this.view.t0) / Math.max(1, this.width - H.GUTTER - H.MARGIN); }
  paint() {
    const box = this.canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    this.width = box.width;
    this.high = box.height;
    if (this.width < 2 || this.high < 2) return;
    const [w, h] = [Math.round(box.width * scale), Math.round(box.height * scale)];
    if (this.canvas.width !== w || this.canvas.height !== h) {
      this.canvas.width = w;
      this.canvas.height = h;
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, this.width, this.high);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    if (this.contentHeight) {
      this.scrollTop = H.clamp(this.scrollTop, 0, Math.max(0, this.contentHeight() - this.high));
    }
    this.draw(context, this);
    if (this.contentHeight && this.contentHeight() > this.high + 1) this.drawScrollbar(context);
  }
  drawScrollbar(context) {
    const content = this.contentHeight();
    const length = Math.max(24, (this.high * this.high) / content);
    const top = (this.scrollTop / (content - this.high)) * (this.high - length);
    context.fillStyle = H.color("faint");
    context.fillRect(this.width - 6, top, 4, length);
  }
  // Draws inside the time area only.
  clipped(context, draw) {
    context.save();
    context.beginPath();
    context.rect(H.GUTTER, 0, this.width - H.GUTTER, this.high);
    context.clip();
    draw();
    context.restore();
  }
  wheel(event) {
    event.preventDefault();
    const amount = event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
    const scrolls = this.contentHeight && this.contentHeight() > this.high + 1;
    const inGutter = event.offsetX < H.GUTTER || event.altKey;
    if (scrolls && inGutter) {
      this.scrollTop += amount;
      this.stage.invalidate();
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      this.view.pan((event.deltaX || amount) / this.width);
    } else {
      this.view.zoom(Math.exp(H.clamp(amount, -200, 200) * 0.002), this.at(event.offsetX));
    }
  }
  press(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    const start = { x: event.offsetX, y: event.offsetY, t0: this.view.t0, t1: this.view.t1, top: this.scrollTop };
    let moved = false;
    const range = event.shiftKey;
    const drag = (next) => {
      const dx = next.offsetX - start.x;
      if (Math.abs(dx) + Math.abs(next.offsetY - start.y) > 4) moved = true;
      if (!moved) return;
      H.tip();
      if (range || this.selects) {
        this.range = [Math.min(start.x, next.offsetX), Math.max(start.x, next.offsetX)];
        if (this.select) this.select(this.range, false);
        this.stage.invalidate();
        return;
      }
      const shift = (dx / (this.width - H.GUTTER - H.MARGIN)) * (start.t1 - start.t0);
      if (this.contentHeight) this.scrollTop = start.top - (next.offsetY - start.y);
      this.view.set(start.t0 - shift, start.t1 - shift);
    };
    const end = (last) => {
      this.canvas.removeEventListener("pointermove", drag);
      this.canvas.removeEventListener("pointerup", end);
      this.canvas.removeEventListener("pointercancel", end);
      if (moved && this.range && !this.select) {
        const [from, to] = this.range.map((x) => this.at(x));
        this.view.set(from, to);
      } else if (!moved && last.type === "pointerup" && this.click) {
        this.click(last.offsetX, last.offsetY, last);
      }
      this.range = null;
      this.stage.invalidate();
    };
    this.canvas.addEventListener("pointermove", drag);
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
  }
  move(event) {
    this.stage.moveCursor(event);
    if (event.buttons) return;
    const nodes = this.hover ? this.hover(event.offsetX, event.offsetY) : null;
    this.canvas.style.cursor = nodes ? "pointer" : "default";
    H.tip(nodes, event.clientX, event.clientY);
  }
  // The range that is being chosen with shift and the mouse.
  drawRange(context) {
    if (!this.range) return;
    context.fillStyle = H.color("accent");
    context.globalAlpha = 0.18;
    context.fillRect(this.range[0], 0, this.range[1] - this.range[0], this.high);
    context.globalAlpha = 1;
  }
};

// The scale of time, with the cursor's moment.
H.axis = () => new H.Strip({
  height: 22, isAxis: true, selects: true,
  draw(context, strip) {
    const { t0, t1 } = strip.view;
    const step = H.step(t1 - t0, (strip.width - H.GUTTER) / 110);
    context.fillStyle = H.color("dim");
    context.strokeStyle = H.color("line");
    context.textAlign = "center";
    for (let mark = Math.ceil(t0 / step) * step; mark <= t1; mark += step) {
      const x = strip.x(mark);
      context.beginPath();
      context.moveTo(x, strip.high - 5);
      context.lineTo(x, strip.high);
      context.stroke();
      if (x < strip.width - 24) context.fillText(H.moment(mark, step), x, 9);
    }
    context.textAlign = "left";
    context.fillText(H.length(t1 - t0), 8, 9);
    strip.drawRange(context);
    const x = strip.stage.cursorX;
    if (x >= H.GUTTER) {
      const text = H.moment(strip.at(x), step / 100);
      const width = context.measureText(text).width + 12;
      const left = H.clamp(x - width / 2, H.GUTTER, strip.width - width);
      context.fillStyle = H.color("accent");
      context.fillRect(left, 0, width, 18);
      context.fillStyle = H.color("panel");
      context.fillText(text, left + 6, 9);
    }
  },
});

// The whole run in a narrow strip, with the window marked; dragging chooses another window.
// `draw(context, strip, x)` draws the content, where x(time) is over the whole run.
H.minimap = (draw, height = 46) => {
  const map = new H.Strip({
    height, selects: true, title: "whole run",
    draw(context, strip) {
      const { min, max, t0, t1 } = strip.view;
      const inner = strip.width - H.GUTTER - H.MARGIN;
      const x = (time) => H.GUTTER + ((time - min) / (max - min)) * inner;
      strip.time = (at) => min + ((at - H.GUTTER) / inner) * (max - min);
      draw(context, strip, x);
      context.fillStyle = H.color("bg");
      context.globalAlpha = 0.66;
      context.fillRect(H.GUTTER, 0, Math.max(0, x(t0) - H.GUTTER), strip.high);
      context.fillRect(x(t1), 0, Math.max(0, strip.width - x(t1)), strip.high);
      context.globalAlpha = 1;
      context.strokeStyle = H.color("accent");
      context.strokeRect(x(t0) + 0.5, 0.5, Math.max(2, x(t1) - x(t0)) - 1, strip.high - 1);
    },
    select([from, to]) { map.view.set(map.time(from), map.time(to)); },
    click(x) {
      const half = (map.view.t1 - map.view.t0) / 2;
      map.view.set(map.time(x) - half, map.time(x) + half);
    },
    wheel(event) {
      event.preventDefault();
      map.view.zoom(Math.exp(H.clamp(event.deltaY, -200, 200) * 0.002), map.time(event.offsetX));
    },
  });
  return map;
};

// ---- tips, lists, panel ------------------------------------------------------------------------

H.tip = (nodes, x, y) => {
  H.tipBox ||= document.body.appendChild(H.el("div.tip", { hidden: true }));
  H.tipBox.hidden = !nodes;
  if (!nodes) return;
  H.tipBox.replaceChildren(...nodes);
  const box = H.tipBox.getBoundingClientRect();
  H.tipBox.style.left = Math.min(x + 14, innerWidth - box.width - 8) + "px";
  H.tipBox.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18) + "px";
};

// A list of any length: only the rows in sight are elements. Beyond MOST pixels browsers lose
// exactness, so the scroll range is compressed there.
H.List = class {
  constructor(render) {
    this.render = render;
    this.rowHeight = 20;
    this.count = 0;
    this.filler = H.el("div");
    this.root = H.el("div.list", { tabIndex: 0 }, this.filler);
    this.root.addEventListener("scroll", () => this.paint());
    new ResizeObserver(() => this.paint()).observe(this.root);
  }
  setCount(count) {
    this.count = count;
    this.total = Math.min(count * this.rowHeight, 8_000_000);
    this.filler.style.height = this.total + "px";
    this.root.replaceChildren(this.filler);
    this.paint();
  }
  get room() { return Math.max(1, Math.floor(this.root.clientHeight / this.rowHeight)); }
  first() {
    const scrollable = Math.max(1, this.total - this.root.clientHeight);
    const share = this.root.scrollTop / scrollable;
    const last = Math.max(0, this.count - this.root.clientHeight / this.rowHeight);
    return H.clamp(share, 0, 1) * last;
  }
  paint() {
    const first = this.first();
    const from = Math.floor(first);
    const top = this.root.scrollTop - (first - from) * this.rowHeight;
    const rows = [];
    const room = this.room + 2;
    for (let index = from; index < Math.min(this.count, from + room); index++) {
      const row = this.render(index);
      row.style.top = top + (index - from) * this.rowHeight + "px";
      rows.push(row);
    }
    this.root.replaceChildren(this.filler, ...rows);
  }
  scrollTo(index) {
    const last = Math.max(1, this.count - this.root.clientHeight / this.rowHeight);
    const share = H.clamp((index - this.room / 2) / last, 0, 1);
    this.root.scrollTop = share * Math.max(0, this.total - this.root.clientHeight);
    this.paint();
  }
};

// Tabs over panes: H.panel([["Verdict", element], ...]).
H.panel = (panes) => {
  const bar = H.el("div.tabs", { role: "tablist" });
  const root = H.el("div.side", {}, bar);
  const show = (name) => {
    for (const [button, pane, own] of all) {
      button.setAttribute("aria-selected", own === name);
      pane.classList.toggle("on", own === name);
    }
    root.dispatchEvent(new CustomEvent("shown", { detail: name }));
  };
  const all = panes.map(([name, content]) => {
    const button = H.el("button", { role: "tab", onclick: () => show(name) }, name);
    const pane = H.el("div.pane", {}, content);
    bar.append(button);
    root.append(pane);
    return [button, pane, name];
  });
  const splitter = H.el("div.splitter", {
    onpointerdown: (event) => {
      splitter.setPointerCapture(event.pointerId);
      const move = (next) => {
        root.style.width = H.clamp(innerWidth - next.clientX, 240, innerWidth - 360) + "px";
      };
      splitter.addEventListener("pointermove", move);
      splitter.addEventListener("pointerup", () => splitter.removeEventListener("pointermove", move), { once: true });
    },
  });
  return { root, splitter, show };
};

// Keys that every page has; `more` adds a page's own: {key: [what, act]}.
H.keys = (view, more) => {
  const known = {
    ArrowLeft: ["move left", () => view.pan(-0.2)], ArrowRight: ["move right", () => view.pan(0.2)],
    "+": ["closer", () => view.zoom(0.5)], "-": ["further", () => view.zoom(2)],
    0: ["the whole run", () => view.all()], d: ["light or dark", () => document.getElementById("theme").click()],
    "?": ["this help", () => help.showModal()], ...more,
  };
  const rows = Object.entries(known).map(([key, [what]]) =>
    H.el("tr", {}, H.el("td", {}, H.el("kbd", {}, key)), H.el("td", {}, what)));
  const mouse = [["wheel", "zoom at the pointer"], ["drag", "move"], ["shift + drag", "zoom to a range"],
    ["shift + wheel", "move in time"], ["wheel over names", "scroll up and down"], ["double click", "the whole run"]];
  const help = H.el("dialog", {}, H.el("table.facts", {}, rows, mouse.map(([how, what]) =>
    H.el("tr", {}, H.el("td", {}, how), H.el("td", {}, what)))),
    H.el("form", { method: "dialog" }, H.el("p", {}, H.el("button", { autofocus: true }, "close"))));
  help.addEventListener("click", (event) => { if (event.target === help) help.close(); });
  document.body.append(help);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest && event.target.closest("input, textarea, select, dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key === "Escape" && typing) event.target.blur();
      return;
    }
    const act = known[event.key === "=" ? "+" : event.key];
    if (!act) return;
    event.preventDefault();
    act[1]();
  });
  return H.el("button", { title: "Keys and mouse (?)", onclick: () => help.showModal() }, "?");
};
