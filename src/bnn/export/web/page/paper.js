// Paper: strokes by mouse, finger, pen or keys. Places are from 0 to 1 in both directions.

const PEN = 0.075; // width of a stroke
const STEP = 1 / 28; // of an arrow key
const GRID = 280; // cells of the ink's plane on a side

/** Makes a canvas paper, and calls `changed` whenever ink is added or taken away. */
function paperOn(canvas, changed) {
  let strokes = []; // each a list of places
  let drawing = null; // the stroke that a pointer is making
  const cursor = { x: 0.5, y: 0.2, down: false, shown: false }; // the pen that keys move

  const update = () => {
    show();
    changed();
  };

  function start(place) {
    const stroke = [place];
    strokes.push(stroke);
    return stroke;
  }

  function draw(context, size, ink) {
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = PEN * size;
    context.strokeStyle = ink;
    for (const [first, ...others] of strokes) {
      context.beginPath();
      context.moveTo(first.x * size, first.y * size);
      if (others.length === 0) context.lineTo(first.x * size, first.y * size); // a dot
      for (const place of others) context.lineTo(place.x * size, place.y * size);
      context.stroke();
    }
  }

  function show() {
    const size = Math.round(canvas.clientWidth * devicePixelRatio) || GRID;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    const { color, outlineColor } = getComputedStyle(canvas);
    context.clearRect(0, 0, size, size);
    draw(context, size, color);
    if (!cursor.shown) return;
    context.beginPath();
    context.arc(cursor.x * size, cursor.y * size, (PEN / 2) * size, 0, 2 * Math.PI);
    context.lineWidth = Math.max(2, size / 120);
    context.strokeStyle = outlineColor;
    context.setLineDash(cursor.down ? [] : [size / 50, size / 70]);
    context.stroke();
    context.setLineDash([]);
  }

  // --- pointers: one at a time

  const placeOf = (event) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return { x: (event.clientX - left) / width, y: (event.clientY - top) / height };
  };
  let pointer = null;

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    cursor.shown = cursor.down = false;
    drawing = start(placeOf(event));
    update();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer || !drawing) return;
    const events = event.getCoalescedEvents?.() ?? [];
    drawing.push(...(events.length ? events : [event]).map(placeOf));
    update();
  });
  for (const type of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(type, (event) => {
      if (event.pointerId === pointer) pointer = drawing = null;
    });
  }

  // --- keys

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const within = (value) => Math.min(Math.max(value, 0), 1);

  function move([x, y], step) {
    const from = { x: cursor.x, y: cursor.y };
    cursor.x = within(cursor.x + x * step);
    cursor.y = within(cursor.y + y * step);
    if (!cursor.down) return;
    if (strokes.length === 0) start(from);
    strokes.at(-1).push({ x: cursor.x, y: cursor.y });
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in arrows) {
      move(arrows[event.key], event.shiftKey ? 3 * STEP : STEP);
    } else if (event.key === " ") {
      cursor.down = !cursor.down;
      if (cursor.down) start({ x: cursor.x, y: cursor.y });
    } else if (event.key === "Escape") {
      cursor.down = false;
    } else if (event.key === "Backspace") {
      undo();
    } else if (event.key === "Delete") {
      clear();
    } else {
      return;
    }
    event.preventDefault();
    cursor.shown = true;
    update();
  });
  canvas.addEventListener("focus", () => {
    cursor.shown = canvas.matches(":focus-visible");
    show();
  });
  canvas.addEventListener("blur", () => {
    cursor.shown = cursor.down = false;
    show();
  });

  // --- what the page asks for

  function undo() {
    strokes.pop();
    cursor.down = false;
    update();
  }

  function clear() {
    strokes = [];
    drawing = null;
    cursor.down = false;
    update();
  }

  /** The ink as a plane of values from 0 to 255. */
  function ink() {
    const canvas = new OffscreenCanvas(GRID, GRID);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    draw(context, GRID, "#000");
    const rgba = context.getImageData(0, 0, GRID, GRID).data;
    return { data: Uint8Array.from({ length: GRID * GRID }, (_, i) => rgba[4 * i + 3]), width: GRID, height: GRID };
  }

  new ResizeObserver(show).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  return { ink, undo, clear };
}
