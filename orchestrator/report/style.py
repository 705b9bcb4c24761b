"""How a report looks, on light and on dark screens, and what it does under the mouse."""

from __future__ import annotations

__all__ = ["KIND_COLOURS", "SCRIPT", "STYLE"]

KIND_COLOURS: dict[str, tuple[str, str]] = {
    "training": ("#2a6fbb", "#4f93dd"),
    "evaluating": ("#45a29a", "#56b8af"),
    "saving": ("#8a63b8", "#a583d1"),
    "compiling": ("#e0b03a", "#d9aa36"),
    "waiting_for_data": ("#e8803c", "#ee8f50"),
    "coordinating": ("#6b7785", "#8794a3"),
    "planning": ("#b9ae86", "#a79d77"),
    "restoring": ("#9cc3e6", "#7da6cb"),
    "launching": ("#cdd3da", "#59626d"),
    "repeated_work": ("#e79bb0", "#c9788f"),
    "recovering": ("#cc3b32", "#e0574e"),
}
"""Colour of each kind of time on light and on dark screens, from the bottom of the band to its top:
what brings the run further, what goes with it, and what only delays it."""

_LINES = (
    ("#2a6fbb", "#5b9fe6"),
    ("#d1642a", "#ee8f50"),
    ("#2f8f6b", "#4fb892"),
    ("#8a4fb0", "#b284d6"),
    ("#b08a12", "#d9b341"),
    ("#c23b6a", "#e5719a"),
    ("#3a8fa8", "#62b8d1"),
    ("#6b7785", "#9aa7b5"),
)


def _colours(side: int) -> str:
    kinds = "".join(f"--kind-{name}:{pair[side]};" for name, pair in KIND_COLOURS.items())
    return kinds + "".join(f"--line-{number}:{pair[side]};" for number, pair in enumerate(_LINES))


_LIGHT = (
    "--page:#fbfbfa;--card:#fff;--ink:#1d2228;--soft:#5c6670;--rule:#e3e5e8;--strong:#b42318;"
    "--bad:#fdeceb;--good:#1c7a4a;--track:#e9ecef;" + _colours(0)
)
_DARK = (
    "--page:#14171a;--card:#1c2024;--ink:#e6e9ec;--soft:#9aa4ae;--rule:#31373d;--strong:#ff7b72;"
    "--bad:#3a1d1c;--good:#56c08a;--track:#2c3238;" + _colours(1)
)

STYLE = (
    ":root{color-scheme:light dark;"
    + _LIGHT
    + "}@media (prefers-color-scheme:dark){:root{"
    + _DARK
    + """}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
main{max-width:1140px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0;line-height:1.25;overflow-wrap:anywhere}
h2{font-size:19px;margin:44px 0 4px}
h3{font-size:15px;margin:22px 0 4px}
p{margin:4px 0 10px;max-width:80ch}
.soft,small,figcaption small{color:var(--soft)}
a{color:var(--line-0)}
nav{margin:14px 0 0;font-size:14px;display:flex;flex-wrap:wrap;gap:4px 16px}
.badge{display:inline-block;padding:1px 10px;border-radius:12px;font-size:13px;font-weight:600;
 border:1px solid currentColor;vertical-align:4px;margin-left:8px;white-space:nowrap}
.finished{color:var(--good)}.failed{color:var(--strong)}.interrupted,.running{color:var(--line-4)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:10px;
 margin:20px 0 6px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:9px 13px}
.tile b{display:block;font-size:21px;font-weight:600;line-height:1.3;white-space:nowrap;
 font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.trouble{background:var(--bad);border-left:4px solid var(--strong);padding:10px 14px;
 margin:16px 0;border-radius:4px;overflow-wrap:anywhere;white-space:pre-wrap}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(430px,1fr));gap:14px}
figure{margin:10px 0;background:var(--card);border:1px solid var(--rule);border-radius:8px;
 padding:11px 13px 8px;min-width:0}
.charts figure{margin:0}
figcaption{font-size:14px;margin-bottom:4px}
figcaption small{display:block;font-size:12.5px}
svg.chart{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--soft);font-size:11.5px;font-variant-numeric:tabular-nums}
.axes line{stroke:var(--soft)}.axes line.grid{stroke:var(--rule)}
.curve{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.spread{opacity:.17}
line.mark{stroke:var(--soft);stroke-dasharray:5 4}
.moment line{stroke:var(--strong);stroke-dasharray:3 3}
.moment circle{fill:var(--card);stroke:var(--strong)}
.moment text{fill:var(--strong);font-size:10px;font-weight:700}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;color:var(--soft);
 margin-bottom:2px}
i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px;
 vertical-align:-1px;font-style:normal}
.scroll{overflow-x:auto;margin:8px 0}
table{border-collapse:collapse;font-size:14px;background:var(--card);min-width:340px}
th,td{text-align:left;padding:4px 14px 4px 9px;border-bottom:1px solid var(--rule);
 vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:12.5px;white-space:nowrap;vertical-align:bottom}
.figure{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.figure small{display:block}
td code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
 font-size:12.5px;overflow-wrap:break-word}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px 14px;
 overflow-x:auto;line-height:1.45;overflow-wrap:normal}
.runs{list-style:none;padding:0;margin:12px 0}.runs li{margin:6px 0}.runs small{margin-left:18px}
.whole{white-space:nowrap}.wide{width:100%}
.bar{display:block;height:5px;border-radius:3px;background:var(--track);margin-top:3px;
 min-width:84px}
.bar span{display:block;height:100%;border-radius:3px;background:var(--line-0)}
.bar span.tight{background:var(--line-1)}
.parts{display:flex;height:14px;min-width:240px;border-radius:3px;overflow:hidden;
 background:var(--track)}
.parts span{height:100%}
details{margin:8px 0}summary{cursor:pointer;color:var(--line-0)}
.better{color:var(--good)}.worse{color:var(--strong)}
#tip{position:fixed;pointer-events:none;display:none;background:var(--ink);color:var(--page);
 padding:6px 10px;border-radius:6px;font-size:12.5px;z-index:9;max-width:320px;
 font-variant-numeric:tabular-nums}
.cross{stroke:var(--soft);pointer-events:none}
@media (max-width:560px){.charts{grid-template-columns:1fr}}
@media (max-width:720px){figure{overflow-x:auto}
 figure:not(.charts figure) svg.chart{min-width:760px}}
@media print{nav,#tip{display:none}figure,table{break-inside:avoid}}
"""
)
"""The page's style sheet."""

