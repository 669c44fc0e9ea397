import io
import os
import pickle
import struct
import subprocess
from collections import OrderedDict

import numpy as np
import pytest

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.pickled_values import DICT_SYMBOLS, NUMPY_SYMBOLS, SET_SYMBOLS, array_of, plain, plain_dict
from hyperdecode.weights.pickles import Call, PersistentId, Symbol, read_pickle

ALLOWED = NUMPY_SYMBOLS | DICT_SYMBOLS | SET_SYMBOLS
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(data, allowed=ALLOWED):
    return read_pickle(io.BytesIO(data), allowed, "odd.pkl", "test file")


def refused(data, words, allowed=ALLOWED):
    with pytest.raises(WeightFileError) as error:
        read(data, allowed)
    message = str(error.value)
    assert message.startswith("odd.pkl: ") and "\n" not in message and len(message) < 300
    assert words in message, message


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        [None, True, False, 0, -1, 255, 65536, 2**40, -(2**70), 1.5, "é", "a'\n"],
        {"a": (), 1: (1,), 2.5: (1, 2), None: (1, 2, 3), "k": (1, 2, 3, 4)},
        [[[["deep"]]], {"x": {"y": {}}}],
        ["x" * 300, list(range(2000)), {str(k): k for k in range(2000)}],
    ],
)
def test_plain_values_of_every_protocol(value, protocol):
    found = read(pickle.dumps(value, protocol))
    assert found == value and repr(found) == repr(value)


@pytest.mark.parametrize("value", [b"", b"\xff\0", b"y" * 300])
def test_byte_strings(value):
    for protocol in (3, 4, 5):
        assert read(pickle.dumps({value: [value]}, protocol)) == {value: [value]}
    call = read(pickle.dumps(value, 2))
    assert call.args == ((value.decode("latin-1"), "latin1") if value else ())


def test_frozen_and_growing_sets():
    assert read(pickle.dumps([{1, 2}, frozenset("ab")], 4)) == [{1, 2}, frozenset("ab")]
    (call,) = read(pickle.dumps([{1, 2}], 2))
    assert call.function.name == "set" and plain(call, "odd.pkl", "it") == [1, 2]


def test_shared_and_cyclic_references():
    shared = [1]
    first, second = read(pickle.dumps([shared, shared], 4))
    assert first is second
    cycle = []
    cycle.append(cycle)
    found = read(pickle.dumps(cycle, 4))
    assert found[0] is found
    with pytest.raises(WeightFileError, match="nested without end"):
        plain(found, "odd.pkl", "the settings")


def test_references_that_unfold_without_end():
    value = ["x"]
    for _ in range(30):
        value = [value, value]
    data = pickle.dumps(value, 4)
    assert len(data) < 500
    with pytest.raises(WeightFileError, match="nested without end"):
        plain(read(data), "odd.pkl", "the settings")


def test_several_pickles_in_a_row_and_what_stands_behind():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps("two", 0) + b"rest")
    assert read_pickle(stream, (), "odd.pkl", "file") == 1 and read_pickle(stream, (), "odd.pkl", "file") == "two"
    assert stream.read() == b"rest"


def test_persistent_ids_are_notes_and_are_collected():
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", value[0]) if isinstance(value, tuple) else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump([("a",), ("b",)])
    seen = []
    found = read_pickle(io.BytesIO(stream.getvalue()), (), "odd.pkl", "file", seen)
    assert [node.value for node in found] == [("storage", "a"), ("storage", "b")] and seen == found
    assert all(isinstance(node, PersistentId) for node in found)
    assert read(b"Pabc\n.").value == "abc"


def test_calls_are_notes():
    class Old:  # the opcodes INST and OBJ, which Python itself no longer writes
        pass

    allowed = {"a.b.C"}
    for data in (
        b"(I1\nS'x'\nia.b\nC\n.",
        b"(ca.b\nC\nI1\nS'x'\no.",
        b"ca.b\nC\n(I1\nS'x'\ntR.",
        b"ca.b\nC\n(I1\nS'x'\nt\x81.",
    ):
        call = read(data, allowed)
        assert (call.function, call.args, call.kwargs) == (Symbol("a.b", "C"), (1, "x"), {})
    call = read(b"ca.b\nC\n(t}S'k'\nI2\ns\x92}S'state'\nI3\nsb.", allowed)
    assert (call.args, call.kwargs, call.state) == ((), {"k": 2}, {"state": 3})
    call = read(b"ca.b\nC\n(tR(I1\nI2\ne(S'k'\nI3\nu.", allowed)
    assert call.items == [1, 2] and call.pairs == [("k", 3)]


