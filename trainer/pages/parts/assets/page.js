"use strict";
// Read-out of the charts: the value of every line at the pointer, or at the arrow keys' position.
function written(value, percent) {
  if (value === null) return "no finite value";
  if (percent) return (100 * value).toPrecision(3).replace(/\.?0+$/, "") + " %";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function nearest(shares, share) {
  let low = 0, high = shares.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (shares[middle] < share) low = middle; else high = middle;
  }
  return Math.abs(shares[low] - share) <= Math.abs(shares[high] - share) ? low : high;
}

for (const figure of document.querySelectorAll("[data-hover]")) {
  const plot = figure.querySelector(".plot");
  const cursor = figure.querySelector(".cursor");
  const readout = figure.querySelector(".readout");
  let lines = null, longest = null, position = -1;

  function parse() {
    if (lines !== null) return;
    lines = JSON.parse(figure.dataset.hover);
    longest = lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));
  }

  function show(index) {
    position = Math.max(0, Math.min(longest.x.length - 1, index));
    const share = longest.share[position];
    cursor.hidden = false;
    figure.classList.add("reading");
    cursor.style.left = 100 * share + "%";
    readout.replaceChildren(figure.dataset.x + " " + Math.round(longest.x[position]).toLocaleString("en"));
    for (const line of lines) {
      const at = nearest(line.share, share);
      const item = document.createElement("span");
      const key = document.createElement("span");
      key.className = "key c" + line.colour;
      item.append(key);
      if (lines.length > 1) item.append(line.label + " ");
      const value = document.createElement("b");
      value.textContent = written(line.y[at], line.percent);
      item.append(value);
      const low = line.low && line.low[at], high = line.high && line.high[at];
      if (typeof low === "number" && typeof high === "number" && low !== high)
        item.append(" (" + written(low, line.percent) + " to " + written(high, line.percent) + ")");
      readout.append(item);
    }
  }

  function hide() {
    cursor.hidden = true;
    figure.classList.remove("reading");
    position = -1;
    readout.replaceChildren();
  }

  plot.addEventListener("pointermove", (event) => {
    parse();
    const box = plot.getBoundingClientRect();
    show(nearest(longest.share, (event.clientX - box.left) / box.width));
  });
  plot.addEventListener("pointerleave", hide);
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    parse();
    const stride = event.shiftKey ? Math.max(1, Math.round(longest.x.length / 20)) : 1;
    const from = position < 0 ? longest.x.length : position;
    show(from + (event.key === "ArrowLeft" ? -stride : stride));
    event.preventDefault();
  });
}

// Sorting: a click on a heading sorts, a second click turns the order round; empty cells stay last.
for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const column = heading.cellIndex;
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const content = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const rows = [...body.rows];
    rows.sort((a, b) => {
      const x = content(a), y = content(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const difference = Number(x) - Number(y);
      return sign * (Number.isNaN(difference) ? x.localeCompare(y, "en", { numeric: true }) : difference);
    });
    body.append(...rows);
  });
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const content = button.parentElement.querySelector("pre");
    let done = true;
    try {
      await navigator.clipboard.writeText(content.textContent);
    } catch {
      // Some browsers keep the clipboard from local files: select the text, so that one key copies it.
      getSelection().selectAllChildren(content);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// The controls would hide half of a small film: they come when it is pointed at or focused.
for (const video of document.querySelectorAll("video")) {
  video.controls = false;
  video.tabIndex = 0;
  for (const event of ["pointerenter", "focus"]) video.addEventListener(event, () => { video.controls = true; });
  for (const event of ["pointerleave", "blur"]) video.addEventListener(event, () => { video.controls = false; });
}

for (const tools of document.querySelectorAll(".tools")) {
  const gallery = tools.nextElementSibling;
  const play = tools.querySelector(".play");
  const videos = [...gallery.querySelectorAll("video")];
  play.hidden = videos.length === 0;
  play.addEventListener("click", () => {
    const start = videos.every((video) => video.paused);
    for (const video of videos) if (start) video.play(); else video.pause();
    play.textContent = start ? "Pause all" : "Play all";
  });
  const only = tools.querySelector(".only-failures");
  only.hidden = gallery.querySelector(".failed") === null;
  only.addEventListener("click", () => {
    const on = gallery.classList.toggle("failures");
    only.setAttribute("aria-pressed", String(on));
  });
}

// Paper has no scrollbars and cannot open anything.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
