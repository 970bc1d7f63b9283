import json

import pytest

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats import json_records
from unihpe_fast.data.formats.json_records import numbers_of, records


def written(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_elements_come_as_json_has_them_however_the_file_is_cut(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_records, "CHUNK", chunk)
    content = {
        "info": {"year": 2017, "of": "é ☂ 𝄞"},
        "images": [{"id": 1, "name": 'a "quoted", ]}'}, {}],
        "version": 12.5,
        "numbers": [1, 23, -4.5e3, True, None, [1, [2]]],
        "none": [],
    }
    arrays = [(key, value) for key, value in content.items() if isinstance(value, list)]
    want = [(key, index, element) for key, value in arrays for index, element in enumerate(value)]
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False, indent=3)):
        assert list(records(written(tmp_path, text))) == want
    assert list(records(written(tmp_path, "\ufeff [12, 345] \n"))) == [("", 0, 12), ("", 1, 345)]
    assert list(records(written(tmp_path, " {} "))) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file: found the end at character 0, wanted an object or an array"),
        ("12", "the file: found '1' at character 0, wanted an object or an array"),
        ('{"images": [{"id": 1}, {"id": ', r"images\[1\]: no JSON at character 30: Expecting value; cut short\?"),
        ('{"images": [{"id": 1}', r"images\[1\]: found the end at character 21, wanted ','"),
        ('{"images": [1,]}', r"images\[1\]: found '\]' at character 14, wanted a value"),
        ('{"images": [1],}', "images: found '}' at character 15, wanted a member's name"),
        ('{"images": [1]} x', "the file: found 'x' at character 16, wanted its end"),
        ('{"images" [1]}', "images: found '\\[' at character 10, wanted ':'"),
        ("{1: 2}", "wanted a member's name"),
        ('[{"x": NaN}]', r"\[0\]: no JSON that can be read: found NaN, wanted a number"),
        ('[{"x": -Infinity}]', "found -Infinity, wanted a number"),
        ("[" + "[" * 100_000, r"\[0\]: no JSON that can be read: .*recursion"),
        ("[" + "9" * 10_000 + "]", "no JSON that can be read: Exceeds the limit"),
        (b'["\xff"]', "no UTF-8 text"),
        (b"PK\3\4\0\0", "found 'P'"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(SourceError, match=message) as caught:
        list(records(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_a_record_may_not_be_longer_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "LONGEST", 1000)
    monkeypatch.setattr(json_records, "CHUNK", 100)
    assert len(list(records(written(tmp_path, json.dumps(["x" * 90] * 1000))))) == 1000
    with pytest.raises(SourceError, match=r"\[0\]: found more than 1000 characters or no JSON, wanted a record"):
        list(records(written(tmp_path, json.dumps(["x" * 5000]))))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "found NoneType, wanted list"),
        ([1, 2, 3], "found 3 values, wanted 2"),
        ([1, "2"], "must be real number, not str, wanted 2 numbers"),
        ([1, [2]], "must be real number"),
        ([1, 10**400], "too large"),
        ([1, float("inf")], "found 1.0 to inf, wanted numbers up to 1000000"),
        ([1, -1e300], "found -inf to 1.0"),
    ],
)
def test_numbers_are_numbers(value, message):
    assert list(numbers_of({"x": [1, 2.5]}, "x", 2, "a")) == [1, 2.5]
    with pytest.raises(SourceError, match=f"^a: x: .*{message}"):
        numbers_of({"x": value}, "x", 2, "a")
