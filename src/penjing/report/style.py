"""How a report looks: one style sheet for screens wide and narrow, light and dark, and for paper.

Ink, paper, one colour for data (teal) and one for what was chosen (vermilion, as of a seal): they differ in
lightness as well, so that they are told apart without seeing colours. Fonts are the system's own.
"""

LIGHT = """
  --paper: #fcfbf8; --raised: #f4f2ec; --ink: #211f1b; --soft: #5f5a51; --rule: #d8d3c7; --grid: #e7e3d9;
  --teal: #1f5c69; --cell: #1f5c69; --seal: #b33a24; --field: #1f5c69; --on-seal: #fff8f2;
  --s0: #1f5c69; --s1: #c8922b; --s2: #79aebd; --s3: #7b4f7d; --s4: #9aa15a; --s5: #3d77b0; --s6: #c9775f;
  --s7: #b8b2a6;
"""
DARK = """
  --paper: #161513; --raised: #201f1c; --ink: #e9e5db; --soft: #a8a296; --rule: #3b3832; --grid: #2b2925;
  --teal: #7fb9c6; --cell: #4c93a4; --seal: #e67c63; --field: #7fb9c6; --on-seal: #1d0f0b;
  --s0: #7fb9c6; --s1: #d9ac54; --s2: #3f7280; --s3: #b58db6; --s4: #b5bc7a; --s5: #78a7d8; --s6: #b0604a;
  --s7: #6b665c;
"""

SCREEN = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.62 var(--serif); }
main, footer { max-width: 43rem; margin: 0 auto; padding: 0 1.125rem; }
:lang(zh) { line-height: 1.78; }
header { padding: 3.2rem 0 0; }
.kicker { display: flex; justify-content: space-between; gap: 1rem; margin: 0 0 2.6rem;
  padding-bottom: .55rem; border-bottom: 1px solid var(--rule); color: var(--soft);
  font: .875rem/1.4 var(--sans); letter-spacing: .01em; }
.kicker span:first-child { letter-spacing: .05em; }
.opening { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 0 2.2rem; align-items: start; }
h1 { margin: 0 0 1.1rem; font: 400 1.12rem/1.4 var(--serif); font-style: italic; color: var(--soft);
  overflow-wrap: anywhere; }
:lang(zh) h1 { font-style: normal; }
.claim { margin: 0; font-size: clamp(1.4rem, 4.2vw, 1.95rem); line-height: 1.32; letter-spacing: -.006em;
  text-wrap: pretty; overflow-wrap: break-word; }
:lang(zh) .claim { line-height: 1.5; letter-spacing: 0; }
.claim b { font-weight: 400; white-space: nowrap; border-bottom: 2px solid var(--seal); }
.infeasible .claim b { border-bottom-color: var(--soft); white-space: normal; }
.seal { width: 5.4rem; height: 5.4rem; margin-top: .35rem; }
.seal rect { fill: var(--seal); }
.seal .inner { fill: none; stroke: var(--on-seal); stroke-width: 1; }
.seal text { fill: var(--on-seal); font: 600 17px var(--sans); letter-spacing: .06em; text-anchor: middle; }
.seal .small { font-weight: 400; font-size: 8.6px; letter-spacing: .1em; }
.infeasible .seal rect { fill: none; stroke: var(--soft); stroke-width: 1.6; stroke-dasharray: 5 4; }
.infeasible .seal .inner { stroke: none; }
.infeasible .seal text { fill: var(--soft); font-size: 12px; letter-spacing: .02em; }
.infeasible .seal .small { font-size: 8.6px; }
.explained { margin: 1.5rem 0 0; color: var(--soft); }
.caution { margin: 1.5rem 0 0; padding: .1rem 0 .1rem 1rem; border-left: 3px solid var(--seal); }
section { margin: 3.6rem 0 0; }
h2 { margin: 0 0 1.15rem; font: 400 1.42rem/1.3 var(--serif); letter-spacing: -.004em; }
h3 { margin: 2.2rem 0 .9rem; font: 600 .9375rem/1.4 var(--sans); }
p { margin: 0 0 1rem; }
table { width: 100%; border-collapse: collapse; font: .9375rem/1.45 var(--sans); font-variant-numeric:
  tabular-nums; }
