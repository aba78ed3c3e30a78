// A single-page app as a front-end developer would write it; what concerns tracking is marked.
const QUOTES = { ACME: [182.4, 1.2], GLOBEX: [71.05, -0.4], INITECH: [12.9, 0.3], HOOLI: [944.1, -2.1], STARK: [305.6, 0.8] };
const $ = (id) => document.getElementById(id);
const orders = [];

tracker.init(settings.tracker); // tracking: views, errors and vitals need nothing else

function show() {
  for (const section of document.querySelectorAll("[data-view]")) {
    section.hidden = section.dataset.view !== location.pathname;
  }
  for (const link of document.querySelectorAll("[data-route]")) {
    link.ariaCurrent = link.pathname === location.pathname ? "page" : null;
  }
}

function go(path) {
  history.pushState({}, "", path); // tracking: this is a page view
  show();
}

function drawOrders() {
  $("open-orders").textContent = orders.length;
  $("no-orders").hidden = orders.length > 0;
  $("orders").replaceChildren(
    ...orders.map((order) => {
      const item = document.createElement("li");
      item.textContent = `${order.side} ${order.quantity} ${order.symbol} `;
      const cancel = document.createElement("button");
      cancel.textContent = "Cancel";
      cancel.onclick = () => {
        orders.splice(orders.indexOf(order), 1);
        tracker.track("order_cancelled", { category: "trading", priority: "high", properties: order }); // tracking
        drawOrders();
      };
      item.append(cancel);
      return item;
    }),
  );
}

for (const [symbol, [last, change]] of Object.entries(QUOTES)) {
  const row = $("watchlist").insertRow();
  row.innerHTML = `<td><button type="button">${symbol}</button></td><td>${last}</td><td>${change}&thinsp;%</td>`;
  row.className = change < 0 ? "down" : "up";
  row.querySelector("button").onclick = () => {
    $("ticket").symbol.value = symbol;
    tracker.track("symbol_viewed", { properties: { symbol } }); // tracking
  };
}

$("ticket").onsubmit = (event) => {
  event.preventDefault();
  const { symbol, side, quantity } = Object.fromEntries(new FormData($("ticket")));
  const order = { symbol, side, quantity: Number(quantity) };
  orders.push(order);
  tracker.track("order_placed", { category: "trading", priority: "critical", properties: order }); // tracking: at once
  drawOrders();
};

$("throw").onclick = () => {
  throw new Error("the account has no balance");
};
$("reject").onclick = () => {
  Promise.reject(new Error("the account did not load"));
};

for (const link of document.querySelectorAll("[data-route]")) {
  link.onclick = (event) => {
    event.preventDefault();
    go(link.pathname);
  };
}
addEventListener("popstate", show);
show();

// What became of the events: by the tracker's word, and by the service's.
setInterval(() => {
  const { id, sequence, queued, dropped } = tracker.status();
  $("session").textContent = id;
  $("tracked").textContent = sequence;
  $("waiting").textContent = queued;
  $("dropped").textContent = dropped;
}, 200);
if (settings.readToken) {
  setInterval(async () => {
    const address = `${settings.tracker.url}/loss?session_id=${tracker.status().id}`;
    try {
      const answer = await fetch(address, { headers: { Authorization: `Bearer ${settings.readToken}` } });
      const { stored, missing } = await answer.json();
      $("stored").textContent = stored ?? "–";
      $("missing").textContent = missing ?? "–";
    } catch {
      $("stored").textContent = $("missing").textContent = "–"; // the service is away
    }
  }, 1000);
}
