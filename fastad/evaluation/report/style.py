"""How a report looks, on screen and in print, and the keys that its enlarged pictures obey."""

STYLE = """
:root { --ink: #1a1f26; --muted: #5b6672; --line: #d5dae0; --soft: #f4f6f8; --link: #00538a;
  --wrong: #a33a00; --predicted: #f0a202; --truth: #56b4e9; color-scheme: light; }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 84rem; padding: 2rem 2rem 4rem; background: #fff;
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
a { color: var(--link); }
h1, h2, h3, p, dl, dd, figure { margin: 0; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .75rem; padding-top: .6rem;
  border-top: 2px solid var(--ink); }
h3 { font-size: 1.02rem; line-height: 1.35; margin: 2rem 0 .1rem; overflow-wrap: anywhere; }
.count { color: var(--muted); font-weight: 400; margin-left: .25em; }
.eyebrow { color: var(--muted); font-size: .85rem; }
.lead { font-size: 1.12rem; line-height: 1.45; max-width: 62em; margin: .5rem 0 0; }
.remark, .foot { color: var(--muted); max-width: 72em; }
.remark { margin-bottom: .6rem; font-size: .9rem; } .foot { font-size: .85rem; margin-top: .6rem; }
.note { border-left: 4px solid var(--wrong); background: #fdf4ee; padding: .5rem .9rem;
  margin-top: .8rem; max-width: 62em; }
nav { margin-top: 1.2rem; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .9rem; }
.verdict { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr));
  margin-top: 1.5rem; border-top: 2px solid var(--ink); border-bottom: 1px solid var(--line); }
.verdict div { padding: .7rem 1rem .8rem 0; }
.verdict dt { font-size: .85rem; color: var(--muted); }
.verdict .value { font-size: 1.75rem; line-height: 1.25; font-weight: 600; letter-spacing: -.01em; }
.verdict .value small { font-size: 1rem; font-weight: 400; }
.verdict .detail { font-size: .82rem; color: var(--muted); line-height: 1.4; }
.beside { display: grid; grid-template-columns: minmax(0, 1.9fr) minmax(17rem, 1fr);
  gap: 1rem 2.5rem; align-items: start; }
.plots { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1rem 2rem; }
.plots img, .beside img { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .36rem .8rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
th:first-child, td:first-child { text-align: left; padding-left: 0; overflow-wrap: break-word; }
.types th:first-child { min-width: 8em; max-width: 20em; }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-size: .82rem; font-weight: 600; line-height: 1.25; vertical-align: bottom;
  border-bottom: 1px solid var(--ink); }
tbody th { font-weight: 400; }
tr.total > * { font-weight: 600; border-bottom: 1px solid var(--ink); }
.oracle { color: var(--muted); }
.facts td { text-align: left; overflow-wrap: anywhere; }
.facts th { width: 15rem; color: var(--muted); }
.legend { display: flex; flex-wrap: wrap; gap: .8rem 3rem; align-items: flex-end; margin: .3rem 0;
  font-size: .85rem; }
.bar { width: 21rem; max-width: 100%; }
.bar img { width: 100%; height: .8rem; display: block; }
.bar span { display: flex; justify-content: space-between; }
.lines { display: grid; grid-template-columns: auto 1fr; gap: .1rem .6rem; align-items: center; }
.lines svg { width: 3.2rem; height: .9rem; background: #8a9098; }
.seam { fill: none; stroke: #10141a; stroke-opacity: .75; stroke-width: 3.4px; }
.predicted { fill: none; stroke: var(--predicted); stroke-width: 1.7px; }
.truth { fill: none; stroke: var(--truth); stroke-width: 1.7px; stroke-dasharray: 5 3; }
.cards { display: grid; gap: 1.1rem 1.4rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); }
.slot { scroll-margin-top: 3rem; min-width: 0; }
.open { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 3px;
  color: inherit; text-decoration: none; cursor: zoom-in; }
.panel, .stack { display: block; position: relative; }
.panel img { width: 100%; height: auto; aspect-ratio: var(--ratio); display: block;
  background: var(--soft); }
.panel svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.panel small, .steps { display: none; }
figcaption { display: flex; gap: .8em; font-size: .84rem; line-height: 1.4; padding-top: .25rem;
  white-space: nowrap; }
figcaption .relative { color: var(--muted); }
figcaption.wrong b, figcaption.wrong .relative { color: var(--wrong); }
figcaption .name { margin-left: auto; overflow: hidden; text-overflow: ellipsis; }
@media screen {
  .open:focus-visible, a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
  figure:target { position: fixed; inset: 0; z-index: 1; background: #fff; overflow: auto;
    outline: none; padding: 1rem 2rem 2rem;
    display: grid; grid-template-columns: minmax(0, 1fr) auto;
    grid-template-rows: auto 1fr; gap: .8rem 2rem; }
  figure:target .open { grid-column: 1 / -1; grid-row: 2; gap: 1rem; align-content: start;
    justify-content: center; cursor: default; pointer-events: none;
    grid-template-columns: repeat(3, minmax(0, calc(82vh * var(--ratio)))); }
  figure:target.wide .open { grid-template-columns: minmax(0, calc(90vh * var(--ratio))); }
  figure:target .panel small { display: block; font-size: .84rem; color: var(--muted);
    padding-top: .3rem; }
  figure:target figcaption { grid-row: 1; font-size: 1rem; white-space: normal; flex-wrap: wrap; }
  figure:target figcaption .name { margin: 0; overflow-wrap: anywhere; }
  figure:target .steps { grid-row: 1; display: flex; gap: 1.2rem; }
  figure:target .seam { stroke-width: 4px; }
  figure:target .predicted, figure:target .truth { stroke-width: 2px; }
}
@media screen and (max-width: 60rem) {
  body { padding: 1.2rem 1rem 3rem; }
  .beside, .plots { grid-template-columns: minmax(0, 1fr); }
  .plots img { max-width: 28rem; } .beside img { min-width: 34rem; }
  .verdict { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .verdict .value { font-size: 1.45rem; }
  .facts th { width: 8rem; }
  figure:target { grid-template-columns: minmax(0, 1fr); grid-template-rows: auto auto 1fr;
    padding: .8rem 1rem 2rem; }
  figure:target .steps { grid-row: 1; } figure:target figcaption { grid-row: 2; }
  figure:target .open { grid-row: 3; }
  figure:target:not(.tall) .open { grid-template-columns: minmax(0, 1fr); }
}
@media print {
  @page { size: A4; margin: 15mm 14mm; }
  body { font-size: 9.5pt; padding: 0; max-width: none; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  nav { display: none; } a { color: inherit; text-decoration: none; }
  h2, h3, .remark, .legend { break-after: avoid; }
  figure, tr, .verdict, .plots img, .beside > *, .note { break-inside: avoid; }
  .verdict { grid-template-columns: repeat(5, 1fr); } .verdict .value { font-size: 15pt; }
  .scroll { overflow: visible; } table { font-size: 8.5pt; } th, td { padding: .2rem .35rem; }
  .beside { grid-template-columns: 1fr; } .plots { grid-template-columns: repeat(2, 1fr); }
  .types th:first-child { min-width: 6.5em; }
  .cards { grid-template-columns: repeat(2, 1fr); gap: 3mm 5mm; }
  figcaption { font-size: 7.5pt; }
}
"""

SCRIPT = """
document.addEventListener("keydown", function (event) {
  var open = document.querySelector("figure:target");
  var name = {Escape: ".close", ArrowLeft: ".previous", ArrowRight: ".next"}[event.key];
  if (open && name && !event.altKey && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    open.querySelector(name).click();
  }
});
"""
