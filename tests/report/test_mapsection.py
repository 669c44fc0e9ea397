"""Sentences and table of brain maps."""

import numpy as np
import pandas as pd

from hyperdecode.report.mapsection import map_words, region_table_html

LAYERS = pd.DataFrame({"depth": [4, 19], "layer": ["a", "b"], "similarity": [0.6, 0.5], "blind_similarity": [0.5, 0.5]})
FACTS = {"n_centres": 4096, "n_beyond_chance": 1200, "alpha": 0.05}
REGIONS = {"region_deviation_p": 0.000999, "order_rho": -0.53, "order_p": 0.02, "order": ["V1", "MT"]}


def test_words_of_a_map_with_something_in_it():
    words = map_words(LAYERS, FACTS | REGIONS)
    assert words.startswith("In 1,200 of 4,096 voxels") and "1 of 2 layers are decoded better" in words
    assert "otherwise than with faces paired anew (p = 0.0010)" in words
    assert "Along V1, MT the rank of the layer has a correlation of -0.53" in words


def test_words_of_a_map_with_nothing_in_it_say_so():
    words = map_words(
        LAYERS.assign(similarity=0.4), FACTS | {"n_beyond_chance": 0} | REGIONS | {"region_deviation_p": 0.4}
    )
    assert words.startswith("In none of 4,096 voxels") and "nothing that can be told from chance" in words
    assert "0 of 2 layers" in words and "(none)" in words
    assert "no otherwise than" in words and "p = 0.4000" in words


def test_words_tell_whether_second_order_held():
    facts = FACTS | {"second_order_checked": 256, "second_order_same_layer": 0.9961, "second_order_holds": True}
    assert "To second order 99.6% of 256 neighbourhoods" in map_words(LAYERS, facts)
    assert "all were occluded exactly" in map_words(LAYERS, facts | {"second_order_holds": False})


def test_words_without_regions_say_why():
    words = map_words(LAYERS, FACTS | {"regions": "Regions are those of an atlas: name one."})
    assert words.endswith("name one.") and "correlation" not in words


def test_the_table_marks_what_is_beyond_chance():
    table = pd.DataFrame(
        {
            "region": ["V1", "V1", "V1", "<b>"],
            "layer": ["4", "19", "no layer", "4"],
            "n_voxels": [10, 30, 0, 0],
            "n_region": [40, 40, 40, 0],
            "share": [0.25, 0.75, 0.0, np.nan],
            "z": [-4.0, 5.0, np.nan, 0.0],
            "p_family": [0.01, 0.02, np.nan, 1.0],
        }
    )
    table = pd.concat([table, table.iloc[3:].assign(layer="19"), table.iloc[3:].assign(layer="no layer")])
    html = region_table_html(table)
    assert "<b>\N{MINUS SIGN} 10 (25%)</b>" in html and "<b>30 (75%)</b>" in html
    assert "no layer" not in html, "no voxel is without one"
    assert "&lt;b&gt;" in html and "<td>0</td>" in html
    assert region_table_html(table.iloc[:0]) == ""
