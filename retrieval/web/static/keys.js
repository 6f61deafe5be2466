// The keys outside of the player: from card to card, and to the search box.

import { byId } from "./dom.js";

const MOVE_KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];

export const listCards = () =>
  [...document.querySelectorAll(".cards .play")].filter((card) => card.checkVisibility());

// The card above, below or beside one; the search box is above the first row.
function findNeighbour(key, all, index) {
  if (key === "Home" || (key === "ArrowLeft" && !index)) return all[0];
  if (key === "End") return all.at(-1);
  if (key === "ArrowLeft") return all[index - 1];
  if (key === "ArrowRight") return all[Math.min(index + 1, all.length - 1)];
  const { offsetTop: top, offsetLeft: left } = all[index];
  const beyond = key === "ArrowUp"
    ? all.filter((one) => one.offsetTop < top).reverse()
    : all.filter((one) => one.offsetTop > top);
  if (!beyond.length) return key === "ArrowUp" ? byId("query") : all.at(-1);
  const row = beyond.filter((one) => one.offsetTop === beyond[0].offsetTop);
  const distance = (one) => Math.abs(one.offsetLeft - left);
  return row.reduce((best, one) => (distance(one) < distance(best) ? one : best));
}

export function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const query = byId("query");
  const { activeElement: active } = document;
  const isTyping = active.matches("input:not([type=radio]):not([type=checkbox]), select");
  const cards = listCards();
  const index = cards.indexOf(active.closest(".cards > li")?.querySelector(".play"));
  if ((event.key === "/" && !isTyping) || (event.key === "Escape" && index >= 0)) {
    query.focus();
    query.select();
  } else if (event.key === "ArrowDown" && active === query && cards.length) {
    cards[0].focus();
  } else if (MOVE_KEYS.includes(event.key) && index >= 0) {
    findNeighbour(event.key, cards, index).focus();
  } else {
    return;
  }
  event.preventDefault();
}
