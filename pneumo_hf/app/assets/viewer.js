// Window and level, zoom and inversion of the film, in the browser alone: nothing here asks the server.
// Everything is listened to on the document, for the film comes and goes with each answer.
"use strict";
(() => {
  const FULL = 255, DEEPEST = 12; // grey levels, and the largest zoom
  const views = new WeakMap(); // viewer -> how it shows its film
  const fresh = () => ({ level: FULL / 2, width: FULL, zoom: 1, x: 0, y: 0, inverted: false });
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const viewerOf = (target) => target instanceof Element ? target.closest(".viewer") : null;
  const stageOf = (target) => target instanceof Element ? target.closest(".viewer .stage") : null;

  function viewOf(viewer) {
    if (!views.has(viewer)) views.set(viewer, fresh());
    return views.get(viewer);
  }

  function change(viewer, changed) {
    const view = Object.assign(viewOf(viewer), changed);
    view.level = clamp(view.level, 0, FULL);
    view.width = clamp(view.width, 2, FULL);
    view.zoom = clamp(view.zoom, 1, DEEPEST);
    const stage = viewer.querySelector(".stage"), layers = viewer.querySelector(".layers");
    for (const [axis, size] of [["x", "Width"], ["y", "Height"]]) { // no further than the film's own edges
      const beyond = Math.max(0, layers[`offset${size}`] * view.zoom - stage[`client${size}`]) / 2;
      view[axis] = clamp(view[axis], -beyond, beyond);
    }
    show(viewer, view);
  }

  function show(viewer, view) {
    const sign = view.inverted ? -1 : 1, slope = FULL / view.width;
    const intercept = (view.width / 2 - view.level) / view.width;
    for (const part of viewer.querySelectorAll("feComponentTransfer > *")) {
      part.setAttribute("slope", sign * slope);
      part.setAttribute("intercept", view.inverted ? 1 - intercept : intercept);
    }
    const layers = viewer.querySelector(".layers");
    layers.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    viewer.classList.toggle("zoomed", view.zoom > 1);
    showRuler(viewer, view);
    for (const name of ["level", "width"]) viewer.querySelector(`[data-view=${name}]`).value = view[name];
    viewer.querySelector(".zoom").textContent = `${Math.round(100 * view.zoom)}%`;
    viewer.querySelector("[data-do=invert]").setAttribute("aria-pressed", view.inverted);
  }

  function showRuler(viewer, view) {
    const low = Number(viewer.dataset.low), high = Number(viewer.dataset.high), step = (high - low) / FULL;
    const ends = [view.level - view.width / 2, view.level + view.width / 2].map((level) => 100 * level / FULL);
    const [dark, bright] = view.inverted ? ["#fff", "#000"] : ["#000", "#fff"];
    viewer.querySelector(".ruler .strip").style.background =
      `linear-gradient(to right, ${dark} ${ends[0]}%, ${bright} ${ends[1]}%)`;
    // as DICOM counts a window (PS3.3 C.11.2.1.2): whole numbers, both ends included
    const level = Math.round(low + view.level * step + 0.5), width = Math.round(view.width * Math.abs(step) + 1);
    viewer.querySelector(".reading").textContent = `level ${level}, width ${width} ${viewer.dataset.unit}`;
    viewer.querySelector("[data-view=level]").setAttribute("aria-valuetext", `${level} ${viewer.dataset.unit}`);
    viewer.querySelector("[data-view=width]").setAttribute("aria-valuetext", `${width} ${viewer.dataset.unit}`);
  }

  function zoom(viewer, factor, event) {
    const view = viewOf(viewer), box = viewer.querySelector(".stage").getBoundingClientRect();
    const x = event ? event.clientX - box.left - box.width / 2 : 0, y = event ? event.clientY - box.top - box.height / 2 : 0;
    const zoomed = clamp(view.zoom * factor, 1, DEEPEST), grown = zoomed / view.zoom;
    change(viewer, { zoom: zoomed, x: x - (x - view.x) * grown, y: y - (y - view.y) * grown }); // what is pointed at stays
  }

  function move(viewer, dx, dy, windowing) {
    const view = viewOf(viewer);
    if (windowing || view.zoom === 1) change(viewer, { width: view.width + dx / 2, level: view.level + dy / 2 });
    else change(viewer, { x: view.x + dx, y: view.y + dy });
  }

  const ACTIONS = {
    in: (viewer) => zoom(viewer, 1.5),
    out: (viewer) => zoom(viewer, 1 / 1.5),
    invert: (viewer) => change(viewer, { inverted: !viewOf(viewer).inverted }),
    reset: (viewer) => change(viewer, fresh()),
    full: (viewer) => document.fullscreenElement ? document.exitFullscreen() : viewer.requestFullscreen(),
  };
  const KEYS = { "+": "in", "=": "in", "-": "out", i: "invert", 0: "reset", f: "full" };
  const ARROWS = { ArrowLeft: [-16, 0], ArrowRight: [16, 0], ArrowUp: [0, -16], ArrowDown: [0, 16] };

  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element && event.target.closest(".viewer [data-do]");
    if (button) ACTIONS[button.dataset.do](viewerOf(button));
  });
  document.addEventListener("input", (event) => {
    const name = event.target.dataset?.view;
    if (name === "strength") document.documentElement.style.setProperty("--strength", event.target.value);
    else if (name) change(viewerOf(event.target), { [name]: Number(event.target.value) });
  });
  document.addEventListener("keydown", (event) => {
    const stage = stageOf(event.target);
    if (!stage || event.ctrlKey || event.metaKey || event.altKey) return;
    const viewer = viewerOf(stage);
    if (ARROWS[event.key]) move(viewer, ...ARROWS[event.key].map((part) => viewOf(viewer).zoom === 1 ? part : -part), event.shiftKey);
    else if (KEYS[event.key]) ACTIONS[KEYS[event.key]](viewer);
    else return;
    event.preventDefault();
  });
  document.addEventListener("wheel", (event) => {
    const stage = stageOf(event.target);
    if (!stage || document.activeElement !== stage) return; // the page scrolls past a film that nobody chose
    event.preventDefault();
    zoom(viewerOf(stage), Math.exp(-event.deltaY / 400), event);
  }, { passive: false });
  document.addEventListener("dblclick", (event) => {
    const stage = stageOf(event.target);
    if (stage) zoom(viewerOf(stage), viewOf(viewerOf(stage)).zoom > 1 ? 1 / DEEPEST : 2.5, event);
  });
  document.addEventListener("pointerdown", (event) => {
    const stage = stageOf(event.target), viewer = viewerOf(stage);
    if (!stage || event.button > 0 || (event.pointerType === "touch" && viewOf(viewer).zoom === 1)) return;
    stage.setPointerCapture(event.pointerId);
  });
  document.addEventListener("pointermove", (event) => {
    const stage = stageOf(event.target);
    if (stage?.hasPointerCapture(event.pointerId)) move(viewerOf(stage), event.movementX, event.movementY, event.shiftKey);
  });
  document.addEventListener("fullscreenchange", () => {
    const words = document.fullscreenElement ? "Leave full screen" : "Full screen";
    for (const button of document.querySelectorAll(".viewer [data-do=full]")) button.textContent = words;
  });
  new MutationObserver(() => { // a new film may stand in the element of the last one, whose reading is then empty
    for (const viewer of document.querySelectorAll(".viewer"))
      if (!viewer.querySelector(".reading")?.textContent) change(viewer, fresh());
  }).observe(document, { childList: true, subtree: true });
})();
