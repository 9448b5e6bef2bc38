"use strict";
const main = document.querySelector("main");
const place = "llasa-listen-" + main.dataset.page;
const rater = document.getElementById("rater");
const done = document.getElementById("done");
let kept = {};
try { kept = JSON.parse(localStorage.getItem(place)) || {}; } catch { /* no storage: kept until the page closes */ }
const ratings = kept.ratings || {};
rater.value = kept.rater || "";

function store() {
  done.textContent = Object.keys(ratings).length + " of " + main.dataset.count + " scored";
  try { localStorage.setItem(place, JSON.stringify({ rater: rater.value, ratings })); } catch { /* as above */ }
}
for (const input of document.querySelectorAll("input[type=radio]")) {
  input.checked = ratings[input.name] === Number(input.value);
  input.addEventListener("change", () => { ratings[input.name] = Number(input.value); store(); });
}
rater.addEventListener("input", store);
document.getElementById("save").addEventListener("click", () => {
  const found = { page: main.dataset.page, rater: rater.value.trim(), ratings };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }));
  link.download = "ratings-" + (found.rater.replace(/[^A-Za-z0-9]+/g, "-") || "listener") + ".json";
  link.click();
  URL.revokeObjectURL(link.href);
});
store();
