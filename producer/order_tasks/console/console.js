// The operator's page: draws what the server sends. Its buttons run the commands that they show.
const token = document.querySelector("meta[name=token]").content;
const at = (id) => document.getElementById(id);
let state = {};
let source, heard;
let [armed, running] = ["", Promise.resolve()];

// An element: h("td.number", {title: "…"}, …). Texts become text nodes: nothing in a task becomes markup.
function h(kind, attributes, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (value != null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

// Makes an element equal to a fresh one. What stays keeps its node, and so the focus, the selection and what is open.
function patch(old, fresh) {
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !["open", "style"].includes(name)) old.removeAttribute(name);
  }
  const keyOf = (node) => node.dataset?.key;
  const keys = new Set([...fresh.children].map(keyOf));
  for (const child of [...old.children]) if (!keys.has(keyOf(child))) child.remove();
  let place = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const same = (node) => node.nodeName === next.nodeName && keyOf(node) === keyOf(next);
    const kept = place && (same(place) ? place : keyOf(next) && [...old.children].find(same));
    if (kept && kept === place) place = place.nextSibling;
    else old.insertBefore(kept || next, place);
    if (kept && next.nodeType === Node.TEXT_NODE) kept.data = next.data;
    else if (kept && !kept.isEqualNode(next)) patch(kept, next);
  }
  while (place) [place, place.nextSibling].reduce((gone, rest) => (gone.remove(), (place = rest)));
}

function show(id, ...children) {
  const fresh = at(id).cloneNode(false);
  fresh.append(...children.flat(Infinity).filter(Boolean));
  patch(at(id), fresh);
}

const count = (value, more) => value.toLocaleString("en") + (more ? "+" : "");
const clock = (moment) => new Date(moment).toLocaleTimeString("en-GB");
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
const command = ([verb, ...words]) =>
  verb === "break"
    ? `$ curl -H 'Content-Type: application/json' -d '${words}' $ORDER_TASKS_BREAKAGES_URL`
    : `$ python -m order_tasks ${[verb, ...words].map(quoted).join(" ")}`;

function span(seconds) {
  const [name, unit] = [["d", 86400], ["h", 3600], ["min", 60]].find(([, unit]) => seconds >= 2 * unit) ?? ["s", 1];
  return `${Math.max(0, Math.floor(seconds / unit))} ${name}`;
}

function relative(iso) {
  const seconds = (Date.parse(iso) - Date.now()) / 1000;
  return seconds > 0 ? `in ${span(seconds)}` : `${span(-seconds)} ago`;
}

const when = (iso) => (iso ? h("time", { datetime: iso, title: iso }, relative(iso)) : "–");

function button(label, words, risky, more) {
  const run = JSON.stringify(words);
  const sure = risky && armed === run;
  const attributes = { type: "button", "data-run": run, "data-risky": risky, title: command(words), ...more };
  return h(sure ? "button.armed" : "button", attributes, label, sure && ": sure?");
}

const orderButton = (id) => (id ? h("button.link", { type: "button", "data-order": id }, id) : "–");
const link = (text, href) => href && h("a", { href, target: "_blank", rel: "noopener noreferrer" }, text);

