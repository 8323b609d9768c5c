"""Draw the README's picture of a finished run, as SVG.

`python ci/bench/picture.py runs/demo-twin-... > ci/demo.svg` makes the picture. The script needs
`pip install -e .[report]`.
"""

import sys
from pathlib import Path
from typing import Any

import vl_convert

from kvci.compare.named import compare_named
from kvci.report.claims import headlines
from kvci.rundir.parts import Run

GREY, GREEN, RED = "#8a8f98", "#2f7d4f", "#b3382c"
WIDTH, STEP, LABELS = 200, 44, 560


def rows(run: Path) -> list[dict[str, Any]]:
    """Return one row per arm: its name, resolved trials, all trials, claim and colour."""
    found = compare_named([str(run)], run / "results")
    first = found.arms[0].valid
    made = [(found.baseline_kv, first.both + first.only_baseline, first.pairs, "the baseline")]
    for arm, line in zip(found.arms, headlines(found), strict=True):
        if not arm.control:
            resolved = arm.valid.both + arm.valid.only_arm
            claim = line.removeprefix(arm.kv).removeprefix(": ").strip()
            made.append((arm.kv, resolved, arm.valid.pairs, claim))
    return [
        {
            "arm": name,
            "resolved": resolved,
            "trials": trials,
            "text": f"{resolved}/{trials}, {claim}",
            "colour": RED if "harm" in claim else GREY if claim == "the baseline" else GREEN,
        }
        for name, resolved, trials, claim in made
    ]


def picture(data: list[dict[str, Any]], model: str) -> dict[str, Any]:
    """Return the picture's Vega-Lite specification."""
    order = [one["arm"] for one in data]
    axis = {"field": "arm", "type": "nominal", "sort": order, "title": None}
    most = max(one["trials"] for one in data)
    scale = {"domain": [0, most], "range": [0, WIDTH]}
    length = {"field": "resolved", "type": "quantitative", "title": None, "scale": scale}
    labels = {"labelFontSize": 15, "labelPadding": 10, "ticks": False, "domain": False}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": data},
        "width": WIDTH + LABELS,
        "height": {"step": STEP},
        "background": "white",
        "padding": 16,
        "title": {
            "text": "Bugs that the same agent fixes, by KV-cache type",
            "subtitle": f"{model}, {most} generated bugs, one machine, paired trials",
            "anchor": "start",
            "fontSize": 17,
            "subtitleFontSize": 13,
            "subtitleColor": "#57606a",
            "offset": 14,
        },
        "config": {"font": "Helvetica, Arial, sans-serif", "view": {"stroke": None}},
        "layer": [
            {
                "mark": {"type": "bar", "height": 24, "color": "#e7e9ec"},
                "encoding": {"y": axis | {"axis": labels}, "x": {"datum": most} | _hidden(scale)},
            },
            {
                "mark": {"type": "bar", "height": 24},
                "encoding": {
                    "y": axis | {"axis": labels},
                    "x": length | {"axis": None},
                    "color": {"field": "colour", "type": "nominal", "scale": None},
                },
            },
            {
                "mark": {"type": "text", "align": "left", "fontSize": 15, "x": WIDTH + 14},
                "encoding": {
                    "y": axis | {"axis": labels},
                    "text": {"field": "text", "type": "nominal"},
                    "color": {"field": "colour", "type": "nominal", "scale": None},
                },
            },
        ],
    }


def _hidden(scale: dict[str, Any]) -> dict[str, Any]:
    return {"type": "quantitative", "scale": scale, "axis": None, "title": None}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    name = Run(folder).spec.model.name
    print(vl_convert.vegalite_to_svg(picture(rows(folder), name)))
