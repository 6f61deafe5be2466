"""How the page looks, on a screen of any width, light or dark, and in print; and its one script."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#57606a;--line:#d0d7de;--card:#f6f8fa;
--accent:#0969da;--good:#1a7f37;--bad:#b42318;--warn:#fff4ce;--warnline:#9a6700;
--c0:#0969da;--c1:#bc4c00;--c2:#1a7f37;--c3:#8250df;--c4:#bf3989;--c5:#6e5c00}
@media (prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e6e9ec;--soft:#a3adb8;--line:#39424c;
--card:#181e25;--accent:#58a6ff;--good:#56d364;--bad:#ff8b80;--warn:#3a2d05;--warnline:#d4a72c;
--c0:#58a6ff;--c1:#f0883e;--c2:#56d364;--c3:#bc8cff;--c4:#f778ba;--c5:#d9c95b}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1200px;padding:1rem clamp(.75rem,3vw,2rem) 3rem;background:var(--bg);
color:var(--fg);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 1rem}
h2{font-size:1.3rem;margin:2.5rem 0 .75rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:1.05rem;margin:0 0 .5rem}
p{margin:.5rem 0;max-width:75ch}
a{color:var(--accent)}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;margin:0;padding:0}
nav a{display:inline-block;padding:.4rem 0}
.soft,.said,caption,figcaption+svg+p{color:var(--soft);font-size:.875rem}
.warn{background:var(--warn);border:1px solid var(--warnline);border-radius:6px;padding:.6rem .8rem}
.swatch{display:inline-block;width:2rem;height:.6rem;margin-right:.5rem;vertical-align:middle}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem .8rem;margin:0}
dt{color:var(--soft)}dd{margin:0}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}
.c4{color:var(--c4)}.c5{color:var(--c5)}
table{border-collapse:collapse;width:100%;margin:1rem 0;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3rem 0;color:var(--fg)}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
td,thead th{overflow-wrap:normal}td{white-space:nowrap}
td.text{white-space:normal;overflow-wrap:anywhere}
th:first-child,td:first-child,td.text,th.text{text-align:left}
tbody th{font-weight:400}
thead th{font-weight:600;vertical-align:bottom}
.best th,.best td{color:var(--soft)}
th .soft{display:block}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,310px),1fr));gap:1.25rem}
figure{margin:0;min-width:0;max-width:560px}
figcaption{font-weight:600;font-size:.95rem}
svg{display:block;width:100%;height:auto}
svg text{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}
.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}.mark{fill:currentColor}
.area{stroke-width:1.5}
.area.wrong{fill:var(--c1);fill-opacity:.25;stroke:var(--c1);stroke-dasharray:4 2}
.area.right{fill:var(--c0);fill-opacity:.3;stroke:var(--c0)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,500px),1fr));gap:1rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.8rem;
min-width:0}
.card h4{font-size:.875rem;margin:.8rem 0 .35rem;color:var(--soft)}
.ranks{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:0 0 .5rem;padding:0;list-style:none}
.ranks b{font-size:1.1rem}
.own{display:grid;grid-template-columns:minmax(0,160px) minmax(0,1fr);gap:0 .8rem;
grid-template-areas:"picture about" "picture words";grid-template-rows:auto 1fr}
.own .thumb{grid-area:picture;align-self:start}.about{grid-area:about}.all-words{grid-area:words}
.own h4:first-child,.about p{margin-top:0}
.runs{grid-template-columns:repeat(auto-fit,minmax(min(100%,310px),1fr))}
.top{display:grid;grid-template-columns:repeat(5,minmax(0,1fr));gap:.4rem;list-style:none;margin:0;
padding:0}
.top li{font-size:.8rem;text-align:center;border:2px solid transparent;border-radius:6px;
padding:2px}
.top .is-right{border-color:var(--good);color:var(--good);font-weight:600}
.thumb{display:block;width:100%;aspect-ratio:4/3;background:#0b0d10 center/contain no-repeat;
border-radius:4px;-webkit-print-color-adjust:exact;print-color-adjust:exact}
.thumb.none{background:none;border:1px dashed var(--soft);color:var(--soft);font-size:.75rem;
display:flex;align-items:center;justify-content:center;text-align:center;padding:.2rem}
.words{display:flex;flex-wrap:wrap;gap:.3rem;align-items:center;margin:.3rem 0;padding:0;
list-style:none}
.word{--shade:color-mix(in srgb,var(--accent) calc(var(--a)*45%),transparent);
background:var(--shade);border:1px solid var(--line);border-radius:4px;padding:0 .35rem;
font-size:calc(.8rem + var(--a)*.45rem);-webkit-print-color-adjust:exact;print-color-adjust:exact}
.word small{font-size:.75rem}
.tools{display:none}
.js .tools{display:block}
button{font:inherit;color:inherit;background:none;border:1px solid transparent;border-radius:4px;
padding:.1rem .3rem;margin:-.1rem -.3rem;text-align:inherit;pointer-events:none}
.js button{pointer-events:auto;cursor:pointer;text-decoration:underline dotted}
button:focus-visible,a:focus-visible,summary:focus-visible{outline:2px solid var(--accent)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
.up{color:var(--good)}.down{color:var(--bad)}
summary{cursor:pointer;padding:.4rem 0}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:.5rem}
@media (min-width:641px),print{tbody th{min-width:9em}td.text{min-width:7em}}
@media (max-width:640px){
h1{font-size:1.4rem}
.own{grid-template-columns:minmax(0,120px) minmax(0,1fr);
grid-template-areas:"picture about" "words words"}
.top{grid-template-columns:repeat(3,minmax(0,1fr))}
thead{display:none}
tbody tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(96px,1fr));gap:.15rem .6rem;
border-bottom:1px solid var(--line);padding:.5rem 0}
th,td{border:0;padding:.1rem 0;text-align:left}
tbody th,td.text{grid-column:1/-1}
tbody th{font-weight:600}
td:empty{display:none}
td::before{content:attr(data-name);display:block;white-space:normal;overflow-wrap:anywhere;
color:var(--soft);font-size:.75rem}
.js .sortable thead{display:block}
.js .sortable thead tr{display:flex;flex-wrap:wrap;gap:.6rem .9rem;padding:.5rem 0}
button{padding:.4rem .3rem}
}
@media print{
:root{color-scheme:light;--bg:#fff;--fg:#000;--soft:#444;--line:#bbb;--card:#fff;--accent:#0969da;
--good:#1a7f37;--bad:#b42318;--warn:#fff4ce;--warnline:#9a6700;
--c0:#0969da;--c1:#bc4c00;--c2:#1a7f37;--c3:#8250df;--c4:#bf3989;--c5:#6e5c00}
@page{margin:14mm}
body{max-width:none;padding:0;font-size:9.5pt;line-height:1.35}
h3{font-size:10.5pt}th,td{padding:.2rem .35rem}.said{font-size:8pt}button{white-space:nowrap}
section>p,section>.ranks{break-after:avoid}
nav,.tools,.js .tools,details:not([open]){display:none}
.cards{grid-template-columns:1fr 1fr}
.plots{grid-template-columns:repeat(3,1fr)}
.own{grid-template-columns:100px minmax(0,1fr);grid-template-areas:"picture about" "words words"}
.runs{grid-template-columns:repeat(auto-fit,minmax(200px,1fr))}
.word{font-size:calc(.7rem + var(--a)*.25rem)}.word small{font-size:.65rem}
.top li{font-size:.7rem}
.card,figure,tr,li{break-inside:avoid}
h2,h3,h4,caption{break-after:avoid}
.line,.area,.mark,.swatch{-webkit-print-color-adjust:exact;print-color-adjust:exact}
.sortable tbody tr:nth-child(n+101){display:none}
}
@media screen{.printed{display:none}}
"""

SCRIPT = """
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
"""