class Attack:
    """Makes `pickle` write a call of `function`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def test_the_watch_sees_code_that_runs(nothing_runs):
    with pytest.raises(AssertionError, match="exec"), nothing_runs():
        eval("1")
    with pytest.raises(AssertionError, match="find_class"), nothing_runs():
        pickle.loads(pickle.dumps(OrderedDict()))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_called(tmp_path, nothing_runs, protocol):
    canary = tmp_path / "canary"
    touch = f"open({str(canary)!r}, 'w').close()"
    attacks = {
        "system": Attack(os.system, f"touch {canary}"),
        "eval": Attack(eval, touch),
        "exec": Attack(exec, touch),
        "getattr": Attack(getattr, "text", "upper"),
        "__import__": Attack(__import__, "os"),
        "Popen": Attack(subprocess.Popen, ["touch", str(canary)]),
        "open": Attack(open, str(canary), "w"),
        "chain": Attack(map, eval, [touch]),
    }
    for name, attack in attacks.items():
        data = pickle.dumps({"weights": [attack]}, protocol)
        with nothing_runs():
            refused(data, {"chain": "map"}.get(name, name))
    assert not canary.exists()
    pickle.loads(pickle.dumps(attacks["eval"]))
    assert canary.exists()  # the attack is a real one


NAMES = """
posix.system nt.system os.system builtins.eval __builtin__.eval builtins.getattr runpy._run_code operator.attrgetter
functools.partial copyreg._reconstructor numpy.load numpy.core.multiarray.fromfile torch.load torch.hub.load
torch.storage._load_from_bytes importlib.import_module types.CodeType types.FunctionType marshal.loads ctypes.CDLL
collections.defaultdict dnnlib.util.open_url numpy.f2py.capi_maps.eval
"""


@pytest.mark.parametrize("name", NAMES.split())
def test_names_that_no_array_needs(name):
    module, _, attribute = name.rpartition(".")
    refused(f"c{module}\n{attribute}\n.".encode(), name)
    text = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, attribute))
    refused(b"\x80\x04" + text + b"\x93.", name)
    refused(f"(i{module}\n{attribute}\n.".encode(), name)


def test_a_dotted_attribute_is_no_way_round():
    text = b"".join(b"\x8c" + bytes([len(word)]) + word for word in (b"numpy", b"core.multiarray.scalar"))
    refused(b"\x80\x04" + text + b"\x93.", "numpy.core.multiarray.scalar")
    refused(b"cnumpy.core\nmultiarray.scalar\n.", "numpy.core.multiarray.scalar")


HOSTILE = {
    "an empty stack": b".",
    "two values": b"NN.",
    "an open mark": b"(N.",
    "the stack below the mark": b"N(0a.",
    "tuple of nothing": b"\x85.",
    "no mark": b"e.",
    "append to a number": b"I1\nNa.",
    "set a key of a list": b"]NNs.",
    "a key without a value": b"}(Nu.",
    "an unhashable key": b"}]Ns.",
    "a nested key": b"}(ttNs.",
    "colliding keys": b"}\x8a\x09" + (2**64).to_bytes(9, "little") + b"Ns.",
    "a set member": b"\x8f(]\x90.",
    "call of a number": b"I1\n)R.",
    "call of a call": b"cnumpy\ndtype\n)R)R.",
    "arguments no tuple": b"cnumpy\ndtype\n]R.",
    "state of a list": b"]}b.",
    "keyword arguments no dict": b"cnumpy\ndtype\n)]\x92.",
    "a global named by numbers": b"K\x01K\x02\x93.",
    "recall of nothing": b"h\x05.",
    "memory bomb": b"Nr\xff\xff\xff\x7f.",
    "negative memory": b"Np-1\n.",
    "extension": b"\x82\x01.",
    "out-of-band buffer": b"\x97.",
    "protocol": b"\x80\x09N.",
    "unknown opcode": b"\xff.",
    "absurd integer": b"\x8b" + struct.pack("<I", 5000) + b"\x7f" * 5000 + b".",
    "a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "cut off": pickle.dumps({"a": "text"})[:-4],
    "promise of bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "promise of text": b"X" + struct.pack("<I", 2**32 - 1) + b"x.",
    "negative length": b"T\xff\xff\xff\xff.",
    "no text": b"X\x02\0\0\0\xff\xfe.",
    "deep marks": b"(" * 5000 + b".",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_well_formed_pickle(name):
    refused(HOSTILE[name], "")


@pytest.mark.filterwarnings("error")
def test_odd_escapes_are_no_concern_of_the_user():
    assert read(b"S'a\\o'\n.") == "a\\o"


def test_too_many_steps(monkeypatch):
    monkeypatch.setattr("hyperdecode.weights.pickles.MAX_OPCODES", 100)
    assert read(b"N0" * 49 + b"N.") is None
    refused(b"N0" * 50 + b"N.", "more than 100 steps")


def test_deep_nesting_is_read_and_never_walked():
    found = read(b"]" * 1 + b"\x85" * 300_000 + b".")
    with pytest.raises(WeightFileError, match="nested without end"):
        plain(found, "odd.pkl", "the settings")


# NumPy


ARRAYS = [
    np.arange(6, dtype="<f4").reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype="<f8").reshape(2, 3)),
    np.arange(4, dtype=">f4"),
    np.array([1, -2], "<i2"),
    np.array([1.5, 2.0], "<f2"),
    np.array([True, False]),
    np.array(7, "<i8"),
    np.zeros((0, 3), "<f4"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("k", range(len(ARRAYS)))
def test_arrays_of_every_protocol(k, protocol):
    array = ARRAYS[k]
    found = array_of(read(pickle.dumps(array, protocol)), "odd.pkl")
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", (2, 3))
def test_arrays_by_the_names_of_the_older_numpy(protocol):
    data = pickle.dumps([ARRAYS[0], np.float64(2.5)], protocol).replace(b"numpy._core.", b"numpy.core.")
    array, scalar = read(data)
    np.testing.assert_array_equal(array_of(array, "odd.pkl"), ARRAYS[0])
    assert array_of(scalar, "odd.pkl").item() == 2.5 and plain(scalar, "odd.pkl", "it") == 2.5


def test_arrays_of_python_2():
    """Python 2 writes an array's bytes as a string, which Python 3 reads by latin-1."""
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + np.array([1.5, -2.0], "<f4").tobytes()
        + b"tb."
    )
    np.testing.assert_array_equal(array_of(read(data), "odd.pkl"), np.array([1.5, -2.0], np.float32))
    with pytest.raises(UnicodeDecodeError):
        pickle.loads(data)  # so one must say encoding="latin1" there


