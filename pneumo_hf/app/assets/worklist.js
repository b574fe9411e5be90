// Filters, sorts and opens the rows of a worklist; `element`, `trigger` and `watch` are gradio's. Filter and order stay when the same films are decided at another threshold.
const all = (selector) => [...element.querySelectorAll(selector)];
const visible = () => all("tbody tr").filter((row) => !row.hidden);
const opened = () => element.querySelector('tr[aria-current="true"]');
let waiting = 0, kept = { films: "" };

function say() {
  const rows = visible();
  element.querySelector(".none").hidden = rows.length > 0;
  const place = rows.indexOf(opened()) + 1, ends = { "-1": 1, 1: rows.length };
  all(".steps button").forEach((button) => {
    button.disabled = !rows.length;
    button.setAttribute("aria-disabled", String(place > 0 && place === ends[button.dataset.step])); // it keeps the focus
  });
  const name = opened()?.dataset.name, said = place ? `${place} of ${rows.length}: ${name}` : `${rows.length} films`;
  element.querySelector(".steps span").textContent = name && !place ? `${said}, not the open one` : said;
}

function open(row) {
  all('tr[aria-current="true"]').forEach((other) => other.removeAttribute("aria-current"));
  row.setAttribute("aria-current", "true");
  row.scrollIntoView({ block: "nearest" });
  const phone = matchMedia("(max-width: 767px)").matches; // the film is below the list there, else beside it
  (phone ? document.querySelector("#worklist-opened") : element).scrollIntoView();
  say();
  clearTimeout(waiting); // of rows that are passed quickly only the last one opens
  waiting = setTimeout(() => ask(row, Date.now()), 120);
  return row;
}

function ask(row, since) { // one film at a time: an event that waits would open the row of an earlier one
  const busy = document.querySelector(":is(#worklist, #worklist-film) .pending") && Date.now() - since < 20000;
  if (busy) waiting = setTimeout(() => ask(row, since), 120);
  else if (row.isConnected) trigger("open", { film: Number(row.dataset.film) }); // else the list is another by now
}

function step(by, from) {
  const rows = visible(), row = rows[Math.max(0, rows.indexOf(from) + by)];
  if (row && row !== opened()) open(row);
  return row;
}

function filter() {
  const kind = (kept.kind = element.querySelector('.kinds [aria-pressed="true"]').dataset.kind);
  const words = (kept.words = element.querySelector("input").value).toLowerCase();
  for (const row of all("tbody tr"))
    row.hidden = (kind && row.dataset.kind !== kind) || !row.dataset.name.toLowerCase().includes(words);
  say();
}

function press(button) {
  all(".kinds button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
  filter();
}

function click(head) {
  const key = head.firstChild.dataset.sort, was = head.getAttribute("aria-sort");
  const first = key === "score" ? "descending" : "ascending", second = key === "score" ? "ascending" : "descending";
  sort(head, was === first && key !== "place" ? second : first);
}

function sort(head, order) {
  const key = head.firstChild.dataset.sort, sign = order === "ascending" ? 1 : -1;
  Object.assign(kept, { key, order });
  all("th").forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
  const compare = (a, b) =>
    key === "name" ? a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }) : a.dataset[key] - b.dataset[key];
  element.querySelector("tbody").append(...all("tbody tr").sort((a, b) => sign * compare(a, b)));
  say();
}

function restore() { // of another list nothing is kept
  if (!element.querySelector("tbody")) return;
  const films = JSON.stringify(all("tbody tr").map((row) => row.dataset.name).sort());
  if (films !== kept.films) kept = { films };
  const { kind, words, key, order } = kept;
  const head = key && element.querySelector(`[data-sort="${key}"]`)?.parentElement; // not if answers are hidden
  if (head) sort(head, order);
  element.querySelector("input").value = words || "";
  press(element.querySelector(`.kinds [data-kind="${kind || ""}"]`) ?? element.querySelector(".kinds button"));
  kept.kind = kind; // the list may be without it: its answers are hidden
  const box = element.querySelector(".rows"), row = opened();
  if (row) box.scrollTop = row.offsetTop - box.clientHeight / 2; // the film that is open stays in sight
}
restore();
watch("value", restore);

element.addEventListener("click", (event) => {
  const button = event.target.closest("button"), row = event.target.closest("tbody tr");
  if (row) open(row).querySelector("button").focus({ preventScroll: true }); // the arrow keys open the next one
  else if (button?.dataset.sort) click(button.parentElement);
  else if (button?.dataset.step) step(Number(button.dataset.step), opened());
  else if (button) press(button);
});
element.addEventListener("input", filter);
element.addEventListener("keydown", (event) => {
  const row = event.target.closest(".steps") ? opened() : event.target.closest("tbody tr"), by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!row || !by) return;
  event.preventDefault();
  step(by, row)?.querySelector("button").focus();
});
