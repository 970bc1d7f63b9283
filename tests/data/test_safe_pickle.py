import collections
import pickle
import struct

import numpy as np
import pytest

from tests.support.fuzz import fuzz
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.safe_pickle import load_pickle

CONTENT = {
    "plain": [1, -(10**40), 2.5, None, True, b"\xff", "é", (), (1, 2, 3, 4), {"deep": [{}]}, b""],
    "big-endian": np.arange(12, dtype=">f4").reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "nothing": np.zeros((0, 3)),
    "objects": np.array([["a", b"b"], [None, {"c": np.ones(2)}]], object),
    "text": np.array(["é", "bb"]),
    "bytes": np.array([b"a", b"bcd"]),
    "scalar": np.float32(2.5),
    "ordered": collections.OrderedDict(a=1, b=2),
    ("S1", 2): "a camera's key",
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_come_back_as_they_were(protocol):
    found = load_pickle(pickle.dumps(CONTENT, protocol), "here")
    assert list(found) == list(CONTENT)
    for key, want in CONTENT.items():
        if key == "objects":
            assert found[key].shape == (2, 2)
            assert found[key].dtype == object
            assert found[key][:, 0].tolist() == ["a", None]
            assert found[key][1, 1]["c"].tolist() == [1, 1]
        elif isinstance(want, np.ndarray):
            np.testing.assert_array_equal(found[key], want)
            assert found[key].dtype == want.dtype
        else:
            assert found[key] == want
            assert type(found[key]) is (dict if key == "ordered" else type(want))


def test_an_array_named_twice_is_one_array():
    array = np.arange(3)
    found = load_pickle(pickle.dumps([array, array]), "here")
    assert found[0] is found[1]


# what Python 2 wrote, by hand: {'a': array([1.5, -2.0]), 'name': 'caf\xe9'}
NUMBERS = struct.pack("<2d", 1.5, -2.0)
PYTHON2_ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x02\x85"
    b"cnumpy\ndtype\nq\x04U\x02f8K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
)
PYTHON2 = b"\x80\x02}q\x00(U\x01a" + PYTHON2_ARRAY + b"U\x10" + NUMBERS + b"tbU\x04nameU\x04caf\xe9u."
PYTHON2_TEXT = (
    b"(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
    b"(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f8'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS"
    + repr(NUMBERS.decode("latin-1")).encode("ascii", "backslashreplace")
    + b"\np15\ntp16\nbsS'name'\np17\nS'caf\\xe9'\np18\ns."
)


@pytest.mark.parametrize("data", [PYTHON2, PYTHON2_TEXT], ids=["protocol 2", "protocol 0"])
def test_strings_of_python_2_are_latin1(data):
    found = load_pickle(data, "here")
    assert found["a"].tolist() == [1.5, -2.0]
    assert found["name"] == "café"


class Payload:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def deep_tuple_key(depth):
    return b"}" + b")" + b"\x85" * depth + b"Ns."


def chained_object_arrays():
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    tail = b"(K\x01)cnumpy\ndtype\n\x8c\x02O8\x85R\x89]%satb"
    return head * 2 + tail % (tail % b"N") + b"."


def copies():
    """A text of 64 KiB in the memo, encoded again and again."""
    text = b"X" + struct.pack("<I", 1 << 16) + b"a" * (1 << 16)
    return text + b"\x8c\x06latin1\x86q\x02" + b"c_codecs\nencode\nh\x02R" * 64 + b"."


HOSTILE = {
    "os.system": pickle.dumps(Payload(__import__("os").system, ("touch {canary}",)), 2),
    "eval": pickle.dumps({"joints": [Payload(eval, ("open('{canary}', 'w')",))]}, 4),
    "text": b"cos\nsystem\n(S'touch {canary}'\ntR.",
    "inst": b"(S'touch {canary}'\nios\nsystem\n.",
    "getattr": pickle.dumps(Payload(getattr, (np.ndarray, "tofile")), 2),
    "numpy's loader": b"cnumpy\nload\n(S'x'\ntR.",
    "numpy's exec": b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
    "persistent": b"Pid\n.",
    "extension": b"\x82\x01.",
    "new object": b"cnumpy\nndarray\nK\x05\x85\x81.",
    "state of a callable": b"cnumpy\ndtype\n}\x8c\x01aK\x01sb.",
    "structured dtype": b"cnumpy\ndtype\n\x8c\x02V8\x85R.",
    "fields set on a dtype": b"cnumpy\ndtype\n\x8c\x02f8\x85R(K\x03\x8c\x01<N\x8c\x01a\x85}tb.",
    "objects from raw bytes": b"cnumpy.core.multiarray\n_reconstruct\n)R"
    b"(K\x01K\x01\x85cnumpy\ndtype\n\x8c\x02O8\x85R\x89C\x08AAAAAAAAtb.",
    "more elements than bytes": PYTHON2.replace(b"K\x02\x85c", b"K\x7f\x85c"),
    "negative size": PYTHON2.replace(b"K\x02\x85c", b"J\xff\xff\xff\xff\x85c"),
    "gigantic memo": b"Nr\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
    "gigantic text": b"\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "gigantic number": b"I" + b"9" * 10_000 + b"\n.",
    "copies": copies(),
    "key without end": deep_tuple_key(200_000),
    "object arrays in object arrays": chained_object_arrays(),
    "another encoding": b"c_codecs\nencode\n\x8c\x01a\x8c\x03zip\x86R.",
    "list as a key": b"}]Ns.",
    "items of a list": b"]K\x01K\x02s.",
    "nothing on the stack": b".",
    "empty": b"",
    "truncated": pickle.dumps(CONTENT)[:-40],
    "no pickle": b"\x89PNG\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path, name):
    canary = tmp_path / "canary"
    template = HOSTILE[name]
    with pytest.raises(SourceError, match=r"^file\.pkl: "):
        load_pickle(template.replace(b"{canary}", str(canary).encode()), "file.pkl")
    assert not canary.exists()


def test_the_payloads_would_run_in_pickle(tmp_path, monkeypatch):
    """The guard of the test above: the same bytes do something where nothing holds them back."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["text"].replace(b"{canary}", b"canary"))
    assert (tmp_path / "canary").exists()


def test_endless_instructions_are_refused(monkeypatch):
    monkeypatch.setattr("unihpe_fast.data.formats.safe_pickle.MAX_INSTRUCTIONS", 1000)
    with pytest.raises(SourceError, match="more than 1000 instructions"):
        load_pickle(b"]" * 1001 + b".", "here")


def test_deep_lists_come_and_go():
    depth = 200_000
    found = load_pickle(b"]" * depth + b"a" * (depth - 1) + b".", "here")
    assert len(found) == 1


@pytest.mark.fuzz
def test_fuzz_pickles():
    files = {
        "2.pkl": PYTHON2,
        "0.pkl": PYTHON2_TEXT,
        "4.pkl": pickle.dumps(CONTENT, 4),
        "5.pkl": pickle.dumps(CONTENT, 5),
    }

    def read(folder):
        for name in files:
            load_pickle((folder / name).read_bytes(), name)

    assert fuzz(read, files) > 0
