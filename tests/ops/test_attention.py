from __future__ import annotations

import pytest
import torch

from rushes.errors import ConfigError, UnknownName
from rushes.ops.attention import BACKENDS, FrameCausal, attention
from rushes.ops.reference import attention_loop


def random_qkv(num_queries: int, num_keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q = torch.randn(2, num_queries, 3, 8)
    return q, torch.randn(2, num_keys, 3, 8), torch.randn(2, num_keys, 3, 8)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(12, 12), (5, 17), (1, 1)])
def test_equals_the_loop(num_queries: int, num_keys: int) -> None:
    q, k, v = random_qkv(num_queries, num_keys)
    torch.testing.assert_close(attention(q, k, v), attention_loop(q, k, v))


def test_tensor_mask_equals_the_loop() -> None:
    q, k, v = random_qkv(6, 9)
    allowed = torch.rand(6, 9) < 0.5
    allowed[:, 0] = True
    torch.testing.assert_close(attention(q, k, v, mask=allowed), attention_loop(q, k, v, allowed))


@pytest.mark.parametrize("past_frames", [0, 3])
def test_frame_causal_is_the_block_mask(past_frames: int) -> None:
    frame_tokens, frames = 4, 3
    q, k, v = random_qkv(frames * frame_tokens, (past_frames + frames) * frame_tokens)
    key_frame = torch.arange(k.shape[1]) // frame_tokens
    query_frame = past_frames + torch.arange(q.shape[1]) // frame_tokens
    allowed = key_frame <= query_frame[:, None]
    got = attention(q, k, v, mask=FrameCausal(frame_tokens=frame_tokens))
    torch.testing.assert_close(got, attention_loop(q, k, v, allowed))


def test_takes_views_of_a_fused_projection() -> None:
    qkv = torch.randn(2, 7, 3, 3, 8)
    q, k, v = qkv.unbind(2)
    torch.testing.assert_close(attention(q, k, v), attention_loop(q, k, v))


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_named_backend_agrees_or_refuses(backend: str) -> None:
    """On a machine without the kernel the call fails; it never runs another one in silence."""
    q, k, v = random_qkv(8, 8)
    try:
        got = attention(q, k, v, backend=backend)
    except (ConfigError, RuntimeError):
        assert backend != "sdpa"
        return
    torch.testing.assert_close(got, attention_loop(q, k, v))


def test_unknown_backend_suggests() -> None:
    q, k, v = random_qkv(2, 2)
    with pytest.raises(UnknownName, match="did you mean 'cudnn'"):
        attention(q, k, v, backend="cuddn")


def test_kernels_without_masks_say_so() -> None:
    q, k, v = random_qkv(2, 2)
    with pytest.raises(ConfigError, match="takes no tensor mask"):
        attention(q, k, v, mask=torch.ones(2, 2, dtype=torch.bool), backend="flash")