SCRIPT = """
(function () {
  var tip = document.createElement('div'); tip.id = 'tip'; document.body.appendChild(tip);
  function line(colour, words) {
    var row = document.createElement('div'), mark = document.createElement('i');
    mark.style.background = colour; row.appendChild(mark);
    row.appendChild(document.createTextNode(words)); tip.appendChild(row);
  }
  function head(words) {
    var row = document.createElement('b'); row.textContent = words; tip.appendChild(row);
  }
  function clock(s) {
    if (s < 60) return s.toFixed(1) + ' s';
    if (s < 3600) return Math.floor(s / 60) + ' min ' + Math.floor(s % 60) + ' s';
    return Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min';
  }
  document.querySelectorAll('svg.chart').forEach(function (svg) {
    var shown = JSON.parse(svg.getAttribute('data-shown')), box = shown.box;
    var cross = document.createElementNS('http://www.w3.org/2000/svg', 'line');
    cross.setAttribute('class', 'cross'); cross.setAttribute('y1', box[1]);
    cross.setAttribute('y2', box[3]); cross.style.display = 'none'; svg.appendChild(cross);
    function leave() { tip.style.display = 'none'; cross.style.display = 'none'; }
    svg.addEventListener('pointerleave', leave);
    svg.addEventListener('pointermove', function (event) {
      var edge = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / edge.width;
      var at = (event.clientX - edge.left) * scale, share = (at - box[0]) / (box[2] - box[0]);
      if (share < 0 || share > 1) { leave(); return; }
      tip.textContent = '';
      if (shown.parts) {
        var place = Math.min(shown.parts.length - 1, Math.floor(share * shown.parts.length));
        head(clock(share * shown.end));
        for (var k = shown.kinds.length - 1; k >= 0; k--) {
          var part = shown.parts[place][k], name = shown.kinds[k];
          if (part > 0) line('var(--kind-' + name + ')',
            name.replace(/_/g, ' ') + '  ' + (100 * part).toFixed(0) + ' %');
        }
      } else {
        var x = shown.x[0] + share * (shown.x[1] - shown.x[0]), nearest = null;
        shown.lines.forEach(function (one) {
          one.near = one.points.reduce(function (best, point) {
            return Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best; });
          if (!nearest || Math.abs(one.near[0] - x) < Math.abs(nearest - x)) nearest = one.near[0];
        });
        head(Math.round(nearest).toLocaleString('en') + ' ' + shown.across);
        shown.lines.forEach(function (one) { line(one.colour, one.name + '  ' + one.near[2]); });
        at = box[0] + (nearest - shown.x[0]) / (shown.x[1] - shown.x[0]) * (box[2] - box[0]);
      }
      cross.setAttribute('x1', at); cross.setAttribute('x2', at); cross.style.display = '';
      tip.style.display = 'block';
      tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px';
      tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + 'px';
    });
  });
})();
"""
"""Shows figures under the mouse; the page says all that matters without it."""
