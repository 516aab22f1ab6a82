"""masks.safetensors: one bit a weight, readable by anyone."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ofa.export.masks_file import MaskFileError, encode_masks, read_masks, write_masks

shapes = st.lists(st.integers(0, 9), min_size=1, max_size=3)


@st.composite
def keep_masks(draw):
    """Masks of random shapes, with names as models have them."""
    names = draw(st.lists(st.from_regex(r"[a-z]{1,8}(\.[0-9]{1,2})?\.weight", fullmatch=True), unique=True, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return {name: torch.rand(draw(shapes), generator=generator) < share for name in names}


@settings(max_examples=60, deadline=None)
@given(keep_masks())
def test_masks_come_back_as_they_were_written(tmp_path_factory, keep):
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    write_masks(path, keep)
    back = read_masks(path)
    assert back.keys() == keep.keys()
    assert all(back[name].dtype == torch.bool and torch.equal(back[name], keep[name]) for name in keep)


def test_the_file_is_what_the_format_says(tmp_path):
    keep = {"a.weight": torch.arange(30).reshape(5, 6) % 3 == 0}
    write_masks(tmp_path / "masks.safetensors", keep)
    with safe_open(tmp_path / "masks.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["shapes"]) == {"a.weight": [5, 6]}
        bits = file.get_tensor("a.weight")
    assert bits.dtype == np.uint8
    np.testing.assert_array_equal(bits, np.packbits(keep["a.weight"].numpy().ravel(), bitorder="big"))


def test_mask_file_of_a_large_tensor_is_one_bit_a_weight(tmp_path):
    """OFA-31: masks cost 1 bit a weight."""
    write_masks(tmp_path / "masks.safetensors", {"a": torch.ones(768, 3072, dtype=torch.bool)})
    assert (tmp_path / "masks.safetensors").stat().st_size <= 768 * 3072 / 8 + 200


def test_the_order_in_which_masks_are_given_does_not_change_the_bytes():
    keep = {name: torch.rand(7, 9) < 0.5 for name in ("b", "c", "a")}
    assert encode_masks(keep) == encode_masks(dict(sorted(keep.items())))


@pytest.mark.parametrize("size", [0, 4, 40, -1])
def test_a_file_cut_short_is_refused(tmp_path, size):
    path = tmp_path / "masks.safetensors"
    data = encode_masks({"a": torch.ones(64, 64, dtype=torch.bool)})
    path.write_bytes(data[:size])
    with pytest.raises(MaskFileError, match="damaged or no mask file"):
        read_masks(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MaskFileError, match=r"masks\.safetensors does not exist"):
        read_masks(tmp_path / "masks.safetensors")


def test_bits_beyond_the_last_weight_are_refused(tmp_path):
    path = tmp_path / "masks.safetensors"
    data = bytearray(encode_masks({"a": torch.ones(3, 3, dtype=torch.bool)}))
    data[-1] |= 1  # nine weights in two bytes leave seven bits of padding
    path.write_bytes(data)
    with pytest.raises(MaskFileError, match="beyond its 9 weights"):
        read_masks(path)
