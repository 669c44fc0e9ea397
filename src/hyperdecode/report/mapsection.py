"""The report's section of brain maps: sentences, figures, slices to click through, layers by region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from hyperdecode.mapping.regions import NO_LAYER
from hyperdecode.report.figures import Figure
from hyperdecode.report.table1 import p_text

__all__ = ["MapReport", "map_words", "region_table_html"]

LEVEL = 0.05
NOTHING = Markup("")
FEWER = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class MapReport:
    """Brain maps of a subject.

    Attributes
    ----------
    label : str
        ``"sub-01"``.
    words : str
        What was found, in sentences.
    figures : sequence of Figure
        The paper's Figure 8, and others.
    table : Markup
        Layers by region (`region_table_html`); empty without regions.
    viewers : sequence of (str, Markup)
        Titles and slices to click through (`hyperdecode.report.sliceviewer.interactive_slices`).
    """

    label: str
    words: str
    figures: Sequence[Figure]
    table: Markup = NOTHING
    viewers: Sequence[tuple[str, Markup]] = ()


def map_words(layers: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    """Say how much of the map is beyond chance, and whether layers differ between regions.

    Parameters
    ----------
    layers : pandas.DataFrame
        A row a layer: ``depth``, ``layer``, ``similarity``, ``blind_similarity``, ``n_beyond_chance``.
    facts : mapping
        The record of the map: ``n_centres``, ``n_beyond_chance``, ``alpha``, p-values of regions where there are any.
    """
    n, beyond = int(facts["n_centres"]), int(facts["n_beyond_chance"])
    level = float(facts.get("alpha", LEVEL))
    if beyond:
        words = (
            f"In {beyond:,} of {n:,} voxels taking out the voxels around it costs more similarity than it does with "
            f"faces paired anew (p <= {level:g} over all voxels and layers). "
        )
    else:
        words = (
            f"In none of {n:,} voxels does taking out the voxels around it cost more similarity than it does with "
            f"faces paired anew (p <= {level:g} over all voxels and layers): the map shows nothing that can be told "
            "from chance. "
        )
    better = layers[layers["similarity"] > layers["blind_similarity"]]
    words += (
        f"Activations of {len(better)} of {len(layers)} layers are decoded better than their training mean "
        f"({', '.join(str(depth) for depth in better['depth']) or 'none'}). "
    )
    if "second_order_checked" in facts:
        words += (
            f"To second order {float(facts['second_order_same_layer']):.1%} of {facts['second_order_checked']} "
            "neighbourhoods that were occluded exactly get the same layer"
            + (". " if facts["second_order_holds"] else ", too few: all were occluded exactly. ")
        )
    if "region_deviation_p" in facts:
        words += (
            "Layers are spread over regions "
            + (
                "otherwise than"
                if facts["region_deviation_p"] <= LEVEL
                else "no otherwise than chance alone explains: as"
            )
            + f" with faces paired anew ({_p(facts['region_deviation_p'])}). "
        )
    if "order_rho" in facts:
        rho = float(facts["order_rho"])
        words += (
            f"Along {', '.join(facts['order'])} the rank of the layer has a correlation of {rho:.2f} with the place of "
            f"the region ({_p(facts['order_p'])}). "
        )
    return words + (f"{facts['regions']}" if "regions" in facts else "")


def _p(value: object) -> str:
    text = p_text(float(str(value)))
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def region_table_html(table: pd.DataFrame) -> Markup:
    """Return layers by region as an HTML table: voxels and share of each cell, bold where its count is beyond chance.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a region and layer: ``region``, ``layer``, ``n_voxels``, ``n_region``, ``share``, ``p_family``.

    Returns
    -------
    Markup
        Empty for an empty table.
    """
    if not len(table):
        return Markup("")
    names = [name for name in dict.fromkeys(table["layer"]) if name != NO_LAYER or _some(table)]
    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(name) for name in ("Region", "Voxels", *names))
    rows = []
    for region, part in table.groupby("region", sort=False):
        cells = part.set_index("layer")
        rows.append(
            Markup("<tr><th scope='row'>{}</th><td>{}</td>{}</tr>").format(
                region,
                f"{int(part['n_region'].iloc[0]):,}",
                Markup("").join(_cell(cells.loc[name]) for name in names),
            )
        )
    return Markup(
        "<div class='scroll' tabindex='0' role='region' aria-label='Layers by region'><table>"
        "<caption>Voxels of each layer in each region. Bold: more, or fewer ({}), "
        "than with faces paired anew, p &lt;= {} over all cells.</caption><thead><tr>{}</tr></thead>"
        "<tbody>{}</tbody></table></div>"
    ).format(FEWER, f"{LEVEL:g}", head, Markup("\n").join(rows))


def _some(table: pd.DataFrame) -> bool:
    return bool((table.loc[table["layer"] == NO_LAYER, "n_voxels"] > 0).any())


def _cell(row: pd.Series) -> Markup:
    share, p = float(row["share"]), float(row.get("p_family", math.nan))
    text = f"{int(row['n_voxels']):,}" + ("" if math.isnan(share) else f" ({share:.0%})")
    if not math.isnan(p) and p <= LEVEL:
        sign = "" if float(row["z"]) > 0 else f"{FEWER} "
        return Markup("<td><b>{}{}</b></td>").format(sign, text)
    return Markup("<td>{}</td>").format(text)
