"""Table 1 of a reproduction: our rows beside the printed ones, attributes, and both as a section of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from safetensors.numpy import load_file

from hyperdecode.evaluation.attribute_scores import attribute_table
from hyperdecode.pipeline.released_scores import fsim_name
from hyperdecode.pipeline.reproduced import Reproduced
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.report.published import CITATION, METHOD_WORDS, PUBLISHED, paper_metric
from hyperdecode.report.table1 import p_text, table1
from hyperdecode.report.words import metric_label

__all__ = ["attribute_rows", "of_all", "paper_rows", "readable", "table1_rows", "table1_section"]


def of_all(made: Reproduced, name: str) -> pd.DataFrame:
    """Put ``scores.tsv`` or ``faces.tsv`` of all subjects and decoders together."""
    parts = []
    for one in made.released.subjects:
        for model in made.settings.all_models:
            part = pd.read_csv(made.folder(one.label, model) / name, sep="\t")
            part.insert(0, "subject", f"sub-{one.label}")
            part.insert(1, "model", made.settings.label(model))
            if name == "faces.tsv":
                part.insert(2, "face", [path.name for path in made.faces(one)])
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def table1_rows(made: Reproduced) -> pd.DataFrame:
    """Table 1: our rows with the paper's number beside them, then methods of the paper that are not run here."""
    metrics = ["lsim", fsim_name(made.released.network), "ssim_hyper-paper", "ssim_hyper-code"]
    names = {"model": "method"}
    faces = of_all(made, "faces.tsv").rename(columns=names)
    keys = ["method", "subject"]
    long = faces.melt(keys, metrics, "metric", "score")
    tests = of_all(made, "scores.tsv").rename(columns=names)
    tests["test"] = np.where(tests["p_value"].notna(), "pairing permutation", "not tested")
    table = table1(long, tests[tests["metric"].isin(metrics)])
    keys = [*keys, "metric"]
    table = table.merge(tests[[*keys, "p_random_latents"]], on=keys, how="left")
    printed = [(metric, both) for metric, method, *both in PUBLISHED if method == "hyper"]
    own = {(f"sub-{k}", metric): score for metric, both in printed for k, score in enumerate(both, 1)}
    # Another feature network's similarity has no number beside it.
    keyed = [(str(s), str(m)) for s, m in zip(table["subject"], table["metric"], strict=True)]
    table["paper_hyper"] = [
        float("nan") if m.startswith("fsim_") else own.get((s, paper_metric(m)), float("nan")) for s, m in keyed
    ]
    table["note"] = made.settings.note or None
    return table


def attribute_rows(made: Reproduced) -> pd.DataFrame | None:
    """Correlate decoded with true attribute scores (latent . normal), two-sided as the paper's Student t.

    Columns ``subject``, ``model`` and those of `hyperdecode.evaluation.attribute_scores.attribute_table`.
    """
    normals, settings = made.released.attributes, made.settings
    if normals is None:
        return None
    parts = []
    for one in made.released.subjects:
        seed = derived_seed(settings.seed, "attributes", one.label)
        for model in settings.all_models:
            found = load_file(made.folder(one.label, model) / "latents.safetensors")
            decoded, true = (normals.scores(torch.from_numpy(found[key])).numpy() for key in ("predicted", "true"))
            part = attribute_table(
                decoded, true, normals.names, alternative="two-sided", n_permutations=settings.n_permutations, seed=seed
            )
            part.insert(0, "subject", f"sub-{one.label}")
            part.insert(1, "model", settings.label(model))
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def paper_rows() -> list[str]:
    """Return what the paper prints of methods that are not run here, a line a method and metric."""
    return [
        f"{METHOD_WORDS.get(method, method)}, {metric}: {first:.4f} / {second:.4f}"
        for metric, method, first, second in PUBLISHED
        if method != "hyper"
    ]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Write Table 1 in words, a row a metric, subject and decoder, for a terminal or a report."""
    dash = "\N{EN DASH}"
    return pd.DataFrame(
        {
            "Metric": [metric_label(str(metric)) for metric in table["metric"]],
            "Subject": table["subject"],
            "Decoder": table["method"],
            "Mean ± SE": [f"{mean:.4f} ± {se:.4f}" for mean, se in table[["mean", "se"]].to_numpy()],
            "Blind": [f"{score:.4f}" for score in table["best_blind_score"]],
            "p pairing": table["p_value"].map(p_text),
            "p random": table["p_random_latents"].map(p_text),
            "Paper": [dash if np.isnan(score) else f"{score:.4f}" for score in table["paper_hyper"]],
        }
    )


def table1_section(table: pd.DataFrame, attributes: pd.DataFrame | None, words: Sequence[str]) -> Markup:
    """Write Table 1, what must be known of it, and the attributes for the report; names are escaped."""
    return Markup('{}<p class="quiet">{}</p><ul>{}</ul>{}').format(
        _scrolling(readable(table), "Table 1"),
        "The last column is printed in the paper for its own decoder; data_1.dat is its S1 and data_2.dat its S2. "
        f"Other methods of the paper, not run here (S1 / S2): {'; '.join(paper_rows())}. {CITATION}",
        Markup("").join(Markup("<li>{}</li>").format(line) for line in words),
        "" if attributes is None else _attributes_html(attributes),
    )


def _attributes_html(attributes: pd.DataFrame) -> Markup:
    said = pd.DataFrame(
        {
            "Attribute": attributes["attribute"],
            "Subject": attributes["subject"],
            "Decoder": attributes["model"],
            "r (95%)": [f"{r:.3f} ({a:.3f} to {b:.3f})" for r, a, b in attributes[["r", "low", "high"]].to_numpy()],
            "p": attributes["p_value"].map(p_text),
            "q": attributes["q_value"].map(p_text),
        }
    )
    words = (
        "Pearson correlation of decoded and true scores over test faces: p of a two-sided Student's t, q corrected for "
        "the number of attributes (Benjamini-Hochberg)."
    )
    return Markup('<h3>Attributes</h3>{}<p class="quiet">{}</p>').format(_scrolling(said, "Attributes"), words)


def _scrolling(table: pd.DataFrame, label: str) -> Markup:
    head, body = table.set_index(table.columns[0]).rename_axis(None).to_html(border=0, escape=True).split("<tbody>")
    html = Markup(head + "<tbody>" + body.replace("<th>", '<th scope="row" style="text-align:left">'))
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>').format(label, html)
