"""Tests that ask for the network, for `test_no_network` to run: what becomes of them."""

import contextlib
import urllib.request

import pytest


def ask():
    with contextlib.suppress(Exception):
        urllib.request.urlopen("http://192.0.2.1/", timeout=0.01)


def test_that_hides_what_became_of_it():
    ask()


@pytest.mark.network
def test_that_may():
    ask()


def test_that_asks_for_nothing():
    pass