th, td { padding: .5rem 0 .5rem 1rem; text-align: right; vertical-align: baseline; }
th:first-child { padding-left: 0; text-align: left; overflow-wrap: anywhere; }
thead th { padding-top: 0; font-weight: 400; color: var(--soft); border-bottom: 1px solid var(--ink); }
tbody th { font-weight: 400; }
tbody tr + tr > * { border-top: 1px solid var(--grid); }
tbody tr:last-child > * { border-bottom: 1px solid var(--rule); }
.limits { margin-top: 2rem; }
tr.chosen > * { color: var(--seal); }
figure { margin: 0; }
figure + figure, table + figure { margin-top: 2.2rem; }
figcaption, .note { margin: .9rem 0 0; color: var(--soft); font: .9375rem/1.55 var(--serif); }
:lang(zh) figcaption, :lang(zh) .note { line-height: 1.7; }
svg { display: block; width: 100%; height: auto; font-family: var(--sans); }
.wide { display: none; }
svg text { fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .number, svg .title, svg .faint { fill: var(--soft); }
svg .strong { font-weight: 600; }
svg .axis { stroke: var(--ink); stroke-width: 1; fill: none; }
svg .grid { stroke: var(--grid); stroke-width: 1; fill: none; }
svg .allowed { fill: var(--field); fill-opacity: .09; }
svg .limit { stroke: var(--teal); stroke-width: 1.2; stroke-dasharray: 5 4; fill: none; }
svg .limit-name { fill: var(--teal); }
svg .name, svg .chosen-name, svg .limit-name { paint-order: stroke; stroke: var(--paper); stroke-width:
  3px; stroke-opacity: .8; }
svg .frontier { stroke: var(--teal); stroke-width: 1.4; stroke-opacity: .5; fill: none; }
svg .whisker { stroke: var(--teal); stroke-width: 1.4; fill: none; }
svg .measured { fill: var(--teal); stroke: var(--paper); stroke-width: 1.2; }
svg .predicted { fill: var(--paper); stroke: var(--teal); stroke-width: 1.3; }
svg .chosen { fill: var(--seal); stroke: var(--paper); stroke-width: 1.4; }
svg .chosen-name { fill: var(--seal); font-weight: 600; }
svg .roof { stroke: var(--ink); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
svg .bar { fill: var(--teal); }
svg .bar-better { fill: var(--teal); fill-opacity: .45; }
svg .mean { stroke: var(--ink); stroke-width: 1.4; fill: none; }
svg .mean-name { fill: var(--ink); }
svg .upper { stroke: var(--seal); stroke-width: 1.6; fill: none; stroke-dasharray: 4 3; }
svg .upper-name { fill: var(--seal); font-weight: 600; }
svg .cell { fill: var(--cell); }
svg .dot { fill: var(--seal); stroke: var(--paper); stroke-width: 1; }
svg .interval { stroke: var(--seal); stroke-width: 2.2; fill: none; }
svg .s0 { fill: var(--s0); } svg .s1 { fill: var(--s1); } svg .s2 { fill: var(--s2); }
svg .s3 { fill: var(--s3); } svg .s4 { fill: var(--s4); } svg .s5 { fill: var(--s5); }
svg .s6 { fill: var(--s6); } svg .s7 { fill: var(--s7); }
details { margin-top: 1rem; font: .9375rem/1.5 var(--sans); }
summary { cursor: pointer; color: var(--teal); width: fit-content; }
details .scroll { margin-top: .8rem; max-height: 30rem; overflow: auto; }
details td, details th { padding: .3rem 0 .3rem .9rem; white-space: nowrap; }
details th:first-child { white-space: normal; }
.samples article { margin: 0 0 1.9rem; }
.samples h3 { margin: 0 0 .3rem; color: var(--soft); font-weight: 400; font-size: .875rem; }
.sides { display: grid; grid-template-columns: minmax(0, 1fr); gap: .9rem 1.5rem; margin-top: .9rem; }
pre { margin: 0; font: .875rem/1.6 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; }
.sides pre { border-top: 1px solid var(--rule); padding-top: .6rem; }
.sides div:last-child pre { border-top-color: var(--seal); }
.same { color: var(--soft); }
.command { display: flex; gap: 1rem; align-items: baseline; justify-content: space-between; margin: 0 0 .5rem;
  padding: .8rem 1rem; background: var(--raised); border-radius: 3px; }
.command pre { user-select: all; -webkit-user-select: all; }
button { flex: none; border: 0; padding: .1rem .2rem; background: none; color: var(--teal); cursor: pointer;
  font: .875rem/1.4 var(--sans); }
button:focus-visible, summary:focus-visible { outline: 2px solid var(--teal); outline-offset: 3px; }
.use p { color: var(--soft); margin-bottom: 1.7rem; font-size: .9375rem; }
.samples > .note { margin: 0 0 1.7rem; }
.small { font-size: .9375rem; line-height: 1.6; }
dl { display: grid; grid-template-columns: 1fr; margin: 0; font: .875rem/1.55 var(--sans); }
dt { color: var(--soft); margin-top: .7rem; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
footer { margin-top: 4rem; padding-top: 1rem; padding-bottom: 4rem; color: var(--soft);
  font: .875rem/1.6 var(--sans); }
footer p { border-top: 1px solid var(--rule); padding-top: 1rem; margin: 0; }
@media (max-width: 34rem) {
  header { padding-top: 1.6rem; }
  .kicker { margin-bottom: 1.6rem; }
  .opening { grid-template-columns: 1fr; }
  .seal { width: 4.6rem; height: 4.6rem; margin: 1.4rem 0 0; }
  table { font-size: .875rem; }
  th, td { padding-left: .6rem; }
  section { margin-top: 3rem; }
}
@media (min-width: 44.5rem) {
  .wide { display: block; } .narrow { display: none; }
  .sides { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  dl { grid-template-columns: 11rem minmax(0, 1fr); gap: .45rem 1rem; }
  dt { margin: 0; }
}
@media screen and (min-width: 72rem) {
  main, footer { max-width: 65rem; }
  header, section, footer p { padding-right: 20rem; }
  .kicker { margin-right: -20rem; }
  .opening { grid-template-columns: minmax(0, 1fr) 17.5rem; gap: 0 2.5rem; margin-right: -20rem; }
  .opening .seal { justify-self: start; margin-top: 2.9rem; }
  .beside { display: grid; grid-template-columns: minmax(0, 1fr) 17.5rem; gap: 0 2.5rem; margin-right:
  -20rem; }
  .beside > figcaption, .beside > .note { margin: 0; font-size: .9375rem; }
}
"""

PAPER = """
@page { size: A4; margin: 17mm 19mm; }
@media print {
  html { font-size: 10.4pt; }
  body { background: none; }
  main, footer { max-width: none; padding: 0; }
  header { padding-top: 0; }
  section { margin-top: 2.4rem; }
  h2, h3, thead { break-after: avoid; }
  figure, tr, article, .command, .limits { break-inside: avoid; }
  button, summary, details { display: none; }
  .wide { display: block; } .narrow { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

FONTS = """
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", P052, Georgia, "Noto Serif",
    "Songti SC", "Noto Serif CJK SC", "Source Han Serif SC", SimSun, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "PingFang SC",
    "Microsoft YaHei", "Noto Sans CJK SC", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
"""

STYLE = (
    f":root {{ color-scheme: light dark;{FONTS}{LIGHT}}}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{{DARK}}} }}\n{SCREEN}{PAPER}"
)

# All that a script does here: buttons that copy a command, which are hidden without it.
SCRIPT = (
    'if(navigator.clipboard)document.querySelectorAll("button").forEach(b=>{b.hidden=false;b.onclick=()=>'
    "navigator.clipboard.writeText(b.previousElementSibling.textContent)"
    ".then(()=>{b.textContent=b.dataset.copied})})"
)
