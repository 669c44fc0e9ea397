"""The leakage certificate: what it says is what its records say, and test trials are red."""

import re

import pytest

from hyperdecode.errors import UserError
from hyperdecode.report.certificate import CANNOT_SHOW, RED, Certificate, FittedOn, NearDuplicate, certificate_html
from tests.report.test_build import Page

TRAIN, TEST = "a" * 64, "b" * 64


def fitted(what="voxel mask", role="train", sha256=TRAIN, **more):
    return FittedOn(what, "mask_sub-01", role, 1050, sha256, "sub-01", **more)


def test_a_clean_certificate_says_what_was_looked_at():
    certificate = Certificate((fitted(), fitted("decoder")), ())
    assert certificate.clean and not certificate.leaked
    assert certificate.sentence == (
        "All 2 fits on record were made on training trials only, no test face is nearly the same as a training face, "
        "and no check was overridden."
    )
    page = Page(certificate_html(certificate))
    text = " ".join(page.text)
    assert page.open == [] and RED not in certificate_html(certificate)
    assert "1,050" in text and TRAIN[:16] in text and "none" in text and CANNOT_SHOW in text
    assert any(a.get("title") == TRAIN for _, a in page.tags)
    assert 'class="verdict"' in certificate_html(certificate)


@pytest.mark.parametrize(
    ("record", "test_lists"),
    [(fitted("mask", "test", TRAIN, note="3 of them"), ()), (fitted("mask", "train", TEST), (TEST,))],
)
def test_test_trials_are_red_by_role_and_by_list(record, test_lists):
    certificate = Certificate((fitted("decoder"), record), (), test_sha256=test_lists)
    assert certificate.leaked and not certificate.clean
    assert certificate.sentence.startswith("1 of 2 fits on record touched test trials, ")
    html = certificate_html(certificate)
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)[1:]
    assert [RED in row for row in rows] == [False, True]
    assert "touched test trials" in rows[1] and 'class="verdict no"' in html
    if record.note:
        assert "touched test trials: 3 of them" in rows[1]


def test_the_scatter_of_test_repeats_is_told_and_is_no_leak():
    certificate = Certificate((fitted(), fitted("stretch", "scatter", TEST)), (), test_sha256=(TEST,))
    assert certificate.clean
    assert "How repeats of test faces scatter, never which face it was, was used" in certificate.sentence
    assert "how their repeats scatter, never which face" in certificate_html(certificate)


def test_what_is_not_known_is_not_clean():
    unknown = FittedOn("hrf", "hrf_sub-01", "unknown", note="the record does not say")
    certificate = Certificate((fitted(), unknown), ())
    assert not certificate.clean and not certificate.leaked and "1 is not recorded" in certificate.sentence
    assert "not recorded" in certificate_html(certificate) and "the record does not say" in certificate_html(
        certificate
    )
    assert not Certificate((), ()).clean and "no record of trials" in Certificate(()).sentence
    nobody = Certificate((fitted(),))
    assert not nobody.clean and "nobody looked for near-duplicates" in nobody.sentence


def test_near_duplicates_and_overrides_are_listed_in_red():
    pairs = (NearDuplicate("t1", "x<1>", "latents", 0.21), NearDuplicate("t1", "x2", "pictures", 0.3))
    certificate = Certificate((fitted(),), pairs, ("check & balance",))
    assert not certificate.clean
    assert "1 test face is nearly the same" in certificate.sentence and "1 check was overridden" in certificate.sentence
    html = certificate_html(certificate)
    assert "x&lt;1&gt;" in html and "distance 0.21" in html and "Overridden: check &amp; balance" in html
    assert html.count(RED) == 3


def test_names_are_escaped():
    html = certificate_html(Certificate((FittedOn("<b>", "<i>", "train", 1, TRAIN, "<u>"),)))
    assert "&lt;b&gt;" in html and "&lt;i&gt;" in html and "&lt;u&gt;" in html
    assert "<b>" not in html and "<i>" not in html


def test_records_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="unknown role 'validation'"):
        fitted(role="validation")
    with pytest.raises(UserError, match="fitted on 0 trials"):
        FittedOn("mask", "step", "train", 0, TRAIN)
    with pytest.raises(UserError, match="no SHA-256"):
        fitted(sha256="a" * 63)
    with pytest.raises(UserError, match="came with the role 'unknown'"):
        fitted(role="unknown")