// A column's title begins with # for numbers and is > for buttons. A row begins with its key.
function table(titles, rows) {
  const kinds = titles.map((title) => ({ "#": ".number", ">": ".end" })[title[0]] ?? "");
  const names = titles.map((title) => title.replace(/^[#>]/, ""));
  const cell = (content, i) => h(`td${kinds[i]}`, { "data-title": names[i] }, content);
  const body = rows.map(([key, ...cells]) => h("tr", { "data-key": key }, names.map((_, i) => cell(cells[i], i))));
  const heads = names.map((name, i) => h(`th${kinds[i]}`, { scope: "col" }, name));
  return rows.length > 0 && h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, body));
}

function bar(kind, label, whole, parts) {
  const segments = parts.map(([colour, n]) => h(`i.${colour}`, { "data-width": whole ? `${(100 * n) / whole}%` : 0 }));
  return h(kind, { role: "img", "aria-label": label }, segments);
}

function queueCard(queue, usual, parts, whole, control, ...more) {
  const figure = (n, name) => h("span", {}, h("b", {}, count(n, queue.more)), ` ${name}`);
  const segment = ([colour, n, name]) => h(`i.${colour}`, {}, figure(n, name));
  const state = h(queue.state === usual ? "span.state" : "span.state.error", {}, queue.state);
  return h("div.card", { "data-key": queue.name },
    h("div.line", {}, h("span", {}, h("strong.id", {}, queue.name), " ", state), control),
    bar("div.bar", parts.map(([, n, name]) => `${count(n)} ${name}`).join(", "), whole, parts),
    h("div.legend", {}, parts.map(segment), queue.oldest_due && h("small", {}, "oldest due ", when(queue.oldest_due))),
    more);
}

function queueCards([main, dead]) {
  const whole = Math.max(main.tasks, dead.tasks);
  const waiting = ["accent", Math.max(0, main.waiting - main.failing), "waiting"];
  const parts = [waiting, ["warning", main.failing, "failing"], ["ok", main.in_flight, "in flight"]];
  const pausing = main.state === "PAUSED" ? button("Resume", ["resume"]) : button("Pause", ["pause"], true);
  const pausingDead = dead.state !== "PAUSED" && button("Pause", ["pause", "--dead-letters"]);
  const limit = { name: "rate", type: "number", min: 0.1, max: 500, step: "any", value: main.allowed_rate };
  const rate = h("form", { "data-run": '["rate"]' },
    h("span", {}, h("b", {}, main.rate?.toFixed(1) ?? "?"), " per second of"),
    h("input", { ...limit, "aria-label": "Rate per second" }), h("button", {}, "Set"),
    h("span.quiet", {}, `${count(main.allowed_in_flight)} at once`));
  const rateBar = bar("div.bar.thin", "rate against limit", main.allowed_rate, [["accent", main.rate ?? 0]]);
  return [
    queueCard(main, "RUNNING", parts, whole, pausing, rateBar, rate),
    queueCard(dead, "PAUSED", [["error", dead.tasks, "dead"]], whole, pausingDead),
  ];
}

const failureRow = (group) => [
  group.reason,
  h("b", {}, count(group.count)),
  [group.reason, " ", group.orders.map((id) => [orderButton(id), " "])],
  when(group.since), when(group.next_due), when(group.first_last_attempt),
];

// The log and the dashboard of exactly this task and its time
function cloudLinks({ id, path, task, created }) {
  if (state.local) return null;
  const hours = (n) => new Date(Date.parse(created) + n * 3600e3).toISOString();
  const range = `;startTime=${hours(-24)};endTime=${hours(1)}`;
  const query = encodeURIComponent(`jsonPayload.task="${task ?? id}"`);
  return [
    link("Log", `https://console.cloud.google.com/logs/query;query=${query}${range}?project=${path.split("/")[1]}`),
    link("Dashboard", state.dashboard?.replace(/(?=\?|$)/, range)),
  ];
}

const entryRow = (entry, buttons) => [
  entry.id,
  orderButton(entry.order_id),
  entry.action ?? "–",
  h("span.id", { title: entry.id }, entry.short),
  count(entry.attempts ?? entry.tries),
  [entry.state, new Date(entry.due) > Date.now() && [", due ", when(entry.due)], h("div.quiet", {}, entry.last_status)],
  [cloudLinks(entry), buttons(entry)],
];

const entries = (list, buttons) =>
  table(["order", "action", "task", "#attempts", "state", ">"], list.map((entry) => entryRow(entry, buttons)));
const taskButtons = ({ id }) => button("Run now", ["run", id]);
const letterButtons = ({ id, state }) => [
  state === "scheduled" ? button("Replay by force", ["replay", id, "--force"], true) : button("Replay", ["replay", id]),
  button("Drop", ["drop", id, "--yes"], true),
];

function letterGroup({ reason, kind, count: all, entries: some }, i) {
  return h("details", { "data-key": reason, open: i === 0 },
    h("summary", {},
      h("b.error", {}, count(all)), h("span", {}, reason, " ", h("code.quiet", {}, kind)),
      button("Replay all", ["replay", "--reason", reason]),
      button("Drop all", ["drop", "--reason", reason, "--yes"], true)),
    entries(some, letterButtons),
    all > some.length && h("p.quiet", {}, `and ${count(all - some.length)} more`));
}

function storyPanel({ story, order, local }) {
  const isOurs = (each) => each.order === order || each.subject?.split(" ").includes(order);
  const step = (line) => (line.attempt ? `attempt ${line.attempt}` : line.event);
  const events = [
    ...story.log.map((line) => [line.time, line.action, step(line), line.message, line.status]),
    ...(story.outbox ?? []).map((row) => [row.added, row.effect, "committed", row.refused ?? "waits in the outbox"]),
    ...(story.ledger ?? []).map((row) => [row.time, row.effect, row.state, "noted in the ledger"]),
    ...(local?.mails ?? []).filter(isOurs).map((mail) => [mail.at * 1000, "mail", "received", mail.subject]),
    ...(local?.calls ?? []).filter(isOurs).map((call) => [call.at * 1000, "warehouse", "called", call.id]),
  ].sort(([one], [other]) => new Date(one) - new Date(other));
  const rows = events.slice(-30).map(([moment, ...cells], i) => [i, clock(moment), ...cells]);
  const cancel = button("Cancel the order", ["cancel", order, "--yes"], true);
  return [
    h("div.line", {}, h("strong", {}, story.summary), link("Log", story.log_url), cancel),
    entries(story.tasks, taskButtons),
    entries(story.dead_letters, letterButtons),
    table(["#time", "what", "step", "message", "#answer"], rows),
    h("p.quiet", {}, story.log_trouble && `${story.log_trouble}. `, h("code", {}, story.log_command)),
  ];
}

function localPanels({ story, order, local }) {
  const subject = (each) => h("summary", {}, clock(each.at * 1000), h("span", {}, each.subject));
  const mail = (each) => h("details", { "data-key": each.id }, subject(each), h("pre", {}, each.text));
  const call = (each) => [each.id, clock(each.at * 1000), orderButton(each.order), h("span.id", {}, each.id)];
  const breakage = ([name, broken]) => {
    const look = { role: "switch", "aria-checked": `${broken}` };
    return button(name, ["break", JSON.stringify({ [name]: !broken })], false, look);
  };
  const line = ({ time, severity, message }) => `${clock(time)} ${severity.padEnd(7)} ${message}\n`;
  show("breakages", Object.entries(local.broken).map(breakage));
  show("mails", local.mails.map(mail));
  show("calls", table(["#time", "order", "key"], local.calls.map(call)));
  show("log", (story ? story.log : local.log).map(line).join(""));
  at("log-heading").textContent = story ? `Log of ${order}` : "Log";
}

function render() {
  const { situation, story, local, dashboard, trouble } = state;
  show("live", trouble ? h("span.error", {}, trouble) : ["as of ", when(heard)]);
  if (!situation) return;
  const { queues, level, headline, failures, dead_letters: letters, log_trouble: unread } = situation;
  const [, project, , location] = queues[0].path.split("/");
  document.title = `${level === "ok" ? "" : `${level}: `}${queues[0].name}`;
  show("where", `${project} · ${location} `, link("Dashboard", dashboard));
  at("health").dataset.level = level;
  show("health", headline);
  show("queues", queueCards(queues));
  const titles = ["#tasks", "reason", "since", "next attempt", "first last attempt"];
  show("failures",
    table(titles, failures.map(failureRow)) || "Nothing fails.",
    unread && h("p.quiet", {}, `${unread}. `, h("code", {}, situation.log_command)));
  show("letters", letters.length ? letters.map(letterGroup) : "There are none.");
  show("story", story && storyPanel(state));
  at("local").hidden = !local;
  if (local) localPanels(state);
  for (const part of document.querySelectorAll("[data-width]")) part.style.width = part.dataset.width;
}

// The words of the command that a control runs: its own, then its fields'
function words(control) {
  const fields = control.tagName === "FORM" ? [...control.elements].filter((field) => field.name) : [];
  return [...JSON.parse(control.dataset.run), ...fields.map((field) => (field.dataset.option ?? "") + field.value)];
}

function press(control) {
  const { run, risky } = control.dataset;
  if (risky == null || armed === run) {
    const chosen = words(control);
    armed = "";
    running = running.then(() => execute(chosen));
  } else {
    armed = run;
    setTimeout(() => ((armed = armed === run ? "" : armed), render()), 5000);
  }
  render();
}

async function execute(chosen) {
  const [output, headers] = [at("output"), { "Content-Type": "application/json", "X-Token": token }];
  output.hidden = false;
  output.textContent = `${command(chosen)}\n`;
  try {
    const answer = await fetch("run", { method: "POST", headers, body: JSON.stringify(chosen) });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) output.append(part.value);
  } catch (error) {
    output.append(`No answer: ${error.message}\n`);
  }
  output.scrollTop = output.scrollHeight;
}

