import pytest

from hyperdecode.errors import UserError
from hyperdecode.memory import VARIABLE, amount, memory_bound, refuse_too_large, working_memory


def test_the_bound_is_4_gb_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert memory_bound() == 4_000_000_000 and 3e9 < working_memory() < 3.5e9
    monkeypatch.setenv(VARIABLE, " ")
    assert memory_bound() == 4_000_000_000
    monkeypatch.setenv(VARIABLE, "12.5")
    assert memory_bound() == 12_500_000_000


@pytest.mark.parametrize("said", ["much", "nan", "inf", "-4", "0", "0.5", "4GB"])
def test_what_is_no_room_for_work_is_refused(monkeypatch, said):
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(UserError, match=r"HYPERDECODE_MEMORY_GB is '.+': give gigabytes"):
        memory_bound()


def test_what_does_not_fit_is_refused_in_one_line_that_says_what_to_do(monkeypatch):
    monkeypatch.setenv(VARIABLE, "2")
    refuse_too_large(1_250_000_000, "x", "y")
    with pytest.raises(UserError) as caught:
        refuse_too_large(1_250_000_001, "all of it", "take less")
    assert str(caught.value) == (
        "all of it needs 1.25 GB, and a process may take 2 GB: take less, or set HYPERDECODE_MEMORY_GB higher"
    )
    assert amount(2_000_000) == "2 MB"
