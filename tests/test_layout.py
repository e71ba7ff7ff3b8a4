import pytest
import torch

from alignmix_timm.points.layout import Layout

CASES = [
    (Layout("NCHW"), torch.randn(2, 5, 3, 4)),
    (Layout("NCHW"), torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)),
    (Layout("NHWC"), torch.randn(2, 3, 4, 5)),
    (Layout("NLC"), torch.randn(2, 12, 5)),
    (Layout("NLC", 2), torch.randn(2, 14, 5)),
]


@pytest.mark.parametrize(("layout", "feats"), CASES)
def test_join_undoes_split(layout: Layout, feats: torch.Tensor) -> None:
    tokens, prefix = layout.split(feats)
    assert tokens.shape == (2, 12, 5)
    assert (prefix is None) == (layout.num_prefix == 0)
    joined = layout.join(tokens.clone(), prefix, like=feats)
    assert torch.equal(joined, feats)
    assert joined.stride() == feats.stride()


def test_tokens_are_positions_in_reading_order() -> None:
    feats = torch.randn(2, 5, 3, 4)
    tokens, _ = Layout("NCHW").split(feats)
    assert torch.equal(tokens[:, 6], feats[:, :, 1, 2])
    tokens, prefix = Layout("NLC", 1).split(torch.arange(5.0).view(1, 5, 1))
    assert prefix is not None
    assert prefix.flatten().tolist() == [0.0]
    assert tokens.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]


def test_join_returns_the_dtype_of_the_map() -> None:
    feats = torch.randn(2, 5, 3, 4, dtype=torch.bfloat16)
    tokens, _ = Layout("NCHW").split(feats)
    assert Layout("NCHW").join(tokens.float(), None, like=feats).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1, 1), (2, 5, 3)])
def test_a_map_without_positions_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="features must"):
        Layout("NCHW").split(torch.zeros(shape))