// Draws what the server sees from now on, with the story of this order
function follow(order) {
  source?.close();
  source = new EventSource(`events?${new URLSearchParams({ token, order })}`);
  source.onmessage = (event) => {
    [state, heard] = [{ situation: state.situation, ...JSON.parse(event.data) }, new Date().toISOString()];
    render();
  };
  source.onerror = () => {
    state.trouble = "Not connected: does the command that serves this page still run?";
    render();
  };
}

document.addEventListener("click", (event) => {
  const control = event.target.closest("button[data-run], [data-order]");
  if (!control) return;
  event.preventDefault(); // of the group that the button is in
  if (control.dataset.run) press(control);
  else follow((at("search").value = control.dataset.order));
});
document.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.target.dataset.run) press(event.target);
  else follow(at("search").value.trim());
});
for (const kind of ["focusin", "pointerover", "input"]) {
  document.addEventListener(kind, (event) => {
    const control = event.target.closest("[data-run]");
    if (control) at("command").textContent = command(words(control));
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") at("output").hidden = true;
  if (event.key !== "/" || event.target.matches("input")) return;
  event.preventDefault();
  at("search").focus();
});
follow("");
setInterval(() => {
  for (const time of document.querySelectorAll("time")) time.textContent = relative(time.dateTime);
}, 1000);
