(function () {
  var table = document.getElementById("compare");
  if (!table) { return; }
  document.documentElement.classList.add("js");
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
  function value(row, column) {
    var cell = row.cells[column], number = cell.getAttribute("data-value");
    return number === null ? cell.textContent : parseFloat(number);
  }
  heads.forEach(function (head, column) {
    var button = head.querySelector("button");
    if (!button) { return; }
    button.addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") !== "descending", body = table.tBodies[0];
      var rows = Array.prototype.slice.call(body.rows);
      rows.sort(function (one, other) {
        var a = value(one, column), b = value(other, column);
        var order = typeof a === "string" ? a.localeCompare(b) : a - b;
        return down ? -order : order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
      heads.forEach(function (each) { each.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
})();