def edited(old, new, array=ARRAYS[0]):
    data = pickle.dumps(array, 2)
    assert data.count(old) == 1
    return data.replace(old, new)


@pytest.mark.parametrize(
    "data",
    [
        edited(b"K\x02K\x03\x86", b"K\x02K\x04\x86"),
        edited(b"K\x02K\x03\x86", b"K\x02J\xff\xff\xff\xff\x86"),
        edited(b"K\x02K\x03\x86", b"\x8a\x06\0\0\0\0\0\x01K\x03\x86"),
        edited(b"K\x02K\x03\x86", b"NK\x03\x86"),
        edited(b"K\x02K\x03\x86", b"K\x00\x8a\x05\0\0\0\0\x10\x8a\x05\0\0\0\0\x10\x87", np.zeros((2, 3))),
        edited(b"K\x02K\x03\x86", b"N"),
        edited(b"f4", b"O8"),
        edited(b"f4", b"V4"),
        edited(b"f4", b"c8"),
        edited(b"f4", b"f9"),
        edited(b"X\x01\0\0\0<", b"X\x01\0\0\0?"),
        pickle.dumps(np.array([{}], object), 2),
        pickle.dumps(np.zeros(2, [("a", "f4")]), 2),
        pickle.dumps(np.array(["a"]), 2),
        pickle.dumps(np.array([1j]), 2),
        b"cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"cnumpy.core.multiarray\nscalar\n)R.",
        b"cnumpy\nndarray\n)R.",
        b"N.",
    ],
)
def test_arrays_that_are_none(data):
    with pytest.raises(WeightFileError, match=r"^odd\.pkl: .*") as error:
        array_of(read(data), "odd.pkl")
    assert "\n" not in str(error.value)


# Settings


def test_plain_settings(files):
    class EasyDict(dict):
        pass

    settings = OrderedDict(a=1, b=[1.5, None, "x"], c=(True, {"d": b"y"}), e=np.float32(0.5), f=np.arange(3), g={1: 2})
    expected = {"a": 1, "b": [1.5, None, "x"], "c": [True, {"d": "y"}], "e": 0.5, "f": [0, 1, 2], "g": {"1": 2}}
    for protocol in PROTOCOLS:
        if protocol < 3:
            settings["c"] = (True, {"d": "y"})
        assert plain(read(pickle.dumps(settings, protocol)), "odd.pkl", "the settings") == expected
    with files.standing_in(dnnlib__util__EasyDict=EasyDict):
        data = [pickle.dumps(EasyDict(settings), protocol) for protocol in (2, 3, 4, 5)]
    for one in data:
        assert plain(read(one), "odd.pkl", "the settings") == expected


def test_settings_that_are_not_plain():
    for value, words in ((Call(Symbol("numpy", "dtype")), "no NumPy array"), (Call(Symbol("a", "b")), "'a.b'")):
        with pytest.raises(WeightFileError, match=words):
            plain([value], "odd.pkl", "the settings")
    with pytest.raises(WeightFileError, match="no dictionary"):
        plain_dict([1], "odd.pkl", "it")
